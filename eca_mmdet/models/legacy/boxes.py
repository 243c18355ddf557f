"""Resizing, box coding and suppression; corners are inclusive: width is x2 - x1 + 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from mmcv.ops import nms
from mmdet.datasets.transforms import Resize
from mmdet.models.task_modules.coders import BaseBBoxCoder
from mmdet.registry import TASK_UTILS, TRANSFORMS
from mmengine.structures import InstanceData
from torch import Tensor

_MAX_RATIO = abs(math.log(16 / 1000))


@TASK_UTILS.register_module()
class V1BoxCoder(BaseBBoxCoder):  # type: ignore[misc]
    """Offsets of the centre and logarithms of the size, as MMDetection v1 coded them.

    What differs from 3.x's ``DeltaXYWHBBoxCoder``: widths and heights are one larger;
    the centre is still the plain mean of the corners; decoded corners are
    ``centre -+ size / 2 +- 0.5`` and end at ``size - 1`` of the image. mmdet's
    ``LegacyDeltaXYWHBBoxCoder`` leaves the 0.5 out. Arguments are those of mmdet's.
    """

    def __init__(
        self,
        target_means: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
        target_stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.means, self.stds = tuple(target_means), tuple(target_stds)

    def encode(self, bboxes: Tensor, gt_bboxes: Tensor) -> Tensor:
        """Return the offsets from ``bboxes`` to ``gt_bboxes``; all are (N, 4)."""
        centre, size = _centre_and_size(bboxes)
        gt_centre, gt_size = _centre_and_size(gt_bboxes)
        offsets = torch.cat(
            [(gt_centre - centre) / size, torch.log(gt_size / size)], dim=-1
        )
        means, stds = map(offsets.new_tensor, (self.means, self.stds))
        return (offsets - means) / stds

    def decode(
        self,
        bboxes: Tensor,
        pred_bboxes: Tensor,
        max_shape: Sequence[int] | None = None,
        wh_ratio_clip: float | None = None,
    ) -> Tensor:
        """Return the boxes, (N, 4 * classes), at such offsets from ``bboxes`` (N, 4).

        Corners are clamped to ``max_shape``, (height, width), less 1. ``wh_ratio_clip``
        is unused: v1 always clamped to 16 / 1000.
        """
        rows, columns = pred_bboxes.shape
        offsets = pred_bboxes.reshape(rows, columns // 4, 4)
        offsets = offsets * offsets.new_tensor(self.stds)
        offsets = offsets + offsets.new_tensor(self.means)
        centre, size = (part.unsqueeze(1) for part in _centre_and_size(bboxes))
        sizes = size * offsets[..., 2:].clamp(-_MAX_RATIO, _MAX_RATIO).exp()
        centres = centre + size * offsets[..., :2]
        low = centres - sizes * 0.5 + 0.5
        high = centres + sizes * 0.5 - 0.5
        if max_shape is not None:
            limit = offsets.new_tensor([max_shape[1] - 1, max_shape[0] - 1])
            low, high = (torch.minimum(c.clamp(min=0), limit) for c in (low, high))
        return torch.cat([low, high], dim=-1).reshape(pred_bboxes.shape)


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) * 0.5, high - low + 1.0


def v1_nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Return the indices that are kept, ascending, as v1's operator gave them.

    Boxes, (N, 4), that overlap a better one by more than the threshold are dropped (as
    by v1's CUDA operator; its CPU operator dropped equal overlaps too).
    """
    if not len(boxes):
        return torch.zeros(0, dtype=torch.long, device=boxes.device)
    boxes, scores = boxes.contiguous(), scores.contiguous()
    kept: Tensor = nms(boxes, scores, iou_threshold, offset=1)[1]
    return kept.sort()[0]


def v1_multiclass_nms(
    boxes: Tensor,
    scores: Tensor,
    score_thr: float,
    iou_threshold: float,
    max_num: int = -1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Suppress each class by itself, as MMDetection v1 did.

    What differs from 3.x: mmcv's ``batched_nms`` moves the classes apart by adding an
    offset to their coordinates, which rounds them; and up to ``max_num`` boxes come
    class by class in the order of the candidates, not by score.

    Args:
        boxes: (N, 4) or (N, 4 * classes), inclusive corners.
        scores: (N, classes), without background.
        score_thr: scores must be greater.
        iou_threshold: boxes that overlap a better one by more are dropped.
        max_num: only so many of the best are kept, by score; -1 keeps all.

    Returns:
        Boxes (K, 4), scores (K,) and labels (K,).
    """
    kept_boxes, kept_scores, kept_labels = [], [], []
    for label in range(scores.shape[1]):
        chosen = scores[:, label] > score_thr
        if not chosen.any():
            continue
        single = boxes.shape[1] == 4
        own = boxes if single else boxes[:, 4 * label : 4 * label + 4]
        own, own_scores = own[chosen], scores[chosen, label]
        keep = v1_nms(own, own_scores, iou_threshold)
        kept_boxes.append(own[keep])
        kept_scores.append(own_scores[keep])
        kept_labels.append(torch.full_like(keep, label))
    if not kept_boxes:
        return boxes.new_zeros(0, 4), scores.new_zeros(0), boxes.new_zeros(0).long()
    result = tuple(map(torch.cat, (kept_boxes, kept_scores, kept_labels)))
    if 0 <= max_num < len(result[1]):
        best = result[1].sort(descending=True)[1][:max_num]
        result = tuple(part[best] for part in result)
    return result[0], result[1], result[2]


def detections(boxes: Tensor, scores: Tensor, test_cfg: Any) -> InstanceData:
    """Return what :func:`v1_multiclass_nms` keeps by a head's ``test_cfg``."""
    limits = test_cfg.score_thr, test_cfg.nms.iou_threshold, test_cfg.max_per_img
    boxes, scores, labels = v1_multiclass_nms(boxes, scores, *limits)
    return InstanceData(bboxes=boxes, scores=scores, labels=labels)


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
