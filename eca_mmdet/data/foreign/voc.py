"""Read Pascal VOC: an XML file an image."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eca_mmdet.data.entries import Size, is_polygon
from eca_mmdet.data.foreign.pairing import Images, label_splits
from eca_mmdet.data.foreign.source import (
    Part,
    Source,
    Thing,
    Told,
    by_name,
    is_coordinate,
    make_part,
    supervision_formats,
)
from eca_mmdet.data.foreign.turning import fit
from eca_mmdet.data.foreign.xml_files import read_xml
from eca_mmdet.errors import UserError

_ZEROS = 0.001
"""Share of boxes with a coordinate 0 from which on pixels were counted from 0."""


def read(path: Path) -> Source:
    """Read a folder.

    Raises:
        UserError: no image of it can be read.
        MissingPackageError: supervision is not installed.
    """
    images = Images(path)
    splits, notes = _splits(path)
    reader = _Reader(images)
    parts = [reader.read_part(split, files) for split, files in splits.items()]
    if reader.zeros and reader.zeros > _ZEROS * reader.boxes:
        notes.append(
            f'{reader.zeros} of {reader.boxes} boxes begin at pixel 0, so pixels are '
            'taken to be counted from 0, not from 1 as Pascal VOC does'
        )
        _shift_back(parts)
    used = {*reader.used}
    bare = [one for one in images.all if one not in used]
    if bare:
        told = Told()
        for one in bare:
            told.add('images left out that no XML file of a split describes', one.name)
        notes += told.notes
    return Source('voc', parts=parts, notes=notes, **by_name(parts))


def _splits(root: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """Return XML files by split: ImageSets/Main/train.txt and so on, or folders."""
    lists = root / 'ImageSets' / 'Main'
    names = [n for n in ('train', 'val', 'test') if (lists / f'{n}.txt').is_file()]
    if not names and (lists / 'trainval.txt').is_file():
        names = ['trainval']
    found = label_splits(root, '.xml')
    if not names:
        return found, []
    by_stem = {one.stem: one for files in found.values() for one in files}
    told, splits = Told(), {}
    for name in names:
        text = (lists / f'{name}.txt').read_text('utf-8-sig', 'replace')
        wanted = [line.split()[0] for line in text.splitlines() if line.split()]
        for one in wanted:
            if one not in by_stem:
                told.add(f'images left out that {name}.txt names and no XML has', one)
        files = [by_stem[one] for one in wanted if one in by_stem]
        if files:
            splits[name if name != 'trainval' else 'train'] = files
    rest = by_stem.keys() - {one.stem for files in splits.values() for one in files}
    for one in sorted(rest):
        told.add('XML files left out that are in no split of ImageSets/Main', one)
    return splits, told.notes


class _Reader:
    """Reads XML files and counts what tells from where pixels are counted."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._library = supervision_formats('pascal_voc')
        self.boxes = self.zeros = 0
        self.used: set[Path] = set()

    def read_part(self, split: str, files: list[Path]) -> Part:
        told = Told()
        roots: dict[Path, Any] = {}
        for file in files:
            root = read_xml(file, told)
            if root is None:
                continue
            image = self._images.of(file, (root.findtext('filename') or '').strip())
            if image is None or image in roots:
                lost = len(root.findall('object'))
                told.add(
                    'label files left out without an image of their own',
                    f'{file.name}, {lost} objects',
                    lost,
                )
                continue
            roots[image] = root
        self.used.update(roots)
        part = make_part(
            split,
            None,
            list(roots),
            told,
            lambda p, s: self._read(p, roots[p], s, told),
        )
        if files and not part.photos:
            raise UserError(
                f'none of the {len(files)} XML files in {files[0].parent} has an image '
                f'that can be read. {"; ".join(told.notes)}'
            )
        return part

    def _read(self, image: Path, root: Any, size: Size, told: Told) -> list[Thing]:
        entries = root.findall('object')
        if not all(size):
            return [Thing('', (0, 0, 0, 0))] * len(entries)
        things = []
        for one in entries:
            try:
                things.append(self._read_object(one, size, image.name, told))
            except (ValueError, IndexError) as error:
                told.add('malformed objects left out', f'{image.name}: {error}', 1)
        stated = _number(root, 'size/width'), _number(root, 'size/height')
        fit(things, stated, image, size, told)
        return things

    def _read_object(self, entry: Any, size: Size, name: str, told: Told) -> Thing:
        # supervision would draw the polygons on whole pixels.
        outlines = list(self._outlines(entry, name, told))
        for polygon in entry.findall('polygon'):
            entry.remove(polygon)
        parent = entry.makeelement('annotation', {})
        parent.append(entry)
        with np.errstate(over='ignore'):  # what overflows is refused below
            seen, _ = self._library.detections_from_xml_obj(parent, [], size)
        category = ' '.join((entry.findtext('name') or '').split())
        if not category:
            raise ValueError('it has no name')
        self.boxes += 1
        starts = [_number(entry, f'bndbox/{key}', 1) for key in ('xmin', 'ymin')]
        self.zeros += 0 in starts
        more = {
            key: 1
            for key in ('difficult', 'truncated', 'occluded')
            if _number(entry, key) == 1
        }
        crowd = 'difficult' in more
        if crowd:
            told.add("objects marked difficult: 'iscrowd' 1", name)
        x1, y1, x2, y2 = map(float, seen.xyxy[0])
        if not all(map(is_coordinate, (x1, y1, x2, y2))):
            raise ValueError('a coordinate is too large')
        return Thing(category, (x1, y1, x2, y2), outlines, crowd, more)

    def _outlines(self, entry: Any, name: str, told: Told) -> Iterator[list[float]]:
        for polygon in entry.findall('polygon'):
            points = None
            with contextlib.suppress(ValueError, IndexError):
                points = (self._library.parse_polygon_points(polygon) - 1).ravel()
            if (
                points is not None
                and all(map(is_coordinate, points))
                and is_polygon(points)
            ):
                yield points.tolist()
            else:
                told.add('malformed polygons left out; the boxes stay', name)


def _number(entry: Any, path: str, default: int = 0) -> int:
    try:
        return int(float(entry.findtext(path)))
    except (TypeError, ValueError, OverflowError):
        return default


def _shift_back(parts: list[Part]) -> None:
    """Undo the step from pixels counted from 1 to those from 0."""
    for thing in (one for part in parts for p in part.photos for one in p.things):
        x1, y1, x2, y2 = thing.box
        thing.box = x1 + 1, y1 + 1, x2, y2
        if isinstance(thing.mask, list):
            thing.mask = [[value + 1 for value in points] for points in thing.mask]
