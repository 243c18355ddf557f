"""Labels read from other tools, before they are written as COCO."""

from __future__ import annotations

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from eca_mmdet.datasets.entries import Entry, Size
from eca_mmdet.datasets.images import open_images
from eca_mmdet.utils.text import clipped, plural

Kind = Literal['coco', 'yolo', 'voc', 'labelme', 'cvat']
Point = tuple[float, float]
Box = tuple[float, float, float, float]

SUPERVISION = 'reading the labels of other tools (supervision 0.31 or newer)'
EXTRA = "'eca-mmdet[data]'"

_EXAMPLES = 3

_MOST_PX = 1e9
"""Largest coordinate; supervision's boxes are float32."""

_ELLIPSE_POINTS = 64


def is_coordinate(value: float) -> bool:
    """Whether a coordinate is finite and usable, even if far outside the image."""
    return -_MOST_PX < value < _MOST_PX


class ConversionLog:
    """Counts of what was left out or changed, each with its first places."""

    def __init__(self) -> None:
        self._sentences: list[str] = []
        self._counts: Counter[str] = Counter()
        self._places: dict[str, list[str]] = {}
        self.lost = 0
        """Objects that were left out."""
        self.joined = 0
        """Shapes that became part of an object that another shape began."""

    def add(self, what: str, where: object, lost: int = 0) -> None:
        """Count one more ``what`` (words after a number), which cost ``lost`` objects.

        ``where`` is an example; it may be text of a file.
        """
        self._counts[what] += 1
        self.lost += lost
        places = self._places.setdefault(what, [])
        if len(places) < _EXAMPLES:
            places.append(clipped(str(where)))

    def say(self, sentence: str) -> None:
        """Note what is not counted."""
        self._sentences.append(sentence)

    @property
    def notes(self) -> list[str]:
        """A line for each sentence, then for each kind."""
        return self._sentences + [
            f'{count} x {what} ({", ".join(self._places[what])}'
            f'{", ..." if count > len(self._places[what]) else ""})'
            for what, count in self._counts.items()
        ]


class Choices(NamedTuple):
    """How to read what labels do not say themselves; None to infer it.

    Attributes:
        labels: meaning of YOLO labels of more than six columns.
        units: of YOLO's coordinates; normalized ones may then be outside 0-1.
        voc_origin: number of the first pixel in Pascal VOC.
    """

    labels: Literal['boxes', 'polygons'] | None = None
    units: Literal['normalized', 'pixels'] | None = None
    voc_origin: Literal[0, 1] | None = None


@dataclasses.dataclass
class LabelledObject:
    """An object and its labels.

    Attributes:
        category: the class's key: an id (YOLO) or a name.
        box: x1, y1, x2, y2 in pixels of the image as mmdet sees it.
        mask: polygons x, y, x, y, ...; or an RLE; empty for a box only.
        crowd: leave it out of training and AP.
        more: further keys of the annotation.
    """

    category: int | str
    box: Box
    mask: list[list[float]] | dict[str, Any] = dataclasses.field(default_factory=list)
    crowd: bool = False
    more: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def around(
        cls, category: int | str, points: Sequence[Point], masked: bool = True
    ) -> LabelledObject:
        """Return the object of an outline, with or without the outline as mask."""
        outline = [value for point in points for value in point]
        return cls(category, _bounds(points), [outline] if masked else [])

    def join(self, other: LabelledObject) -> None:
        """Take in another shape of the same object; both are polygons or boxes."""
        both = isinstance(self.mask, list) and isinstance(other.mask, list)
        masked = both and self.mask and other.mask
        self.mask = [*self.mask, *other.mask] if masked else []
        self.box = _bounds([*_points(self.box), *_points(other.box)])


def _points(coordinates: Sequence[float]) -> list[Point]:
    """Return the points of x, y, x, y, ..."""
    return list(zip(coordinates[::2], coordinates[1::2], strict=True))


def _bounds(points: Sequence[Point]) -> Box:
    """Return the box around points."""
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


class UnknownShapeError(ValueError):
    """A shape of a type that is not read."""


def read_shapes(
    shapes: Iterable[Any],
    read: Callable[[Any], LabelledObject],
    name: str,
    log: ConversionLog,
    group_of: Callable[[Any], Hashable] = lambda shape: None,
    what: str = 'shapes',
) -> list[LabelledObject]:
    """Read the shapes of an image; those of one class and one group are one object.

    ``group_of`` returns None for a shape on its own; ``what`` names shapes in messages.
    """
    objects: list[LabelledObject] = []
    groups: dict[Hashable, LabelledObject] = {}
    for shape in shapes:
        try:
            labelled = read(shape)
        except UnknownShapeError as error:
            log.add(f'{what} left out of type {clipped(repr(error.args[0]))}', name, 1)
            continue
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as e:
            log.add(f'malformed {what} left out', f'{name}: {e}', 1)
            continue
        group = group_of(shape)
        first = groups.setdefault((labelled.category, group), labelled)
        if group is None or first is labelled:
            objects.append(labelled)
            continue
        log.add(f'{what} joined with another of their group_id', name)
        log.joined += 1
        first.join(labelled)
    return objects


