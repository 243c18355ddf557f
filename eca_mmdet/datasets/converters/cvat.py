"""Read CVAT's own export, "CVAT for images 1.1": one XML file for all images.

supervision does not read it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from eca_mmdet.datasets.converters.files import SPLITS, parse, root_tag
from eca_mmdet.datasets.converters.labels import (
    ConversionLog,
    LabelledDataset,
    LabelledObject,
    LabelledSplit,
    fit,
    is_coordinate,
    read_split,
)
from eca_mmdet.datasets.converters.pairing import Claim, Images, Pairs
from eca_mmdet.datasets.entries import Size, is_drawable_size
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.text import clipped

_NO_OBJECTS = frozenset(('tag', 'attribute'))


def find_files(path: Path) -> list[Path]:
    """Return the XML files of an export, which has one for all images."""
    files = sorted(path.glob('*.xml'))[:20] if path.is_dir() else [path]
    return [one for one in files if root_tag(one) == 'annotations']


def read(path: Path) -> LabelledDataset:
    """Read a folder with the XML file and the images.

    Raises:
        UserError: the file is not XML, or of a video, or no image can be read.
        MissingPackageError: defusedxml is not installed.
    """
    files = find_files(path)
    if len(files) != 1:
        seen = ', '.join(one.name for one in files) or 'none'
        raise UserError(
            f'expected one XML file of CVAT in {path}, found {seen}. Give the one to '
            'read.',
            code='unsupported-format',
        )
    file = files[0]
    try:
        root = parse(file)
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
    names = [' '.join(one.split()) for one in _label_names(root)]
    images = Images(file.parent)
    by_split: dict[str, list[Any]] = {}
    for entry in root.iter('image'):
        split = SPLITS.get(entry.get('subset', '').lower(), '')
        by_split.setdefault(split, []).append(entry)
    claims = {one: _claim(one, images, file) for one in root.iter('image')}
    pairs = images.pair({one: claim for one, claim in claims.items() if claim})
    parts = [_read_split(*one, pairs, file) for one in by_split.items()]
    found = [str(t.category) for part in parts for p in part.images for t in p.objects]
    names = list(dict.fromkeys([*names, *sorted(set(found))]))
    keys: dict[int | str, int] = {name: at for at, name in enumerate(names, 1)}
    log = ConversionLog()
    for image in images.all:
        if image not in pairs.taken:
            log.add(f'images left out that {file.name} does not name', image.name)
    return LabelledDataset('cvat', list(enumerate(names, 1)), keys, parts, log.notes)


def _label_names(root: Any) -> list[str]:
    """Return the labels of the task or project, in its order."""
    names = [one.findtext('name') or '' for one in root.iterfind('meta//labels/label')]
    return [name for name in names if name.strip()]


def _claim(entry: Any, images: Images, file: Path) -> Claim | None:
    name = entry.get('name', '').lstrip('/')
    folders = (f'images/{entry.get("subset", "")}', 'images', '')
    tries = [file.parent / folder / name for folder in folders]
    there = next((one for one in tries if one in images.files), None)
    return Claim(file.parent / name, name, there, is_path=True) if name else None


def _read_split(
    split: str, entries: list[Any], pairs: Pairs, file: Path
) -> LabelledSplit:
    log = ConversionLog()
    found: dict[Path, Any] = {}
    for entry in entries:
        image = pairs.image_of(entry, log)
        if image is None:
            lost = sum(one.tag not in _NO_OBJECTS for one in entry)
            log.add(
                f'images left out that {file.name} names twice or that are not there',
                f'{entry.get("name", "")}, {lost} objects',
                lost,
            )
        else:
            found[image] = entry
    part = read_split(
        split, None, list(found), log, lambda p, s: _read_image(p, found[p], s, log)
    )
    if not part.images:
        raise UserError(
            f'none of the {len(entries)} images of {file} can be read. Export with '
            f'"Save images", or put them into {file.parent / "images"}. '
            f'{"; ".join(log.notes)}',
            code='no-images',
        )
    return part


def _read_image(
    image: Path, entry: Any, size: Size, log: ConversionLog
) -> list[LabelledObject]:
    shapes = [one for one in entry if one.tag not in _NO_OBJECTS]
    if not all(size):
        return [LabelledObject('', (0, 0, 0, 0))] * len(shapes)
    objects: list[LabelledObject] = []
    groups: dict[tuple[str, str], LabelledObject] = {}
    for shape in shapes:
        one = _read_shape(shape, size, image.name, log)
        if one is None:
            continue
        # Polygons of a group are one object, as in CVAT's export to COCO.
        group = shape.get('group_id', '0') if shape.tag == 'polygon' else '0'
        key = str(one.category), group
        if group != '0' and key in groups:
            log.add('polygons joined with another of their group_id', image.name)
            log.joined += 1
            groups[key].join(one)
            continue
        groups[key] = one
        objects.append(one)
    fit(objects, _stated(entry), image, size, log)
    return objects


def _stated(entry: Any) -> Size:
    try:
        return int(_number(entry, 'width')), int(_number(entry, 'height'))
    except ValueError:
        return 0, 0


def _read_shape(
    shape: Any, size: Size, name: str, log: ConversionLog
) -> LabelledObject | None:
    readers = {'box': _box, 'polygon': _polygon, 'ellipse': _ellipse, 'mask': _mask}
    if shape.tag not in readers:
        log.add(f'shapes left out of type {clipped(repr(shape.tag))}', name, 1)
        return None
    label = ' '.join(shape.get('label', '').split())
    try:
        if not label:
            raise ValueError('it has no label')
        labelled = readers[shape.tag](label, shape, size)
    except (ValueError, OverflowError) as error:
        log.add('malformed shapes left out', f'{name}: {error}', 1)
        return None
    if shape.get('occluded') == '1':
        labelled.more['occluded'] = 1
    if _number(shape, 'rotation') and shape.tag == 'box':
        log.add('turned boxes: the upright box round them is taken', name)
    return labelled


def _number(entry: Any, key: str, default: str = '0') -> float:
    value = float(entry.get(key, default))
    if not is_coordinate(value):
        raise ValueError(f'{key} is {value}')
    return value


def _around(
    label: str, points: list[tuple[float, float]], masked: bool
) -> LabelledObject:
    xs, ys = zip(*points, strict=True)
    outline = [value for point in points for value in point]
    box = min(xs), min(ys), max(xs), max(ys)
    return LabelledObject(label, box, [outline] if masked else [])


def _box(label: str, shape: Any, size: Size) -> LabelledObject:
    x1, y1, x2, y2 = (_number(shape, k, 'nan') for k in ('xtl', 'ytl', 'xbr', 'ybr'))
    points = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
    middle = (x1 + x2) / 2, (y1 + y2) / 2
    angle = math.radians(_number(shape, 'rotation'))
    return _around(label, _turned(points, middle, angle) if angle else points, False)


def _polygon(label: str, shape: Any, size: Size) -> LabelledObject:
    pairs = [pair.split(',') for pair in shape.get('points', '').split(';')]
    points = [(float(x), float(y)) for x, y in pairs]
    if len(points) < 3 or not all(is_coordinate(v) for point in points for v in point):
        raise ValueError(f'a polygon of {len(points)} points')
    return _around(label, points, True)


def _ellipse(label: str, shape: Any, size: Size) -> LabelledObject:
    x, y, rx, ry = (_number(shape, key, 'nan') for key in ('cx', 'cy', 'rx', 'ry'))
    steps = [2 * math.pi * step / 64 for step in range(64)]
    points = [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in steps]
    angle = math.radians(_number(shape, 'rotation'))
    return _around(label, _turned(points, (x, y), angle), True)


def _turned(
    points: list[tuple[float, float]], middle: tuple[float, float], angle: float
) -> list[tuple[float, float]]:
    """Turn points about one, clockwise as seen (y points down)."""
    cos, sin = math.cos(angle), math.sin(angle)
    moved = [(x - middle[0], y - middle[1]) for x, y in points]
    return [
        (middle[0] + x * cos - y * sin, middle[1] + x * sin + y * cos) for x, y in moved
    ]


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
