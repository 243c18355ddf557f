"""Image files of a dataset: which exist, which can be read, and their sizes."""

from __future__ import annotations

import dataclasses
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from urllib.parse import unquote

from eca_mmdet.datasets.entries import Size
from eca_mmdet.utils.images import decode

MAX_THREADS = 8


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


def find_by_base_name(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the files that names without a file mean, relative to the folder.

    Names from Windows have backslashes, those of labelling tools other folders. The
    file with the end of the path is taken, or the only one of the base name, unless
    another name means it.
    """
    names = list(dict.fromkeys(names))
    lost = find_missing(folder, names).missing
    taken = {os.path.normpath(name) for name in names if name not in lost}
    files = defaultdict[str, list[str]](list)
    for parent, _, inside in os.walk(folder) if lost else ():
        for file in inside:
            path = os.path.relpath(os.path.join(parent, file), folder)
            if path not in taken:
                files[file].append(path)
    found: dict[str, str] = {}
    for name in lost:
        for text in (name, unquote(name)):
            stated = f'/{text}'.replace('\\', '/').replace('?d=', '/')
            if alike := files.get(stated.rpartition('/')[2], []):
                break
        ends = sorted((p for p in alike if stated.endswith(f'/{p}')), key=len)
        if ends or len(alike) == 1:
            found[name] = (ends or alike)[-1]
    wanted = Counter(found.values())
    return {name: file for name, file in found.items() if wanted[file] == 1}


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
    """Look for files, then read each of them to its end, several at a time.

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
        seen = pool.map(read_size, (folder / name for name in present))
        track = bar.track(seen, len(present), description='images')
        for name, size in zip(present, track, strict=True):
            if isinstance(size, str):
                damaged[name] = size
            else:
                sizes[name] = size
    return ImageFiles(missing, damaged, sizes)


def read_size(path: Path) -> Size | str:
    """Return an image's width and height, decoded as mmdet does; or what is wrong.

    OpenCV refuses a file that is cut off, and rotates an image as its EXIF data say.
    """
    image = decode(path)
    return image if isinstance(image, str) else (image.shape[1], image.shape[0])
