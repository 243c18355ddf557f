"""mmdet's heads rewritten for tracing: batches, static counts, suppression included.

What surrounds their layers is not traced as mmdet has it, but written for exactly the
classes and settings that :func:`require_covered` accepts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align  # now: it cannot be imported in a trace

from eca_mmdet.utils.errors import UserError

NONE = -1.0  # score of an array's row that holds no box; real scores are 0 to 1
_LEAST = -0.5  # between NONE and every score
_MOST = 2**31 - 1  # boxes per class that the node may return


def suppress(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    """Set scores to :data:`NONE` where a better box of the class overlaps.

    mmdet offsets the boxes of a class to where no other's are, which costs digits: 0.06
    px in the thousandth class of a photo. The node separates classes by itself.

    Args:
        boxes: (B, P, 4), x1, y1, x2, y2.
        scores: (B, C, P); :data:`NONE` where there is no box.
        iou: above it, the box of the lower score is suppressed.

    Returns:
        (B, C, P).
    """
    chosen = _NonMaxSuppression.apply(boxes, scores, iou)
    batch, label, place = chosen.unbind(1)
    index = (batch * scores.shape[1] + label) * scores.shape[2] + place
    flat = scores.reshape(-1)
    kept = torch.full_like(flat, NONE).scatter(0, index, flat[index])
    return kept.view_as(scores)


def best(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the (N, count) largest of (N, K) scores, descending, and their places.

    K may be smaller than count: NONE and place 0 fill the end.
    """
    padded = F.pad(scores, (0, count), value=NONE)  # so that k needs not depend on K
    values, places = padded.topk(count)
    return values, torch.where(values > _LEAST, places, torch.zeros_like(places))


def rows(values: Tensor, places: Tensor) -> Tensor:
    """Return (N, k, 4), the rows of (N, K, 4) at (N, k) places."""
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[-1]))


class _NonMaxSuppression(torch.autograd.Function):
    """ONNX's node: (B, P, 4) and (B, C, P) to (S, 3), batch, class and place."""

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
        return scores.new_zeros((1, 3), dtype=torch.long)  # a trace needs any values

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, iou: float) -> Any:
        values = (torch.tensor([_MOST]), torch.tensor([iou]), torch.tensor([_LEAST]))
        constants = [g.op('Constant', value_t=value) for value in values]
        return g.op('NonMaxSuppression', boxes, scores, *constants)


def grid_anchors(
    base: Tensor, stride: Sequence[int], height: int, width: int
) -> Tensor:
    """Return the (height * width * A, 4) anchors of a map, row by row.

    ``base`` has the (A, 4) anchors of the first position, ``stride`` is in px along x
    and y.
    """
    across = torch.arange(width, device=base.device).to(base.dtype) * stride[0]
    down = torch.arange(height, device=base.device).to(base.dtype) * stride[1]
    along_x, along_y = base.new_tensor([1, 0, 1, 0]), base.new_tensor([0, 1, 0, 1])
    shifts = across[None, :, None, None] * along_x + down[:, None, None, None] * along_y
    return (shifts + base).reshape(-1, 4)


def decode(coder: Any, boxes: Tensor, deltas: Tensor, sizes: Tensor) -> Tensor:
    """Apply predicted deltas to boxes, and clip them to the image.

    Args:
        coder: mmdet's ``DeltaXYWHBBoxCoder``.
        boxes: (N, ..., 4), x1, y1, x2, y2 in px.
        deltas: (N, ..., 4); dimensions of 1 in either are repeated.
        sizes: (N, 2), height and width in px.
    """
    means, stds = deltas.new_tensor(coder.means), deltas.new_tensor(coder.stds)
    values = deltas * stds + means
    move, grow = values[..., :2], values[..., 2:]
    first, last = boxes[..., :2], boxes[..., 2:]
    extent = last - first
    most = abs(math.log(16 / 1000))  # mmdet's wh_ratio_clip
    centre = (first + last) * 0.5 + extent * move
    half = extent * grow.clamp(-most, most).exp() * 0.5
    decoded = torch.cat((centre - half, centre + half), -1)
    if not coder.clip_border:
        return decoded
    bounds = sizes.flip(1).repeat(1, 2)
    bounds = bounds.reshape(-1, *[1] * (decoded.dim() - 2), 4)
    return torch.minimum(decoded.clamp(min=0), bounds)


