"""Images of a folder, and videos in and out."""

from __future__ import annotations

import glob
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.images import require_local

Array = npt.NDArray[Any]

IMAGES = frozenset(
    '.apng .avif .bmp .dib .gif .jfi .jfif .jif .jp2 .jpe .jpeg .jpg .pam .pbm .pgm '
    '.png .pnm .ppm .ras .sr .tif .tiff .webp'.split()
)
VIDEOS = frozenset(
    '.3gp .avi .flv .m4v .mjpeg .mkv .mov .mp4 .mpeg .mpg .ogv .ts .webm .wmv'.split()
)
_SIGNATURE = re.compile(
    rb'\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|RIFF....WEBP|BM....\0{4}|\0\0\0\x0cjP  ',
    re.DOTALL,
)
"""Starts of image files, whatever their names; camera files start like TIFF."""
_WRITTEN = ('.png', '.jpg', '.jpeg')
_USUAL_RATE = 25.0


@dataclass(frozen=True)
class Images:
    """Names of images relative to a folder; other files counted by their endings."""

    folder: Path
    names: list[str]
    passed_over: Counter[str]


def open_source(
    sources: str | Sequence[str], every: int | None = None
) -> Images | Video:
    """Return the images, or the video, at some paths.

    Args:
        sources: images, folders and patterns (``*``, ``?``, ``**``); or one video.
        every: use every N-th frame of the video.
    """
    sources = [sources] if isinstance(sources, str) else sources
    paths = list(dict.fromkeys(path for name in sources for path in _paths(name)))
    video = next((path for path in paths if _kind(path) == 'video'), None)
    if video and len(paths) > 1:
        raise UserError(
            f'a video is predicted by itself; got {len(paths)} sources, {video} among '
            'them.',
            code='option-conflict',
        )
    if video:
        return Video(video, every or 1)
    if every is not None:
        raise UserError(
            f'--every goes with a video; {paths[0]} is none by its name.',
            code='option-conflict',
        )
    passed_over: Counter[str] = Counter()
    found = [
        (path if path.is_dir() else path.parent, find_images(path, passed_over))
        for path in paths
    ]
    if len(paths) == 1:
        return Images(*found[0], passed_over)
    folder = os.path.commonpath([below.absolute() for below, _ in found])
    names = [
        os.path.relpath(below.absolute() / name, folder)
        for below, names in found
        for name in names
    ]
    return Images(Path(folder), list(dict.fromkeys(names)), passed_over)


def _paths(source: str) -> list[Path]:
    """Return the paths that a name stands for; a file's own name goes first."""
    if os.path.lexists(source):
        return [Path(source)]
    require_local(source)
    expanded = os.path.expanduser(source)
    if not source:
        problem = 'an image, a folder or a video is expected; got an empty name.'
    elif source == '-' or source.isdecimal():
        what = 'standard input' if source == '-' else 'a camera'
        problem = (
            f'{source} is not a file; {what} is not read. Save its images, or a video '
            'of it, and name the file.'
        )
    elif not glob.has_magic(expanded):
        return [Path(expanded)]
    else:
        found = map(Path, glob.iglob(expanded, recursive=True))
        if media := sorted(path for path in found if _kind(path)):
            return media
        problem = (
            f'{source} does not exist, and as a pattern it matches no image, folder or '
            'video.'
        )
    raise UserError(problem, code='file-not-found')


def _kind(path: Path) -> str:
    """Return 'folder', 'image' or 'video', by name or first bytes; '' for others."""
    if path.is_dir():
        return 'folder'
    suffix = path.suffix.lower()
    for kind, suffixes in (('image', IMAGES), ('video', VIDEOS)):
        if suffix in suffixes:
            return kind
    if not path.is_file():
        return ''
    try:
        with open(path, 'rb') as file:
            head = file.read(12)
    except OSError:
        return ''
    tiff = not suffix and head[:4] in (b'II*\0', b'MM\0*')
    return 'image' if tiff or _SIGNATURE.match(head) else ''


