"""Values of annotation files in other forms than COCO's whose meaning is evident."""

from __future__ import annotations

import json
import re
from itertools import chain
from typing import Any

from eca_mmdet.datasets.entries import (
    is_crowd_flag,
    is_finite_number,
    is_polygon,
    is_segmentation,
    whole,
)

_NUMBER = re.compile(
    r'(?:np\.\w+\()?([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\)? ?(?:px)?', re.I | re.A
)
_WRAPPER = re.compile(r'^(polygon|tensor|array) ?(?=\()|, *d(type|evice)=.*', re.I)
_DECIMAL_COMMA = re.compile(r'([+-]?\d+),(\d{1,2}|\d{4,})$', re.A)
_FLAGS = dict.fromkeys(('true', 'yes', 'y', 't'), 1)
_FLAGS |= dict.fromkeys(('', 'false', 'no', 'n', 'f', 'none', 'null'), 0)
_BOX_KEYS = ['x y w h', 'x y width height', 'left top width height']
_BOX_KEYS += ['xmin ymin width height', 'x1 y1 x2 y2', 'xmin ymin xmax ymax']
_BOX_KEYS += ['left top right bottom', 'x0 y0 x1 y1', 'xtl ytl xbr ybr']
_FAR_SIDES = (['y2'], ['ymax'], ['bottom'], ['y1'], ['ybr'])
_MOST_NESTED = 4


def read_number(value: Any) -> float | None:
    """Return a finite number, also from its text or a list of it alone."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        text = _DECIMAL_COMMA.sub(r'\1.\2', value.strip())
        match = _NUMBER.fullmatch(text)
        value = float(match[1]) if match else None
        value = int(value) if value is not None and value.is_integer() else value
    return value if is_finite_number(value) else None


def read_flag(value: Any) -> int | None:
    """Return 0 or 1 of a flag, also from text such as '1' or 'true'."""
    if isinstance(value, str) and value.strip().lower() in _FLAGS:
        return _FLAGS[value.strip().lower()]
    number = int(value) if isinstance(value, bool) else read_number(value)
    return int(number) if is_crowd_flag(number) else None  # type: ignore[arg-type]


def read_box(value: Any) -> list[float] | None:
    """Return x, y, width and height of text, named sides, numbers or corner points."""
    value = _parse(value)
    if isinstance(value, list) and len(value) == 1:
        value = _parse(value[0])
    points = [*map(_point, value)] if isinstance(value, list) else []
    corners = len(points) in (2, 4) and None not in points
    if corners:
        axes = [*zip(*filter(None, points), strict=True)]
        value = [*map(min, axes), *map(max, axes)]
    if isinstance(value, dict):
        sides = {re.sub('[_ -]', '', str(key).lower()): value[key] for key in value}
        known = (keys.split() for keys in _BOX_KEYS)
        keys = next((keys for keys in known if sides.keys() >= {*keys}), [])
        value, corners = [sides[key] for key in keys], keys[3:] in _FAR_SIDES
    numbers = _numbers(value)
    if numbers is None or len(numbers) != 4:
        return None
    x, y, a, b = numbers
    return [x, y, a - x, b - y] if corners else numbers


def read_segmentation(value: Any) -> list[list[float]] | dict[str, Any] | None:
    """Return polygons of flat or nested lists or points, or an RLE of whole numbers."""
    value = _parse(value)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]
    if isinstance(value, dict) and 'counts' in value:
        mask: Any = {**value, 'size': _whole_numbers(value.get('size'))}
        counts = value['counts']
        if text := re.fullmatch(r"b(['\"])(.*)\1", str(counts)):  # of bytes in Python
            mask['counts'] = text[2].replace('\\\\', '\\')
        elif not isinstance(counts, str) or re.search('[ ,]', counts):  # not compressed
            mask['counts'] = _whole_numbers(counts)
    else:
        if isinstance(value, dict):
            value = value.get('points', value.get('polygon'))
        mask = _rings(value)
    if not is_segmentation(mask):
        return None
    return mask if isinstance(mask, dict) or any(map(is_polygon, mask)) else None


def _parse(value: Any) -> Any:
    """Parse text that is JSON, or numbers with commas or spaces between them."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        value = _WRAPPER.sub('', value.strip())
        return re.split(r'[\s,;]+', value.strip(' \t\r\n[](){}'))


def _numbers(value: Any) -> list[float] | None:
    """Return the numbers of a list; None if it is none, or has anything besides."""
    if not isinstance(value, (list, tuple)) or not value:
        return None
    found = [number for item in value if (number := read_number(item)) is not None]
    return found if len(found) == len(value) else None


def _whole_numbers(value: Any) -> list[int | None]:
    return [whole(number) for number in _numbers(_parse(value)) or ()]


def _point(value: Any) -> list[float] | None:
    if isinstance(value, dict) and {'x', 'y'} <= value.keys():
        value = [value['x'], value['y']]
    numbers = _numbers(value)
    return numbers if numbers and len(numbers) == 2 else None


def _rings(value: Any, depth: int = 0) -> list[list[float]] | None:
    """Return the polygons of lists of coordinates or points, one in another."""
    if not isinstance(value, list) or not value or depth > _MOST_NESTED:
        return None
    if (flat := _numbers(value)) is not None:
        return [flat]
    points = [point for item in value if (point := _point(item)) is not None]
    if len(points) == len(value) > 2:
        return [[*chain.from_iterable(points)]]
    parts = [_rings(item, depth + 1) for item in value]
    return None if None in parts else [ring for part in parts for ring in part or ()]
