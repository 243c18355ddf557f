"""RPN and RetinaNet heads whose candidates and suppression are MMDetection v1's."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.dense_heads import RetinaHead, RPNHead
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor

from eca_mmdet.models.legacy.boxes import detections, v1_nms


@MODELS.register_module()
class V1RPNHead(RPNHead):  # type: ignore[misc]
    """``RPNHead`` whose proposals are v1's.

    What differs: every level is suppressed by itself on its own coordinates, with
    inclusive areas; no box is too small.
    """

    def _predict_by_feat_single(
        self,
        cls_score_list: list[Tensor],
        bbox_pred_list: list[Tensor],
        score_factor_list: list[Tensor],
        mlvl_priors: list[Tensor],
        img_meta: dict[str, Any],
        cfg: Any,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> InstanceData:
        cfg = cfg or self.test_cfg
        boxes, scores = [], []
        for level in zip(cls_score_list, bbox_pred_list, mlvl_priors, strict=True):
            decoded, score = _candidates(self, *level, cfg.nms_pre, img_meta)
            keep = v1_nms(decoded, score[:, 0], cfg.nms.iou_threshold)
            boxes.append(decoded[keep])
            scores.append(score[keep, 0])
        all_boxes, all_scores = torch.cat(boxes), torch.cat(scores)
        all_scores, best = all_scores.topk(min(cfg.max_per_img, len(all_scores)))
        all_boxes = all_boxes[best]
        if rescale:
            all_boxes = _divide(all_boxes, img_meta)
        labels = torch.zeros_like(best)
        return InstanceData(bboxes=all_boxes, scores=all_scores, labels=labels)


@MODELS.register_module()
class V1RetinaHead(RetinaHead):  # type: ignore[misc]
    """``RetinaHead`` whose candidates are v1's.

    What differs: a level keeps the ``nms_pre`` anchors with the highest score of any
    class, each with all its classes (3.x keeps pairs of anchor and class); boxes are
    rescaled, then each class is suppressed by itself with inclusive areas.
    """

    def _predict_by_feat_single(
        self,
        cls_score_list: list[Tensor],
        bbox_pred_list: list[Tensor],
        score_factor_list: list[Tensor],
        mlvl_priors: list[Tensor],
        img_meta: dict[str, Any],
        cfg: Any,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> InstanceData:
        cfg = cfg or self.test_cfg
        maps = zip(cls_score_list, bbox_pred_list, mlvl_priors, strict=True)
        levels = [_candidates(self, *level, cfg.nms_pre, img_meta) for level in maps]
        boxes, scores = (torch.cat(part) for part in zip(*levels, strict=True))
        if rescale:
            boxes = _divide(boxes, img_meta)
        return detections(boxes, scores, cfg)


def _candidates(
    head: Any,
    cls_score: Tensor,
    bbox_pred: Tensor,
    priors: Tensor,
    nms_pre: int,
    img_meta: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """Return the boxes (N, 4) and scores (N, classes) of a level's best anchors."""
    scores = cls_score.permute(1, 2, 0).reshape(-1, head.cls_out_channels).sigmoid()
    offsets = bbox_pred.permute(1, 2, 0).reshape(-1, 4)
    if 0 < nms_pre < len(scores):
        best = scores.max(dim=1)[0].topk(nms_pre)[1]
        scores, offsets, priors = scores[best], offsets[best], priors[best]
    boxes = head.bbox_coder.decode(priors, offsets, max_shape=img_meta['img_shape'])
    return boxes, scores


def _divide(boxes: Tensor, img_meta: dict[str, Any]) -> Tensor:
    return boxes / boxes.new_tensor(img_meta['scale_factor']).repeat(2)