def find_images(source: Path, passed_over: Counter[str] | None = None) -> list[str]:
    """Return the images of a folder and its subfolders, sorted; or the one file.

    Names are relative to the folder, or to that of the file. Hidden files and folders
    are passed over, and links to folders are not followed. Other files are counted in
    ``passed_over``.
    """
    if not source.exists():
        raise UserError(
            f'{source} does not exist; an image, a folder of images or a video is '
            'expected.',
            code='file-not-found',
        )
    if not source.is_dir():
        return [source.name]
    names, others = [], Counter[str]() if passed_over is None else passed_over
    for folder, below, files in os.walk(source):
        below[:] = [name for name in below if not name.startswith('.')]
        for path in (Path(folder, name) for name in files if name[0] != '.'):
            if _kind(path) == 'image':
                names.append(path.relative_to(source).as_posix())
            else:
                others[path.suffix.lower() or path.name] += 1
    if not names:
        raise UserError(
            f'{source} has no image in it, nor has a folder below it. Looked for: '
            f'{" ".join(sorted(IMAGES))}. (A video is given by its own path.)',
            code='no-images',
        )
    return sorted(names)


def picture_name(name: str, taken: set[str]) -> str:
    """Choose the name of a drawn image, and add it to those that are taken.

    PNG and JPEG images keep their names, others become PNG.
    """
    path = Path(name)
    if path.suffix.lower() not in _WRITTEN:
        path = path.with_name(f'{path.name}.png')
    chosen, number = path.as_posix(), 1
    while chosen in taken:
        number += 1
        chosen = path.with_name(f'{path.stem}-{number}{path.suffix}').as_posix()
    taken.add(chosen)
    return chosen


class Video:
    """The frames of a video, one at a time.

    Attributes:
        rate: frames a second.
        count: number of frames that the file states; 0 where it does not.
        seen: number of frames that were read.
    """

    def __init__(self, path: Path, every: int = 1) -> None:
        import cv2

        if not path.is_file():
            raise UserError(
                f'{path} does not exist; a video file is expected.',
                code='file-not-found',
            )
        self.path, self.every, self.seen = path, every, 0
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened() or not self._capture.grab():
            raise UserError(
                f'{path} is not a video that OpenCV reads: not one frame of it.',
                code='unsupported-format',
            )
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        count = float(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.rate = rate if math.isfinite(rate) and rate > 0 else _USUAL_RATE
        self.count = int(count) if math.isfinite(count) and count > 0 else 0

    def __iter__(self) -> Iterator[tuple[int, Array]]:
        """Yield numbers from 0 and (H, W, 3) uint8 RGB frames."""
        grabbed = True  # the first, when the file was opened
        while grabbed:
            if self.seen % self.every == 0:
                known, frame = self._capture.retrieve()
                if not known:
                    return
                yield self.seen, np.ascontiguousarray(frame[..., ::-1])
            self.seen += 1
            grabbed = self._capture.grab()

    def close(self) -> None:
        """Close the file."""
        self._capture.release()


class VideoFile:
    """An MP4 video, written frame by frame; it can be played whenever it is closed.

    The rate is frames a second.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self._rate = path, rate
        self._writer: Any = None

    def add(self, frame: Array) -> None:
        """Append a frame, (H, W, 3) uint8 RGB; all are of the size of the first."""
        import cv2

        height, width = frame.shape[:2]
        # MPEG-4 has even sides; an odd one grows by a pixel, the last repeated.
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), 'edge')
        if self._writer is None:
            codec, size = cv2.VideoWriter.fourcc(*'mp4v'), frame.shape[1::-1]
            self._writer = cv2.VideoWriter(str(self.path), codec, self._rate, size)
            if not self._writer.isOpened():
                raise UserError(
                    f'OpenCV cannot write the video {self.path}.',
                    code='file-not-written',
                )
        self._writer.write(np.ascontiguousarray(frame[..., ::-1]))

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()
