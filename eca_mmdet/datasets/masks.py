"""Masks of annotation and result files, in each form that COCO knows.

pycocotools trusts what it is given: a polygon with NaN in it, or an RLE longer than its
image, makes it loop, crash or eat all memory. Every mask of a file is looked at first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from eca_mmdet.datasets.entries import (
    MOST_OUTLINE_PX,
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

_SIGNED = np.array([code % 32 - (code & 16) * 2 for code in range(32)], np.int64)
"""The five bits of the last character of a count, as a signed number."""

_CHUNK = 1000
"""Masks that are decoded together."""


def mask_api() -> Any:
    """Return ``pycocotools.mask``, which is loaded when it is first needed."""
    from pycocotools import mask

    return mask


MASK_FAULTS = {
    'missing-segmentation': 'has no segmentation',
    'malformed-segmentation': 'is neither polygons as lists of finite numbers nor an '
    'RLE with a size of two whole numbers and counts that fill it',
    'short-polygon': 'has a polygon of fewer than 3 points',
    'image-size-missing': 'has polygons on an image without width and height, or too '
    'large to draw them',
    'rle-size': 'has an RLE of another size than its image',
}
"""Why a mask cannot be used, by the code of the fault."""


def mask_faults(
    segmentations: Sequence[Any], sizes: Sequence[Sequence[int]]
) -> dict[int, str]:
    """Return the masks that cannot be used: position to key of :data:`MASK_FAULTS`.

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
        faults[compressed[at]] = 'malformed-segmentation'
    return dict(sorted(faults.items()))


def _fault(mask: Any, size: Sequence[int]) -> str | None:
    """Return what is wrong with a mask, except the counts of a compressed RLE."""
    if not mask:
        return 'missing-segmentation'
    if isinstance(mask, dict) and isinstance(mask.get('counts'), bytes):
        mask = {**mask, 'counts': ''}
    if not is_segmentation(mask):
        return 'malformed-segmentation'
    if isinstance(mask, dict):
        return 'rle-size' if all(size) and [*mask['size']] != [*size] else None
    if not all(map(is_polygon, mask)):
        return 'short-polygon'
    return None if is_drawable_size(*size) else 'image-size-missing'


def bad_counts(masks: Sequence[dict[str, Any]]) -> npt.NDArray[np.bool_]:
    """Find compressed RLEs whose runs are not those of an image of their size.

    ``masks`` are ``{'size': [h, w], 'counts': str or bytes}`` with checked sizes. A
    mask is bad if its counts cannot be decoded, a run is negative, or the runs do not
    add up to h * w.
    """
    sizes = np.array([mask['size'] for mask in masks], np.int64).reshape(-1, 2)
    bad = count_pixels([mask['counts'] for mask in masks])[0] != sizes.prod(1)
    return np.asarray(bad)


def count_pixels(counts: Sequence[str | bytes]) -> Ints:
    """Return (2, N): the pixels of N compressed RLEs, and of those the ones inside.

    Both are 0 where counts cannot be decoded or have a negative run.
    """
    found = np.zeros((2, len(counts)), np.int64)
    for start in range(0, len(counts), _CHUNK):
        part = [as_bytes(one) for one in counts[start : start + _CHUNK]]
        pixels = _count_pixels(part)
        if pixels is None:
            single = (_count_pixels([one]) for one in part)
            none = np.zeros((2, 1), np.int64)
            pixels = np.hstack([none if one is None else one for one in single])
        found[:, start : start + len(part)] = pixels
    return found


def as_bytes(counts: str | bytes) -> bytes:
    """Return the counts of an RLE as bytes; text that is not ASCII is no RLE."""
    if isinstance(counts, str):
        return counts.encode('utf-8', 'surrogatepass')
    return counts


def _count_pixels(counts: Sequence[bytes]) -> Ints | None:
    """Return :func:`count_pixels`; None if any RLE cannot be decoded.

    A character has five bits of a signed number, and a sixth for more to come, up to
    seven characters a number. Runs from the fourth on are differences to the last but
    one (cocoapi, maskApi.c).
    """
    codes = np.frombuffer(b''.join(counts), np.uint8) - np.uint8(48)
    after = np.cumsum([len(one) for one in counts])
    last = np.flatnonzero(codes < 32)
    digits = np.diff(last, prepend=-1)
    if not all(counts) or codes.max() > 63 or (codes[after - 1] > 31).any():
        return None
    if digits.max() > 7:
        return None
    values = _SIGNED[codes[last]]
    longer, place = np.flatnonzero(digits > 1), 1
    while len(longer):
        values[longer] = values[longer] * 32 + (codes[last[longer] - place] & 31)
        place += 1
        longer = longer[digits[longer] > place]
    ends = np.searchsorted(last, after)
    starts = np.concatenate([[0], ends[:-1]])
    lengths = ends - starts
    # Sums over every other value of all RLEs, less those before the second and third
    # value of each, are its runs.
    runs = values.copy()
    for first in (0, 1):
        np.cumsum(values[first::2], out=runs[first::2])
    before = np.stack([runs[starts], np.where(starts > 0, runs[starts - 1], 0)], 1)
    inside = np.arange(len(runs)) - np.repeat(starts, lengths) & 1
    runs -= before.ravel()[np.repeat(2 * np.arange(len(counts)), lengths) + inside]
    runs[starts] = values[starts]
    pixels = [np.add.reduceat(each, starts) for each in (runs, runs * inside)]
    return np.where(np.minimum.reduceat(runs, starts) < 0, 0, pixels)


