"""What mmdet's RoI heads do around their layers, for a batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align  # now: it cannot be imported in a trace

from eca_mmdet.export.onnx.anchors import decode
from eca_mmdet.export.onnx.nms import NONE, best, rows, suppress


def pool(extractor: Any, features: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """Return the features in boxes, each from the level that its size asks for.

    Args:
        extractor: mmdet's ``SingleRoIExtractor``.
        features: maps (N, C, H, W), finest first.
        boxes: (N, P, 4), x1, y1, x2, y2 in px of the image.

    Returns:
        (N * P, C, height, width).
    """
    batch, count = boxes.shape[:2]
    image = torch.arange(batch, device=boxes.device).to(boxes.dtype)
    image = image[:, None, None].expand(-1, count, 1)
    regions = torch.cat((image, boxes), 2).reshape(-1, 5)
    maps = features[: extractor.num_inputs]
    layers = extractor.roi_layers
    if len(maps) == 1:
        return _align(layers[0], maps[0], regions)
    levels = level_of(boxes.reshape(-1, 4), len(maps), extractor.finest_scale)
    places = [(levels == level).nonzero()[:, 0] for level in range(len(maps))]
    found = [
        _align(layer, one, regions[place])
        for layer, one, place in zip(layers, maps, places, strict=True)
    ]
    place = torch.cat(places)
    order = torch.arange(levels.shape[0], device=place.device)
    return torch.cat(found)[torch.zeros_like(place).scatter(0, place, order)]


def level_of(boxes: Tensor, levels: int, finest: float) -> Tensor:
    """Return which level boxes (K, 4) are pooled from, as FPN's rule says.

    mmdet's floor(log2(side / finest + 1e-6)), between 0 and the last, without the
    logarithm, whose last digit differs among runtimes.
    """
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
    scale = (width * height).sqrt() / finest + 1e-6
    bounds = scale.new_tensor([2.0**level for level in range(1, levels)])
    return (scale[:, None] >= bounds).sum(1)


def _align(layer: Any, feature: Tensor, regions: Tensor) -> Tensor:
    size, ratio = layer.output_size, layer.sampling_ratio
    pooled = roi_align(
        feature, regions, size, layer.spatial_scale, ratio, layer.aligned
    )
    return pooled  # type: ignore[no-any-return]


class RegionObjects(nn.Module):
    """The objects of Faster R-CNN in proposed regions.

    Args:
        roi_head: mmdet's ``StandardRoIHead`` with its ``test_cfg``.
    """

    def __init__(self, roi_head: Any) -> None:
        super().__init__()
        self.head, self.test = roi_head.bbox_head, roi_head.test_cfg
        self.extractor = roi_head.bbox_roi_extractor
        self.classes = self.head.num_classes

    def forward(
        self, features: Any, regions: Tensor, valid: Tensor, sizes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return (N, M, 4) boxes, (N, M) scores and labels, NONE for no object.

        Args:
            features: maps (N, C, H, W), finest first.
            regions: (N, P, 4), x1, y1, x2, y2 in px.
            valid: (N, P), which of them are regions at all.
            sizes: (N, 2), height and width in px.
        """
        batch, count = valid.shape
        logits, deltas = self.head(pool(self.extractor, features, regions))
        scores = logits.softmax(-1)[:, :-1].reshape(batch, count, self.classes)
        counts = (scores > self.test['score_thr']) & valid[..., None]
        scores = scores.where(counts, scores.new_tensor(NONE))
        deltas = deltas.reshape(batch, count, -1, 4)  # of each class, or of all
        boxes = decode(self.head.bbox_coder, regions[:, :, None], deltas, sizes)
        kept = self._suppress(boxes, scores.transpose(1, 2)).transpose(1, 2)
        # Regions first, then classes, so that ties are broken as mmdet does.
        values, places = best(kept.reshape(batch, -1), self.test['max_per_img'])
        shared = self.head.reg_class_agnostic
        chosen = places // self.classes if shared else places
        boxes = rows(boxes.reshape(batch, -1, 4), chosen)
        return boxes, values, places % self.classes

    def _suppress(self, boxes: Tensor, scores: Tensor) -> Tensor:
        """Do so within the classes: (N, P, 1 or C, 4) and (N, C, P) to (N, C, P)."""
        iou = self.test['nms']['iou_threshold']
        count = scores.shape[2]
        by_class = boxes.transpose(1, 2).reshape(-1, count, 4)
        if self.head.reg_class_agnostic:
            return suppress(by_class, scores, iou)
        kept = suppress(by_class, scores.reshape(-1, 1, count), iou)
        return kept.reshape(-1, self.classes, count)


class RegionMasks(nn.Module):
    """The masks of Mask R-CNN in boxes.

    Args:
        roi_head: mmdet's ``StandardRoIHead`` with a mask head.
    """

    def __init__(self, roi_head: Any) -> None:
        super().__init__()
        self.head = roi_head.mask_head
        self.extractor = roi_head.mask_roi_extractor

    def forward(self, features: Any, boxes: Tensor, labels: Tensor) -> Tensor:
        """Return (N, M, height, width) probabilities, of the class of each box."""
        batch, count = labels.shape
        logits = self.head(pool(self.extractor, features, boxes))
        if not self.head.class_agnostic:
            place = labels.reshape(-1, 1, 1, 1).expand(-1, 1, *logits.shape[2:])
            logits = logits.gather(1, place)
        masks: Tensor = logits.sigmoid().reshape(batch, count, *logits.shape[2:])
        return masks
