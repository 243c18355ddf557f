"""The tail of a residual block, relu(gate(norm(conv(x))) + shortcut), kept lean.

Two facts make a gate on channels cheap after a 1x1 convolution z = w x + b with a
folded norm:

- the mean of z is w mean(x) + b, so the gate s is known before z is computed;
- s z = (s w) x + s b, so the gate scales C x K weights instead of C x H x W values,
  and the matrix product adds the shortcut as it goes.

z never exists: neither it nor the gated product is kept, in training or inference.
Backward has, for each sample, G = g x^T with g = dL/d(sum) masked by out > 0, which the
gradient of w needs anyway (dL/dw = sum of s G); the gate's own gradient is a product of
the weights' size, dL/ds = sum(G * w) + b sum(g). Nothing is divided by a parameter, so
there is no value of gamma or of the gate at which this loses precision.

Other convolutions and norms with batch statistics do compute z; backward then keeps one
tensor that it can have z from.

The gate: Wang et al., ECA-Net, CVPR 2020; Hu et al., Squeeze-and-Excitation, CVPR 2018.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from eca_mmdet.attention.channel_gate import ChannelGate
from eca_mmdet.ops.conv_norm import conv_norm
from eca_mmdet.ops.folding import (
    Affine,
    autocast_dtype,
    bypassable,
    fold,
    no_autocast,
    refuse_double_backward,
)


def gated_residual(
    x: Tensor,
    conv: nn.Module,
    norm: nn.Module,
    gate: nn.Module | None,
    shortcut: Tensor,
    relu: nn.Module,
) -> Tensor:
    """Return ``relu(gate(norm(conv(x))) + shortcut)``.

    Args:
        x: (N, K, H, W).
        conv: the block's last, to C channels.
        norm: of C channels.
        gate: a :class:`~eca_mmdet.attention.channel_gate.ChannelGate`, another layer
            that keeps the shape, or None.
        shortcut: (N, C, H', W'); not written to.
        relu: ``nn.ReLU``; another activation is called.

    Returns:
        (N, C, H', W').
    """
    if not _is_channel_gate(gate) or type(relu) is not nn.ReLU or not bypassable(relu):
        out = conv_norm(x, conv, norm)
        out = out if gate is None else gate(out)
        return relu(out + shortcut)  # type: ignore[no-any-return]
    affine = fold(x, conv, norm) if _is_pointwise(conv) else None
    if affine is not None and shortcut.dtype == autocast_dtype(x):
        x = x.to(shortcut.dtype)
        return _pointwise(x, conv.weight, affine, gate, shortcut)  # type: ignore[arg-type]
    if gate is None:
        return F.relu_(conv_norm(x, conv, norm) + shortcut)
    return _gated_add(x, conv, norm, gate, shortcut)  # type: ignore[arg-type]


def _is_channel_gate(gate: nn.Module | None) -> bool:
    if gate is None:
        return True
    known = isinstance(gate, ChannelGate) and type(gate).forward is ChannelGate.forward
    return known and bypassable(gate)


def _is_pointwise(conv: nn.Module) -> bool:
    if type(conv) is not nn.Conv2d:
        return False
    size = (conv.kernel_size, conv.stride, conv.padding, conv.groups)
    return size == ((1, 1), (1, 1), (0, 0), 1)


def _pointwise(
    x: Tensor,
    weight: Tensor,
    affine: Affine,
    gate: ChannelGate | None,
    shortcut: Tensor,
) -> Tensor:
    weight = weight.flatten(1)
    with no_autocast(x):
        scale, shift = affine
        wide = torch.promote_types(weight.dtype, torch.float32)
        if scale is None:
            scale = weight.new_ones(len(weight), dtype=wide)
        if shift is None:
            shift = torch.zeros_like(scale)
        scale, shift = scale[None], shift[None]
        if gate is not None:
            means = x.mean((2, 3), dtype=wide)
            pooled = torch.addcmul(shift, F.linear(means, weight.to(wide)), scale)
            pooled = pooled.to(weight.dtype)
    if gate is not None:
        factors = gate.factors(pooled).to(wide)
        scale, shift = scale * factors, shift * factors
    with no_autocast(x):
        if torch.is_grad_enabled():
            return _ScaledPointwise.apply(x, weight, scale, shift, shortcut)  # type: ignore[no-any-return]
        return _forward(x, weight, scale, shift, shortcut)


def _is_channels_last(x: Tensor) -> bool:
    last = x.is_contiguous(memory_format=torch.channels_last)
    return last and not x.is_contiguous()


def _matrices(x: Tensor, last: bool) -> Tensor:
    """(N, C, H, W) to (N, C, HW), or (N, HW, C) if channels come last in memory.

    A view where x has that memory format.
    """
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
        return x.permute(0, 2, 3, 1).flatten(1, 2)
    return x.contiguous().flatten(2)


def _scaled(weight: Tensor, scale: Tensor, x: Tensor) -> Tensor:
    """(C, K) and (N or 1, C) to (N, C, K), rounded once to x's dtype."""
    return (weight * scale[:, :, None]).to(x.dtype).expand(len(x), -1, -1)


