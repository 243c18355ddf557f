"""Bad images and videos."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.faults import corruption
from tests.faults.cases import NO_FILES, Case, Content, sparse

PREDICT = ('predict', '{originals}/checkpoint.pth', '{bad}', '--out', '{out}')
FOLDER = ('predict', '{originals}/checkpoint.pth', '{in}/images', '--out', '{out}')
GATES = ('gates', '{originals}/checkpoint.pth', '--images', '{bad}', '--out', '{out}')
CHECK = ('data', 'check', '{in}/a.json', '--images', '{in}/images')
COMMANDS = (PREDICT, CHECK, GATES, FOLDER)


def listing(name: str) -> Callable[[Path, Path], None]:
    def make(folder: Path, originals: Path) -> None:
        (folder / 'images' / 'sound.png').write_bytes(
            (originals / 'picture.png').read_bytes()
        )
        images = [
            {'id': at, 'file_name': one, 'width': 64, 'height': 64}
            for at, one in enumerate((name, 'sound.png'), 1)
        ]
        content = {'images': images, 'categories': [{'id': 1, 'name': 'a'}]}
        (folder / 'a.json').write_text(json.dumps({**content, 'annotations': []}))

    return make


def _image(name: str, file: str, content: Content, words: Any, **more: Any) -> Case:
    more.setdefault('names', file if words in (PREDICT, GATES) else '')
    return Case(
        f'images/{name}-{words[0]}{"-folder" * (words is FOLDER)}',
        f'images/{file}',
        content,
        words,
        setup=listing(file),
        one_line=words is not FOLDER,
        **more,
    )


def cases() -> Iterator[Case]:
    """Yield cases that need no original."""
    for name, content in NO_FILES.items():
        for words in (PREDICT, CHECK, GATES):
            codes = (0, 1, 2)
            if words is GATES and name in ('folder', 'dangling', 'link-loop'):
                codes = (1, 2)
            yield _image(name, 'x.png', content, words, codes=codes)
    for index, (name, (file, content)) in enumerate(_strange().items()):
        for words in (COMMANDS[index % 4], COMMANDS[(index + 1) % 4]):
            yield _image(name, file, content, words, codes=(0, 1, 2))
    for name, (file, content) in _videos().items():
        yield _image(name, file, content, PREDICT, codes=(0, 1, 2), names='')


def corrupted(root: Path, count: int, seed: str = '') -> Iterator[Case]:
    """Yield sound images with their bytes damaged."""
    for suffix in ('jpg', 'png', 'webp', 'bmp', 'tiff'):
        raw = (root / f'picture.{suffix}').read_bytes()
        made = [*corruption.truncated(raw, seed + suffix, count)]
        made += corruption.flipped(raw, seed + suffix, count)
        made += corruption.spliced(raw, seed + suffix, count)
        for index, (name, content) in enumerate(made):
            words = (CHECK, CHECK, PREDICT, CHECK)[index % 4]
            yield _image(
                f'{suffix}-{index}-{name}',
                f'x.{suffix}',
                content,
                words,
                codes=(0, 1, 2),
            )
    raw = (root / 'clip.avi').read_bytes()
    for index, (name, content) in enumerate(
        [*corruption.truncated(raw, 'avi', 2), *corruption.flipped(raw, 'avi', 2)]
    ):
        yield _image(
            f'avi-{index}-{name}', 'x.avi', content, PREDICT, codes=(0, 1, 2), names=''
        )


def png(width: int, height: int, rows: bytes | None = None) -> bytes:
    """Return a PNG of grey pixels that says it has a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack('>I', zlib.crc32(kind + data))
        return struct.pack('>I', len(data)) + kind + data + checksum

    head = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(100)) if rows is None else rows
    parts = chunk(b'IHDR', head) + chunk(b'IDAT', data) + chunk(b'IEND', b'')
    return b'\x89PNG\r\n\x1a\n' + parts


def _full(width: int, height: int) -> Callable[[Path], None]:
    """Return what makes a PNG with all of its pixels, all black."""

    def make(path: Path) -> None:
        packer = zlib.compressobj(1)
        row = bytes(width + 1)
        rows = [packer.compress(row * 64) for _ in range(height // 64)]
        path.write_bytes(png(width, height // 64 * 64, b''.join(rows) + packer.flush()))

    return make


def _strange() -> dict[str, tuple[str, Content]]:
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
    gif = b'GIF89a' + struct.pack('<HH', 65535, 65535) + bytes(30)
    bmp = b'BM' + struct.pack('<IIIIiiHH', 60, 0, 54, 40, 30000, 30000, 1, 24)
    return {
        'text': ('x.jpg', 'no image'),
        'html': ('x.png', '<!doctype html>'),
        'svg': ('x.png', svg),
        'gif-bomb': ('x.png', gif),
        'png-60000': ('x.png', png(60_000, 60_000)),
        'png-2-to-31': ('x.png', png(2**31 - 1, 2**31 - 1)),
        'png-0': ('x.png', png(0, 0)),
        'png-30000-header': ('x.png', png(30_000, 30_000)),
        'png-20000-black': ('x.png', _full(20_000, 20_032)),
        'png-1-by-1': ('x.png', png(1, 1, zlib.compress(bytes(2)))),
        'png-1-by-1000000': (
            'x.png',
            png(1_000_000, 1, zlib.compress(bytes(10**6 + 1))),
        ),
        'bmp-30000': ('x.bmp', bmp + bytes(60)),
        'bmp-negative': ('x.bmp', bmp.replace(struct.pack('<i', 30000), b'\xff' * 4)),
        'ppm-huge': ('x.ppm', 'P6 60000 60000 255\n'),
        'ppm-30000': ('x.ppm', 'P6 30000 30000 255\n'),
        'pgm-digits': ('x.pgm', 'P5 ' + '9' * 5000 + ' 1 255\n'),
        'webp-head': ('x.webp', b'RIFF\xff\xff\xff\xffWEBPVP8 ' + bytes(40)),
        'tiff-loop': ('x.tiff', b'II*\0\x08\0\0\0\x00\0\x08\0\0\0' + bytes(20)),
        'jpeg-head': ('x.jpg', b'\xff\xd8\xff\xe0' + bytes(300)),
        'jp2-head': ('x.jp2', b'\0\0\0\x0cjP  \r\n\x87\n' + bytes(300)),
        'sparse-3-GiB': ('x.png', sparse(3, b'\x89PNG\r\n\x1a\n')),
        'pickle': ('x.png', b"cos\nsystem\n(S'touch canary'\ntR."),
    }


def _videos() -> dict[str, tuple[str, Content]]:
    playlist = '#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n'
    return {
        'video-empty': ('x.mp4', b''),
        'video-text': ('x.mp4', 'no video'),
        'video-random': ('x.mp4', corruption.draw('video').randbytes(9000)),
        'video-playlist-web': ('x.mp4', playlist.format('http://127.0.0.1:9/x.ts')),
        'video-playlist-file': ('x.mp4', playlist.format('/etc/passwd')),
        'video-concat': ('x.avi', "ffconcat version 1.0\nfile '/etc/passwd'\n"),
        'video-sparse': ('x.mp4', sparse(100)),
        'video-sdp': ('x.mp4', 'v=0\nm=video 9 RTP/AVP 96\nc=IN IP4 127.0.0.1\n'),
        'video-fifo': ('x.mp4', NO_FILES['fifo']),
        'video-endless': ('x.mp4', NO_FILES['endless']),
    }
