"""Sigmoid focal loss with the signatures of mmcv's extension.

Source: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017. Each sample is of
one class at most: every logit is computed as one of another class, in few passes over
all of them, and then those of the targets are put in their place.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from eca_mmdet.mmcv_ops.library import at_least_float32


def _softplus(x: Tensor) -> Tensor:
    return functional.softplus(x, threshold=50)  # exact in float64; exp(50) is finite


def _loss(x: Tensor, gamma: float) -> Tensor:
    """Return p^gamma * -log(1 - p) for p = sigmoid(x)."""
    return x.sigmoid().pow_(gamma).mul_(_softplus(x))


def _slope(x: Tensor, gamma: float) -> Tensor:
    """Return the derivative of :func:`_loss`."""
    p = x.sigmoid()
    slope = _softplus(x).mul_(gamma).lerp_(p.new_ones(()), p)  # gamma s (1 - p) + p
    return p.pow_(gamma).mul_(slope)


def _fill(
    output: Tensor,
    function: Callable[[Tensor, float], Tensor],
    x: Tensor,
    target: Tensor,
    weight: Tensor,
    gamma: float,
    factors: tuple[float, float],
) -> None:
    """Put ``function`` of x, or of -x at the targets, times its factor into output."""
    classes = x.shape[1]
    logits = at_least_float32(x)
    scale: Tensor | float = 1.0
    if weight.numel():
        # Background has no entry of its own; mmcv reads past the end here.
        padded = torch.cat((weight, weight.new_ones(1)))
        scale = padded[target.clamp(max=classes)][:, None]
    torch.mul(function(logits, gamma), scale * factors[0], out=output)
    column = target.clamp(0, classes - 1)[:, None]
    own = function(-logits.gather(1, column), gamma) * (scale * factors[1])
    known = ((target >= 0) & (target < classes))[:, None]
    own = torch.where(known, own.to(output.dtype), output.gather(1, column))
    output.scatter_(1, column, own)


def sigmoid_focal_loss_forward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    output: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Fill ``output`` with the loss of every (sample, class) pair.

    Args:
        input: FloatTensor[N, C], logits.
        target: LongTensor[N], 0 to C; C is background.
        weight: FloatTensor[C] or empty.
        output: FloatTensor[N, C], written in place.
        gamma: focusing exponent.
        alpha: weight of the positive class.
    """
    _fill(output, _loss, input, target, weight, gamma, (1 - alpha, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Fill ``grad_input``, (N, C), with the derivative of each loss by its logit."""
    _fill(grad_input, _slope, input, target, weight, gamma, (1 - alpha, -alpha))
