"""Anchors and their decoding for a batch, of shapes that the graph computes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


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
