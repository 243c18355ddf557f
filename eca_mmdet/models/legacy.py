"""MMDetection v1's behaviours, for detectors that were trained with it.

Each component replaces one of mmdet 3.x's in a test-time config (``configs/legacy``);
none changes mmdet. Corners are inclusive: a width is x2 - x1 + 1. Source: MMDetection
v1.1.0 (commit 3839478), run beside 3.x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.ops import nms
from mmdet.datasets.transforms import Resize
from mmdet.models.dense_heads import RetinaHead, RPNHead
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.task_modules.coders import BaseBBoxCoder
from mmdet.registry import MODELS, TASK_UTILS, TRANSFORMS
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


class _V1Candidates:
    """Mixin of dense heads: a level keeps its anchors with the highest scores."""

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
        cfg = cfg or self.test_cfg  # type: ignore[attr-defined]
        levels = []
        for maps in zip(cls_score_list, bbox_pred_list, mlvl_priors, strict=True):
            levels.append(self._candidates(*maps, cfg.nms_pre, img_meta))
        return self._select(levels, cfg, img_meta['scale_factor'] if rescale else None)

    def _candidates(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        priors: Tensor,
        nms_pre: int,
        img_meta: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:
        """Return the boxes (N, 4) and scores (N, classes) of a level's best anchors."""
        channels = self.cls_out_channels  # type: ignore[attr-defined]
        scores = cls_score.permute(1, 2, 0).reshape(-1, channels).sigmoid()
        offsets = bbox_pred.permute(1, 2, 0).reshape(-1, 4)
        if 0 < nms_pre < len(scores):
            best = scores.max(dim=1)[0].topk(nms_pre)[1]
            scores, offsets, priors = scores[best], offsets[best], priors[best]
        coder = self.bbox_coder  # type: ignore[attr-defined]
        return coder.decode(priors, offsets, max_shape=img_meta['img_shape']), scores

    def _select(
        self, levels: list[tuple[Tensor, Tensor]], cfg: Any, scale: Any
    ) -> InstanceData:
        """Return the detections of an image; boxes are divided by ``scale``, if any."""
        raise NotImplementedError


@MODELS.register_module()
class V1RPNHead(_V1Candidates, RPNHead):  # type: ignore[misc]
    """``RPNHead`` whose proposals are v1's.

    What differs: every level is suppressed by itself on its own coordinates, with
    inclusive areas; no box is too small.
    """

    def _select(
        self, levels: list[tuple[Tensor, Tensor]], cfg: Any, scale: Any
    ) -> InstanceData:
        kept = []
        for boxes, scores in levels:
            keep = v1_nms(boxes, scores[:, 0], cfg.nms.iou_threshold)
            kept.append((boxes[keep], scores[keep, 0]))
        boxes, scores = map(torch.cat, zip(*kept, strict=True))
        scores, best = scores.topk(min(cfg.max_per_img, len(scores)))
        boxes = _divide(boxes[best], scale)
        labels = torch.zeros_like(best)
        return InstanceData(bboxes=boxes, scores=scores, labels=labels)


@MODELS.register_module()
class V1RetinaHead(_V1Candidates, RetinaHead):  # type: ignore[misc]
    """``RetinaHead`` whose candidates are v1's.

    What differs: a level keeps the ``nms_pre`` anchors with the highest score of any
    class, each with all its classes (3.x keeps pairs of anchor and class); boxes are
    rescaled, then each class is suppressed by itself with inclusive areas.
    """

    def _select(
        self, levels: list[tuple[Tensor, Tensor]], cfg: Any, scale: Any
    ) -> InstanceData:
        boxes, scores = map(torch.cat, zip(*levels, strict=True))
        return detections(_divide(boxes, scale), scores, cfg)


