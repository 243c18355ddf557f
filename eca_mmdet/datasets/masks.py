"""Masks of annotation and result files, in each form that COCO knows.

pycocotools trusts what it is given: a polygon with NaN in it, or an RLE longer than its
image, makes it loop, crash or eat all memory. Every mask of a file is looked at first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from eca_mmdet.datasets.entries import (
    Entry,
    Size,
    is_drawable_size,
    is_polygon,
    is_segmentation,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LEAST_OVERLAP = 0.2
"""IoU of a box and that of its mask, under which they are not of one object."""

_COUNTS = re.compile(rb'([P-o]{0,6}[0-O])+')
"""Characters of a compressed RLE: up to seven a count, the last without the sixth bit.
"""

_CHUNK = 500
"""Masks that are decoded together."""


def mask_api() -> Any:
    """Return ``pycocotools.mask``, which is loaded when it is first needed."""
    from pycocotools import mask

    return mask


def mask_faults(
    segmentations: Sequence[Any], sizes: Sequence[Sequence[int]]
) -> dict[int, str]:
    """Return the masks that cannot be used: position to reason, ascending.

    ``segmentations`` are polygons, or RLE with counts as list, str or bytes; ``sizes``
    the height and width of each one's image, 0 where the file has none.
    """
    faults: dict[int, str] = {}
    compressed: list[int] = []
    for index, (mask, size) in enumerate(zip(segmentations, sizes, strict=True)):
        fault = _fault(mask, size)
        if fault:
            faults[index] = fault
        elif isinstance(mask, dict) and not isinstance(mask['counts'], list):
            compressed.append(index)
    bad = bad_counts([segmentations[index] for index in compressed])
    for at in np.flatnonzero(bad).tolist():
        faults[compressed[at]] = 'has an RLE whose counts do not fill its size'
    return dict(sorted(faults.items()))


def _fault(segmentation: Any, size: Sequence[int]) -> str | None:
    """Return what is wrong with a mask, except the counts of a compressed RLE."""
    if not segmentation:
        return 'has no segmentation'
    if isinstance(segmentation, list):
        if not is_segmentation(segmentation):
            return 'has polygons that are not lists of finite numbers'
        if not all(map(is_polygon, segmentation)):
            return 'has a polygon of fewer than 3 points'
        if not all(size):
            return 'has polygons on an image without width and height'
        if not is_drawable_size(*size):
            return f'has polygons on an image of {list(size)}, too large to draw them'
        return None
    if not isinstance(segmentation, dict):
        return 'is neither polygons nor RLE'
    if isinstance(segmentation.get('counts'), bytes):
        segmentation = {**segmentation, 'counts': ''}
    if not is_segmentation(segmentation) or min(segmentation['size']) < 1:
        return 'has an RLE without a size of two whole numbers and counts that fill it'
    if all(size) and list(segmentation['size']) != list(size):
        return f'has an RLE of size {segmentation["size"]} on an image of {list(size)}'
    return None


def bad_counts(masks: Sequence[dict[str, Any]]) -> npt.NDArray[np.bool_]:
    """Find compressed RLEs whose runs are not those of an image of their size.

    ``masks`` are ``{'size': [h, w], 'counts': str or bytes}`` with checked sizes. A
    mask is bad if its counts cannot be decoded, a run is negative, or the runs do not
    add up to h * w.
    """
    bad = np.ones(len(masks), bool)
    for start in range(0, len(masks), _CHUNK):
        part = masks[start : start + _CHUNK]
        raw = [_as_bytes(mask['counts']) for mask in part]
        sound = [at for at, counts in enumerate(raw) if _COUNTS.fullmatch(counts)]
        decoded = _decode([raw[at] for at in sound])
        for at, runs in zip(sound, decoded, strict=True):
            height, width = part[at]['size']
            bad[start + at] = runs.min() < 0 or runs.sum() != height * width
    return bad


def _as_bytes(counts: str | bytes) -> bytes:
    return counts.encode('latin-1', 'replace') if isinstance(counts, str) else counts


def _decode(counts: Sequence[bytes]) -> Iterator[Ints]:
    """Yield the runs of each RLE (cocoapi, maskApi.c).

    A character has five bits of a signed number, and a sixth for more to come. Runs
    from the fourth on are differences to the last but one.
    """
    codes = np.frombuffer(b''.join(counts), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(codes < 32)
    lengths = np.diff(ends, prepend=-1)
    starts = ends - lengths + 1
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    values = np.add.reduceat((codes & 31) << shifts, starts) if len(codes) else codes
    values -= (codes[ends] >> 4 & 1) << 5 * lengths
    last = np.cumsum([len(one) for one in counts], dtype=np.int64)
    for runs in np.split(values, np.searchsorted(ends, last)[:-1]) if counts else ():
        for first in (1, 2):
            np.cumsum(runs[first::2], out=runs[first::2])
        yield runs


def to_rle(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Return a segmentation that :func:`mask_faults` passed as compressed RLE.

    ``height`` and ``width`` of the image are for polygons; RLE has its own size.
    """
    api = mask_api()
    if isinstance(segmentation, list):
        return dict(api.merge(api.frPyObjects(segmentation, height, width)))
    if isinstance(segmentation['counts'], list):
        return dict(api.frPyObjects(segmentation, *segmentation['size']))
    return dict(segmentation)


