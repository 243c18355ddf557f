"""Anchors, box decoding and non-maximum suppression of batches, for tracing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms  # now: it cannot be imported in a trace

NONE = -1.0
"""The score of a place in an array that holds no box; scores are 0 to 1."""

_LEAST = -0.5  # between NONE and every score
_MOST = 2**31 - 1  # boxes of a class that the node may return


def suppress(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    """Return the scores with :data:`NONE` where a better box of the class overlaps.

    mmdet moves the boxes of a class to where no other's are, which costs digits: 0.06
    px in the thousandth class of a photo. The node keeps classes apart by itself.

    Args:
        boxes: (B, P, 4), x1, y1, x2, y2.
        scores: (B, C, P); :data:`NONE` where there is no box.
        iou: of more than this, the box of the lower score goes.

    Returns:
        (B, C, P).
    """
    chosen = _NonMaxSuppression.apply(boxes, scores, iou)
    batch, kind, place = chosen.unbind(1)
    index = (batch * scores.shape[1] + kind) * scores.shape[2] + place
    flat = scores.reshape(-1)
    kept = torch.full_like(flat, NONE).scatter(0, index, flat[index])
    return kept.view_as(scores)


def best(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` largest of each row, also where there are fewer.

    Args:
        scores: (N, K), any K.
        count: k.

    Returns:
        (N, k) falling scores, :data:`NONE` at the end where the row is shorter, and
        their places, 0 where there is none.
    """
    padded = F.pad(scores, (0, count), value=NONE)  # so that k needs not depend on K
    values, places = padded.topk(count)
    return values, torch.where(values > _LEAST, places, torch.zeros_like(places))


def rows(values: Tensor, places: Tensor) -> Tensor:
    """Return (N, k, 4), the rows of (N, K, 4) at (N, k) places."""
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[-1]))


class _NonMaxSuppression(torch.autograd.Function):
    """The node of ONNX: (B, P, 4) and (B, C, P) to (S, 3), batch, class and place."""

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
        if torch.onnx.is_in_onnx_export():  # the trace needs any values, soon
            return scores.new_zeros((1, 3), dtype=torch.long)
        found = []
        for batch, of_classes in enumerate(scores):
            for kind, values in enumerate(of_classes):
                (valid,) = (values > _LEAST).nonzero(as_tuple=True)
                kept = valid[nms(boxes[batch, valid], values[valid], iou)]
                head = kept.new_tensor([batch, kind]).expand(len(kept), 2)
                found.append(torch.cat((head, kept[:, None]), 1))
        return torch.cat(found)

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, iou: float) -> Any:
        values = (torch.tensor([_MOST]), torch.tensor([iou]), torch.tensor([_LEAST]))
        constants = [g.op('Constant', value_t=one) for one in values]
        return g.op('NonMaxSuppression', boxes, scores, *constants)


def grid_anchors(
    base: Tensor, stride: Sequence[int], height: int, width: int
) -> Tensor:
    """Return the anchors of a map, row by row.

    Args:
        base: (A, 4), those of the first position, x1, y1, x2, y2 in px.
        stride: px along x, and along y.
        height: of the map, in positions.
        width: of the map.

    Returns:
        (height * width * A, 4).
    """
    across = torch.arange(width, device=base.device).to(base.dtype) * stride[0]
    down = torch.arange(height, device=base.device).to(base.dtype) * stride[1]
    along_x, along_y = base.new_tensor([1, 0, 1, 0]), base.new_tensor([0, 1, 0, 1])
    shifts = across[None, :, None, None] * along_x + down[:, None, None, None] * along_y
    return (shifts + base).reshape(-1, 4)


def decode(coder: Any, boxes: Tensor, deltas: Tensor, sizes: Tensor) -> Tensor:
    """Move boxes by what the network says, and cut them at the image.

    Args:
        coder: mmdet's ``DeltaXYWHBBoxCoder``.
        boxes: (N, ..., 4), x1, y1, x2, y2 in px.
        deltas: (N, ..., 4); dimensions of 1 in either are repeated.
        sizes: (N, 2), height and width in px.

    Returns:
        (N, ..., 4).
    """
    means, stds = (deltas.new_tensor(one) for one in (coder.means, coder.stds))
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


def large_enough(boxes: Tensor, least: float) -> Tensor:
    """Tell which boxes (..., 4) are wider and higher than ``least`` px."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    return (width > least) & (height > least)
