"""Bad files of weights."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests.faults import corruption, pickles
from tests.faults.cases import NO_FILES, Case, Content, sparse
from tests.faults.pickles import Call, Stored, dumped, tensor, zipped, zipped_of

INSPECT = ('weights', 'inspect', '{bad}')
TO_SAFE = ('weights', 'convert', '{bad}', '{out}.safetensors')
TO_PTH = ('weights', 'convert', '{bad}', '{out}.pth', '--to', 'timm')
PREDICT = ('predict', '{bad}', '{originals}/picture.png', '--out', '{out}')
TEST = ('test', '{originals}/tiny.py', '{bad}', '--work-dir', '{out}')
GATES = ('gates', '{bad}', '--images', '{originals}/data/val', '--out', '{out}')
COMMANDS = (INSPECT, TO_SAFE, TO_PTH, PREDICT, TEST, GATES)
TRAIN = (
    *('train', '{originals}/tiny.py', '--work-dir', '{out}', '--cfg-options'),
    'load_from={bad}',
)

SOUND = ('zip.pth', 'legacy.pth', 'plain.safetensors', 'authors.pth.tar', 'v1.pth')
ONE = tensor(Stored(), (2, 3), (3, 1))


def cases() -> Iterator[Case]:
    """Yield every case that needs no original."""
    for name, content in NO_FILES.items():
        for words in (INSPECT, PREDICT):
            yield Case(f'weights/{name}-{words[0]}', 'x.pth', content, words)
    for name, content in {**_other_files(), **_codes(), **_bombs()}.items():
        for words in _some(name, 1):
            yield Case(f'weights/{name}-{words[0]}', 'x.pth', content, words)
    for name, content in {**_lies(), **_safetensors(), **_shapes()}.items():
        for words in _some(name, 1):
            yield Case(f'weights/{name}-{words[0]}', 'x.pth', content, words)


def corrupted(
    name: str, raw: bytes, cuts: int, flips: int, seed: str = ''
) -> Iterator[Case]:
    """Yield cases of one original."""
    made = [*corruption.truncated(raw, seed + name, cuts)]
    made += corruption.flipped(raw, seed + name, flips)
    made += corruption.spliced(raw, seed + name, flips)
    for index, (how, content) in enumerate(made):
        command = COMMANDS[index % len(COMMANDS)]
        if name == 'checkpoint.pth':
            command = (PREDICT, TEST, GATES)[index % 3]
        codes = (1, 2) if how.startswith('cut') else (0, 1, 2)
        yield Case(f'weights/{name}-{how}', f'x-{name}', content, command, codes)


def _some(name: str, count: int) -> list[tuple[str, ...]]:
    """Return commands in turn, chosen by the name."""
    start = corruption.draw(name).randrange(len(COMMANDS))
    return [COMMANDS[(start + at) % len(COMMANDS)] for at in range(count)]


def _other_files() -> dict[str, Content]:
    """Files of other kinds."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode='w') as archive:
        for name in ('../../canary', '/tmp/canary', 'a'):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    plain = io.BytesIO()
    with zipfile.ZipFile(plain, 'w') as archive:
        archive.writestr('readme.txt', 'no weights')
    page = '<!doctype html><title>Quota exceeded</title>'
    return {
        'html': page,
        'json': '{"state_dict": {}}',
        'tar': tar.getvalue(),
        'zip-of-text': plain.getvalue(),
        'empty-zip': b'PK\x05\x06' + bytes(18),
        'pickle': pickle.dumps({'a': 1}, 4),
        'bare-torch-magic': b'\x80\x02\x8a\x0a',
        'gzip': b'\x1f\x8b\x08' + bytes(60),
        'lfs': 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n',
        'random': corruption.draw('random').randbytes(5000),
        'control-characters': b'\x1b[31m\x07' * 40,
        'torchscript': zipped(
            dumped({}), more=lambda one: one.writestr('archive/constants.pkl', b'.')
        ),
    }


def _codes() -> dict[str, Content]:
    """Pickles that would run something."""
    found: dict[str, Content] = {}
    for name, value in pickles.harmful().items():
        found[f'code-{name}'] = zipped_of({'state_dict': {'a': ONE}, 'x': value})
    system = pickles.harmful()['os-system']
    found['code-legacy'] = pickles.legacy_of(dumped(system), [], b'')
    found['code-first'] = pickle.dumps(system, 2)
    found['code-in-name'] = zipped(b'cos;touch canary\nsystem\n.')
    found['code-global-newlines'] = zipped(b'cos\x1b[31m\nsys\x07tem\n.')
    found['code-instance'] = zipped(b"(S'touch canary'\nios\nsystem\n.")
    found['code-stack-global'] = zipped(b'\x80\x04\x8c\x02os\x8c\x06system\x93.')
    found['code-extension'] = zipped(b'\x80\x02\x82\x01.')
    return found


