"""A detector of mmdet as a network from arrays to arrays, whole or in two parts."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from eca_mmdet.export.onnx.dense_heads import DenseObjects, Proposals
from eca_mmdet.export.onnx.nms import NONE
from eca_mmdet.export.onnx.roi_heads import RegionMasks, RegionObjects


class Heads(nn.Module):
    """Neck and heads: feature maps and sizes to objects.

    Args:
        model: a detector that ``supported.require_covered`` accepts.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.neck = model.neck if model.with_neck else nn.Identity()
        roi_head = getattr(model, 'roi_head', None)
        self.regions = None if roi_head is None else Proposals(model.rpn_head)
        if roi_head is None:
            self.objects: nn.Module = DenseObjects(model.bbox_head)
        else:
            self.objects = RegionObjects(roi_head)
        with_mask = roi_head is not None and roi_head.with_mask
        self.masks = RegionMasks(roi_head) if with_mask else None

    def forward(self, features: tuple[Tensor, ...], sizes: Tensor) -> list[Tensor]:
        """Find the objects.

        Args:
            features: the backbone's maps.
            sizes: (N, 2), height and width in px of each image without padding.

        Returns:
            (N, M, 4) boxes, (N, M) falling scores, (N, M) labels and, of Mask R-CNN,
            (N, M, height, width) masks; 0, 0, -1 and 0 where there is no object.
        """
        maps = self.neck(features)
        if self.regions is None:
            boxes, scores, labels = self.objects(maps, sizes)
        else:
            regions, found = self.regions(maps, sizes)
            boxes, scores, labels = self.objects(maps, regions, found > NONE, sizes)
        real = scores > NONE
        boxes = boxes * real[..., None]
        results = [boxes, scores * real, labels.where(real, labels.new_tensor(-1))]
        if self.masks is not None:
            masks = self.masks(maps, boxes, labels)
            results.append(masks * real[..., None, None])
        return results


class PartHeads(nn.Module):
    """:class:`Heads` whose arguments are in a row: maps, and sizes last."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.heads = Heads(model)

    def forward(self, *arrays: Tensor) -> list[Tensor]:
        """Take the maps and sizes."""
        return self.heads(arrays[:-1], arrays[-1])  # type: ignore[no-any-return]


class Whole(nn.Module):
    """Images and sizes to objects, as :class:`Heads`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone, self.heads = model.backbone, Heads(model)

    def forward(self, images: Tensor, sizes: Tensor) -> list[Tensor]:
        """Take (N, 3, H, W) normalised images."""
        return self.heads(tuple(self.backbone(images)), sizes)  # type: ignore[no-any-return]
