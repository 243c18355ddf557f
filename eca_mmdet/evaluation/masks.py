"""Masks of annotation and result files, in each form that COCO knows."""

from __future__ import annotations

from typing import Any


def mask_api() -> Any:
    """Return ``pycocotools.mask``, which is loaded when it is first needed."""
    from pycocotools import mask

    return mask


def to_rle(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Return a segmentation of any kind as compressed RLE.

    Args:
        segmentation: polygons, or RLE with counts as list, str or bytes.
        height: of the image, in pixels, for polygons; RLE has its own size.
        width: the same.

    Raises:
        ValueError: it is none of these.
    """
    api = mask_api()
    if isinstance(segmentation, list):
        if not height or not width:
            raise ValueError('polygons need the width and height of their image')
        return dict(api.merge(api.frPyObjects(segmentation, height, width)))
    if not isinstance(segmentation, dict) or not {'size', 'counts'} <= set(
        segmentation
    ):
        raise ValueError('segmentation must be polygons or an RLE with size and counts')
    if isinstance(segmentation['counts'], list):
        return dict(api.frPyObjects(segmentation, *segmentation['size']))
    return segmentation


def mask_fault(segmentation: Any, size: list[int]) -> str | None:
    """Say why a mask of the ground truth cannot be compared; None if it can.

    The evaluators treat such masks differently: one raises, the other finds no pixel.
    """
    if segmentation is None:
        return 'has no segmentation'
    if isinstance(segmentation, list):
        if not all(isinstance(one, list) and len(one) >= 6 for one in segmentation):
            return 'has a polygon of fewer than 3 points'
        return (
            None if all(size) else 'has polygons on an image without width and height'
        )
    if not isinstance(segmentation, dict) or not {'size', 'counts'} <= set(
        segmentation
    ):
        return 'is neither polygons nor RLE'
    if all(size) and list(segmentation['size']) != size:
        return f'has an RLE of size {segmentation["size"]} on an image of {size}'
    return None
