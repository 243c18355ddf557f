"""Read CVAT's own export, "CVAT for images 1.1": one XML file for all images.

supervision does not read it.
"""

from __future__ import annotations

import cmath
import math
from pathlib import Path
from typing import Any

from eca_mmdet.datasets.converters.files import (
    ImageFolder,
    ImageLabels,
    parse_xml,
    read_matched,
    root_tag,
    split_of,
)
from eca_mmdet.datasets.converters.labels import (
    ConversionLog,
    LabelledDataset,
    LabelledObject,
    Point,
    UnknownShapeError,
    ellipse,
    is_coordinate,
    read_shapes,
)
from eca_mmdet.datasets.entries import Size, is_drawable_size
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.text import clipped

_NO_OBJECTS = ('tag', 'attribute')


def find_files(path: Path) -> list[Path]:
    """Return the XML files of an export, which has one for all images."""
    files = sorted(path.glob('*.xml'))[:20] if path.is_dir() else [path]
    return [file for file in files if root_tag(file) == 'annotations']


def read(path: Path) -> LabelledDataset:
    """Read a folder with the XML file and the images.

    Raises:
        UserError: the file is not XML, or of a video, or no image can be read.
        MissingPackageError: defusedxml is not installed.
    """
    log = ConversionLog()
    file, root = _load(path, log)
    images = ImageFolder(file.parent)
    splits: dict[str, list[ImageLabels]] = {}
    for entry in root.iter('image'):
        name = entry.get('name', '').replace('\\', '/').lstrip('/')
        place = Path('/', entry.get('subset', ''), name or '-')
        split, _ = split_of(place, Path('/'))
        splits.setdefault(split, []).append(_labels(entry, name, images, file.parent))
    every = [labels for found in splits.values() for labels in found]
    images.match([labels for labels in every if labels.stated])
    what = f'images left out that {file.name} names twice or that are not there'
    if not splits:
        raise UserError(f'{file} names no image.', code='no-images')
    parts = []
    for split, found in splits.items():
        part = read_matched(split, found, what, _read_image)
        if not part.images:
            raise UserError(
                f'none of the {len(found)} images of {file} can be read. Export with '
                f'"Save images", or put them into {file.parent / "images"}. '
                f'{"; ".join(part.log.notes)}',
                code='no-images',
            )
        parts.append(part)
    taken = {labels.image for labels in every}
    for image in images.images:
        if image not in taken:
            log.add(f'images left out that {file.name} does not name', image.name)
    labels = [
        label.findtext('name') or '' for label in root.iterfind('meta//labels/label')
    ]
    names = [' '.join(name.split()) for name in labels if name.strip()]
    return LabelledDataset.by_name('cvat', parts, log, first=names)


def _load(path: Path, log: ConversionLog) -> tuple[Path, Any]:
    """Return the XML file of an export, and its root element."""
    files = find_files(path)
    if len(files) != 1:
        seen = ', '.join(file.name for file in files) or 'none'
        raise UserError(
            f'expected one XML file of CVAT in {path}, found {seen}. Give the one to '
            'read.',
            code='unsupported-format',
        )
    file = files[0]
    try:
        root = parse_xml(file, log)
    except ValueError as error:
        raise UserError(
            f'{file} is not XML: {clipped(str(error), 100)}', code='not-xml'
        ) from None
    if root.find('track') is not None:
        raise UserError(
            f'{file} is CVAT\'s export of a video, with tracks; expected "CVAT for '
            'images 1.1". Export the task as COCO 1.0, with its images.',
            code='unsupported-format',
        )
    return file, root


def _labels(entry: Any, name: str, images: ImageFolder, root: Path) -> ImageLabels:
    folders = (f'images/{entry.get("subset", "")}', 'images', '')
    tries = [root / folder / name for folder in folders]
    exact = next((path for path in tries if path in images.images), None)
    try:
        size = int(_number(entry, 'width')), int(_number(entry, 'height'))
    except ValueError:
        size = 0, 0
    shapes = [shape for shape in entry if shape.tag not in _NO_OBJECTS]
    return ImageLabels(
        root / name, shapes, len(shapes), name, exact, size, is_path=True
    )


