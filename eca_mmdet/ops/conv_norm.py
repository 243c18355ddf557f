"""Convolution, batch norm and ReLU as one operation that keeps one tensor.

With w' = scale * w, all three are relu(conv(x, w') + shift). Backward needs x (the
result of the layer before, kept there as its own mask) and the result (the input of
the layer after); the convolution's plain output, which batch norm would keep, is not
needed: the gradient of the scale is a product of parameters' size, sum(w * dL/dw').
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eca_mmdet.ops.folding import (
    autocast_dtype,
    bypassable,
    fold,
    no_autocast,
    refuse_double_backward,
)


def conv_norm(
    x: Tensor, conv: nn.Module, norm: nn.Module, relu: nn.Module | None = None
) -> Tensor:
    """Return ``relu(norm(conv(x)))``.

    A batch norm in evaluation mode is folded into the convolution, and nothing but x
    and the result is kept for backward. Other layers run as they are.

    Args:
        x: (N, K, H, W).
        conv: to C channels.
        norm: of C channels.
        relu: None for none.

    Returns:
        (N, C, H', W'), in the dtype and memory format that ``conv`` gives.
    """
    affine = fold(x, conv, norm)
    if affine is None or affine.scale is None:
        out = norm(conv(x))
        return out if relu is None else relu(out)  # type: ignore[no-any-return]
    fused = type(relu) is nn.ReLU and bypassable(relu)
    x = x.to(autocast_dtype(x))
    settings = (conv.stride, conv.padding, conv.dilation, conv.groups)
    with no_autocast(x):
        if torch.is_grad_enabled():
            out = _FoldedConv.apply(x, conv.weight, *affine, settings, fused)
        else:
            out = _forward(x, conv.weight, *affine, settings, fused)  # type: ignore[arg-type]
    return out if relu is None or fused else relu(out)  # type: ignore[no-any-return]


def scaled(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``weight`` with every output channel scaled, rounded once to ``dtype``."""
    return (weight * scale[:, None, None, None]).to(dtype)


def _forward(
    x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, settings: Any, relu: bool
) -> Tensor:
    out = F.conv2d(x, scaled(weight, scale, x.dtype), shift.to(x.dtype), *settings)
    return out.relu_() if relu else out


class _FoldedConv(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        shift: Tensor,
        settings: Any,
        relu: bool,
    ) -> Tensor:
        out = _forward(x, weight, scale, shift, settings, relu)
        ctx.save_for_backward(x, weight, scale, out if relu else None)
        ctx.settings, ctx.shift_dtype = settings, shift.dtype
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        refuse_double_backward()
        x, weight, scale, out = ctx.saved_tensors
        need_x, need_weight, need_scale, need_shift = ctx.needs_input_grad[:4]
        stride, padding, dilation, groups = ctx.settings
        with no_autocast(x):
            if out is not None:
                grad = torch.ops.aten.threshold_backward(grad, out, 0)
            grad_x, grad_folded, grad_shift = torch.ops.aten.convolution_backward(
                *(grad, x, scaled(weight, scale, x.dtype), [len(scale)]),
                *(stride, padding, dilation, False, [0, 0], groups),
                [need_x, need_weight or need_scale, False],
            )
            if need_shift:
                grad_shift = grad.sum((0, 2, 3), dtype=ctx.shift_dtype)
            grad_weight = grad_scale = None
            if need_weight:
                grad_weight = scaled(grad_folded, scale, weight.dtype)
            if need_scale:
                grad_scale = (grad_folded * weight).sum((1, 2, 3), dtype=scale.dtype)
        return grad_x, grad_weight, grad_scale, grad_shift, None, None


def sequence(x: Tensor, layers: nn.Module) -> Tensor:
    """Return ``layers(x)``, each convolution with the norm and ReLU after it as one.

    Args:
        x: (N, K, H, W).
        layers: an ``nn.Sequential``; any other layer is called.
    """
    if not isinstance(layers, nn.Sequential) or not bypassable(layers):
        return layers(x)  # type: ignore[no-any-return]
    rest = list(layers)
    while rest:
        layer = rest.pop(0)
        if not isinstance(layer, nn.Conv2d) or not rest:
            x = layer(x)
            continue
        norm = rest.pop(0)
        relu = rest.pop(0) if rest and isinstance(rest[0], nn.ReLU) else None
        x = conv_norm(x, layer, norm, relu)
    return x
