"""What is read from a folder of another format, before it is written as COCO."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from eca_mmdet.datasets.entries import Size
from eca_mmdet.datasets.images import open_images
from eca_mmdet.utils.errors import MissingPackageError
from eca_mmdet.utils.text import clipped

Kind = Literal['coco', 'yolo', 'voc', 'labelme', 'cvat']

IMAGE_ENDINGS = frozenset(
    '.avif .bmp .dng .gif .heic .heif .jp2 .jpeg .jpg .mpo .pbm .pgm .png .pnm .ppm '
    '.tif .tiff .webp'.split()
)
SPLITS = {
    'train': 'train',
    'training': 'train',
    'val': 'val',
    'valid': 'val',
    'validation': 'val',
    'test': 'test',
    'testing': 'test',
}
"""What folders of a split are called, and what it is called here."""

_EXAMPLES = 3


_MOST_PX = 1e9
"""Of a coordinate; supervision's boxes are floats of 32 bits."""


def is_coordinate(value: float) -> bool:
    """Tell a number that can be one, if far outside the image; NaN is none."""
    return -_MOST_PX < value < _MOST_PX


class Told:
    """Counts of what was left out or changed, each with its first places."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._places: dict[str, list[str]] = {}
        self.lost = 0
        """Objects that were left out."""
        self.joined = 0
        """Shapes that became part of an object that another shape began."""

    def add(self, what: str, where: object, lost: int = 0, count: int = 1) -> None:
        """Count one more.

        Args:
            what: happened, after a number: 'labels of ...'.
            where: for an example; the text of a file may be in it.
            lost: objects that are left out by it.
            count: of the things that ``what`` names.
        """
        self._counts[what] += count
        self.lost += lost
        places = self._places.setdefault(what, [])
        if len(places) < _EXAMPLES:
            places.append(clipped(str(where)))

    def count(self, what: str) -> int:
        """Return how often it was counted."""
        return self._counts[what]

    @property
    def notes(self) -> list[str]:
        """A line for each kind."""
        return [
            f'{count} x {what} ({", ".join(self._places[what])}'
            f'{", ..." if count > len(self._places[what]) else ""})'
            for what, count in self._counts.items()
        ]


@dataclasses.dataclass
class Thing:
    """An object.

    Attributes:
        category: the class's key: an id (YOLO) or a name.
        box: x1, y1, x2, y2 in pixels of the image as mmdet sees it.
        mask: polygons x, y, x, y, ...; or an RLE; empty for a box alone.
        crowd: leave it out of training and AP.
        more: keys that the annotation gets too.
    """

    category: int | str
    box: tuple[float, float, float, float]
    mask: list[list[float]] | dict[str, Any] = dataclasses.field(default_factory=list)
    crowd: bool = False
    more: dict[str, Any] = dataclasses.field(default_factory=dict)

    def join(self, other: Thing) -> None:
        """Take in another shape of the same object; both are polygons or boxes."""
        both = isinstance(self.mask, list) and isinstance(other.mask, list)
        whole = both and self.mask and other.mask
        self.mask = [*self.mask, *other.mask] if whole else []
        self.box = (
            min(self.box[0], other.box[0]),
            min(self.box[1], other.box[1]),
            max(self.box[2], other.box[2]),
            max(self.box[3], other.box[3]),
        )


@dataclasses.dataclass
class Photo:
    """An image and its objects; the name is relative to its part's folder."""

    name: str
    size: Size
    things: list[Thing]


@dataclasses.dataclass
class Part:
    """One split: 'train', 'val', 'test' or '' for a source without splits."""

    split: str
    images: Path
    photos: list[Photo]
    told: Told


@dataclasses.dataclass
class Source:
    """All of a folder.

    Attributes:
        categories: id and name of each class; the ids start at 1.
        keys: of the classes, as things have them, to their ids.
    """

    kind: Kind
    categories: list[tuple[int, str]]
    keys: dict[int | str, int]
    parts: list[Part]
    notes: list[str] = dataclasses.field(default_factory=list)


def by_name(parts: Iterable[Part]) -> dict[str, Any]:
    """Number classes that are known by name alone, in alphabetical order.

    Not in the order of appearance: that would differ between training and validation.
    """
    names = {
        str(one.category) for part in parts for p in part.photos for one in p.things
    }
    found = list(enumerate(sorted(names), 1))
    return {'categories': found, 'keys': {name: number for number, name in found}}


def files_below(folder: Path, endings: Iterable[str]) -> Iterator[Path]:
    """Yield the files of a folder and those below, in order of their names.

    Links to folders are followed, each folder once. Hidden names are passed over.
    """
    endings = frozenset(endings)
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        place = os.path.realpath(parent)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in endings and name[0] != '.':
                yield Path(parent, name)


def split_folders(folder: Path) -> dict[str, Path]:
    """Return the folders directly below that are called as splits are."""
    found: dict[str, Path] = {}
    for name, split in SPLITS.items():
        if (folder / name).is_dir():
            found.setdefault(split, folder / name)
    return found


Read = Callable[[Path, Size], list[Thing]]


def make_part(
    split: str, images: Path | None, paths: Sequence[Path], told: Told, read: Read
) -> Part:
    """Open the images and read the labels of each.

    Args:
        split: its name.
        images: folder of the images; None for the nearest that has them all.
        paths: of the images.
        told: added to.
        read: the objects of an image, given its path and its size as mmdet sees it. Of
            an image that is not to be had, with the size (0, 0), only to count them.
    """
    if images is None:
        images = Path(os.path.commonpath([p.parent for p in paths])) if paths else None
    if images is None:
        return Part(split, Path(), [], told)
    images = Path(os.path.abspath(images))
    names = {Path(os.path.relpath(p, images)).as_posix(): p for p in paths}
    files = open_images(images, names)
    photos = []
    for name, path in names.items():
        if name in files.sizes:
            size = files.sizes[name]
            photos.append(Photo(name, size, read(path, size)))
            continue
        reason = files.damaged.get(name, 'it is not there')
        lost = len(read(path, (0, 0)))
        told.add(
            'images left out that cannot be read, with their objects',
            f'{name}: {reason}, {lost} objects',
            lost,
        )
    return Part(split, images, photos, told)


def supervision_formats(name: str) -> Any:
    """Return a module of supervision, which reads the labels.

    Raises:
        MissingPackageError: it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(f'supervision.dataset.formats.{name}')
    except ImportError as error:
        raise MissingPackageError(
            'reading the labels of other tools needs supervision 0.31 or newer '
            f"({error}). Install it: pip install 'eca-mmdet[data]'"
        ) from error
