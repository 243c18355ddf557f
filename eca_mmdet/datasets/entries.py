"""Entries of annotation files: which are usable, and values in other forms."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence, Sized
from itertools import chain
from typing import Any, TypeGuard

from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.text import clipped

Entry = dict[str, Any]
Size = tuple[int, int]
"""Width and height in pixels."""

MOST_OUTLINE_PX = 2_000_000
"""Of one polygon; drawing that takes some hundred MB."""

NUMBER = frozenset((int, float))
"""Exact types, for bool is an int too."""

_ID = frozenset((int, float, str))

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


def _has_id(entry: Any, key: str = 'id') -> bool:
    return isinstance(entry, dict) and type(entry.get(key)) in _ID


def is_image(entry: Any) -> TypeGuard[Entry]:
    """Whether this is an image entry with an id and a file name."""
    name = entry.get('file_name') if _has_id(entry) else None
    return isinstance(name, str) and name != ''


def is_category(entry: Any) -> TypeGuard[Entry]:
    """Whether this is a category entry with an id and a name."""
    return _has_id(entry) and isinstance(entry.get('name'), str)


def is_annotation(entry: Any) -> TypeGuard[Entry]:
    """Whether this is an annotation of an image and a category; its id may be bad."""
    return _has_id(entry, 'image_id') and _has_id(entry, 'category_id')


def as_json(value: Any) -> Any:
    """Return COCO data in JSON's types: arrays and tuples become lists."""

    def plain(other: Any) -> Any:
        if isinstance(other, bytes):
            return other.decode()
        if hasattr(other, 'tolist'):
            return other.tolist()
        raise UserError(
            "COCO's data are dicts, lists, arrays, numbers and text; got a "
            f'{type(other).__name__}.',
            code='not-json',
        )

    return json.loads(json.dumps(value, default=plain))


def whole(value: Any) -> int | None:
    """Return an id as a whole number: 1, 1.0 and '1' are 1; None for any other."""
    kind = type(value)
    if kind is int or (kind is float and value.is_integer()):
        return int(value)
    # int() rejects longer digits.
    if kind is str and len(value) < 20 and value.isascii():
        digits = value[1:] if value.startswith('-') else value
        return int(value) if digits.isdigit() else None
    return None


def other_form(value: Any) -> Any:
    """Return a text id as a number and a number as text; None if it has no other."""
    number = whole(value)
    return number if isinstance(value, str) or number is None else str(number)


def size_of(image: Entry) -> Size | None:
    """Return (width, height) of an image entry, None unless whole and above 0."""
    width, height = image.get('width'), image.get('height')
    if type(width) not in NUMBER or type(height) not in NUMBER:
        return None
    width, height = whole(width) or 0, whole(height) or 0  # mmdet takes 640.0 too
    return (width, height) if 0 < width < 2**31 and 0 < height < 2**31 else None


def is_box(value: Any) -> TypeGuard[Sequence[float]]:
    """Whether this is four finite numbers."""
    try:
        return (
            isinstance(value, (list, tuple))
            and len(value) == 4
            and NUMBER.issuperset(map(type, value))
            and math.isfinite(sum(value))
        )
    except OverflowError:  # an integer of hundreds of digits
        return False


def is_finite_number(value: Any) -> TypeGuard[float]:
    """Whether this is a number other than NaN and infinity."""
    try:
        return type(value) in NUMBER and math.isfinite(value)
    except OverflowError:
        return False


def is_crowd_flag(value: Any) -> TypeGuard[int]:
    """Whether this is 0, 1, true or false."""
    return isinstance(value, (int, float)) and value in (0, 1)


def left_out(annotation: Entry, size: Size | None) -> str | None:
    """Return the fault that keeps mmdet from training on an annotation, or None.

    The conditions and their order are those of ``CocoDataset.parse_data_info``; values
    on which it fails are left to their own faults.
    """
    box, area = annotation.get('bbox'), annotation.get('area')
    if annotation.get('ignore'):
        return 'ignored-object'
    if is_box(box):
        x, y, width, height = box
        right, bottom = size or (math.inf, math.inf)
        if width <= 0 or height <= 0:
            return 'empty-bbox'
        if min(x + width, right) <= max(x, 0) or min(y + height, bottom) <= max(y, 0):
            return 'bbox-outside'
        if width < 1 or height < 1:
            return 'thin-bbox'
    if is_finite_number(area) and area <= 0:
        return 'zero-area'
    return 'crowd-region' if annotation.get('iscrowd') else None


def is_segmentation(value: Any) -> bool:
    """Whether this is lists of finite numbers, or an RLE; polygons may be too short.

    What pycocotools would crash on is none: it takes memory for each pixel of an
    outline, and counts pixels in 32 bits.
    """
    if isinstance(value, dict):
        return _is_rle(value)
    if not isinstance(value, list):
        return False
    try:
        # A sum is a number only if all are, and finite only if all are.
        return all(
            isinstance(points, list)
            and math.isfinite(math.fsum(points))
            and _is_drawable(points)
            for points in value
        )
    except (TypeError, OverflowError, ValueError):
        return False


def _is_drawable(points: list[float]) -> bool:
    """Whether an outline is not too long to be drawn."""
    if not points or (max(points) - min(points)) * len(points) < MOST_OUTLINE_PX:
        return True
    steps = (abs(b - a) for a, b in zip(points, points[2:], strict=False))
    return sum(steps) < MOST_OUTLINE_PX and max(map(abs, points)) < MOST_OUTLINE_PX


def is_drawable_size(height: int, width: int) -> bool:
    """Whether pycocotools can count the pixels of an image of this size."""
    return 0 < height < 2**31 and 0 < width < 2**31 and height * width < 2**32


def _is_rle(value: Mapping[str, Any]) -> bool:
    size, counts = value.get('size'), value.get('counts')
    if not (isinstance(size, list) and len(size) == 2 and {*map(type, size)} == {int}):
        return False
    if not is_drawable_size(*size):
        return False
    if isinstance(counts, list):
        whole_runs = all(type(run) is int and run >= 0 for run in counts)
        return whole_runs and sum(counts) == size[0] * size[1]
    return isinstance(counts, str)


def is_polygon(points: Sized) -> bool:
    """Whether this is x, y, x, y, ... of at least three points."""
    return len(points) >= 6 and len(points) % 2 == 0


def has_mask(entry: Entry) -> bool:
    """Whether an annotation has a usable polygon or RLE."""
    mask = entry.get('segmentation')
    if not mask or not is_segmentation(mask):
        return False
    return isinstance(mask, dict) or any(map(is_polygon, mask))


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
    return int(number) if is_crowd_flag(number) else None


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


def entry_name(entry: Any) -> str:
    """Name an entry of an annotation file in a message; other items as they are."""
    if not isinstance(entry, dict):
        return str(entry)
    if 'category_id' not in entry:
        if 'file_name' in entry:
            return image_name(entry)
        return f'{clipped(repr(entry["name"]))} of id {clipped(repr(entry["id"]))}'
    if entry.get('id') is None:
        return f'one of image {clipped(repr(entry["image_id"]))}'
    return f'annotation {clipped(repr(entry["id"]))}'


def image_name(entry: Entry) -> str:
    """Name an image in a message."""
    return clipped(repr(entry['file_name']))
