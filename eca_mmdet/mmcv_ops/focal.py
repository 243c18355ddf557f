"""Sigmoid focal loss with the signatures of mmcv's extension.

Source: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ['sigmoid_focal_loss_backward', 'sigmoid_focal_loss_forward']


def _logits_and_targets(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits in float32 at least, and which are of the target: (N, C) both."""
    logits = x.float() if x.dtype != torch.float64 else x
    return logits, target[:, None] == torch.arange(x.shape[1], device=target.device)


def _class_weight(weight: Tensor, target: Tensor) -> Tensor | float:
    if not weight.numel():
        return 1.0
    # Background has no entry of its own; mmcv reads past the end here.
    padded = torch.cat((weight, weight.new_ones(1)))
    return padded[target.clamp(max=len(weight))][:, None]


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
    logits, positive = _logits_and_targets(input, target)
    p = logits.sigmoid()
    loss = torch.where(
        positive,
        -alpha * (1 - p) ** gamma * functional.logsigmoid(logits),
        -(1 - alpha) * p**gamma * functional.logsigmoid(-logits),
    )
    output.copy_(loss * _class_weight(weight, target))


def sigmoid_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Fill ``grad_input``, (N, C), with the derivative of each loss by its logit."""
    logits, positive = _logits_and_targets(input, target)
    p = logits.sigmoid()
    log_p, log_q = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    grad = torch.where(
        positive,
        -alpha * (1 - p) ** gamma * (1 - p - gamma * p * log_p),
        -(1 - alpha) * p**gamma * (gamma * (1 - p) * log_q - p),
    )
    grad_input.copy_(grad * _class_weight(weight, target))
