"""What mmdet's dense heads do after their convolutions, for a batch at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from eca_mmdet.export.onnx.anchors import decode, grid_anchors, large_enough
from eca_mmdet.export.onnx.nms import NONE, best, rows, suppress


class _DenseHead(nn.Module):
    """The part that proposals and RetinaNet's objects have in common.

    Args:
        head: mmdet's ``AnchorHead``.
    """

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head, self.test = head, head.test_cfg
        self.classes = head.num_classes

    def candidates(self, features: Any, sizes: Tensor, least: float) -> list[Tensor]:
        """Return the best boxes of each level: those of mmdet's ``nms_pre`` scores.

        Args:
            features: maps (N, C, H, W), one a level.
            sizes: (N, 2), height and width in px.
            least: only higher scores count.

        Returns:
            (N, L, k, 4) boxes, (N, L, k) scores, NONE where there is no box, and
            (N, L, k) labels.
        """
        found = []
        maps = zip(*self.head(features), strict=True)
        for level, (logits, deltas) in enumerate(maps):
            found.append(self._of_level(level, logits, deltas, sizes, least))
        return [torch.stack(one, 1) for one in zip(*found, strict=True)]

    def _of_level(
        self, level: int, logits: Tensor, deltas: Tensor, sizes: Tensor, least: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        generator, batch = self.head.prior_generator, logits.shape[0]
        base = generator.base_anchors[level].to(logits)
        height, width = logits.shape[2:]
        anchors = grid_anchors(base, generator.strides[level], height, width)
        deltas = deltas.permute(0, 2, 3, 1).reshape(batch, -1, 4)
        logits = logits.permute(0, 2, 3, 1)
        logits = logits.reshape(batch, -1, self.head.cls_out_channels)
        if self.head.use_sigmoid_cls:
            scores = logits.sigmoid()
        else:
            scores = logits.softmax(-1)[..., :-1]
        scores = scores.reshape(batch, -1)
        scores = scores.where(scores > least, scores.new_tensor(NONE))
        values, places = best(scores, self.test['nms_pre'])
        chosen, labels = places // self.classes, places % self.classes
        boxes = decode(
            self.head.bbox_coder, anchors[chosen], rows(deltas, chosen), sizes
        )
        if self.test.get('min_bbox_size', -1) >= 0:
            valid = large_enough(boxes, self.test['min_bbox_size'])
            values = values.where(valid, values.new_tensor(NONE))
        return boxes, values, labels


class Proposals(_DenseHead):
    """The regions that mmdet's ``RPNHead`` proposes.

    Args:
        head: the head with its ``test_cfg``.
    """

    def forward(self, features: Any, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, P, 4) boxes and (N, P) scores, NONE where there is no region."""
        # A score of 0 counts: the RPN has no threshold.
        boxes, scores, _ = self.candidates(features, sizes, NONE)
        batch, levels, count = scores.shape
        kept = suppress(
            boxes.reshape(-1, count, 4),
            scores.reshape(-1, 1, count),
            self.test['nms']['iou_threshold'],
        )
        values, places = best(kept.reshape(batch, -1), self.test['max_per_img'])
        boxes = rows(boxes.reshape(batch, -1, 4), places)
        return boxes * (values > NONE)[..., None], values


class DenseObjects(_DenseHead):
    """The objects that mmdet's RetinaNet finds.

    Args:
        head: the head with its ``test_cfg``.
    """

    def forward(self, features: Any, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (N, M, 4) boxes, (N, M) scores and labels, NONE for no object."""
        found = self.candidates(features, sizes, self.test.get('score_thr', 0))
        boxes, scores, labels = (one.flatten(1, 2) for one in found)
        kinds = torch.arange(self.classes, device=labels.device)
        own = labels[:, None] == kinds[:, None]
        by_class = scores[:, None].where(own, scores.new_tensor(NONE))
        kept = suppress(boxes, by_class, self.test['nms']['iou_threshold']).amax(1)
        values, places = best(kept, self.test['max_per_img'])
        return rows(boxes, places), values, labels.gather(1, places)