def _forward(
    x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, shortcut: Tensor
) -> Tensor:
    """relu((scale w) x + shift + shortcut); scale and shift are (N or 1, C)."""
    last = _is_channels_last(x)
    form = torch.channels_last if last else torch.contiguous_format
    shift = shift.to(x.dtype)[:, :, None, None]
    out = torch.add(shortcut.contiguous(memory_format=form), shift)
    kernels, inputs = _scaled(weight, scale, x), _matrices(x, last)
    if last:
        _matrices(out, last).baddbmm_(inputs, kernels.mT)
    else:
        _matrices(out, last).baddbmm_(kernels, inputs)
    return out.relu_()


class _ScaledPointwise(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        shift: Tensor,
        shortcut: Tensor,
    ) -> Tensor:
        out = _forward(x, weight, scale, shift, shortcut)
        ctx.save_for_backward(x, weight, scale, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        refuse_double_backward()
        x, weight, scale, out = ctx.saved_tensors
        need_x, need_weight, need_scale, need_shift, _ = ctx.needs_input_grad
        grad_x = grad_weight = grad_scale = grad_shift = None
        with no_autocast(x):
            grad = torch.ops.aten.threshold_backward(grad, out, 0)
            if need_x:
                grad_x = _grad_input(x, weight, scale, grad)
            if need_weight or need_scale:
                products = _products(grad, x, each=len(scale) == len(x))
                if need_weight:
                    grad_weight = (products * scale[:, :, None]).sum(0)
                    grad_weight = grad_weight.to(weight.dtype)
                if need_scale:
                    grad_scale = (products * weight).sum(2, dtype=scale.dtype)
            if need_shift:
                grad_shift = grad.sum((2, 3), dtype=scale.dtype)
                grad_shift = grad_shift.sum_to_size(scale.shape)
        return grad_x, grad_weight, grad_scale, grad_shift, grad


def _grad_input(x: Tensor, weight: Tensor, scale: Tensor, grad: Tensor) -> Tensor:
    last = _is_channels_last(x)
    kernels, rows = _scaled(weight, scale, x), _matrices(grad, last)
    samples, _, height, width = x.shape
    if last:
        out = torch.bmm(rows, kernels).view(samples, height, width, -1)
        return out.permute(0, 3, 1, 2)
    return torch.bmm(kernels.mT, rows).view(samples, -1, height, width)


def _products(grad: Tensor, x: Tensor, each: bool) -> Tensor:
    """Sums of grad times x over pixels: (N, C, K), or (1, C, K) over samples too."""
    last = _is_channels_last(x)
    rows, inputs = _matrices(grad, last), _matrices(x, last)
    products = torch.bmm(rows.mT, inputs) if last else torch.bmm(rows, inputs.mT)
    return products if each else products.sum(0, keepdim=True)


def _gated_add(
    x: Tensor, conv: nn.Module, norm: nn.Module, gate: ChannelGate, shortcut: Tensor
) -> Tensor:
    statistics = _uses_batch_statistics(norm) and bypassable(norm)
    y = conv(x) if statistics else None
    z = conv_norm(x, conv, norm) if y is None else norm(y)
    factors = gate.factors(z.mean((2, 3))).to(z.dtype)
    if z.dtype != shortcut.dtype:
        return F.relu_(z * factors[:, :, None, None] + shortcut)
    if not torch.is_grad_enabled():
        factors = factors[:, :, None, None]
        return torch.addcmul(shortcut, z, factors, out=z).relu_()
    if y is None:
        return _GatedAdd.apply(z, factors, shortcut, None, None, None, None)  # type: ignore[no-any-return]
    kept = (one if one is None else one.detach() for one in (y, norm.weight, norm.bias))
    return _GatedAdd.apply(z, factors, shortcut, *kept, norm.eps)  # type: ignore[no-any-return]


def _uses_batch_statistics(norm: nn.Module) -> bool:
    if type(norm).forward is not _BatchNorm.forward:
        return False  # a synchronized one's statistics are not of this process alone
    return bool(norm.training) or norm.running_mean is None


class _GatedAdd(torch.autograd.Function):
    """relu(z * factors + shortcut).

    Where z = batch_norm(y) by batch statistics, y is kept for that norm anyway, and z
    is computed again from y, weight, bias and eps. Without y, z is kept.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        z: Tensor,
        factors: Tensor,
        shortcut: Tensor,
        y: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float | None,
    ) -> Tensor:
        out = torch.addcmul(shortcut, z, factors[:, :, None, None]).relu_()
        ctx.save_for_backward(out, factors, z if y is None else y, weight, bias)
        ctx.eps = eps
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        refuse_double_backward()
        out, factors, z, weight, bias = ctx.saved_tensors
        with no_autocast(out):
            grad = torch.ops.aten.threshold_backward(grad, out, 0)
            if ctx.eps is not None:
                z = F.batch_norm(z, None, None, weight, bias, True, 0.0, ctx.eps)
            grad_factors = (grad * z).sum((2, 3))
            grad_z = grad * factors[:, :, None, None]
        return grad_z, grad_factors, grad, None, None, None, None
