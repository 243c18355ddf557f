"""Read Pascal VOC: an XML file an image."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eca_mmdet.datasets.converters.files import read_xml, supervision_formats
from eca_mmdet.datasets.converters.labels import (
    ConversionLog,
    LabelledDataset,
    LabelledObject,
    LabelledSplit,
    by_name,
    fit,
    is_coordinate,
    read_split,
)
from eca_mmdet.datasets.converters.pairing import OUTSIDE, Claim, Images, label_splits
from eca_mmdet.datasets.entries import Size, is_polygon
from eca_mmdet.utils.errors import UserError

_ZEROS = 0.001
"""Share of boxes with a coordinate 0 from which on pixels were counted from 0."""


def read(path: Path) -> LabelledDataset:
    """Read a folder.

    Raises:
        UserError: no image of it can be read.
        MissingPackageError: supervision is not installed.
    """
    images = Images(path)
    splits, rest, left, notes = _splits(path, images)
    if not splits:
        raise UserError(
            f'the lists in {path / "ImageSets" / "Main"} name no XML file that is '
            f'there. {"; ".join(notes)}',
            code='no-images',
        )
    reader = _Reader(images, splits, rest)
    reader.log_rest(rest, left)
    parts = [reader.read_split(split, files) for split, files in splits.items()]
    if reader.zeros and reader.zeros > _ZEROS * reader.boxes:
        notes.append(
            f'{reader.zeros} of {reader.boxes} boxes begin at pixel 0, so pixels are '
            'taken to be counted from 0, not from 1 as Pascal VOC does'
        )
        _shift_back(parts)
    bare = [one for one in images.all if one not in reader.used]
    if bare:
        log = ConversionLog()
        for one in bare:
            log.add('images left out that no XML file of a split describes', one.name)
        notes += log.notes
    return LabelledDataset('voc', splits=parts, notes=notes, **by_name(parts))


def _splits(
    root: Path, images: Images
) -> tuple[dict[str, list[Path]], list[Path], str, list[str]]:
    """Return XML files by split: ImageSets/Main/train.txt and so on, or folders.

    Also those of no split, what to say of these, and notes.
    """
    lists = root / 'ImageSets' / 'Main'
    names = [n for n in ('train', 'val', 'test') if (lists / f'{n}.txt').is_file()]
    if not names and (lists / 'trainval.txt').is_file():
        names = ['trainval']
    found, rest = label_splits(root, '.xml')
    if not names:
        return found, rest, OUTSIDE, []
    every = [one for files in (*found.values(), rest) for one in files]
    by_name = defaultdict[str, list[Path]](list)
    for one in every:
        for name in {one.stem, '/'.join(images.key(one))}:
            by_name[name].append(one)
    log, splits = ConversionLog(), {}
    for name in names:
        text = (lists / f'{name}.txt').read_text('utf-8-sig', 'replace')
        files = []
        for wanted in (line.split()[0] for line in text.splitlines() if line.split()):
            of_name = by_name.get(wanted, [])
            files += of_name if len(of_name) == 1 else []
            if len(of_name) != 1:
                which = 'several XML files have' if of_name else 'no XML has'
                log.add(f'images left out that {name}.txt names and {which}', wanted)
        if files:
            splits[name if name != 'trainval' else 'train'] = [*dict.fromkeys(files)]
    used = {one for files in splits.values() for one in files}
    left = 'XML files left out that are in no split of ImageSets/Main'
    return splits, [one for one in every if one not in used], left, log.notes


class _Reader:
    """Reads XML files and counts what tells from where pixels are counted."""

    def __init__(
        self, images: Images, splits: dict[str, list[Path]], rest: list[Path]
    ) -> None:
        self._library = supervision_formats('pascal_voc')
        self.boxes = self.zeros = 0
        self.used: set[Path] = set()
        self._logs = {split: ConversionLog() for split in splits}
        self._roots: dict[Path, Any] = {}
        for split, files in [*splits.items(), (next(iter(splits)), rest)]:
            for file in files:
                log = self._logs[split]
                root = None if file in self._roots else read_xml(file, log)
                if root is not None:
                    self._roots[file] = root
        self._pairs = images.pair(
            {
                file: Claim(file, (root.findtext('filename') or '').strip())
                for file, root in self._roots.items()
            }
        )

    def log_rest(self, files: list[Path], left: str) -> None:
        """Count the files that are in no split, and their objects."""
        log = next(iter(self._logs.values()))
        for file in files:
            if file in self._roots:
                lost = len(self._roots[file].findall('object'))
                log.add(left, f'{file.name}, {lost} objects', lost)

    def read_split(self, split: str, files: list[Path]) -> LabelledSplit:
        log = self._logs[split]
        roots: dict[Path, Any] = {}
        for file in files:
            if file not in self._roots:
                continue
            root = self._roots[file]
            image = self._pairs.image_of(file, log)
            if image is None:
                lost = len(root.findall('object'))
                log.add(
                    'label files left out without an image of their own',
                    f'{file.name}, {lost} objects',
                    lost,
                )
                continue
            roots[image] = root
        self.used.update(roots)
        part = read_split(
            split, None, list(roots), log, lambda p, s: self._read(p, roots[p], s, log)
        )
        if files and not part.images:
            raise UserError(
                f'none of the {len(files)} XML files in {files[0].parent} has an image '
                f'that can be read. {"; ".join(log.notes)}',
                code='no-images',
            )
        return part

    def _read(
        self, image: Path, root: Any, size: Size, log: ConversionLog
    ) -> list[LabelledObject]:
        entries = root.findall('object')
        if not all(size):
            return [LabelledObject('', (0, 0, 0, 0))] * len(entries)
        objects = []
        for one in entries:
            try:
                objects.append(self._read_object(one, size, image.name, log))
            except (ValueError, IndexError) as error:
                log.add('malformed objects left out', f'{image.name}: {error}', 1)
        stated = _number(root, 'size/width'), _number(root, 'size/height')
        fit(objects, stated, image, size, log)
        return objects

    def _read_object(
        self, entry: Any, size: Size, name: str, log: ConversionLog
    ) -> LabelledObject:
        # supervision would draw the polygons on whole pixels.
        outlines = list(self._outlines(entry, name, log))
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
            log.add("objects marked difficult: 'iscrowd' 1", name)
        x1, y1, x2, y2 = map(float, seen.xyxy[0])
        if not all(map(is_coordinate, (x1, y1, x2, y2))):
            raise ValueError('a coordinate is too large')
        return LabelledObject(category, (x1, y1, x2, y2), outlines, crowd, more)

    def _outlines(
        self, entry: Any, name: str, log: ConversionLog
    ) -> Iterator[list[float]]:
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
                log.add('malformed polygons left out; the boxes stay', name)


def _number(entry: Any, path: str, default: int = 0) -> int:
    try:
        return int(float(entry.findtext(path)))
    except (TypeError, ValueError, OverflowError):
        return default


def _shift_back(parts: list[LabelledSplit]) -> None:
    """Undo the step from pixels counted from 1 to those from 0."""
    for labelled in (one for part in parts for p in part.images for one in p.objects):
        x1, y1, x2, y2 = labelled.box
        labelled.box = x1 + 1, y1 + 1, x2, y2
        if isinstance(labelled.mask, list):
            labelled.mask = [
                [value + 1 for value in points] for points in labelled.mask
            ]