def _bombs() -> dict[str, Content]:
    """Small files that would become large, or take for ever."""
    deep = b''.join([b'\x80\x02', b']' * 100_000, b'a' * 99_999, b'.'])
    pair = pickles.doubled_tuples(40)
    return {
        'zip-bomb': _zip_bomb,
        'zip-claims-10-GiB': _claiming(zipped_of({'a': ONE}), 10 << 30),
        'expanded-tensor': zipped_of(
            {'a': tensor(Stored(), (1 << 20, 1 << 20), (0, 0))}
        ),
        'expanded-2-GiB': zipped_of(
            {'conv1.weight': tensor(Stored(), (1 << 29,), (0,))}
        ),
        'bytearray': zipped_of({'a': ONE, 'x': Call(bytearray, 640 << 20)}),
        'tensor-of-size': zipped(
            b'\x80\x02ctorch\nFloatTensor\n' + dumped((1 << 30,))[2:-1] + b'R.'
        ),
        'deep-lists': zipped(deep),
        'doubling-key': zipped(b'\x80\x02}' + pair + b'K\x01s.'),
        'deep-tuple-key': zipped(
            b'\x80\x02}' + pickles.deep_tuples(1_000_000) + b'K\x01s.'
        ),
        'growing-text': zipped(b'\x80\x02}K\x01' + pickles.growing_text(24) + b's.'),
        'sparse-after-head': sparse(100, zipped_of({'a': ONE})),
    }


