"""Resizing that remembers one scale factor, as MMDetection v1 did."""

from __future__ import annotations

from typing import Any

from mmdet.datasets.transforms import Resize
from mmdet.registry import TRANSFORMS


@TRANSFORMS.register_module()
class V1Resize(Resize):  # type: ignore[misc]
    """``Resize`` whose ``scale_factor`` is the one number the sizes were computed from.

    3.x stores the ratios of the rounded sizes, one for each axis; v1 divided boxes by
    the number before rounding (up to 0.2 px apart at the edge of an image).
    """

    def __init__(self, **kwargs: Any) -> None:
        if not kwargs.get('keep_ratio'):
            raise ValueError('V1Resize keeps the ratio: set keep_ratio=True.')
        super().__init__(**kwargs)

    def _resize_img(self, results: dict[str, Any]) -> None:
        height, width = results['img'].shape[:2]
        super()._resize_img(results)
        long, short = max(results['scale']), min(results['scale'])
        factor = min(long / max(height, width), short / min(height, width))
        results['scale_factor'] = (factor, factor)