def _divide(boxes: Tensor, scale: Any) -> Tensor:
    """Return boxes (N, 4 * classes) divided by factors of x and y, if there are any."""
    if scale is None:
        return boxes
    return boxes / boxes.new_tensor(scale).repeat(boxes.shape[1] // 2)


@MODELS.register_module()
class V1BBoxHead(Shared2FCBBoxHead):  # type: ignore[misc]
    """``Shared2FCBBoxHead`` whose detections are v1's.

    What differs: after decoding, boxes are divided by the scale factor, and each class
    is suppressed by itself with inclusive areas
    (:func:`v1_multiclass_nms`).
    """

    def _predict_by_feat_single(
        self,
        roi: Tensor,
        cls_score: Tensor,
        bbox_pred: Tensor,
        img_meta: dict[str, Any],
        rescale: bool = False,
        rcnn_test_cfg: Any = None,
    ) -> InstanceData:
        scores = cls_score.softmax(dim=-1)[:, :-1]  # background is last
        boxes = self.bbox_coder.decode(
            roi[:, 1:], bbox_pred, max_shape=img_meta['img_shape']
        )
        boxes = _divide(boxes, img_meta['scale_factor'] if rescale else None)
        if rcnn_test_cfg is None:  # as mmdet's: all of them, for test-time augmentation
            return InstanceData(bboxes=boxes, scores=cls_score.softmax(dim=-1))
        return detections(boxes, scores, rcnn_test_cfg)


@MODELS.register_module()
class V1MaskHead(FCNMaskHead):  # type: ignore[misc]
    """``FCNMaskHead`` with v1's pasting.

    What differs: a box is truncated to integers and counts both its corners; the mask
    is resized to it with OpenCV's bilinear interpolation and is foreground where it is
    greater than the threshold. 3.x samples the mask at the pixel centres of the exact
    box, and counts values equal to the threshold.
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
    """Write an object's foreground into the mask of the whole image, (H, W) booleans.

    Foreground are probabilities (h, w) above the threshold, resized to the box, whose
    integer corners are both included; what lies outside the image is cut off.
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


@MODELS.register_module()
class V1RoIExtractor(SingleRoIExtractor):  # type: ignore[misc]
    """``SingleRoIExtractor`` with v1's levels and v1's RoIAlign.

    What differs: the level is chosen by ``sqrt((w + 1)(h + 1))``; an RoI runs from
    ``x1 * s`` to ``(x2 + 1) * s`` (s is 1 / stride), and its size is never negative.
    The ordinary ``RoIAlign(aligned=True)`` does that on RoIs shifted by half a cell;
    ``roi_layer`` must be that.
    """

    def __init__(self, **kwargs: Any) -> None:
        layer = kwargs.get('roi_layer') or {}
        if layer.get('type') != 'RoIAlign' or layer.get('aligned') is False:
            raise ValueError(
                "V1RoIExtractor shifts its RoIs for roi_layer=dict(type='RoIAlign', "
                f'aligned=True, sampling_ratio=2); got {layer!r}.'
            )
        super().__init__(**kwargs)

    def map_roi_levels(self, rois: Tensor, num_levels: int) -> Tensor:
        """Return the level of each RoI; (K, 5) to (K,)."""
        sizes = rois[:, 3:] - rois[:, 1:3] + 1
        scale = torch.sqrt(sizes[:, 0] * sizes[:, 1])
        levels = torch.floor(torch.log2(scale / self.finest_scale + 1e-6))
        return levels.clamp(min=0, max=num_levels - 1).long()

    def forward(
        self,
        feats: tuple[Tensor, ...],
        rois: Tensor,
        roi_scale_factor: float | None = None,
    ) -> Tensor:
        """Return (K, C, size, size) for RoIs (K, 5): image index and corners."""
        # In fp32 throughout, as v1: half precision cannot hold the area of a large RoI.
        rois = rois.float()
        size = self.roi_layers[0].output_size
        result = feats[0].new_zeros(len(rois), self.out_channels, *size)
        levels = self.map_roi_levels(rois, len(feats))
        if roi_scale_factor is not None:
            rois = self.roi_rescale(rois, roi_scale_factor)
        for level, (feature, layer) in enumerate(
            zip(feats, self.roi_layers, strict=False)
        ):
            chosen = (levels == level).nonzero().squeeze(1)
            if len(chosen):
                own = shifted_rois(rois[chosen], self.featmap_strides[level])
                result[chosen] = layer(feature.float(), own).to(result.dtype)
        return result


def shifted_rois(rois: Tensor, stride: float) -> Tensor:
    """Return RoIs, (K, 5), for which an aligned RoIAlign samples where v1's did."""
    low = rois[:, 1:3]
    # v1's size (x2 + 1 - x1) was clamped at 0.
    high = torch.maximum(rois[:, 3:] + 1, low)
    return torch.cat([rois[:, :1], low + 0.5 * stride, high + 0.5 * stride], dim=1)


class _V1Order:
    """Mixin: rescale, suppress, and scale the boxes up again for the masks.

    3.x leaves the boxes of a detector with masks in the resized image until its masks
    are pasted, so that suppression sees other coordinates.
    """

    with_mask: bool

    def predict(
        self,
        x: tuple[Tensor, ...],
        rpn_results_list: list[Any],
        batch_data_samples: list[Any],
        rescale: bool = False,
    ) -> list[Any]:
        """Return the detections of each image, as mmdet's RoI heads."""
        metas = [sample.metainfo for sample in batch_data_samples]
        results: list[Any] = self.predict_bbox(  # type: ignore[attr-defined]
            x,
            metas,
            rpn_results_list,
            rcnn_test_cfg=self.test_cfg,  # type: ignore[attr-defined]
            rescale=rescale,
        )
        if not self.with_mask:
            return results
        originals = [result.bboxes for result in results]
        if rescale:
            for result, meta in zip(results, metas, strict=True):
                factor = result.bboxes.new_tensor(meta['scale_factor']).repeat(2)
                result.bboxes = result.bboxes * factor
        results = self.predict_mask(  # type: ignore[attr-defined]
            x, metas, results, rescale=rescale
        )
        for result, boxes in zip(results, originals, strict=True):
            result.bboxes = boxes
        return results


@MODELS.register_module()
class V1StandardRoIHead(_V1Order, StandardRoIHead):  # type: ignore[misc]
    """``StandardRoIHead`` with v1's order of rescaling and suppression."""


@MODELS.register_module()
class V1CascadeRoIHead(_V1Order, CascadeRoIHead):  # type: ignore[misc]
    """``CascadeRoIHead`` with v1's order of rescaling and suppression."""
