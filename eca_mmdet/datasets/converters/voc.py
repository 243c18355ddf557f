"""Read Pascal VOC: an XML file an image."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eca_mmdet.datasets.converters.files import (
    ImageLabels,
    parse_xml,
    read_label_files,
)
from eca_mmdet.datasets.converters.labels import (
    Choices,
    ConversionLog,
    LabelledDataset,
    LabelledObject,
    is_coordinate,
    read_shapes,
)
from eca_mmdet.datasets.entries import Size, is_polygon

_CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')

_ZEROS = 0.001
"""Share of boxes with a coordinate 0 from which on pixels were counted from 0."""

_DECIMALS = 0.05
"""The same of boxes with decimals; Pascal VOC 2012 itself has a few."""


def read(path: Path, choices: Choices) -> LabelledDataset:
    """Read a folder.

    Raises:
        UserError: no image can be read.
        MissingPackageError: defusedxml is not installed.
    """
    reader = _Reader(choices.voc_origin)
    dataset = read_label_files('voc', 'XML', path, '.xml', reader.load, reader.read)
    if reader.boxes:
        dataset.log.say(
            f'pixels are counted from {reader.origin} (of {reader.boxes} boxes '
            f'{reader.zeros} begin at 0, {reader.decimals} have decimals; to-coco '
            '--voc-origin decides)'
        )
    return dataset


class _Reader:
    """Reads objects, and counts the boxes that tell from where pixels are counted."""

    def __init__(self, origin: int | None) -> None:
        self._origin = origin
        self.boxes = self.zeros = self.decimals = 0

    def load(self, file: Path, log: ConversionLog) -> ImageLabels:
        """Return the labels in a file."""
        root = parse_xml(file, log)
        entries = root.findall('object')
        for entry in entries:
            with contextlib.suppress(ValueError):  # malformed
                values = _corners(entry)
                self.boxes += 1
                self.zeros += any(0 <= value < 1 for value in values[:2])
                # A tool that writes 10.0 throughout writes 10.5 too.
                every = all('.' in entry.findtext(f'bndbox/{k}') for k in _CORNERS)
                self.decimals += every or any(value % 1 for value in values)
        stated = (root.findtext('filename') or '').strip()
        size = _number(root, 'size/width'), _number(root, 'size/height')
        return ImageLabels(file, root, len(entries), stated, stated_size=size)

    @property
    def origin(self) -> int:
        """Number of the first pixel."""
        if self._origin is not None:
            return self._origin
        whole = self.decimals <= _DECIMALS * self.boxes
        return int(whole and self.zeros <= _ZEROS * self.boxes)

    def read(
        self, root: Any, name: str, size: Size, log: ConversionLog
    ) -> list[LabelledObject]:
        """Return the objects of an image."""
        return read_shapes(
            root.findall('object'),
            lambda entry: self._read_object(entry, name, log),
            name,
            log,
            what='objects',
        )

    def _read_object(self, entry: Any, name: str, log: ConversionLog) -> LabelledObject:
        values = _corners(entry)
        category = ' '.join((entry.findtext('name') or '').split())
        if not category:
            raise ValueError('it has no name')
        flags = ('difficult', 'truncated', 'occluded')
        more = {key: 1 for key in flags if _number(entry, key) == 1}
        crowd = 'difficult' in more
        if crowd:
            log.add("objects marked difficult: 'iscrowd' 1", name)
        (x1, x2), (y1, y2) = sorted(values[::2]), sorted(values[1::2])
        # The far edge of pixel 9, counted from 1, is at 9.
        box = x1 - self.origin, y1 - self.origin, x2, y2
        outlines = list(self._outlines(entry, name, log))
        return LabelledObject(category, box, outlines, crowd, more)

    def _outlines(
        self, entry: Any, name: str, log: ConversionLog
    ) -> Iterator[list[float]]:
        for polygon in entry.findall('polygon'):
            points: list[float] = []
            with contextlib.suppress(ValueError, TypeError):
                points = [float(e.text) - self.origin for e in polygon.iterfind('.//*')]
            if all(map(is_coordinate, points)) and is_polygon(points):
                yield points
            else:
                log.add('malformed polygons left out; the boxes stay', name)


def _corners(entry: Any) -> list[float]:
    values = [float(entry.findtext(f'bndbox/{key}', '')) for key in _CORNERS]
    if not all(map(is_coordinate, values)):
        raise ValueError('a coordinate is too large')
    return values


def _number(entry: Any, path: str) -> int:
    try:
        return int(float(entry.findtext(path)))
    except (TypeError, ValueError, OverflowError):
        return 0
