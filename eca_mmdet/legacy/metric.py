"""COCO results with MMDetection v1's box sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmdet.evaluation.metrics import CocoMetric
from mmdet.registry import METRICS


@METRICS.register_module()
class V1CocoMetric(CocoMetric):  # type: ignore[misc]
    """``CocoMetric`` for boxes whose corners are both inside.

    v1 wrote a box from x1 to x2 as x2 - x1 + 1 wide, in the original image. The AP of
    its detectors needs that 1.
    """

    def xyxy2xywh(self, bbox: np.ndarray[Any, Any]) -> list[float]:
        """Return x, y, width, height of a box (4,), both corners counted."""
        x1, y1, x2, y2 = bbox.tolist()
        return [x1, y1, x2 - x1 + 1, y2 - y1 + 1]