def _zip_bomb(path: Path) -> None:
    """A tensor of more zeros than a process may take, in a file of some KB."""
    many = 640 << 20
    path.write_bytes(
        zipped_of(
            {'a': tensor(Stored(numel=many // 4), (many // 4,), (1,))},
            records={'0': bytes(many)},
            method=zipfile.ZIP_DEFLATED,
        )
    )


def _claiming(raw: bytes, size: int) -> bytes:
    """Return a zip whose directory says that a member has another size."""
    at = raw.rindex(b'PK\x01\x02')
    while b'archive/data/0' not in raw[at : at + 80]:
        at = raw.rindex(b'PK\x01\x02', 0, at)
    claimed = struct.pack('<II', min(size, 0xFFFFFFFE), min(size, 0xFFFFFFFE))
    return raw[: at + 20] + claimed + raw[at + 28 :]


def _lies() -> dict[str, Content]:
    """Files whose parts do not agree."""

    def absolute(archive: zipfile.ZipFile) -> None:
        for name in ('/tmp/canary', '../../canary', 'archive/../../canary', 'C:\\x'):
            archive.writestr(name, b'x')
        link = zipfile.ZipInfo('archive/link')
        link.external_attr = 0o120777 << 16
        archive.writestr(link, '/etc/passwd')

    def twice(archive: zipfile.ZipFile) -> None:
        system = pickles.harmful()['os-system']
        archive.writestr('archive/data.pkl', dumped(system))

    big = 1 << 40
    raw = zipped_of({'a': ONE})
    end = raw.rindex(b'PK\x05\x06')
    return {
        'storage-too-large': zipped_of({'a': tensor(Stored(numel=big), (big,), (1,))}),
        'storage-of-1-GiB': zipped_of(
            {'conv1.weight': tensor(Stored(numel=1 << 28), (1 << 28,), (1,))}
        ),
        'storage-a-page-long': zipped_of(
            {'a': tensor(Stored(numel=1 << 14), (1 << 14,), (1,))}
        ),
        'storage-negative': zipped_of({'a': tensor(Stored(numel=-6), (2,), (1,))}),
        'storage-missing': zipped_of({'a': tensor(Stored('9'), (2,), (1,))}),
        'storage-of-text': zipped_of({'a': tensor(Stored(kind='x'), (2,), (1,))}),
        'storage-key-leads-out': zipped_of(
            {'a': tensor(Stored('../../../etc/passwd'), (2,), (1,))}
        ),
        'view-beyond': zipped_of({'a': tensor(Stored(), (1000, 1000), (1000, 1))}),
        'view-before': zipped_of({'a': tensor(Stored(), (2,), (1,), offset=-100)}),
        'view-offset': zipped_of({'a': tensor(Stored(), (2,), (1,), offset=1 << 62)}),
        'size-negative': zipped_of({'a': tensor(Stored(), (-2, 3), (3, 1))}),
        'size-2-to-62': zipped_of({'a': tensor(Stored(), (1 << 62,), (1,))}),
        'size-overflow': zipped_of(
            {'a': tensor(Stored(), (1 << 31, 1 << 31, 4), (1, 1, 1))}
        ),
        'stride-negative': zipped_of({'a': tensor(Stored(), (2, 3), (-3, -1))}),
        'size-of-text': zipped_of({'a': tensor(Stored(), ('2', 3), (3, 1))}),  # type: ignore[arg-type]
        'other-names-in-zip': zipped_of({'a': ONE}, more=absolute),
        'two-pickles': zipped_of({'a': ONE}, more=twice),
        'no-records': zipped_of({'a': ONE}, records={}),
        'no-pickle': zipped_of({'a': ONE}).replace(b'data.pkl', b'data.pkx'),
        'crc-wrong': raw.replace(struct.pack('<f', 5.0), struct.pack('<f', 6.0)),
        'directory-elsewhere': raw[: end + 16] + b'\xff\xff\xff\x7f' + raw[end + 20 :],
        'legacy-storage-lies': pickles.legacy_of(
            dumped({'a': tensor(Stored(numel=big), (big,), (1,))}),
            ['0'],
            struct.pack('<q', big) + bytes(24),
        ),
        'legacy-keys-missing': pickles.legacy_of(
            dumped({'a': ONE}), ['7'], struct.pack('<q', 6) + bytes(24)
        ),
    }


def _shapes() -> dict[str, Content]:
    """Readable files whose content is not weights."""

    def saved(value: Any) -> bytes:
        stream = io.BytesIO()
        torch.save(value, stream)
        return stream.getvalue()

    scalar = torch.tensor(1.0)
    names = ('conv1.weight', 'layer1.0.conv1.weight', 'layer1.0.bn1.weight')
    control = 'a\x1b[31m\nb'
    long = 'n' * 200_000
    whole = {name: torch.zeros(4, 4, 3, 3) for name in names}
    return {
        'a-number': saved(5),
        'a-tensor': saved(scalar),
        'a-list': saved([scalar] * 3),
        'no-tensors': saved({}),
        'tensors-and-text': saved({'a': scalar, 'b': 'x'}),
        'numbers-as-names': saved({1: scalar, 2: scalar}),
        'wrapped-twice': saved({'model': {'state_dict': {'a': scalar}}}),
        'control-names': saved({control: scalar}),
        'control-keys': saved({'x': 1, control: {'a': scalar}}),
        'control-text': saved({'state_dict': {'a': scalar}, 'arch': control}),
        'long-name': saved({long: scalar}),
        'long-key': saved({'x': 1, long: 5}),
        'surrogate-names': saved({'a\ud800': scalar}),
        'empty-name': saved({'': scalar}),
        'scalars': saved({name: scalar for name in names}),
        'no-values': saved({name: torch.zeros(0) for name in names}),
        'bools': saved({name: torch.zeros(4, 4, 3, 3) > 0 for name in names}),
        'complex': saved({name: torch.zeros(4, 4, 3, 3) * 1j for name in names}),
        'sparse-tensor': saved({'conv1.weight': torch.eye(3).to_sparse()}),
        'quantized': saved(
            {'a': torch.quantize_per_tensor(torch.ones(2), 1, 0, torch.qint8)}
        ),
        'meta': saved({'a': torch.zeros(3, device='meta')}),
        'layer-9': saved({**whole, 'layer9.77.conv1.weight': scalar}),
        'layer-of-digits': saved(
            {**whole, f'layer1.{"9" * 5000}.conv1.weight': scalar}
        ),
        'block-999999': saved({**whole, 'layer1.999999999.conv1.weight': scalar}),
        'gate-of-width-0': saved(
            {**whole, 'layer1.0.eca.conv.weight': torch.ones(1, 1, 0)}
        ),
        'meta-of-numbers': saved({'state_dict': whole, 'meta': 7}),
        'meta-of-lists': saved({'state_dict': whole, 'meta': {'cfg': ['x']}}),
        'config-deep': saved(
            {'state_dict': whole, 'meta': {'cfg': 'a = ' + '[' * 5000 + ']' * 5000}}
        ),
        'config-code': saved(
            {'state_dict': whole, 'meta': {'cfg': 'import os\nos.mkdir("canary")'}}
        ),
        'config-minuses': saved(
            {'state_dict': whole, 'meta': {'cfg': 'a = ' + '-' * 100_000 + '1'}}
        ),
        'config-sums': saved(
            {'state_dict': whole, 'meta': {'cfg': 'a = ' + '+'.join('1' * 60_000)}}
        ),
        'config-wide-model': saved(_with_config('128, 65536', whole)),
        'config-of-1000-stages': saved(_with_config('4, 10**9', whole)),
        'config-huge-model': saved(_with_config('4, 900000', whole)),
    }


def _with_config(channels: str, state: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint whose config wants layers of so many channels."""
    neck = f"neck=dict(type='FPN', in_channels=[{channels}], out_channels=65536)"
    model = f"model = dict(type='RetinaNet', backbone=dict(type='ResNet'), {neck})"
    return {'state_dict': state, 'meta': {'cfg': model + '\n'}}


def _safetensors() -> dict[str, Content]:
    """Files in the other format."""

    def laid(header: Any, data: bytes = bytes(24), length: int | None = None) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack('<Q', len(text) if length is None else length) + text + data

    def one(**changes: Any) -> dict[str, Any]:
        entry = {'dtype': 'F32', 'shape': [2, 3], 'data_offsets': [0, 24]}
        return {'a': entry | changes}

    both = {**one(), 'b': one()['a']}
    return {
        'st-length-2-to-63': laid(one(), length=1 << 63),
        'st-length-max': laid(one(), length=(1 << 64) - 1),
        'st-length-1-GiB': laid(one(), length=1 << 30),
        'st-length-99-MB': laid(one(), length=99_000_000),
        'st-length-0': laid(one(), length=0),
        'st-overlapping': laid(both),
        'st-hole': laid(one(data_offsets=[8, 32]), bytes(32)),
        'st-beyond': laid(one(data_offsets=[0, 24]), bytes(10)),
        'st-backwards': laid(one(data_offsets=[24, 0])),
        'st-negative': laid(one(data_offsets=[-24, 0])),
        'st-shape-2-to-62': laid(one(shape=[1 << 62, 4])),
        'st-shape-negative': laid(one(shape=[-2, -3])),
        'st-shape-other': laid(one(shape=[2, 2])),
        'st-dtype-unknown': laid(one(dtype='F33')),
        'st-dtype-f4': laid(one(dtype='F4', shape=[48])),
        'st-dtype-f8': laid(one(dtype='F8_E8M0', shape=[24])),
        'st-json-deep': laid(b'{"a":' + b'[' * 200_000),
        'st-json-list': laid([1]),
        'st-latin-1': laid('{"é": 5}'.encode('latin-1')),
        'st-control-name': laid({'a\x1b[31m': one()['a']}),
        'st-control-metadata': laid({**one(), '__metadata__': {'x': '\x1b[31m\n'}}),
        'st-metadata-number': laid({**one(), '__metadata__': 5}),
        'st-name-of-100-KB': laid({'n' * 100_000: one()['a']}),
        'st-same-name-twice': laid(
            b'{"a":{"dtype":"F32","shape":[6],"data_offsets":[0,24]},'
            b'"a":{"dtype":"F32","shape":[6],"data_offsets":[0,24]}}'
        ),
        'st-many-empty': laid(
            {
                f'n{i}': {'dtype': 'F32', 'shape': [0], 'data_offsets': [0, 0]}
                for i in range(20_000)
            },
            b'',
        ),
        'st-sparse': sparse(
            100, laid(one(shape=[1 << 34], data_offsets=[0, 1 << 36]), b'')
        ),
        'st-sparse-exact': _exact_sparse,
    }


def _exact_sparse(path: Path) -> None:
    """A header that is right about 8 GiB of zeros."""
    entry = {'dtype': 'F32', 'shape': [1 << 31], 'data_offsets': [0, 1 << 33]}
    text = json.dumps({'conv1.weight': entry}).encode()
    path.write_bytes(struct.pack('<Q', len(text)) + text)
    with path.open('rb+') as file:
        file.truncate(8 + len(text) + (1 << 33))
