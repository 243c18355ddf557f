"""COCO results with MMDetection v1's box sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmdet.registry import METRICS

from eca_mmdet.evaluation.metric import CocoTableMetric


@METRICS.register_module()
class V1CocoMetric(CocoTableMetric):
    """``CocoTableMetric`` for boxes whose corners are both inside.

    v1 wrote a box from x1 to x2 as x2 - x1 + 1 wide, in the original image. The AP of
    its detectors needs that 1.
    """

    @staticmethod
    def to_xywh(boxes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Turn (n, 4) corners into x, y, width, height, both corners counted."""
        return CocoTableMetric.to_xywh(boxes) + (0, 0, 1, 1)
