"""Class activation maps: where the evidence for the detected objects lies.

Grad-CAM (arXiv:1610.02391) averages the gradients of one class score over the image.
A detector has a score for every box, and the average would mix objects at different
places. As in HiResCAM (arXiv:2011.08891), a cell counts by sum_k A_k * dy/dA_k, its own
share in y to first order.

- y is the sum of the log-odds of the detected objects, log p / (1 - p), each of its
  class, before non-maximum suppression. Unlike p, they have a gradient where the
  detector is sure; unlike a softmax's input, they do not depend on a constant added to
  all classes.
- A are the maps of all levels that the heads see. Nothing below them is differentiated,
  so frozen and recomputing backbones cost nothing more.
- A level's share of y is spread over the pixels of its cells, and the levels are added
  up. Objects count by the area of their box: a large one, whose evidence is spread
  wide, is as bright as a small one. Negative evidence is cut off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from eca_mmdet.compat import box_forward
from eca_mmdet.utils.errors import UserError

Maps = tuple[Tensor, ...]

_BOX_TOLERANCE = 1e-2
"""Pixels between a detection and the raw box that it comes from."""


@dataclass(frozen=True)
class Traced:
    """Detections by where in the head's output they come from.

    Attributes:
        rows: (n,) anchors of all levels, or regions of interest.
        areas: (n,) of the boxes, in square pixels of the input.
        regions: (m, 5) image and box of the regions; None for a one-stage detector.
    """

    rows: Tensor
    labels: Tensor
    areas: Tensor
    regions: Tensor | None = None


def evidence_map(
    model: Any, batch: dict[str, Any], size: tuple[int, int], score: Any
) -> npt.NDArray[np.float32]:
    """Return the map of one image: (H, W), 0-1; all 0 without objects, or largest 1.

    ``batch`` is one image from the test pipeline, ``size`` its height and width in
    pixels before; objects of at least ``score`` are explained, a number or one for each
    class.
    """
    nothing = np.zeros(size, np.float32)
    require_traceable(model)
    data = model.data_preprocessor(batch, False)
    samples = data['data_samples']
    with torch.no_grad():
        maps = model.extract_feat(data['inputs'])
        traced = trace(model, maps, samples, score)
    if not len(traced.rows):
        return nothing
    with torch.enable_grad():
        maps = tuple(level.detach().requires_grad_() for level in maps)
        total = (log_odds(model, maps, traced) * traced.areas).sum()
        # A level that no object comes from has no gradient.
        slopes = torch.autograd.grad(total, maps, allow_unused=True)
    shape = data['inputs'].shape[-2:]
    spread = torch.zeros(1, *shape, device=maps[0].device)
    for level, slope in zip(maps, slopes, strict=True):
        if slope is not None:  # an enlarged map keeps its sum
            share = level.shape[-2:].numel() / shape.numel()
            spread += share * _resized((level.detach() * slope).sum(1).float(), shape)
    height, width = samples[0].metainfo['img_shape'][:2]  # without padding
    heat = _resized(spread[:, :height, :width].clamp(min=0), size)[0]
    largest = heat.max()
    if not torch.isfinite(largest) or largest <= 0:
        return nothing
    result: npt.NDArray[np.float32] = (heat / largest).cpu().numpy()
    return result


def _resized(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return maps (n, h, w) at another height and width."""
    return functional.interpolate(
        maps[None], size=tuple(size), mode='bilinear', align_corners=False
    )[0]


def require_traceable(model: Any) -> None:
    """Reject detectors whose detections do not come from anchors or regions."""
    roi_head = getattr(model, 'roi_head', None)
    head = getattr(model if roi_head is None else roi_head, 'bbox_head', None)
    known = hasattr(head, 'bbox_coder') and hasattr(head, 'predict_by_feat')
    if roi_head is None:
        known = known and hasattr(head, 'prior_generator')
    if not known or getattr(head, 'custom_cls_channels', False):
        raise UserError(
            f'CAMs of {type(model).__name__} are not supported, only those of '
            'detectors with one box head (e.g. Faster and Mask R-CNN) or with one '
            'dense head (e.g. RetinaNet).',
            code='unsupported-model',
        )