class DenseObjects(nn.Module):
    """Objects of mmdet's RetinaNet, or region proposals of its ``RPNHead``.

    Boxes suppress others of their class; proposals, of their level.
    """

    def __init__(self, head: Any, proposals: bool) -> None:
        super().__init__()
        self.head, self.test = head, head.test_cfg
        self.classes, self.proposals = head.num_classes, proposals

    def forward(self, features: Any, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (N, M, 4) boxes, (N, M) scores and labels, NONE for no object.

        Args:
            features: maps (N, C, H, W), one per level.
            sizes: (N, 2), height and width in px.
        """
        # A score of 0 counts in the RPN, which has no threshold.
        least = NONE if self.proposals else self.test.get('score_thr', 0)
        maps = zip(*self.head(features), strict=True)
        levels = [
            self._of_level(level, logits, deltas, sizes, least)
            for level, (logits, deltas) in enumerate(maps)
        ]
        arrays = [torch.stack(arrays, 1) for arrays in zip(*levels, strict=True)]
        iou = self.test['nms']['iou_threshold']
        if self.proposals:
            batch, _, count = arrays[1].shape
            by_level = arrays[1].reshape(-1, 1, count)
            kept = suppress(arrays[0].reshape(-1, count, 4), by_level, iou)
            kept = kept.reshape(batch, -1)
            boxes, _, labels = (array.flatten(1, 2) for array in arrays)
        else:
            boxes, scores, labels = (array.flatten(1, 2) for array in arrays)
            classes = torch.arange(self.classes, device=labels.device)
            own = labels[:, None] == classes[:, None]
            by_class = scores[:, None].where(own, scores.new_tensor(NONE))
            kept = suppress(boxes, by_class, iou).amax(1)
        values, places = best(kept, self.test['max_per_img'])
        return rows(boxes, places), values, labels.gather(1, places)

    def _of_level(
        self, level: int, logits: Tensor, deltas: Tensor, sizes: Tensor, least: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the (N, k) best of a level, by score above ``least``, before NMS."""
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
        smallest = self.test.get('min_bbox_size', -1)
        if smallest >= 0:
            wide, high = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
            valid = (wide > smallest) & (high > smallest)
            values = values.where(valid, values.new_tensor(NONE))
        return boxes, values, labels


def pool(extractor: Any, features: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """Pool the features in boxes, each from the level for its size.

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
        return _align(layers[0], maps[0], regions)  # type: ignore[no-any-return]
    levels = level_of(boxes.reshape(-1, 4), len(maps), extractor.finest_scale)
    places = [(levels == level).nonzero()[:, 0] for level in range(len(maps))]
    pooled = [
        _align(layer, feature, regions[place])
        for layer, feature, place in zip(layers, maps, places, strict=True)
    ]
    place = torch.cat(places)
    order = torch.arange(levels.shape[0], device=place.device)
    return torch.cat(pooled)[torch.zeros_like(place).scatter(0, place, order)]


def level_of(boxes: Tensor, levels: int, finest: float) -> Tensor:
    """Return the level that each of (K, 4) boxes is pooled from, by FPN's rule.

    mmdet's floor(log2(side / finest + 1e-6)), between 0 and the last, without the
    logarithm, whose last digit differs among runtimes.
    """
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
    scale = (width * height).sqrt() / finest + 1e-6
    bounds = scale.new_tensor([2.0**level for level in range(1, levels)])
    return (scale[:, None] >= bounds).sum(1)


def _align(layer: Any, *arrays: Tensor) -> Any:
    size, ratio = layer.output_size, layer.sampling_ratio
    return roi_align(*arrays, size, layer.spatial_scale, ratio, layer.aligned)


class RegionObjects(nn.Module):
    """Objects of Faster R-CNN in proposed regions, by mmdet's ``StandardRoIHead``."""

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
            valid: (N, P), False for rows that hold no region.
            sizes: (N, 2), height and width in px.
        """
        batch, count = valid.shape
        logits, deltas = self.head(pool(self.extractor, features, regions))
        scores = logits.softmax(-1)[:, :-1].reshape(batch, count, self.classes)
        counts = (scores > self.test['score_thr']) & valid[..., None]
        scores = scores.where(counts, scores.new_tensor(NONE))
        deltas = deltas.reshape(batch, count, -1, 4)  # by class, or one for all
        boxes = decode(self.head.bbox_coder, regions[:, :, None], deltas, sizes)
        by_class = scores.transpose(1, 2)
        iou, shared = self.test['nms']['iou_threshold'], self.head.reg_class_agnostic
        kept = suppress(
            boxes.transpose(1, 2).reshape(-1, count, 4),
            by_class if shared else by_class.reshape(-1, 1, count),
            iou,
        )
        kept = kept.reshape(by_class.shape).transpose(1, 2)
        # Regions first, then classes, so that ties are broken as mmdet does.
        values, places = best(kept.reshape(batch, -1), self.test['max_per_img'])
        chosen = places // self.classes if shared else places
        boxes = rows(boxes.reshape(batch, -1, 4), chosen)
        return boxes, values, places % self.classes


class RegionMasks(nn.Module):
    """Masks of Mask R-CNN in boxes, by mmdet's ``StandardRoIHead``."""

    def __init__(self, roi_head: Any) -> None:
        super().__init__()
        self.head = roi_head.mask_head
        self.extractor = roi_head.mask_roi_extractor

    def forward(self, features: Any, boxes: Tensor, labels: Tensor) -> Tensor:
        """Return (N, M, height, width) probabilities for the class of each box."""
        batch, count = labels.shape
        logits = self.head(pool(self.extractor, features, boxes))
        if not self.head.class_agnostic:
            place = labels.reshape(-1, 1, 1, 1).expand(-1, 1, *logits.shape[2:])
            logits = logits.gather(1, place)
        masks: Tensor = logits.sigmoid().reshape(batch, count, *logits.shape[2:])
        return masks


class Heads(nn.Module):
    """Neck and heads of a detector that ``require_covered`` accepts.

    With ``whole``, its backbone is in front of them.
    """

    def __init__(self, model: Any, whole: bool) -> None:
        super().__init__()
        self.backbone = model.backbone if whole else None
        self.neck = model.neck if model.with_neck else nn.Identity()
        roi_head = getattr(model, 'roi_head', None)
        self.regions = self.masks = None
        if roi_head is None:
            self.objects: nn.Module = DenseObjects(model.bbox_head, proposals=False)
        else:
            self.regions = DenseObjects(model.rpn_head, proposals=True)
            self.objects = RegionObjects(roi_head)
            self.masks = RegionMasks(roi_head) if roi_head.with_mask else None

    def forward(self, *arrays: Tensor) -> list[Tensor]:
        """Find the objects.

        Args:
            arrays: normalised (N, 3, H, W) images, or the backbone's maps; then (N, 2)
                height and width in px of each image without padding.

        Returns:
            (N, M, 4) boxes, (N, M) falling scores, (N, M) labels and, for Mask R-CNN,
            (N, M, height, width) masks; 0, 0, -1 and 0 where there is no object.
        """
        *features, sizes = arrays
        if self.backbone is not None:
            features = self.backbone(*features)
        maps = self.neck(tuple(features))
        if self.regions is None:
            boxes, scores, labels = self.objects(maps, sizes)
        else:
            regions, values, _ = self.regions(maps, sizes)
            valid = values > NONE
            regions = regions * valid[..., None]
            boxes, scores, labels = self.objects(maps, regions, valid, sizes)
        real = scores > NONE
        boxes = boxes * real[..., None]
        results = [boxes, scores * real, labels.where(real, labels.new_tensor(-1))]
        if self.masks is not None:
            masks = self.masks(maps, boxes, labels)
            results.append(masks * real[..., None, None])
        return results


def require_covered(model: Any) -> None:
    """Raise UserError naming a part that the exported graph does not follow."""
    for problem in _problems(model):
        raise UserError(
            f'{type(model).__name__} cannot be exported whole: {problem}. Faster '
            'R-CNN, Mask R-CNN and RetinaNet as mmdet 3 has them are covered. Of this '
            'one the backbone can be: --part backbone.',
            code='unsupported-model',
        )


def is_covered(model: Any) -> bool:
    """Whether the exported graph follows every part of a detector."""
    return not any(_problems(model))


def _problems(model: Any) -> Iterator[str]:
    from mmdet import models

    kinds = (models.TwoStageDetector, models.SingleStageDetector)
    base = next((kind for kind in kinds if isinstance(model, kind)), None)
    if base is None or _overridden(model, base, 'predict', 'extract_feat'):
        yield 'it is another kind of detector'
    elif base is models.SingleStageDetector:
        yield from _dense_head(model.bbox_head, 'bbox_head')
        yield from _test_cfg(model.bbox_head.test_cfg, 'test_cfg', dense=True)
        if (model.bbox_head.test_cfg or {}).get('min_bbox_size', 0) > 0:
            yield 'min_bbox_size is in pixels of the original image'
    else:
        rpn: Any = getattr(model, 'rpn_head', None)
        roi: Any = model.roi_head
        yield from _other_type(rpn, models.RPNHead, 'rpn_head')
        yield from _other_type(roi, models.StandardRoIHead, 'roi_head')
        yield from _dense_head(rpn, 'rpn_head')
        yield from _test_cfg(rpn.test_cfg, 'test_cfg.rpn', dense=True)
        if roi.with_shared_head:
            yield 'its roi_head has a shared_head'
        yield from _box_head(roi.bbox_head)
        yield from _extractor(roi.bbox_roi_extractor, 'bbox_roi_extractor')
        yield from _test_cfg(roi.test_cfg, 'test_cfg.rcnn', dense=False)
        if roi.with_mask:
            yield from _other_type(roi.mask_head, models.FCNMaskHead, 'mask_head')
            yield from _extractor(roi.mask_roi_extractor, 'mask_roi_extractor')


def _overridden(part: Any, base: type, *names: str) -> list[str]:
    """Return the methods that are not those of mmdet's ``base``."""
    kind = type(part)
    return [n for n in names if getattr(kind, n, None) is not getattr(base, n, None)]


def _other_type(part: Any, expected: type, name: str) -> Iterator[str]:
    if type(part) is not expected:
        yield f'its {name} is a {type(part).__name__}, not {expected.__name__}'


def _dense_head(head: Any, name: str) -> Iterator[str]:
    from mmdet.models import AnchorHead, RPNHead
    from mmdet.models.task_modules import AnchorGenerator

    if not isinstance(head, AnchorHead):
        yield f'its {name}, a {type(head).__name__}, has no anchors'
    own = _overridden(head, AnchorHead, 'forward', 'predict', 'predict_by_feat')
    base = RPNHead if type(head) is RPNHead else AnchorHead
    own += _overridden(head, base, '_predict_by_feat_single', '_bbox_post_process')
    if own:
        yield f'its {name}, a {type(head).__name__}, has its own {own[0]}'
    if type(head.prior_generator) is not AnchorGenerator:
        yield f'its {name} has anchors of {type(head.prior_generator).__name__}'
    yield from _coder(head, name)


def _coder(head: Any, name: str) -> Iterator[str]:
    from mmdet.models.task_modules import DeltaXYWHBBoxCoder

    kind = type(head.bbox_coder)
    if kind is not DeltaXYWHBBoxCoder or head.bbox_coder.add_ctr_clamp:
        how = ' with add_ctr_clamp' if kind is DeltaXYWHBBoxCoder else ''
        yield f'its {name} has boxes coded by {kind.__name__}{how}'
    if getattr(head.loss_cls, 'custom_cls_channels', False):
        loss = type(head.loss_cls).__name__
        yield f'its {name} has scores of {loss}, which are neither softmax nor sigmoid'


def _box_head(head: Any) -> Iterator[str]:
    from mmdet.models import ConvFCBBoxHead

    methods = ('forward', 'predict_by_feat', '_predict_by_feat_single')
    known = isinstance(head, ConvFCBBoxHead)
    if not known or _overridden(head, ConvFCBBoxHead, *methods):
        yield f'its bbox_head is a {type(head).__name__}, not ConvFCBBoxHead'
    if not (head.with_cls and head.with_reg):
        yield 'its bbox_head gives no scores, or no boxes'
    yield from _coder(head, 'bbox_head')


def _extractor(extractor: Any, name: str) -> Iterator[str]:
    from mmcv.ops import RoIAlign
    from mmdet.models import SingleRoIExtractor

    yield from _other_type(extractor, SingleRoIExtractor, name)
    for layer in extractor.roi_layers:
        if type(layer) is not RoIAlign or layer.pool_mode != 'avg':
            kind = type(layer).__name__
            yield f'its {name} pools by {kind}, not by averaging RoIAlign'


def _test_cfg(cfg: Any, name: str, dense: bool) -> Iterator[str]:
    cfg = cfg or {}
    nms = cfg.get('nms') or {}
    kind, threshold = nms.get('type', 'nms'), nms.get('iou_threshold')
    if kind != 'nms' or not isinstance(threshold, float):
        yield f'{name}.nms is {dict(nms)}, not of type nms with an iou_threshold'
    if other := set(nms) - {'type', 'iou_threshold', 'split_thr'}:
        yield f'{name}.nms has {min(other)}'
    for key in ('nms_pre', 'max_per_img') if dense else ('max_per_img',):
        value = cfg.get(key)
        if type(value) is not int or value < 1:
            yield f'{name}.{key} is {value!r}, not a number from 1'
    if not dense and not isinstance(cfg.get('score_thr'), (int, float)):
        yield f'{name}.score_thr is {cfg.get("score_thr")!r}, not a number'
