"""Masks pasted into integer boxes, as MMDetection v1 did."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class V1MaskHead(FCNMaskHead):  # type: ignore[misc]
    """``FCNMaskHead`` with v1's pasting.

    What differs: a box is truncated to integers and counts both its corners; the mask
    is resized to it with OpenCV's bilinear interpolation and is foreground where it is
    greater than the threshold. 3.x samples the mask at the pixel centres of the exact
    box, and counts values equal to the threshold.

    Args:
        **kwargs: as mmdet's ``FCNMaskHead``.
    """

    def _predict_by_feat_single(
        self,
        mask_preds: Tensor,
        bboxes: Tensor,
        labels: Tensor,
        img_meta: dict[str, Any],
        rcnn_test_cfg: Any,
        rescale: bool = False,
        activate_map: bool = False,
    ) -> Tensor:
        """Return (N, H, W) booleans; ``bboxes`` are those of the resized image."""
        values = mask_preds if activate_map else mask_preds.sigmoid()
        channels = torch.zeros_like(labels) if self.class_agnostic else labels
        chosen = values[torch.arange(len(labels), device=labels.device), channels]
        across, down = img_meta['scale_factor']
        height, width = img_meta['ori_shape'][:2]
        boxes = bboxes.cpu().numpy()
        if rescale:
            boxes = boxes / np.array([across, down] * 2, dtype=np.float32)
        else:
            height, width = round(height * down), round(width * across)
        masks = np.zeros((len(boxes), height, width), dtype=bool)
        corners = boxes.astype(np.int32)  # truncated, as v1 did
        probabilities = chosen.cpu().numpy()
        for i in range(len(boxes)):
            paste(masks[i], probabilities[i], corners[i], rcnn_test_cfg.mask_thr_binary)
        return torch.from_numpy(masks).to(bboxes.device)


def paste(
    mask: np.ndarray[Any, Any],
    values: np.ndarray[Any, Any],
    box: np.ndarray[Any, Any],
    threshold: float,
) -> None:
    """Write an object's foreground into the mask of the whole image.

    Args:
        mask: (H, W) booleans, changed.
        values: (h, w) float probabilities of the object.
        box: x1 y1 x2 y2, integers, both corners included; what lies outside of the
            image is cut off.
        threshold: foreground is greater.
    """
    x, y = int(box[0]), int(box[1])
    width, height = max(int(box[2]) - x + 1, 1), max(int(box[3]) - y + 1, 1)
    resized = cv2.resize(
        values.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR
    )
    left, top = max(x, 0), max(y, 0)
    target = mask[top : max(y + height, 0), left : max(x + width, 0)]
    inside = resized[top - y :, left - x :][: target.shape[0], : target.shape[1]]
    target[:] = inside > threshold
