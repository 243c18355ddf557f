"""Read LabelMe: a JSON file an image."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from eca_mmdet.datasets.converters.files import supervision_formats
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
from eca_mmdet.datasets.converters.pairing import (
    OUTSIDE,
    Claim,
    Images,
    Pairs,
    label_splits,
    outside,
)
from eca_mmdet.datasets.entries import Entry, Size
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import read_json
from eca_mmdet.utils.text import clipped

_CIRCLE_POINTS = 64


def read(path: Path) -> LabelledDataset:
    """Read a folder.

    Raises:
        UserError: no image of it can be read.
        MissingPackageError: supervision is not installed.
    """
    images = Images(path)
    library = supervision_formats('labelme')
    splits, rest = label_splits(path, '.json')
    logs = {split: ConversionLog() for split in splits}
    first = next(iter(logs.values()))
    entries = {
        file: entry
        for split, files in [*splits.items(), (next(iter(splits)), rest)]
        for file in files
        if (entry := _load(file, logs[split]))
    }
    pairs = images.pair(
        {file: _claim(file, one, path) for file, one in entries.items()}
    )
    for file in rest:
        if file in entries:
            lost = len(entries[file]['shapes'])
            first.add(OUTSIDE, f'{file.name}, {lost} objects', lost)
    parts = [
        _read_split(split, files, entries, pairs, library, logs[split])
        for split, files in splits.items()
    ]
    log = ConversionLog()
    for one in images.all:
        if one not in pairs.taken:
            log.add('images left out that no LabelMe file describes', one.name)
    return LabelledDataset('labelme', splits=parts, notes=log.notes, **by_name(parts))


def _claim(file: Path, entry: Entry, root: Path) -> Claim:
    stated = entry.get('imagePath')
    stated = stated if isinstance(stated, str) else ''
    return Claim(file, stated, outside(file, stated, root))


def _read_split(
    split: str,
    files: list[Path],
    loaded: dict[Path, Entry],
    pairs: Pairs,
    library: Any,
    log: ConversionLog,
) -> LabelledSplit:
    entries: dict[Path, Entry] = {}
    for file in files:
        if file not in loaded:
            continue
        entry = loaded[file]
        image = pairs.image_of(file, log)
        if image is None:
            inside = ': it is inside the JSON alone' if entry['imageData'] else ''
            lost = len(entry['shapes'])
            log.add(
                'label files left out without an image of their own',
                f'{file.name}, {lost} objects{inside}',
                lost,
            )
            continue
        entries[image] = entry
    part = read_split(
        split,
        None,
        list(entries),
        log,
        lambda p, size: _read_shapes(p, entries[p], size, library, log),
    )
    if files and not part.images:
        raise UserError(
            f'none of the {len(files)} JSON files in {files[0].parent} is of LabelMe '
            f'and has an image that can be read. {"; ".join(log.notes)}',
            code='no-images',
        )
    return part


def _load(file: Path, log: ConversionLog) -> Entry | None:
    try:
        content = read_json(file, 'label file').content
    except UserError as error:
        log.add(
            'label files left out that cannot be read, with their images',
            f'{file.name}: {clipped(str(error), 80)}',
        )
        return None
    if isinstance(content, dict) and isinstance(content.get('shapes'), list):
        content['imageData'] = bool(content.get('imageData'))  # it may be large
        return content
    log.add('JSON files passed over that are not of LabelMe', file.name)
    return None


def _read_shapes(
    image: Path, entry: Entry, size: Size, library: Any, log: ConversionLog
) -> list[LabelledObject]:
    """Return the objects; shapes of one label and one group id are one object."""
    shapes = entry['shapes']
    if not all(size):
        return [LabelledObject('', (0, 0, 0, 0))] * len(shapes)
    objects: list[LabelledObject] = []
    groups: dict[tuple[str, str], LabelledObject] = {}
    for shape in shapes:
        one = _read_shape(shape, size, library, image.name, log)
        if one is None:
            continue
        group = shape.get('group_id')
        key = str(one.category), repr(group)
        if group is None or key not in groups:
            objects.append(one)
            groups |= {key: one} if group is not None else {}
            continue
        log.add('shapes joined with another of their group_id', image.name)
        log.joined += 1
        groups[key].join(one)
    stated = tuple(_whole(entry.get(key)) for key in ('imageWidth', 'imageHeight'))
    fit(objects, (stated[0], stated[1]), image, size, log)
    return objects


def _read_shape(
    shape: Any, size: Size, library: Any, name: str, log: ConversionLog
) -> LabelledObject | None:
    kind = shape.get('shape_type') or 'polygon' if isinstance(shape, dict) else None
    if kind not in ('polygon', 'rectangle', 'circle'):
        log.add(f'shapes left out of type {clipped(repr(kind))}', name, 1)
        return None
    try:
        label = ' '.join(shape['label'].split())
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
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        log.add('malformed shapes left out', f'{name}: {error}', 1)
        return None
    x1, y1, x2, y2 = map(float, seen.xyxy[0])
    # supervision rounds polygons to whole pixels, so their points are taken here.
    # Of a rectangle no mask is known.
    outline = [float(value) for point in points for value in point]
    return LabelledObject(
        label, (x1, y1, x2, y2), [] if kind == 'rectangle' else [outline]
    )


def _circle(points: Any) -> list[list[float]]:
    """Return a polygon for a centre and a point of the edge, which is LabelMe's."""
    (x, y), (edge_x, edge_y) = points
    radius = math.hypot(edge_x - x, edge_y - y)
    steps = [2 * math.pi * step / _CIRCLE_POINTS for step in range(_CIRCLE_POINTS)]
    return [[x + radius * math.cos(a), y + radius * math.sin(a)] for a in steps]


def _whole(value: Any) -> int:
    return value if type(value) is int else 0