@dataclass(frozen=True, eq=False)
class Rles(Sequence[dict[str, Any]]):
    """N compressed RLEs, without an object for each.

    Attributes:
        counts: N, as pycocotools has them.
        sizes: (N, 2) height and width.
        areas: (N,) pixels inside.
    """

    counts: list[bytes]
    sizes: Ints
    areas: npt.NDArray[np.float64]

    @classmethod
    def of(cls, counts: list[bytes], sizes: Ints) -> Rles:
        """Measure the areas."""
        return cls(counts, sizes, count_pixels(counts)[1].astype(np.float64))

    @classmethod
    def join(cls, parts: Sequence[Rles]) -> Rles:
        """Put RLEs behind each other."""
        return cls(
            [one for part in parts for one in part.counts],
            np.concatenate([part.sizes for part in parts]),
            np.concatenate([part.areas for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, at: Any) -> Any:
        return {'size': self.sizes[at].tolist(), 'counts': self.counts[at]}

    def take(self, rows: Ints) -> Rles:
        """Return some, by their positions."""
        counts = [self.counts[row] for row in rows.tolist()]
        return Rles(counts, self.sizes[rows], self.areas[rows])

    def as_dicts(self) -> list[dict[str, Any]]:
        """Return all as pycocotools has them; those of one size share its list."""
        keys = self.sizes[:, 0] << 32 | self.sizes[:, 1]
        _, first, at = np.unique(keys, return_index=True, return_inverse=True)
        sizes = self.sizes[first].tolist()
        pairs = zip(at.tolist(), self.counts, strict=True)
        return [{'size': sizes[kind], 'counts': counts} for kind, counts in pairs]


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

    Their area is large for their extent, which is inside the image. The others are
    NaN, as are outlines that may be too long to draw, and lists that are no polygon.
    """
    extents: Floats = np.full((len(masks), 4), np.nan)
    rings = [*chain.from_iterable(masks)]
    lengths = [*map(len, rings)]
    if not all(is_polygon(range(length)) for length in {*lengths}):
        good = [all(map(is_polygon, mask)) for mask in masks]
        usable = [mask for mask, is_good in zip(masks, good, strict=True) if is_good]
        extents[good] = polygon_extents(usable, np.asarray(sizes)[good])
    elif rings:
        values = np.fromiter(chain.from_iterable(rings), np.float64, sum(lengths))
        points = values.reshape(-1, 2)
        ends = np.cumsum(lengths) // 2
        starts, last = np.append(0, ends[:-1]), ends - 1
        (x, y), twice = points.T, np.empty(len(points))
        twice[:-1] = x[:-1] * y[1:] - x[1:] * y[:-1]
        twice[last] = x[last] * y[starts] - x[starts] * y[last]
        low, high = (
            np.minimum.reduceat(points, starts),
            np.maximum.reduceat(points, starts),
        )
        sure = np.abs(np.add.reduceat(twice, starts)) > 3 * (high - low).sum(1)
        sure &= (high.max(1) - low.min(1)) * lengths < MOST_OUTLINE_PX
        if len(rings) > len(masks):
            first = np.cumsum([0, *map(len, masks[:-1])])
            low, high = (
                np.minimum.reduceat(low, first),
                np.maximum.reduceat(high, first),
            )
            sure = np.logical_and.reduceat(sure, first)
        sure &= ((low >= 0) & (high <= sizes)).all(1)
        extents[sure] = np.hstack([low, high - low])[sure]
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


def set_area(annotation: Entry, size: Size | None) -> None:
    """Compute the area from the mask, or from the box where there is none."""
    mask, (width, height) = annotation.get('segmentation'), size or (0, 0)
    area = 0.0
    if mask and (isinstance(mask, dict) or is_drawable_size(height, width)):
        area = float(mask_api().area(to_rle(mask, height, width)))
    # A mask thinner than a pixel has no area either.
    annotation['area'] = area or annotation['bbox'][2] * annotation['bbox'][3]
