"""What an exported file says of its detector.

A file may come from anywhere, so that every value is held against what it can mean
before anything is made of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from eca_mmdet.export.preprocess import MOST_AREA, ImageRule
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.text import clipped

KEY = 'eca_mmdet'
"""Of the metadata in the file."""

FORMAT = 1
"""Of the metadata: the newest that is known here."""

ADVICE = 'Export the detector again: eca-mmdet export onnx.'

_MOST_SIDE = 1 << 15
_MOST_OBJECTS = 5000
"""Of an image; the masks of more would not fit in memory."""

_MOST_OF_SCALE = 1 << 31
"""Usual for a side that is not to bound anything, as 99999."""


def parse_metadata(text: str, path: str) -> dict[str, Any]:
    """Read what a file says of itself.

    Args:
        text: JSON.
        path: of the file, for messages.

    Raises:
        UserError: a value is missing or cannot be meant; or it is of a later release,
            or of a part of a detector.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong(path, 'they are no JSON') from error
    if not isinstance(found, dict):
        raise _wrong(path, 'they are no object')
    number = found.get('format')
    if _is_whole(number, FORMAT + 1, 1 << 31):
        by = clipped(str(found.get('eca_mmdet')))
        raise UserError(
            f'{path} is of format {number}, written by eca-mmdet {by}; this release '
            f'reads format {FORMAT}. Install that one here, or export the detector '
            'again with this one.'
        )
    if found.get('part') in ('backbone', 'heads'):  # of which less is known
        raise UserError(
            f'{path} is the part {found["part"]!r} of a detector, which finds no '
            'objects by itself; run it with onnxruntime, or export the whole: '
            'eca-mmdet export onnx --part all.'
        )
    wrong = fault(found)
    if wrong is not None:
        raise _wrong(path, wrong)
    return found


def fault(metadata: dict[str, Any]) -> str | None:
    """Return what is wrong with the metadata of a whole detector, or None."""
    for key, (fits, meaning) in _VALUES.items():
        if key not in metadata:
            return f'{key} is missing'
        if not fits(metadata[key]):
            came = clipped(repr(metadata[key]))
            return f'{key} must be {meaning}; it is {came}'
    # With keep_ratio it depends on the image.
    for name in ('size',) if metadata['keep_ratio'] else ('scale', 'size'):
        sides = metadata[name]
        if sides is not None and sides[0] * sides[1] > MOST_AREA:
            return f'{name} of {sides[0]} x {sides[1]} px is too large'
    return None


def _wrong(path: str, what: str) -> UserError:
    return UserError(f'the metadata of {path} cannot be used: {what}. {ADVICE}')


def image_rule(metadata: dict[str, Any]) -> ImageRule:
    """Return how images are to be prepared."""
    size = metadata['size']
    return ImageRule(
        mean=tuple(map(float, metadata['mean'])),
        std=tuple(map(float, metadata['std'])),
        to_rgb=metadata['to_rgb'],
        scale=(metadata['scale'][0], metadata['scale'][1]),
        keep_ratio=metadata['keep_ratio'],
        size=None if size is None else (size[0], size[1]),
        pad_divisor=metadata['pad_divisor'],
        pad_value=float(metadata['pad_value']),
    )


def mask_threshold(metadata: dict[str, Any], path: str) -> float:
    """Return the least probability of a mask's pixel.

    Raises:
        UserError: there is none.
    """
    if metadata['mask_threshold'] is None:
        raise _wrong(path, 'it gives masks, and mask_threshold is null')
    return float(metadata['mask_threshold'])


def _is_number(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and low <= value <= high  # never of a NaN


def _is_whole(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_fraction(value: Any) -> bool:
    return value is None or _is_number(value, 0, 1)


def _are(value: Any, count: int, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and len(value) == count and all(map(fits, value))


def _is_side(value: Any) -> bool:
    return _is_whole(value, 1, _MOST_SIDE)


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _are_names(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(one, str) and one for one in value)


_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    'format': (lambda value: _is_whole(value, FORMAT, FORMAT), f'{FORMAT}'),
    'eca_mmdet': (_is_text, 'a version'),
    'part': (lambda value: value == 'all', 'all, backbone or heads'),
    'detector': (lambda value: isinstance(value, str), 'a name'),
    'classes': (_are_names, 'a list of names'),
    'mean': (
        lambda value: _are(value, 3, lambda one: _is_number(one, -1e6, 1e6)),
        'three numbers',
    ),
    'std': (
        lambda value: _are(value, 3, lambda one: _is_number(one, 1e-6, 1e6)),
        'three numbers above 0',
    ),
    'to_rgb': (_is_flag, 'true or false'),
    'scale': (
        lambda value: _are(value, 2, lambda one: _is_whole(one, 1, _MOST_OF_SCALE)),
        f'a width and a height, whole numbers from 1 to {_MOST_OF_SCALE}',
    ),
    'keep_ratio': (_is_flag, 'true or false'),
    'pad_divisor': (_is_side, f'1 to {_MOST_SIDE}'),
    'pad_value': (lambda value: _is_number(value, -1e6, 1e6), 'a number'),
    'size': (
        lambda value: value is None or _are(value, 2, _is_side),
        f'null, or a height and a width, each 1 to {_MOST_SIDE}',
    ),
    'mask_threshold': (_is_fraction, 'null or 0 to 1'),
    'score_threshold': (_is_fraction, 'null or 0 to 1'),
    'nms_iou': (_is_fraction, 'null or 0 to 1'),
    'max_per_image': (
        lambda value: _is_whole(value, 1, _MOST_OBJECTS),
        f'a whole number from 1 to {_MOST_OBJECTS}',
    ),
    'config': (_is_text, 'a name'),
    'checkpoint': (_is_text, 'a name'),
    'checkpoint_sha256': (_is_text, 'a text'),
}
"""What each value of the metadata must be, and how that is said."""
