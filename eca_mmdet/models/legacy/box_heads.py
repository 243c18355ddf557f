"""The box head's last steps in MMDetection v1's order and arithmetic."""

from __future__ import annotations

from typing import Any

from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor

from eca_mmdet.models.legacy.nms import v1_multiclass_nms


@MODELS.register_module()
class V1BBoxHead(Shared2FCBBoxHead):  # type: ignore[misc]
    """``Shared2FCBBoxHead`` whose detections are v1's.

    What differs: after decoding, boxes are divided by the scale factor, and each class
    is suppressed by itself with inclusive areas
    (:func:`eca_mmdet.models.legacy.nms.v1_multiclass_nms`).

    Args:
        **kwargs: as mmdet's ``Shared2FCBBoxHead``.
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
        if rescale:
            factors = boxes.new_tensor(img_meta['scale_factor'])
            boxes = boxes / factors.repeat(boxes.shape[1] // 2)
        if rcnn_test_cfg is None:  # as mmdet's: all of them, for test-time augmentation
            return InstanceData(bboxes=boxes, scores=cls_score.softmax(dim=-1))
        found = v1_multiclass_nms(
            boxes,
            scores,
            rcnn_test_cfg.score_thr,
            rcnn_test_cfg.nms.iou_threshold,
            rcnn_test_cfg.max_per_img,
        )
        return InstanceData(bboxes=found[0], scores=found[1], labels=found[2])
