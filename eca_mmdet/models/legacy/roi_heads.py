"""RoI heads that bring boxes to the original image before they are suppressed."""

from __future__ import annotations

from typing import Any

from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.registry import MODELS
from torch import Tensor


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
        """Return the detections of each image.

        Args:
            x: feature maps of all levels.
            rpn_results_list: proposals of each image.
            batch_data_samples: data samples with ``scale_factor``.
            rescale: return boxes and masks of the original image.
        """
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
