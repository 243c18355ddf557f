"""Non-maximum suppression with the signatures of mmcv's extension.

Source: behaviour of mmcv 2.x ``csrc/pytorch/cpu/nms.cpp`` (comparison operators,
offset convention, order of the result); suppression itself is torchvision's.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from eca_mmdet.mmcv_ops.library import at_least_float32, operators


def _float32(value: float) -> float:
    """Round a threshold as mmcv does, whose C++ signature takes a float32."""
    return float(np.float32(value))


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Keep boxes greedily by score; drop IoU strictly above the threshold.

    Boxes are FloatTensor[N, 4], (x1, y1, x2, y2) in pixels; ``offset`` 1 counts pixels
    (width x2 - x1 + 1, as MMDetection v1), 0 lengths. Returns LongTensor[K], the kept
    indices by falling score.
    """
    boxes = at_least_float32(boxes)
    if offset:
        boxes = torch.cat((boxes[:, :2], boxes[:, 2:] + offset), dim=1)
    with torch.autocast(boxes.device.type, enabled=False):
        kept: Tensor = operators(boxes).nms(
            boxes, scores.to(boxes.dtype), _float32(iou_threshold)
        )
        return kept


def _iou_with(box: Tensor, others: Tensor, offset: int) -> Tensor:
    top_left = torch.maximum(box[:2], others[:, :2])
    bottom_right = torch.minimum(box[2:], others[:, 2:])
    inter = (bottom_right - top_left + offset).clamp(min=0).prod(dim=1)
    area = (box[2:] - box[:2] + offset).prod()
    areas = (others[:, 2:] - others[:, :2] + offset).prod(dim=1)
    return inter / (area + areas - inter)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lower the scores of overlapping boxes instead of dropping them.

    Args:
        boxes: FloatTensor[N, 4] on the CPU.
        scores: FloatTensor[N].
        dets: FloatTensor[N, 5], filled in place with (box, new score) by falling
            new score; rows past the number kept are not written.
        iou_threshold: where methods 0 and 1 begin to act.
        sigma: width of method 2.
        min_score: boxes that fall below are dropped.
        method: 0 hard, 1 linear, 2 Gaussian.
        offset: as in :func:`nms`.

    Returns:
        LongTensor[K], indices in the order of ``dets``.

    Source: Bodla et al., Soft-NMS, ICCV 2017.
    """
    original = boxes
    boxes, scores = at_least_float32(boxes), at_least_float32(scores).clone()
    alive = torch.arange(len(boxes))
    kept: list[int] = []
    while len(alive):
        best = int(scores[alive].argmax())
        index = alive[best]
        dets[len(kept), :4] = original[index]
        dets[len(kept), 4] = scores[index]
        kept.append(int(index))
        alive = torch.cat((alive[:best], alive[best + 1 :]))
        overlap = _iou_with(boxes[index], boxes[alive], offset)
        if method == 2:
            weight = torch.exp(-(overlap**2) / sigma)
        else:
            lowered = torch.zeros_like(overlap) if method == 0 else 1 - overlap
            reached = overlap >= _float32(iou_threshold)
            weight = torch.where(reached, lowered, torch.ones_like(overlap))
        scores[alive] *= weight
        alive = alive[scores[alive] >= _float32(min_score)]
    return torch.tensor(kept, dtype=torch.long)


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group boxes by the kept box that suppresses them (IoU at the threshold or above).

    Args:
        dets: FloatTensor[N, 5], (x1, y1, x2, y2, score).
        iou_threshold: 0 to 1.

    Returns:
        One list a kept box: its index, then those it suppressed, by falling score.
    """
    dets = at_least_float32(dets.cpu())
    order = dets[:, 4].argsort(descending=True, stable=True)
    groups: list[list[int]] = []
    while len(order):
        head, rest = order[0], order[1:]
        overlap = _iou_with(dets[head, :4], dets[rest, :4], offset=0)
        taken = overlap >= _float32(iou_threshold)
        groups.append([int(head), *rest[taken].tolist()])
        order = rest[~taken]
    return groups
