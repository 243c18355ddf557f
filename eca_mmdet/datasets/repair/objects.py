"""Repair one annotation: crowd flag, mask, box and area."""

from __future__ import annotations

from collections import Counter
from typing import Any

from eca_mmdet.datasets.entries import (
    Entry,
    Size,
    is_box,
    is_crowd_flag,
    is_drawable_size,
    is_finite_number,
    is_polygon,
    is_segmentation,
)
from eca_mmdet.datasets.rules.check import OVER_EDGE_PX


def mend(one: Entry, size: Size | None, masks: bool, done: Counter[str]) -> bool:
    """Repair an annotation in place.

    Args:
        one: the annotation.
        size: of its image; None if it is not known.
        masks: it belongs to a data set of masks, in which each must have one.
        done: counts of repairs, added to.

    Returns:
        False if nothing can be made of it, so that it is to be dropped.
    """
    if not is_crowd_flag(one.get('iscrowd')):
        one['iscrowd'] = 0
        done['iscrowd set to 0'] += 1
    if not _mend_mask(one, done) and masks:
        done['annotations that lost their mask dropped'] += 1
        return False
    if not is_box(one.get('bbox')):
        rle = _encode(one, size)
        if rle is None:
            done['annotations without box and mask dropped'] += 1
            return False
        one['bbox'] = _api().toBbox(rle).tolist()
        done['boxes computed from masks'] += 1
    if size and not _clip(one, size, done):
        done['annotations whose box is outside the image dropped'] += 1
        return False
    if one['bbox'][2] <= 0 or one['bbox'][3] <= 0:
        done['annotations of an empty box dropped'] += 1
        return False
    area = one.get('area')
    if not is_finite_number(area) or area <= 0:  # type: ignore[operator]
        set_area(one, size)
        done['areas computed'] += 1
    return True


def _mend_mask(one: Entry, done: Counter[str]) -> bool:
    """Remove what is no polygon; False if nothing is left of a mask."""
    mask = one.get('segmentation')
    if not mask:
        return True
    if not is_segmentation(mask):
        one['segmentation'] = []
        done['malformed segmentations removed'] += 1
        return False
    if isinstance(mask, list) and not all(map(is_polygon, mask)):
        one['segmentation'] = [points for points in mask if is_polygon(points)]
        done['short polygons removed'] += len(mask) - len(one['segmentation'])
        return bool(one['segmentation'])
    return True


def _clip(one: Entry, size: Size, done: Counter[str]) -> bool:
    """Cut a box that is well over the edge of the image; False if it is outside."""
    x, y, w, h = one['bbox']
    width, height = size
    if w <= 0 or h <= 0:
        return True
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return False
    edge = OVER_EDGE_PX
    if x >= -edge and y >= -edge and x + w <= width + edge and y + h <= height + edge:
        return True
    left, top = max(x, 0), max(y, 0)
    box = [left, top, min(x + w, width) - left, min(y + h, height) - top]
    if not one.get('segmentation') and is_finite_number(one.get('area')):
        one['area'] = box[2] * box[3]  # it was the box's
    one['bbox'] = box
    done['boxes clipped to the image'] += 1
    return True


def set_area(one: Entry, size: Size | None) -> None:
    """Compute the area from the mask, or from the box where there is none."""
    rle = _encode(one, size)
    area = float(_api().area(rle)) if rle is not None else 0.0
    # A mask thinner than a pixel has no area either.
    one['area'] = area if area > 0 else one['bbox'][2] * one['bbox'][3]


def _encode(one: Entry, size: Size | None) -> dict[str, Any] | None:
    """Return the mask as compressed RLE, or None if there is none."""
    mask = one.get('segmentation')
    if not mask:
        return None
    if isinstance(mask, list):
        if size is None or not is_drawable_size(*size):
            return None
        width, height = size
        return dict(_api().merge(_api().frPyObjects(mask, height, width)))
    if isinstance(mask['counts'], list):
        return dict(_api().frPyObjects(mask, *mask['size']))
    return dict(mask)


def _api() -> Any:
    from pycocotools import mask

    return mask