def ellipse(x: float, y: float, rx: float, ry: float) -> list[Point]:
    """Return a polygon for an ellipse of a centre and two radii."""
    angles = [2 * math.pi * step / _ELLIPSE_POINTS for step in range(_ELLIPSE_POINTS)]
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


@dataclasses.dataclass
class LabelledSplit:
    """Readable images of 'train', 'val' or 'test', or '' for a source without splits.

    Attributes:
        folder: what the names of images are relative to.
        images: COCO's entries.
        objects: of all images, each with the entry of its image.
    """

    split: str
    folder: Path
    log: ConversionLog
    images: list[Entry] = dataclasses.field(default_factory=list)
    objects: list[tuple[Entry, LabelledObject]] = dataclasses.field(
        default_factory=list
    )


@dataclasses.dataclass
class LabelledDataset:
    """Labels of another tool.

    Attributes:
        categories: COCO's entry of each class, by the key that objects have for it.
    """

    kind: Kind
    categories: dict[int | str, Entry]
    splits: list[LabelledSplit]
    log: ConversionLog

    @classmethod
    def by_name(
        cls,
        kind: Kind,
        splits: list[LabelledSplit],
        log: ConversionLog,
        first: Sequence[str] = (),
    ) -> LabelledDataset:
        """Number classes that objects name: ``first``, then the rest alphabetically.

        Not in order of appearance: that would differ between training and validation.
        """
        used = {
            str(labelled.category) for part in splits for _, labelled in part.objects
        }
        names = dict.fromkeys([*first, *sorted(used)])
        entries: dict[int | str, Entry] = {
            name: {'id': at, 'name': name} for at, name in enumerate(names, 1)
        }
        return cls(kind, entries, splits, log)


def read_split(
    split: str,
    folder: Path | None,
    paths: Sequence[Path],
    log: ConversionLog,
    read: Callable[[Path, Size], list[LabelledObject]],
    count: Callable[[Path], int],
) -> LabelledSplit:
    """Open the images and read the labels of each.

    Args:
        split: name of the split.
        folder: folder of the images; None for the nearest that has them all.
        paths: the images.
        log: added to.
        read: returns the objects of an image of a size.
        count: returns the number of objects of an image that cannot be read.
    """
    if not paths:
        return LabelledSplit(split, Path(), log)
    parents = [folder] if folder else [path.parent for path in paths]
    folder = Path(os.path.commonpath(list(map(os.path.abspath, parents))))
    names = {Path(os.path.relpath(p, folder)).as_posix(): p for p in paths}
    files = open_images(folder, names)
    part = LabelledSplit(split, folder, log)
    for name, path in names.items():
        if name in files.sizes:
            width, height = size = files.sizes[name]
            image = {'id': len(part.images) + 1, 'file_name': name}
            part.images.append(image | {'width': width, 'height': height})
            part.objects += [(part.images[-1], one) for one in read(path, size)]
            continue
        reason, lost = files.damaged.get(name, 'it is not there'), count(path)
        log.add(
            'images left out that cannot be read, with their objects',
            f'{name}: {reason}, {plural(lost, "object")}',
            lost,
        )
    return part


_SWAPPED = {5: (False, False), 6: (True, False), 7: (True, True), 8: (False, True)}
"""EXIF orientations that swap x and y, and which then count from the far side."""


def turn_as_seen(
    objects: list[LabelledObject],
    stated: Size,
    path: Path,
    size: Size,
    log: ConversionLog,
) -> None:
    """Turn objects in place if the size that their file states is the stored one's.

    ``stated`` is (0, 0) if the label file has no size; ``size`` is that of the image as
    mmdet turns it. Orientations that keep the sides (a half turn, a mirror) do not show
    in the size; their labels are taken as drawn on the turned image.
    """
    if stated == size or not all(stated):
        return
    swapped = _SWAPPED.get(_orientation(path)) if stated == size[::-1] else None
    if swapped is None:
        log.add(
            'label files that state another size than their image has; the labels are '
            'kept as they are: look whether they fit',
            f'{path.name}: {stated[0]} x {stated[1]}, not {size[0]} x {size[1]}',
        )
        return
    (width, height), (from_right, from_bottom) = size, swapped

    def turned(coordinates: Sequence[float]) -> list[Point]:
        return [
            (width - y if from_right else y, height - x if from_bottom else x)
            for x, y in _points(coordinates)
        ]

    for labelled in objects:
        labelled.box = _bounds(turned(labelled.box))
        if isinstance(labelled.mask, dict):
            log.add('masks left out that would have to be turned', path.name)
            labelled.mask = []
        outlines = [turned(outline) for outline in labelled.mask]
        labelled.mask = [
            [v for point in outline for v in point] for outline in outlines
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
