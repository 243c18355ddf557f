"""Image files of a dataset: which exist, which can be read, and their sizes."""

from __future__ import annotations

import dataclasses
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath

from eca_mmdet.datasets.entries import Size
from eca_mmdet.utils.images import decode

MAX_THREADS = 8

_JPEG_END = b'\xff\xd9'


@dataclasses.dataclass(frozen=True)
class ImageFiles:
    """State of image files.

    Attributes:
        missing: file names that are not there, with one that is nearly the same or ''.
        damaged: file names that are cut off or unreadable, with the reason.
        sizes: of the others, as mmdet sees them; empty if they were not opened.
    """

    missing: dict[str, str]
    damaged: dict[str, str] = dataclasses.field(default_factory=dict)
    sizes: dict[str, Size] = dataclasses.field(default_factory=dict)

    @property
    def unusable(self) -> set[str]:
        """File names that cannot be trained on."""
        return {*self.missing, *self.damaged}


def find_missing(folder: Path, names: Iterable[str]) -> ImageFiles:
    """Look for files of names relative to a folder, reading each folder once."""
    by_folder = defaultdict[str, list[tuple[str, str]]](list)
    for name in dict.fromkeys(names):
        parent, _, last = os.path.join(folder, name).rpartition(os.sep)
        by_folder[parent].append((name, last))
    missing: dict[str, str] = {}
    for parent, wanted in by_folder.items():
        present = _files(parent)
        lost = [(name, last) for name, last in wanted if last not in present]
        alike = {_plain(file): file for file in present} if lost else {}
        missing |= {name: alike.get(_plain(last), '') for name, last in lost}
    return ImageFiles(missing)


def _files(folder: str) -> set[str]:
    try:
        with os.scandir(folder or os.sep) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):  # no such folder; a zero byte in its name
        return set()


def _plain(name: str) -> str:
    """Return a name without case, ending and the ways of writing an accent."""
    return unicodedata.normalize('NFC', PurePath(name).stem).casefold()


def open_images(folder: Path, names: Iterable[str]) -> ImageFiles:
    """Look for files, then read the size of each, several at a time.

    A progress bar goes to stderr if that is a terminal.
    """
    from rich.console import Console
    from rich.progress import Progress

    names = list(dict.fromkeys(names))
    missing = find_missing(folder, names).missing
    present = [name for name in names if name not in missing]
    damaged: dict[str, str] = {}
    sizes: dict[str, Size] = {}
    console = Console(stderr=True)
    bar = Progress(console=console, transient=True, disable=not console.is_terminal)
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool, bar:
        seen = pool.map(check_size, (folder / name for name in present))
        track = bar.track(seen, len(present), description='images')
        for name, size in zip(present, track, strict=True):
            if isinstance(size, str):
                damaged[name] = size
            else:
                sizes[name] = size
    return ImageFiles(missing, damaged, sizes)


def check_size(path: Path) -> Size | str:
    """Return what :func:`read_size` does; most JPEG files need not be decoded.

    One that begins and ends as it should was not cut off, and its header has the size
    unless EXIF data may turn it.
    """
    from PIL.JpegImagePlugin import JpegImageFile

    try:
        with open(path, 'rb') as file:
            file.seek(-len(_JPEG_END), os.SEEK_END)
            if file.read() == _JPEG_END:
                file.seek(0)
                with JpegImageFile(file) as image:
                    if image.mode in ('L', 'RGB') and 'exif' not in image.info:
                        return image.size
    except Exception:  # Pillow raises its own errors on what is not JPEG
        pass
    return read_size(path)


def read_size(path: Path) -> Size | str:
    """Return an image's width and height, decoded as mmdet does; or what is wrong.

    OpenCV refuses a file that is cut off, and rotates an image as its EXIF data say.
    """
    image = decode(path)
    return image if isinstance(image, str) else (image.shape[1], image.shape[0])