def trace(model: Any, maps: Maps, samples: Any, score: Any) -> Traced:
    """Detect, and find where each object of at least a score comes from."""
    metas = [sample.metainfo for sample in samples]
    shape, roi_head = metas[0]['img_shape'], getattr(model, 'roi_head', None)
    regions = None
    if roi_head is None:
        (result,) = model.bbox_head.predict(maps, samples, rescale=False)
    else:
        proposals = model.rpn_head.predict(maps, samples, rescale=False)
        (result,) = roi_head.predict_bbox(
            maps, metas, proposals, roi_head.test_cfg, rescale=False
        )
        boxes = proposals[0].bboxes
        regions = torch.cat([boxes.new_zeros(len(boxes), 1), boxes], 1)
    logits, deltas, priors = _head_outputs(model, maps, regions)
    coder = _box_head(model).bbox_coder
    candidates = coder.decode(priors, deltas, max_shape=shape)
    candidates = candidates.reshape(len(logits), -1, 4)
    least = result.scores.new_tensor(score)
    kept = result.scores >= (least[result.labels] if least.ndim else least)
    labels, boxes = result.labels[kept], result.bboxes[kept]
    scores = logits.sigmoid() if _is_sigmoid(model) else logits.softmax(1)
    last = candidates.shape[1] - 1
    rows = [
        _row(candidates[:, min(int(label), last)], box, scores[:, label])
        for box, label in zip(boxes, labels, strict=True)
    ]
    areas = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1).prod(1)
    return Traced(labels.new_tensor(rows), labels, areas, regions)


def log_odds(model: Any, maps: Maps, traced: Traced) -> Tensor:
    """Return the log-odds of traced detections, (n,), as a function of the maps."""
    logits, _, _ = _head_outputs(model, maps, traced.regions)
    return _odds(logits[traced.rows], traced.labels, _is_sigmoid(model))


def _box_head(model: Any) -> Any:
    return getattr(model, 'roi_head', model).bbox_head


def _is_sigmoid(model: Any) -> bool:
    return bool(getattr(_box_head(model), 'use_sigmoid_cls', False))


def _odds(logits: Tensor, labels: Tensor, sigmoid: bool) -> Tensor:
    """Return log p / (1 - p) of one class a row of logits (n, classes), (n,)."""
    own = logits.gather(1, labels[:, None])
    if sigmoid:
        return own[:, 0]
    itself = torch.zeros_like(logits, dtype=torch.bool).scatter(1, labels[:, None], 1)
    return own[:, 0] - logits.masked_fill(itself, -torch.inf).logsumexp(1)


def _head_outputs(
    model: Any, maps: Maps, regions: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the scores (m, C) of anchors or regions, box deltas and their priors.

    The K * m deltas and priors are (K * m, 4), K a row: one, or one for each class.
    """
    head = _box_head(model)
    width = head.bbox_coder.encode_size
    if regions is not None:
        result = box_forward(model.roi_head, maps, regions)
        deltas = result['bbox_pred'].reshape(-1, width)
        each = 1 if head.reg_class_agnostic else head.num_classes
        return result['cls_score'], deltas, regions[:, 1:].repeat_interleave(each, 0)
    scores, levels, *_ = head(maps)
    sizes = [level.shape[-2:] for level in scores]
    priors = head.prior_generator.grid_priors(
        sizes, dtype=scores[0].dtype, device=scores[0].device
    )
    logits, deltas = (
        torch.cat([level[0].permute(1, 2, 0).reshape(-1, last) for level in each])
        for each, last in ((scores, head.cls_out_channels), (levels, width))
    )
    return logits, deltas, torch.cat(priors)


def _row(candidates: Tensor, box: Tensor, scores: Tensor) -> int:
    """Return the row of a box; of equal boxes the best score, which NMS keeps."""
    distance = (candidates - box).abs().amax(1)
    nearest = float(distance.min())
    if nearest > _BOX_TOLERANCE:
        raise UserError(
            'CAMs of this detector are not supported: its boxes are not those of its '
            f'head (the nearest is {nearest:.2f} px off).',
            code='unsupported-model',
        )
    return int(scores.masked_fill(distance > nearest, -torch.inf).argmax())
