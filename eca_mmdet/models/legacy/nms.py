"""Non-maximum suppression with inclusive areas, each class on its own coordinates."""

from __future__ import annotations

import torch
from mmcv.ops import nms
from torch import Tensor


def v1_nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Return the indices that are kept, ascending, as v1's operator gave them.

    Args:
        boxes: (N, 4), inclusive corners: areas count ``x2 - x1 + 1``.
        scores: (N,).
        iou_threshold: boxes that overlap a better one by more are dropped (v1's CUDA
            operator; its CPU operator dropped equal overlaps too).
    """
    if not len(boxes):
        return torch.zeros(0, dtype=torch.long, device=boxes.device)
    kept: Tensor = nms(
        boxes.contiguous(), scores.contiguous(), iou_threshold, offset=1
    )[1]
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
        iou_threshold: of the suppression.
        max_num: the best so many are kept, then by score; -1 keeps all.

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
