"""Labels read from other tools, before they are written as COCO."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from eca_mmdet.datasets.entries import Size
from eca_mmdet.datasets.images import open_images
from eca_mmdet.utils.text import clipped

Kind = Literal['coco', 'yolo', 'voc', 'labelme', 'cvat']

_EXAMPLES = 3

_MOST_PX = 1e9
"""Of a coordinate; supervision's boxes are floats of 32 bits."""


def is_coordinate(value: float) -> bool:
    """Tell a number that can be one, if far outside the image; NaN is none."""
    return -_MOST_PX < value < _MOST_PX


class ConversionLog:
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
            count: number of things that ``what`` names.
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
class LabelledObject:
    """An object and its labels.

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

    def join(self, other: LabelledObject) -> None:
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
class LabelledImage:
    """An image and its objects; the name is relative to the folder of its split."""

    name: str
    size: Size
    objects: list[LabelledObject]


@dataclasses.dataclass
class LabelledSplit:
    """Images of 'train', 'val' or 'test', or '' for a source without splits.

    Attributes:
        split: its name.
        folder: that the names of images are relative to.
        images: those that can be read.
        log: what was left out or changed.
    """

    split: str
    folder: Path
    images: list[LabelledImage]
    log: ConversionLog


@dataclasses.dataclass
class LabelledDataset:
    """Labels of another tool, before they are written as COCO.

    Attributes:
        categories: id and name of each class; the ids start at 1.
        keys: from the classes as objects have them to their ids.
    """

    kind: Kind
    categories: list[tuple[int, str]]
    keys: dict[int | str, int]
    splits: list[LabelledSplit]
    notes: list[str] = dataclasses.field(default_factory=list)


def by_name(parts: Iterable[LabelledSplit]) -> dict[str, Any]:
    """Number classes that are known by name alone, in alphabetical order.

    Not in the order of appearance: that would differ between training and validation.
    """
    names = {
        str(one.category) for part in parts for p in part.images for one in p.objects
    }
    found = list(enumerate(sorted(names), 1))
    return {'categories': found, 'keys': {name: number for number, name in found}}


Read = Callable[[Path, Size], list[LabelledObject]]


def read_split(
    split: str,
    folder: Path | None,
    paths: Sequence[Path],
    log: ConversionLog,
    read: Read,
) -> LabelledSplit:
    """Open the images and read the labels of each.

    Args:
        split: its name.
        folder: of the images; None for the nearest that has them all.
        paths: of the images.
        log: added to.
        read: the objects of an image, given its path and its size as mmdet sees it. Of
            an image that is not to be had, with the size (0, 0), only to count them.
    """
    if folder is None and paths:
        folder = Path(os.path.commonpath([path.parent for path in paths]))
    if folder is None:
        return LabelledSplit(split, Path(), [], log)
    folder = Path(os.path.abspath(folder))
    names = {Path(os.path.relpath(p, folder)).as_posix(): p for p in paths}
    files = open_images(folder, names)
    images = []
    for name, path in names.items():
        if name in files.sizes:
            size = files.sizes[name]
            images.append(LabelledImage(name, size, read(path, size)))
            continue
        reason = files.damaged.get(name, 'it is not there')
        lost = len(read(path, (0, 0)))
        log.add(
            'images left out that cannot be read, with their objects',
            f'{name}: {reason}, {lost} objects',
            lost,
        )
    return LabelledSplit(split, folder, images, log)


Point = tuple[float, float]
_TURNS: dict[int, Callable[[float, float, int, int], Point]] = {
    5: lambda x, y, w, h: (y, x),
    6: lambda x, y, w, h: (h - y, x),
    7: lambda x, y, w, h: (h - y, w - x),
    8: lambda x, y, w, h: (y, w - x),
}
"""EXIF orientations that swap the sides: a point of the stored image of w x h pixels
to where it is seen."""


def fit(
    objects: list[LabelledObject],
    stated: Size,
    path: Path,
    size: Size,
    log: ConversionLog,
) -> None:
    """Turn objects in place if the size that their file states is the stored one's.

    Orientations that keep the sides (a half turn, a mirror) do not show in the size;
    their labels are taken as drawn on the turned image.

    Args:
        objects: of the image.
        stated: width and height in the label file; (0, 0) if it has none.
        path: of the image.
        size: of the image, turned as mmdet turns it.
        log: added to.
    """
    if stated == size or not all(stated):
        return
    turn = _TURNS.get(_orientation(path)) if stated == size[::-1] else None
    if turn is None:
        log.add(
            'label files that state another size than their image has; the labels are '
            'kept as they are: look whether they fit',
            f'{path.name}: {stated[0]} x {stated[1]}, not {size[0]} x {size[1]}',
        )
        return
    for one in objects:
        (x1, y1), (x2, y2) = turn(*one.box[:2], *stated), turn(*one.box[2:], *stated)
        one.box = min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)
        if isinstance(one.mask, dict):
            log.add('masks left out that would have to be turned', path.name)
            one.mask = []
        else:
            one.mask = [
                [
                    value
                    for x, y in zip(points[::2], points[1::2], strict=True)
                    for value in turn(x, y, *stated)
                ]
                for points in one.mask
            ]
    log.add(
        'images whose labels were drawn before the turn that EXIF data ask for: turned '
        'with the image',
        path.name,
    )


def _orientation(path: Path) -> int:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return int(image.getexif().get(274, 1))
    except (OSError, ValueError, TypeError, SyntaxError):
        return 1
