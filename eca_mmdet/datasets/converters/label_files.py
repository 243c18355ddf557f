"""Read the formats with a label file for each image: Pascal VOC and LabelMe."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from eca_mmdet.datasets.converters.files import (
    IMAGE_ENDINGS,
    ImageFolder,
    ImageLabels,
    ReadObjects,
    by_split,
    files_below,
    find_lists,
    parse_xml,
    read_matched,
    read_text,
)
from eca_mmdet.datasets.converters.labels import (
    EXTRA,
    SUPERVISION,
    Choices,
    ConversionLog,
    Kind,
    LabelledDataset,
    LabelledObject,
    UnknownShapeError,
    ellipse,
    is_coordinate,
    read_shapes,
)
from eca_mmdet.datasets.entries import Size, is_polygon
from eca_mmdet.utils.errors import MissingPackageError, UserError, require_package
from eca_mmdet.utils.text import clipped

_OUTSIDE = 'label files left out, with their images, that are outside the split folders'

_CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')

_ZEROS = 0.001
"""Share of boxes with a coordinate 0 from which on pixels were counted from 0."""

_DECIMALS = 0.05
"""The same of boxes with decimals; Pascal VOC 2012 itself has a few."""


def _listed(
    files: list[Path], images: ImageFolder, kind: str, log: ConversionLog
) -> tuple[dict[str, list[Path]], str]:
    """Return the label files that lists name, by split, and what to say of the others.

    Raises:
        UserError: the lists of ``ImageSets`` name no label file that is there.
    """
    by_name = defaultdict[str, list[Path]](list)
    for file in files:
        for name in {file.stem, '/'.join(images.key(file))}:
            by_name[name].append(file)
    missed: list[tuple[str, str]] = []
    splits: dict[str, dict[Path, None]] = {}
    lists = find_lists(images.root)
    for split, path in lists:
        lines = read_text(path, 'list of images', log).splitlines()
        for wanted in (line.split()[0] for line in lines if line.split()):
            parts = images.key(images.root / wanted.replace('\\', '/').lstrip('/'))
            ends = (wanted, *('/'.join(parts[at:]) for at in range(len(parts))))
            of_name = next((by_name[end] for end in ends if end in by_name), [])
            if len(of_name) == 1:
                splits.setdefault(split, {})[of_name[0]] = None
            else:
                which = f'several {kind} files have' if of_name else f'no {kind} has'
                what = f'images left out that {path.name} names and {which}'
                missed.append((what, wanted))
    places = {path.parent.relative_to(images.root).as_posix() for _, path in lists}
    folders = ', '.join(sorted(places - {'.'}))
    if splits or folders:
        for miss in missed:
            log.add(*miss)
    if folders and not splits:
        raise UserError(
            f'the lists in {folders} name no {kind} file that is there. '
            f'{"; ".join(log.notes)}',
            code='no-images',
        )
    left = f'{kind} files left out that are in no split of {folders or "the lists"}'
    return {split: list(listed) for split, listed in splits.items()}, left


def _read_folder(
    kind: Kind,
    name: str,
    root: Path,
    ending: str,
    load: Callable[[Path, ConversionLog], ImageLabels | None],
    read: ReadObjects,
) -> LabelledDataset:
    """Read the splits of lists, of the folders of the label files, or of the images.

    ``name`` is that of the files in messages. ``load`` returns the labels in a file, or
    None, logged, if it is another's.
    """
    log = ConversionLog()
    images = ImageFolder(root)
    files = list(files_below(root, [ending]))
    splits, left = _listed(files, images, ending[1:].upper(), log)
    labels: dict[Path, ImageLabels] = {}
    for file in files:
        try:
            if (loaded := load(file, log)) is not None:
                labels[file] = loaded
        except MissingPackageError:
            raise
        except (UserError, ValueError, RecursionError) as error:
            reason = clipped(' '.join(str(error).split()), 80)
            what = 'label files left out that cannot be read, with their images'
            log.add(what, f'{file.name}: {reason}')
    images.match(list(labels.values()))
    if splits:
        rest = set(files).difference(*splits.values())
    else:
        left = _OUTSIDE
        splits = by_split(files, root)
        if [*splits] == [''] and labels:
            owners = {one.image: file for file, one in labels.items() if one.image}
            splits = {
                split: [owners[image] for image in found]
                for split, found in by_split(owners, root).items()
            }
            lost = [file for file, one in labels.items() if not one.image]
            splits.setdefault(next(iter(splits), ''), []).extend(lost)
        rest = set(splits.pop('', ())) if 'train' in splits else set()
    parts = []
    for split, of_split in splits.items():
        present = [labels[file] for file in of_split if file in labels]
        what = 'label files left out without an image of their own'
        part = read_matched(split, present, what, read)
        if of_split and not part.images:
            notes = '; '.join([*log.notes, *part.log.notes])
            raise UserError(
                f'none of the {len(of_split)} {name} files in {of_split[0].parent} has '
                f'an image that can be read. {notes}',
                code='no-images',
            )
        parts.append(part)
    unused = dict(images.images)
    for file, one in labels.items():
        if file in rest:
            one.leave_out(left, parts[0].log)
        elif one.image:
            unused.pop(one.image, None)
    for image in unused:
        what = f'images left out that no {name} file of a split describes'
        log.add(what, image.name)
    return LabelledDataset.by_name(kind, parts, log)


def read_voc(path: Path, choices: Choices) -> LabelledDataset:
    """Read a folder of Pascal VOC.

    Raises:
        UserError: no image can be read.
        MissingPackageError: defusedxml is not installed.
    """
    reader = _VocReader(choices.voc_origin)
    dataset = _read_folder('voc', 'XML', path, '.xml', reader.load, reader.read)
    if reader.boxes:
        dataset.log.say(
            f'pixels are counted from {reader.origin} (of {reader.boxes} boxes '
            f'{reader.zeros} begin at 0, {reader.decimals} have decimals; data convert '
            '--voc-origin decides)'
        )
    return dataset


class _VocReader:
    """Reads objects, and counts the boxes that tell from where pixels are counted."""

    def __init__(self, origin: int | None) -> None:
        self._origin = origin
        self.boxes = self.zeros = self.decimals = 0

    def load(self, file: Path, log: ConversionLog) -> ImageLabels:
        """Return the labels in a file."""
        root = parse_xml(file, log)
        entries = [*root.iter('object')]
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
            root.iter('object'),
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


def read_labelme(path: Path) -> LabelledDataset:
    """Read a folder of LabelMe.

    Raises:
        UserError: no image can be read.
        MissingPackageError: supervision is not installed.
    """
    library = require_package('supervision.dataset.formats.labelme', SUPERVISION, EXTRA)

    def read_image(
        shapes: list[Any], name: str, size: Size, log: ConversionLog
    ) -> list[LabelledObject]:
        read = functools.partial(_read_shape, size=size, library=library)
        return read_shapes(shapes, read, name, log, _group_of)

    load = functools.partial(_load_labelme, path)
    return _read_folder('labelme', 'LabelMe', path, '.json', load, read_image)


def _load_labelme(root: Path, file: Path, log: ConversionLog) -> ImageLabels | None:
    content = json.loads(read_text(file, 'label file', log))
    if not isinstance(content, dict) or not isinstance(content.get('shapes'), list):
        log.add('JSON files passed over that are not of LabelMe', file.name)
        return None
    stated, shapes = content.get('imagePath'), content['shapes']
    stated = stated if isinstance(stated, str) else ''
    width, height = content.get('imageWidth'), content.get('imageHeight')
    return ImageLabels(
        file,
        shapes,
        len(shapes),
        stated,
        _stated_image(file, stated, root),
        (width, height) if type(width) is int and type(height) is int else (0, 0),
        hint=': it is inside the JSON alone' if content.get('imageData') else '',
    )


def _stated_image(labels: Path, stated: str, root: Path) -> Path | None:
    """Return the image of a relative path, in the root or in a folder beside it."""
    name = stated.replace('\\', '/')
    if not name or '\0' in name or name.startswith('/') or ':' in name[:2]:
        return None
    path = Path(os.path.normpath(labels.parent.absolute() / name))
    near = Path(os.path.abspath(root)).parent
    if near in path.parents and path.suffix.lower() in IMAGE_ENDINGS and path.is_file():
        return path
    return None


def _group_of(shape: dict[str, Any]) -> str | None:
    group = shape.get('group_id')
    return None if group is None else repr(group)


def _read_shape(shape: Any, size: Size, library: Any) -> LabelledObject:
    kind = shape.get('shape_type') or 'polygon' if isinstance(shape, dict) else None
    if kind not in ('polygon', 'rectangle', 'circle'):
        raise UnknownShapeError(kind)
    label = shape['label']
    if isinstance(label, (int, float)) and not isinstance(label, bool):
        label = str(label)
    label = ' '.join(label.split())
    points = _circle(shape['points']) if kind == 'circle' else shape['points']
    if not label or not all(is_coordinate(v) for point in points for v in point):
        raise ValueError('no label, or points that are no numbers')
    form = 'polygon' if kind == 'circle' else kind
    seen = library.labelme_shapes_to_detections(
        [{'label': label, 'points': points, 'shape_type': form}],
        {label: 0},
        size,
        with_masks=False,
    )
    x1, y1, x2, y2 = map(float, seen.xyxy[0])
    # supervision rounds polygons to whole pixels, so their points are taken here.
    # A rectangle says nothing of the mask.
    outline = [float(value) for point in points for value in point]
    mask = [] if kind == 'rectangle' else [outline]
    return LabelledObject(label, (x1, y1, x2, y2), mask)


def _circle(points: Any) -> list[tuple[float, float]]:
    """Return a polygon for LabelMe's circle: a centre and a point of the edge."""
    (x, y), (edge_x, edge_y) = points
    radius = math.hypot(edge_x - x, edge_y - y)
    return ellipse(x, y, radius, radius)