def _read_image(
    shapes: list[Any], name: str, size: Size, log: ConversionLog
) -> list[LabelledObject]:
    def read(shape: Any) -> LabelledObject:
        labelled = _read_shape(shape, size)
        if shape.tag == 'box' and _number(shape, 'rotation'):
            log.add('turned boxes: the upright box round them is taken', name)
        return labelled

    return read_shapes(shapes, read, name, log, _group_of)


def _group_of(shape: Any) -> str | None:
    """Return the group of a polygon, as in CVAT's export to COCO."""
    group: str = shape.get('group_id', '0')
    return group if shape.tag == 'polygon' and group != '0' else None


def _read_shape(shape: Any, size: Size) -> LabelledObject:
    readers = {'box': _box, 'polygon': _polygon, 'ellipse': _ellipse, 'mask': _mask}
    if shape.tag not in readers:
        raise UnknownShapeError(shape.tag)
    label = ' '.join(shape.get('label', '').split())
    if not label:
        raise ValueError('it has no label')
    labelled = readers[shape.tag](label, shape, size)
    if shape.get('occluded') == '1':
        labelled.more['occluded'] = 1
    return labelled


def _number(entry: Any, key: str, default: str = '0') -> float:
    value = float(entry.get(key, default))
    if not is_coordinate(value):
        raise ValueError(f'{key} is {value}')
    return value


def _box(label: str, shape: Any, size: Size) -> LabelledObject:
    x1, y1, x2, y2 = (_number(shape, k, 'nan') for k in ('xtl', 'ytl', 'xbr', 'ybr'))
    points = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
    middle = (x1 + x2) / 2, (y1 + y2) / 2
    angle = math.radians(_number(shape, 'rotation'))
    corners = _turned(points, middle, angle) if angle else points
    return LabelledObject.around(label, corners, masked=False)


def _polygon(label: str, shape: Any, size: Size) -> LabelledObject:
    pairs = [pair.split(',') for pair in shape.get('points', '').split(';')]
    points = [(float(x), float(y)) for x, y in pairs]
    if len(points) < 3 or not all(is_coordinate(v) for point in points for v in point):
        raise ValueError(f'a polygon of {len(points)} points')
    return LabelledObject.around(label, points)


def _ellipse(label: str, shape: Any, size: Size) -> LabelledObject:
    x, y, rx, ry = (_number(shape, key, 'nan') for key in ('cx', 'cy', 'rx', 'ry'))
    angle = math.radians(_number(shape, 'rotation'))
    return LabelledObject.around(label, _turned(ellipse(x, y, rx, ry), (x, y), angle))


def _turned(points: list[Point], middle: Point, angle: float) -> list[Point]:
    """Turn points about one, clockwise as seen (y points down)."""
    centre, turn = complex(*middle), cmath.rect(1, angle)
    turned = [centre + (complex(*point) - centre) * turn for point in points]
    return [(point.real, point.imag) for point in turned]


def _mask(label: str, shape: Any, size: Size) -> LabelledObject:
    """Read runs of 0 and 1 along the rows of a box inside the image."""
    import numpy as np
    from pycocotools import mask as api

    keys = ('left', 'top', 'width', 'height')
    left, top, width, height = (int(_number(shape, key, 'nan')) for key in keys)
    runs = [int(run) for run in shape.get('rle', '').split(',')]
    inside = left >= 0 and top >= 0 and left + width <= size[0]
    if not inside or top + height > size[1] or not is_drawable_size(height, width):
        raise ValueError('a mask that is not inside the image')
    if min(runs) < 0 or sum(runs) != width * height:
        raise ValueError('a mask whose runs do not fill its box')
    whole = np.zeros((size[1], size[0]), np.uint8, order='F')
    values = np.repeat(np.arange(len(runs)) % 2, runs).reshape(height, width)
    whole[top : top + height, left : left + width] = values
    rle = api.encode(whole)
    x, y, w, h = map(float, api.toBbox(rle))
    counts = rle['counts'].decode()
    return LabelledObject(
        label, (x, y, x + w, y + h), {'size': [size[1], size[0]], 'counts': counts}
    )
