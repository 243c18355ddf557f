"""Masks of annotation and result files, in each form that COCO knows.

pycocotools trusts what it is given: a polygon with NaN in it, or an RLE longer than its
image, makes it loop, crash or eat all memory. Every mask of a file is looked at first.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
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

Ints = npt.NDArray[np.int64]


def mask_api() -> Any:
    """Return ``pycocotools.mask``, which is loaded when it is first needed."""
    from pycocotools import mask

    return mask


def mask_faults(
    segmentations: Sequence[Any], sizes: Sequence[Sequence[int]]
) -> dict[int, str]:
    """Say which masks cannot be used, and why.

    Args:
        segmentations: polygons, or RLE with counts as list, str or bytes.
        sizes: height and width of each one's image; 0 where the file has none.

    Returns:
        Position to reason, ascending.
    """
    faults: dict[int, str] = {}
    compressed: list[int] = []
    for index, (one, size) in enumerate(zip(segmentations, sizes, strict=True)):
        fault = _fault(one, size)
        if fault:
            faults[index] = fault
        elif isinstance(one, dict) and not isinstance(one['counts'], list):
            compressed.append(index)
    bad = bad_counts([segmentations[index] for index in compressed])
    for at in np.flatnonzero(bad).tolist():
        faults[compressed[at]] = 'has an RLE whose counts do not fill its size'
    return dict(sorted(faults.items()))


def _fault(segmentation: Any, size: Sequence[int]) -> str | None:
    """Look at all of a mask but the counts of a compressed RLE."""
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
    """Tell compressed RLEs whose runs are not those of an image of their size.

    The counts are decoded, all masks at once: five bits a character, the sixth for more
    to come, runs from the third on as differences to the last but one (cocoapi,
    maskApi.c).

    Args:
        masks: N of ``{'size': [h, w], 'counts': str or bytes}``, sizes checked.

    Returns:
        (N,) True where a character is of no count, the last count is cut off, a run is
        negative, or the runs do not add up to h * w.
    """
    raw = [
        one['counts'].encode('latin-1', 'replace')
        if isinstance(one['counts'], str)
        else one['counts']
        for one in masks
    ]
    areas = np.array([one['size'][0] * one['size'][1] for one in masks], np.int64)
    lengths = np.array([len(one) for one in raw], np.int64)
    # In pieces that stay in the processor's cache.
    piece = np.cumsum(lengths) // 100_000
    inner = (np.flatnonzero(np.diff(piece)) + 1).tolist()
    edges = [0, *inner, len(raw)] if raw else []
    found = [
        _bad_counts(raw[a:b], lengths[a:b], areas[a:b])
        for a, b in itertools.pairwise(edges)
    ]
    joined: npt.NDArray[np.bool_] = np.concatenate([np.zeros(0, bool), *found])
    return joined


def _bad_counts(raw: list[bytes], lengths: Ints, areas: Ints) -> npt.NDArray[np.bool_]:
    bad: npt.NDArray[np.bool_] = lengths == 0
    codes = np.frombuffer(b''.join(raw), np.uint8).astype(np.int64) - 48
    owner = np.repeat(np.arange(len(raw)), lengths)
    bad[owner[(codes < 0) | (codes > 63)]] = True
    more = (codes & 32) != 0
    last = np.cumsum(lengths) - 1
    bad[~bad] |= more[last[~bad]]
    if bad.all():
        return bad
    if bad.any():
        sound = ~bad[owner]
        codes, more, owner = codes[sound], more[sound], owner[sound]
    values, of = _values(codes, more, owner)
    bad[of[np.abs(values) > 2**40]] = True
    runs = _runs(np.clip(values, -(2**40), 2**40), of)
    bad[of[runs < 0]] = True
    starts = np.flatnonzero(np.diff(of, prepend=-1))
    totals = np.zeros(len(raw), np.int64)
    totals[of[starts]] = np.add.reduceat(runs, starts)
    return np.asarray(bad | (totals != areas))


def _values(codes: Ints, more: npt.NDArray[np.bool_], owner: Ints) -> tuple[Ints, Ints]:
    """Join characters to signed numbers; return them and the mask of each."""
    first = np.concatenate([[True], ~more[:-1]])
    starts = np.flatnonzero(first)
    index = np.cumsum(first) - 1
    place = np.arange(len(codes)) - starts[index]
    shift = np.minimum(5 * place, 55)  # longer ones are out of range anyway
    values = np.add.reduceat((codes & 31) << shift, starts)
    ends = np.append(starts[1:], len(codes)) - 1
    negative = (codes[ends] & 16) != 0
    values[negative] |= np.int64(-1) << np.minimum(5 * (place[ends[negative]] + 1), 60)
    return values, owner[starts]


def _runs(values: Ints, of: Ints) -> Ints:
    """Add up differences: each second count, from the second and the third on."""
    place = np.arange(len(of)) - _first_of_same(of)
    runs = values.copy()
    for parity in (0, 1):
        # The first count stands alone; the chains begin at places 1 and 2.
        chain = np.flatnonzero((place % 2 == parity) & (place > 0))
        if not len(chain):
            continue
        total = np.cumsum(values[chain])
        head = _first_of_same(of[chain])
        before = np.where(head > 0, total[head - 1], 0)
        runs[chain] = total - before
    return runs


def _first_of_same(of: Ints) -> Ints:
    """Return for each entry where the stretch of its value begins."""
    new = np.diff(of, prepend=-1) != 0
    return np.asarray(np.flatnonzero(new)[np.cumsum(new) - 1], np.int64)


def to_rle(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Return a segmentation that :func:`mask_faults` passed as compressed RLE.

    Args:
        segmentation: polygons, or RLE with counts as list, str or bytes.
        height: of the image, in pixels, for polygons; RLE has its own size.
        width: the same.
    """
    api = mask_api()
    if isinstance(segmentation, list):
        return dict(api.merge(api.frPyObjects(segmentation, height, width)))
    if isinstance(segmentation['counts'], list):
        return dict(api.frPyObjects(segmentation, *segmentation['size']))
    return dict(segmentation)


def annotation_rle(annotation: Entry, size: Size | None) -> dict[str, Any] | None:
    """Return the mask of an annotation as compressed RLE, None if there is none.

    Args:
        annotation: with a ``segmentation`` that can be used, or without one.
        size: width and height of its image; None if they are not known.
    """
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
