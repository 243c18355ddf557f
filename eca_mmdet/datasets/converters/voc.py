"""Read Pascal VOC: an XML file an image."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eca_mmdet.datasets.converters.files import (
    OUTSIDE,
    Claim,
    Images,
    LabelFormat,
    label_splits,
    log_unreadable,
    parse_xml,
    read_label_files,
    supervision_formats,
)
from eca_mmdet.datasets.converters.labels import (
    ConversionLog,
    LabelledDataset,
    LabelledObject,
    fit,
    is_coordinate,
)
from eca_mmdet.datasets.entries import Size, is_polygon
from eca_mmdet.utils.errors import MissingPackageError, UserError

_ZEROS = 0.001
"""Share of boxes with a coordinate 0 from which on pixels were counted from 0."""


def read(path: Path) -> LabelledDataset:
    """Read a folder.

    Raises:
        UserError: no image can be read.
        MissingPackageError: supervision or defusedxml is not installed.
    """
    images = Images(path)
    splits, rest, left, notes = _splits(path, images)
    if not splits:
        raise UserError(
            f'the lists in {path / "ImageSets" / "Main"} name no XML file that is '
            f'there. {"; ".join(notes)}',
            code='no-images',
        )
    reader = _Reader()
    form = LabelFormat(
        'voc',
        'XML',
        _load,
        lambda file, root: Claim(file, (root.findtext('filename') or '').strip()),
        lambda root: list(root.findall('object')),
        reader.read,
    )
    dataset = read_label_files(form, images, splits, rest, left)
    if reader.zeros > _ZEROS * reader.boxes:
        notes.append(
            f'{reader.zeros} of {reader.boxes} boxes begin at pixel 0, so pixels are '
            'taken to be counted from 0, not from 1 as Pascal VOC does'
        )
        _shift_back(dataset)
    dataset.notes[:0] = notes
    return dataset


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
    in_folders, rest = label_splits(root, '.xml')
    if not names:
        return in_folders, rest, OUTSIDE, []
    every = [file for files in (*in_folders.values(), rest) for file in files]
    by_name = defaultdict[str, list[Path]](list)
    for file in every:
        for name in {file.stem, '/'.join(images.key(file))}:
            by_name[name].append(file)
    log, splits = ConversionLog(), {}
    for name in names:
        text = (lists / f'{name}.txt').read_text('utf-8-sig', 'replace')
        files = []
        for wanted in (line.split()[0] for line in text.splitlines() if line.split()):
            of_name = by_name.get(wanted, [])
            if len(of_name) == 1:
                files += of_name
            else:
                which = 'several XML files have' if of_name else 'no XML has'
                log.add(f'images left out that {name}.txt names and {which}', wanted)
        if files:
            splits[name if name != 'trainval' else 'train'] = [*dict.fromkeys(files)]
    used = {file for files in splits.values() for file in files}
    left = 'XML files left out that are in no split of ImageSets/Main'
    return splits, [file for file in every if file not in used], left, log.notes


def _load(file: Path, log: ConversionLog) -> Any:
    try:
        return parse_xml(file)
    except MissingPackageError:
        raise
    except (ValueError, UserError) as error:
        log_unreadable(file, error, log)
        return None


class _Reader:
    """Reads objects, and counts the boxes that tell from where pixels are counted."""

    def __init__(self) -> None:
        self._library = supervision_formats('pascal_voc')
        self.boxes = self.zeros = 0

    def read(
        self, image: Path, root: Any, size: Size, log: ConversionLog
    ) -> list[LabelledObject]:
        objects = []
        for entry in root.findall('object'):
            try:
                objects.append(self._read_object(entry, size, image.name, log))
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
        with np.errstate(over='ignore'):  # what overflows is rejected below
            seen, _ = self._library.detections_from_xml_obj(parent, [], size)
        category = ' '.join((entry.findtext('name') or '').split())
        if not category:
            raise ValueError('it has no name')
        self.boxes += 1
        starts = [_number(entry, f'bndbox/{key}', 1) for key in ('xmin', 'ymin')]
        self.zeros += 0 in starts
        flags = ('difficult', 'truncated', 'occluded')
        more = {key: 1 for key in flags if _number(entry, key) == 1}
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
            points = np.zeros(0)
            with contextlib.suppress(ValueError, IndexError):
                points = (self._library.parse_polygon_points(polygon) - 1).ravel()
            if all(map(is_coordinate, points)) and is_polygon(points):
                yield points.tolist()
            else:
                log.add('malformed polygons left out; the boxes stay', name)


def _number(entry: Any, path: str, default: int = 0) -> int:
    try:
        return int(float(entry.findtext(path)))
    except (TypeError, ValueError, OverflowError):
        return default


def _shift_back(dataset: LabelledDataset) -> None:
    """Undo the step from pixels counted from 1 to those from 0."""
    for image in (image for part in dataset.splits for image in part.images):
        for labelled in image.objects:
            x1, y1, x2, y2 = labelled.box
            labelled.box = x1 + 1, y1 + 1, x2, y2
            if isinstance(labelled.mask, list):
                labelled.mask = [[v + 1 for v in points] for points in labelled.mask]
