"""Image files of a dataset: which exist, which can be read, and their sizes."""

from __future__ import annotations

import dataclasses
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from mimetypes import guess_type
from pathlib import Path, PurePath
from urllib.parse import unquote

from eca_mmdet.datasets.entries import Size
from eca_mmdet.utils.images import decode
from eca_mmdet.utils.text import progress

MAX_THREADS = 8

_JPEG_END = b'\xff\xd9'


@dataclasses.dataclass(frozen=True)
class ImageFiles:
    """State of image files.

    Attributes:
        missing: file names that are not there, with one that is nearly the same or ''.
        moved: file names that are not in the folder, with the only file that each can
            mean; filled by :func:`inspect_images`.
        damaged: file names that are cut off or unreadable, with the reason.
        sizes: of the others, as mmdet sees them; empty if they were not opened.
    """

    missing: dict[str, str]
    damaged: dict[str, str] = dataclasses.field(default_factory=dict)
    sizes: dict[str, Size] = dataclasses.field(default_factory=dict)
    moved: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def unusable(self) -> set[str]:
        """File names that cannot be trained on, and for which no file is at hand."""
        lost = [name for name, near in self.missing.items() if not near]
        return {*lost, *self.damaged}


def leaves_folder(name: str) -> bool:
    """Whether a name is absolute, goes above its folder, or has a NUL byte.

    On any system: backslashes are separators, for Windows takes them so.
    """
    parts = name.replace('\\', '/').split('/')
    if '\0' in name or not parts[0] or re.match(r'[A-Za-z]:([\\/]|.*\\)', name):
        return True
    depth = 0
    for part in parts:
        depth += -1 if part == '..' else part not in ('', '.')
        if depth < 0:
            return True
    return False


def find_by_base_name(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the files that names without a file mean, by their base names.

    Names from Windows have backslashes, those of labelling tools other folders. Files
    are relative to the folder.
    """
    names = list(dict.fromkeys(names))
    lost = find_missing(folder, names).missing
    return _only(_alike(folder, lost, (name for name in names if name not in lost)))


def _alike(
    folder: Path, lost: Iterable[str], present: Iterable[str]
) -> dict[str, list[str]]:
    """Return the files below a folder that names may mean, without those present.

    They have the same base name, or the same but for case and accents, or for the
    ending too; of several, those with most of the stated folders.
    """
    lost, taken = list(lost), set(map(os.path.normpath, present))
    files = defaultdict[str, list[str]](list)
    for parent, _, inside in os.walk(folder) if lost else ():
        for file in inside:
            path = os.path.relpath(os.path.join(parent, file), folder)
            keys = {file, _folded(file)}
            if (guess_type(file)[0] or '').startswith('image/'):
                keys.add(_plain(file))
            for key in keys if path not in taken else ():
                files[key].append(path)
    return {name: _closest(name, files) for name in lost}


def _closest(name: str, files: dict[str, list[str]]) -> list[str]:
    for text in (name, unquote(name), name.partition('?')[0]):
        *folders, last = re.split(r'[\\/]', text.replace('?d=', '/'))
        for key in (last, _folded(last), _plain(last)):
            common = {}
            for path in files.get(key, ()):
                own = path.split(os.sep)[:-1]
                pairs = zip(reversed(own), reversed(folders), strict=False)
                same = len([*takewhile(lambda pair: pair[0] == pair[1], pairs)])
                common[path] = same, same == len(own)
            if common:
                best = max(common.values())
                return [path for path in common if common[path] == best]
    return []


def _only(found: dict[str, list[str]]) -> dict[str, str]:
    """Return what means one file that no other name means."""
    single = {name: paths[0] for name, paths in found.items() if len(paths) == 1}
    claims = Counter(single.values())
    return {name: path for name, path in single.items() if claims[path] == 1}


def find_missing(folder: Path, names: Iterable[str]) -> ImageFiles:
    """Look for files of names relative to a folder, reading each folder once."""
    by_folder = defaultdict[str, list[tuple[str, str]]](list)
    prefix = os.path.join(folder, '')
    for name in dict.fromkeys(names):
        path = name if name.startswith(os.sep) else prefix + name
        parent, _, last = path.rpartition(os.sep)
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


def _folded(name: str) -> str:
    """Return a name without case, outer spaces and the ways of writing an accent."""
    return unicodedata.normalize('NFC', name.strip()).casefold()


def _plain(name: str) -> str:
    """Return a name without ending, case and the ways of writing an accent."""
    return _folded(PurePath(name).stem)


def inspect_images(folder: Path, names: Iterable[str]) -> ImageFiles:
    """Read the images of a folder to their end, and look for those that are not there.

    Nothing outside of the folder is looked at.
    """
    names = list(dict.fromkeys(names))
    inside = [name for name in names if not leaves_folder(name)]
    missing = find_missing(folder, inside).missing
    present = {name: None for name in inside if name not in missing}
    found = _alike(folder, [name for name in names if name not in present], present)
    moved = _only(found)
    opened = open_images(folder, [*present, *moved.values()])
    near = {name: ' or '.join(found[name][:2]) for name in {**missing, **moved}}
    return dataclasses.replace(opened, missing=near, moved=moved)


def open_images(folder: Path, names: Iterable[str]) -> ImageFiles:
    """Look for files, then read the size of each, several at a time.

    A progress bar goes to stderr if that is a terminal.
    """
    names = list(dict.fromkeys(names))
    missing = find_missing(folder, names).missing
    present = [name for name in names if name not in missing]
    damaged: dict[str, str] = {}
    sizes: dict[str, Size] = {}
    threads = ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1))
    with threads as pool, progress('images', len(present)) as advance:
        seen = pool.map(check_size, (folder / name for name in present))
        for name, size in zip(present, seen, strict=True):
            advance()
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