def mask_box(mask: Any, size: Size | None) -> list[float] | None:
    """Return x, y, width and height of the pixels of a mask, whatever it is.

    None if it cannot be used or has no pixel in its image.
    """
    width, height = size or (0, 0)
    if mask_faults([mask], [(height, width)]):
        return None
    box: list[float] = mask_api().toBbox(to_rle(mask, height, width)).tolist()
    return box if min(box[2:]) > 0 else None


def mask_boxes(masks: Sequence[Any], sizes: npt.ArrayLike) -> Floats:
    """Return (N, 4) x, y, width, height of usable masks, NaN for one without a pixel.

    Of polygons that surely have a pixel it is the extent: they are not drawn. ``sizes``
    are width and height of the images.
    """
    boxes, sizes = np.full((len(masks), 4), np.nan), np.reshape(sizes, (-1, 2))
    drawn = np.array([isinstance(mask, dict) for mask in masks], bool)
    outlines = [mask for mask in masks if isinstance(mask, list)]
    boxes[~drawn] = polygon_extents(outlines, sizes[~drawn])
    for at in np.flatnonzero(np.isnan(boxes[:, 0])):
        width, height = sizes[at].tolist()
        boxes[at] = mask_box(masks[at], (width, height)) or np.nan
    return boxes


def polygon_extents(masks: Sequence[Any], sizes: npt.ArrayLike) -> Floats:
    """Return (N, 4) x, y, width and height of polygons that surely have a pixel.

    Their area is large for their extent, which is inside the image. The others are NaN.
    """
    if not len(masks):
        return np.empty((0, 4))
    rings = [ring for mask in masks for ring in mask]
    counts = np.fromiter(map(len, rings), np.int64) // 2
    points = np.fromiter(chain.from_iterable(rings), np.float64).reshape(-1, 2)
    ends = np.cumsum(counts)
    starts, after = ends - counts, np.arange(1, len(points) + 1)
    after[ends - 1] = starts
    (x, y), (next_x, next_y) = points.T, points[after].T
    twice = np.abs(np.add.reduceat(x * next_y - next_x * y, starts))
    low, high = (f.reduceat(points, starts) for f in (np.minimum, np.maximum))
    sure = twice > 3 * (high - low).sum(1)

    first = np.cumsum([0, *map(len, masks)])[:-1]
    low, high = np.minimum.reduceat(low, first), np.maximum.reduceat(high, first)
    sure = np.logical_or.reduceat(sure, first)
    sure &= ((low >= 0) & (high <= sizes)).all(1)
    extents: Floats = np.hstack([low, high - low])
    extents[~sure] = np.nan
    return extents


def shared_area(a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    """Return the area that boxes (..., 4) x, y, width, height share, pair by pair."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    ends = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    sides: Floats = (ends - np.maximum(a[..., :2], b[..., :2])).clip(0)
    return np.asarray(sides.prod(-1))


def overlap(a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    """Return the IoU of boxes (..., 4) x, y, width, height, pair by pair."""
    shared = shared_area(a, b)
    areas = np.asarray(a)[..., 2:].prod(-1) + np.asarray(b)[..., 2:].prod(-1)
    return np.asarray(shared / np.maximum(areas - shared, np.finfo(float).tiny))


def annotation_rle(annotation: Entry, size: Size | None) -> dict[str, Any] | None:
    """Return a usable mask of an annotation as compressed RLE, None if it has none."""
    mask = annotation.get('segmentation')
    if not mask:
        return None
    if isinstance(mask, list) and (size is None or not is_drawable_size(*size)):
        return None
    width, height = size or (0, 0)
    return to_rle(mask, height, width)


def set_area(annotation: Entry, size: Size | None) -> None:
    """Compute the area from the mask, or from the box where there is none."""
    rle = annotation_rle(annotation, size)
    area = float(mask_api().area(rle)) if rle is not None else 0.0
    # A mask thinner than a pixel has no area either.
    annotation['area'] = area or annotation['bbox'][2] * annotation['bbox'][3]
