"""Fused layers that keep fewer tensors for backward.

**Convolution, batch norm, ReLU.** Folded, they are relu(conv(x, scale * w) + shift).
Backward needs x, which the layer before keeps as its own result, and the result, which
the layer after keeps as its input; not the convolution's plain output, which batch norm
would keep.

**The tail of a residual block, relu(gate(norm(conv(x))) + shortcut).** Two facts make a
gate on channels cheap after a 1x1 convolution z = w x + b with a folded norm:

- the mean of z is w mean(x) + b, so the gate s is known before z is computed;
- s z = (s w) x + s b, so the gate scales C x K weights instead of C x H x W values,
  and the matrix product adds the shortcut as it goes.

z never exists: neither it nor the gated product is kept, in training or inference.
Backward has, for each sample, G = g x^T with g = dL/d(sum) masked by out > 0, which the
gradient of w needs anyway (dL/dw = sum of s G); the gate's own gradient is a product of
the weights' size, dL/ds = sum(G * w) + b sum(g). Nothing is divided by a parameter, so
there is no value of gamma or of the gate at which this loses precision. Other
convolutions and norms with batch statistics do compute z; backward then keeps one
tensor that z can be computed from.

**ReLU and max pooling.** relu(max(x)) = max(relu(x)). Pooling first leaves one small
result to keep, where max pooling by itself keeps its whole input, the largest map of a
ResNet, for its shape.

The gate: Wang et al., ECA-Net, CVPR 2020; Hu et al., Squeeze-and-Excitation, CVPR 2018.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eca_mmdet.compat import batch_norm_base
from eca_mmdet.models.lean import kernels as ops
from eca_mmdet.models.lean.folding import (
    Folds,
    autocast_dtype,
    bypassable,
    fold,
    is_batch_norm,
    is_foldable,
    no_autocast,
    reject_double_backward,
)
from eca_mmdet.models.lean.kernels import is_channels_last
from eca_mmdet.models.lean.scaled_conv import (
    folded_conv,
    is_pointwise,
    output_shape,
    pair,
    pooled_output,
)


def fold_block(x: Tensor, pairs: Any, gate: Any, downsample: Any) -> Folds:
    """Fold the norms of a residual block at once.

    Args:
        x: the block's input.
        pairs: the branch's convolutions and norms, in order.
        gate: between the last norm and the residual add, or None.
        downsample: the shortcut's layers, or None.
    """
    conv, norm = pairs[-1]
    if not bypassable():
        return Folds()
    gated = _fits_weights(gate, conv)
    if ops.is_cuda(x):
        return fold(x, [*pairs, *_pairs(downsample)], conv if gated else None)
    folds = Folds()
    folds.is_lazy, folds.is_gated = True, gated and is_foldable(x, conv, norm)
    return folds


def _fits_weights(gate: Any, conv: Any) -> bool:
    """Tell whether the mean of conv(x) is a product with the mean of x, for a gate."""
    if gate is None or not _is_channel_gate(gate) or not is_pointwise(conv):
        return False
    return conv.stride in (1, (1, 1))


def _pairs(layers: Any) -> list[tuple[Any, Any]]:
    """Return the convolutions of an ``nn.Sequential`` that :func:`sequence` folds."""
    known = getattr(type(layers), 'forward', None) is nn.Sequential.forward
    if not known or not bypassable(layers):
        return []
    layers = list(layers)
    following = zip(layers, layers[1:], strict=False)
    return [pair for pair in following if isinstance(pair[0], nn.Conv2d)]


def conv_norm(
    x: Tensor,
    conv: Any,
    norm: Any,
    relu: Any = None,
    folds: Folds | None = None,
    pooled: bool = False,
) -> Tensor:
    """Return ``relu(norm(conv(x)))``.

    A batch norm in evaluation mode is folded into the convolution, and only x and the
    result, (N, C, H', W') in the dtype and memory format that ``conv`` gives, are kept
    for backward. Other layers run as they are.

    Args:
        x: (N, K, H, W).
        conv: a convolution.
        norm: its norm.
        relu: an activation, or None.
        folds: of the block, where these layers may be among them.
        pooled: leave the result's means over pixels in ``folds``, if that is cheap.
    """
    fused_before = type(norm) is nn.Identity and not is_pointwise(conv)
    folded = None
    if not fused_before:
        at_once = folds if folds is not None and not folds.is_lazy else None
        folded = (fold(x, [(conv, norm)]) if at_once is None else at_once).get(conv)
    if folded is None:
        out = norm(conv(x))
        return out if relu is None else relu(out)  # type: ignore[no-any-return]
    fused = type(relu) is nn.ReLU and bypassable(relu)
    x = x.to(autocast_dtype(x))
    out = folded_conv(x, conv, folded, relu=fused, pooled=pooled and fused)
    if pooled and fused and folds is not None:
        folds.means = out
        out = out[0]
    return out if relu is None or fused else relu(out)  # type: ignore[no-any-return]


def sequence(x: Tensor, layers: Any, folds: Folds | None = None) -> Tensor:
    """Return ``layers(x)``, of an ``nn.Sequential`` by :func:`conv_norm`."""
    known = getattr(type(layers), 'forward', None) is nn.Sequential.forward
    if not known or not bypassable(layers):
        return layers(x)  # type: ignore[no-any-return]
    rest = list(layers)
    while rest:
        layer = rest.pop(0)
        if not isinstance(layer, nn.Conv2d) or not rest:
            x = layer(x)
            continue
        norm = rest.pop(0)
        relu = rest.pop(0) if rest and isinstance(rest[0], nn.ReLU) else None
        x = conv_norm(x, layer, norm, relu, folds)
    return x


def gated_residual(
    x: Tensor,
    conv: Any,
    norm: Any,
    gate: Any,
    shortcut: Tensor,
    relu: Any,
    folds: Folds | None = None,
) -> Tensor:
    """Return ``relu(gate(norm(conv(x))) + shortcut)``, (N, C, H', W').

    ``gate`` keeps the shape. One whose ``is_foldable`` is true multiplies by its
    ``factors``, (N, C) means to (N, C). ``shortcut`` is not written to. ``folds`` are
    the block's.
    """
    narrow = None if folds is None or folds.is_gated else folds
    if not _is_channel_gate(gate) or type(relu) is not nn.ReLU or not bypassable(relu):
        out = conv_norm(x, conv, norm, None, narrow)
        out = out if gate is None else gate(out)
        return relu(out + shortcut)  # type: ignore[no-any-return]
    gated = _fits_weights(gate, conv)
    plain = gate is None or gated
    folded = None
    if folds is not None and not folds.is_lazy and folds.is_gated == gated:
        folded = folds.get(conv)
    elif plain:
        folded = fold(x, [(conv, norm)], conv if gated else None).get(conv)
    if folded is not None and plain and _fits(shortcut, x, conv):
        factors = None
        if gate is not None:
            with no_autocast(x):
                kept: Any = getattr(folds, 'means', None) or (None, None)
                means = kept[1] if kept[0] is x else ops.pixel_means(x)
                means, folded = pooled_output(means.to(folded.shift.dtype), folded)
                factors = gate.factors(means.to(conv.weight.dtype))
                factors = factors.to(folded.shift.dtype)
        return folded_conv(  # type: ignore[no-any-return]
            x.to(shortcut.dtype), conv, folded, factors, shortcut, relu=True
        )
    if gate is None:
        return F.relu_(conv_norm(x, conv, norm, None, narrow) + shortcut)
    return _gated_add(x, conv, norm, gate, shortcut, narrow)


def _is_channel_gate(gate: Any) -> bool:
    if gate is None:
        return True
    return getattr(gate, 'is_foldable', False) and bypassable(gate)


def _fits(shortcut: Tensor, x: Tensor, conv: nn.Conv2d) -> bool:
    """Tell whether ``shortcut`` is what ``conv(x)`` is: no broadcast, no promotion."""
    same = shortcut.shape == output_shape(x, conv)
    return same and shortcut.dtype == autocast_dtype(x)


def _gated_add(
    x: Tensor, conv: Any, norm: Any, gate: Any, shortcut: Tensor, folds: Folds | None
) -> Tensor:
    statistics = _uses_batch_statistics(norm) and bypassable(norm)
    y = conv(x) if statistics else None
    z = conv_norm(x, conv, norm, None, folds) if y is None else norm(y)
    factors = gate.factors(z.mean((2, 3))).to(z.dtype)
    if (z.dtype, z.shape) != (shortcut.dtype, shortcut.shape):
        return F.relu_(z * factors[:, :, None, None] + shortcut)
    if not torch.is_grad_enabled():
        # Other code may hold z, unless batch norm just made it.
        unseen = z if is_batch_norm(norm) and bypassable(conv, norm) else None
        factors = factors[:, :, None, None]
        return torch.addcmul(shortcut, z, factors, out=unseen).relu_()
    if y is None:
        return _GatedAdd.apply(z, factors, shortcut, None, None, None, None)  # type: ignore[no-any-return]
    kept = (t if t is None else t.detach() for t in (y, norm.weight, norm.bias))
    return _GatedAdd.apply(z, factors, shortcut, *kept, norm.eps)  # type: ignore[no-any-return]


def _uses_batch_statistics(norm: Any) -> bool:
    if type(norm).forward is not batch_norm_base().forward:
        return False  # synchronized statistics are of all processes
    return bool(norm.training) or norm.running_mean is None


class _GatedAdd(torch.autograd.Function):
    """relu(z * factors + shortcut).

    Where z = batch_norm(y) by batch statistics, y is kept for that norm anyway, and z
    is computed again from y, weight, bias and eps. Without y, z is kept.
    """

    @staticmethod
    def forward(
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
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        reject_double_backward()
        out, factors, z, weight, bias = ctx.saved_tensors
        with no_autocast(out):
            grad = torch.ops.aten.threshold_backward(grad, out, 0)
            if ctx.eps is not None:
                z = F.batch_norm(z, None, None, weight, bias, True, 0.0, ctx.eps)
            grad_factors = (grad * z).sum((2, 3))
            grad_z = grad * factors[:, :, None, None]
        return grad_z, grad_factors, grad, None, None, None, None


def stem(x: Tensor, conv: Any, norm: Any, relu: Any, pool: Any) -> Tensor:
    """Return ``pool(relu(norm(conv(x))))``."""
    leaves = (x, *conv.parameters(), *norm.parameters())
    trained = torch.is_grad_enabled() and bypassable(relu, pool)
    if not trained or not any(leaf.requires_grad for leaf in leaves):
        return pool(conv_norm(x, conv, norm, relu))  # type: ignore[no-any-return]
    return relu_max_pool(conv_norm(x, conv, norm), relu, pool)


def relu_max_pool(x: Tensor, relu: nn.Module, pool: nn.Module) -> Tensor:
    """Return ``pool(relu(x))``; x may be written to."""
    known = type(relu) is nn.ReLU and type(pool) is nn.MaxPool2d
    if not known or pool.return_indices or not torch.is_grad_enabled():
        return pool(relu(x))  # type: ignore[no-any-return]
    if not bypassable(relu, pool):
        return pool(relu(x))  # type: ignore[no-any-return]
    sizes = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    return _ReluMaxPool.apply(x, tuple(map(pair, sizes)), pool.ceil_mode)  # type: ignore[no-any-return]


class _ReluMaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, settings: Any, ceil_mode: bool) -> Tensor:
        kernel_size, stride, padding, dilation = settings
        out, indices = F.max_pool2d(
            *(x, kernel_size, stride, padding, dilation),
            ceil_mode=ceil_mode,
            return_indices=True,
        )
        out.relu_()
        ctx.save_for_backward(out, indices)
        ctx.size, ctx.settings, ctx.ceil_mode = x.shape, settings, ceil_mode
        ctx.last = is_channels_last(x)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        reject_double_backward()
        out, indices = ctx.saved_tensors
        form = torch.channels_last if ctx.last else torch.contiguous_format
        # PyTorch's kernel asks for the input, and reads only its shape and format.
        shape = torch.empty(
            ctx.size, dtype=grad.dtype, device=grad.device, memory_format=form
        )
        grad = torch.ops.aten.threshold_backward(grad, out, 0)
        grad_x = torch.ops.aten.max_pool2d_with_indices_backward(
            grad, shape, *ctx.settings, ctx.ceil_mode, indices
        )
        return grad_x, None, None
