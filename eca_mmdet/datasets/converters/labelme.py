"""Read LabelMe: a JSON file an image."""

from __future__ import annotations

import functools
import json
import math
import os
from pathlib import Path
from typing import Any

from eca_mmdet.datasets.converters.files import (
    IMAGE_ENDINGS,
    ImageLabels,
    import_package,
    read_label_files,
    read_text,
)
from eca_mmdet.datasets.converters.labels import (
    SUPERVISION,
    ConversionLog,
    LabelledDataset,
    LabelledObject,
    UnknownShapeError,
    ellipse,
    is_coordinate,
    read_shapes,
)
from eca_mmdet.datasets.entries import Size


def read(path: Path) -> LabelledDataset:
    """Read a folder.

    Raises:
        UserError: no image can be read.
        MissingPackageError: supervision is not installed.
    """
    library = import_package('supervision.dataset.formats.labelme', SUPERVISION)

    def read_image(
        shapes: list[Any], name: str, size: Size, log: ConversionLog
    ) -> list[LabelledObject]:
        read = functools.partial(_read_shape, size=size, library=library)
        return read_shapes(shapes, read, name, log, _group_of)

    load = functools.partial(_load, path)
    return read_label_files('labelme', 'LabelMe', path, '.json', load, read_image)


def _load(root: Path, file: Path, log: ConversionLog) -> ImageLabels | None:
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
