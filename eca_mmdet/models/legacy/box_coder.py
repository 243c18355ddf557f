"""Box coding with inclusive corners: a box from x1 to x2 is x2 - x1 + 1 wide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.task_modules.coders import BaseBBoxCoder
from mmdet.registry import TASK_UTILS
from torch import Tensor

_MAX_RATIO = abs(math.log(16 / 1000))


@TASK_UTILS.register_module()
class V1BoxCoder(BaseBBoxCoder):  # type: ignore[misc]
    """Offsets of the centre and logarithms of the size, as MMDetection v1 coded them.

    What differs from 3.x's ``DeltaXYWHBBoxCoder``: widths and heights are one larger;
    the centre is still the plain mean of the corners; decoded corners are
    ``centre -+ size / 2 +- 0.5`` and end at ``size - 1`` of the image. mmdet's
    ``LegacyDeltaXYWHBBoxCoder`` leaves the 0.5 out.

    Args:
        target_means: of the four offsets.
        target_stds: of the four offsets.
        **kwargs: as mmdet's coders.
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
        return (offsets - offsets.new_tensor(self.means)) / offsets.new_tensor(
            self.stds
        )

    def decode(
        self,
        bboxes: Tensor,
        pred_bboxes: Tensor,
        max_shape: Sequence[int] | None = None,
        wh_ratio_clip: float | None = None,
    ) -> Tensor:
        """Return the boxes that offsets make of ``bboxes``.

        Args:
            bboxes: (N, 4), x1 y1 x2 y2, inclusive pixels.
            pred_bboxes: (N, 4 * classes) offsets.
            max_shape: (height, width); corners are clamped to size - 1.
            wh_ratio_clip: unused; v1 always clamped to 16 / 1000.

        Returns:
            (N, 4 * classes) boxes.
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
