"""A convolution with scaled output channels, by sample if need be.

out = relu(conv(x, s w) + b + shortcut), with s and b by output channel, or by sample
and output channel. Scaling the weights costs next to nothing, where scaling the result
would read and write C x H x W values.

Backward keeps x, out and parameters. With g = dL/d(sum), which is dL/d(out) where
out > 0, the gradient G of the scaled weights gives both dL/dw = sum of s G and
dL/ds = sum of G w; nothing is divided by a parameter, so that no value of one makes
this lose precision.

On a CPU a 1x1 convolution runs as matrix products, one a sample, which take less time
than the convolution that PyTorch runs, the larger the map the less
(``benchmarks/benchmark_layers.py``).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eca_mmdet.models.lean.folding import Affine, no_autocast, reject_double_backward


class _Settings(NamedTuple):
    stride: Any
    padding: Any
    dilation: Any
    groups: int
    matrices: bool  # matrix products instead of convolutions


def scaled_conv(
    x: Tensor,
    conv: nn.Conv2d,
    affine: Affine,
    shortcut: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Return ``relu(scale * conv(x) + shift + shortcut)``, conv's bias left out.

    Args:
        x: (N, K, H, W).
        conv: to C channels, zero-padded.
        affine: scale and shift, each (C,) or, one a sample, (N, C).
        shortcut: (N, C, H', W') like the result, of x's dtype; it is not written to.
        relu: False leaves the ReLU out.
    """
    scale, shift = (part if part.dim() == 2 else part[None] for part in affine)
    settings = _settings(x, conv)
    with no_autocast(x):
        if torch.is_grad_enabled():
            # In training the shift stays float32: rounded to half precision it would
            # err alike at every pixel, which the gradients of a gate add up.
            return _ScaledConv.apply(  # type: ignore[no-any-return]
                x, conv.weight, scale, shift, shortcut, settings, relu
            )
        shift = shift.to(x.dtype)
        return _forward(x, conv.weight, scale, shift, shortcut, settings, relu)


def is_pointwise(conv: nn.Module) -> bool:
    """Tell whether ``conv`` is a matrix product over channels at each pixel."""
    if type(conv) is not nn.Conv2d:
        return False
    sizes = (pair(conv.kernel_size), pair(conv.padding), conv.groups)
    return sizes == ((1, 1), (0, 0), 1)


def pair(size: Any) -> Any:
    """Return a size of a layer as a pair, also where it is one number."""
    return (size, size) if isinstance(size, int) else tuple(size)


def output_shape(x: Tensor, conv: nn.Conv2d) -> tuple[int, ...]:
    """Return the shape of ``conv(x)``."""
    sizes = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    spatial = (
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, padding, dilation in zip(
            x.shape[2:], *map(pair, sizes), strict=True
        )
    )
    return (len(x), conv.out_channels, *spatial)


def _settings(x: Tensor, conv: nn.Conv2d) -> _Settings:
    # On CUDA the convolutions stay with cuDNN: by default PyTorch lets it use TF32,
    # and matrix products not.
    matrices = is_pointwise(conv) and not x.is_cuda
    stride, padding, dilation = map(pair, (conv.stride, conv.padding, conv.dilation))
    return _Settings(stride, padding, dilation, conv.groups, matrices)


def _scaled(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """(C, K, h, w) and (M, C) to (M, C, K, h, w), rounded once to ``dtype``."""
    return (weight * scale[:, :, None, None, None]).to(dtype)


def _forward(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    shortcut: Tensor | None,
    settings: _Settings,
    relu: bool,
) -> Tensor:
    kernels = _scaled(weight, scale, x.dtype)
    if settings.matrices:
        out = _multiply(x, kernels, shift, shortcut, settings.stride)
    else:
        out = _convolve(x, kernels, shift, settings)
        out = out if shortcut is None else out.add_(shortcut)
    return out.relu_() if relu else out


def _convolve(x: Tensor, kernels: Tensor, shift: Tensor, settings: _Settings) -> Tensor:
    wider = shift.dtype != x.dtype
    if len(kernels) == 1:
        out = F.conv2d(x, kernels[0], None if wider else shift[0], *settings[:4])
    elif not len(x):
        out = F.conv2d(x, x.new_zeros(kernels.shape[1:]), None, *settings[:4])
    else:
        biases = [None] * len(x) if wider else list(shift)
        samples = zip(_samples(x), kernels, biases, strict=True)
        out = torch.cat([F.conv2d(*sample, *settings[:4]) for sample in samples])
    return out.add_(shift[:, :, None, None]) if wider else out


def _samples(x: Tensor) -> list[Tensor]:
    return [x[index : index + 1] for index in range(len(x))]


def _convolve_backward(
    grad: Tensor,
    x: Tensor,
    kernels: Tensor,
    settings: _Settings,
    need_x: bool,
    need_kernels: bool,
) -> tuple[Tensor | None, Tensor | None]:
    each = len(kernels) != 1
    if each and not len(x):
        return torch.zeros_like(x), torch.zeros_like(kernels)
    grads_x, grads_kernel = [], []
    grads, inputs = (_samples(grad), _samples(x)) if each else ([grad], [x])
    for own_grad, own_x, kernel in zip(grads, inputs, kernels, strict=True):
        grad_x, grad_kernel, _ = torch.ops.aten.convolution_backward(
            *(own_grad, own_x, kernel, None),
            *(settings.stride, settings.padding, settings.dilation),
            *(False, [0, 0], settings.groups, [need_x, need_kernels, False]),
        )
        grads_x.append(grad_x)
        grads_kernel.append(grad_kernel)
    if not each:
        return grads_x[0], grads_kernel[0][None] if need_kernels else None
    return (
        torch.cat(grads_x) if need_x else None,
        torch.stack(grads_kernel) if need_kernels else None,
    )


def _multiply(
    x: Tensor, kernels: Tensor, shift: Tensor, shortcut: Tensor | None, stride: Any
) -> Tensor:
    """Return ``kernels x + shift + shortcut`` in x's memory format.

    Args:
        x: (N, K, H, W).
        kernels: (N or 1, C, K, 1, 1).
        shift: (N or 1, C), of x's dtype or, added after the product, wider.
        shortcut: (N, C, H', W') like the result; it is not written to.
        stride: vertical and horizontal.
    """
    last = is_channels_last(x)
    x = _strided(x, stride)
    form = torch.channels_last if last else torch.contiguous_format
    size = (len(x), kernels.shape[1], *x.shape[2:])
    out = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=form)
    rows, inputs, each = _matrices(out, last), _matrices(x, last), _each(kernels, x)
    factors = (inputs, each.mT) if last else (each, inputs)
    start = shift[:, None] if last else shift[:, :, None]
    if shift.dtype != x.dtype:
        torch.bmm(*factors, out=rows)
        rows.add_(start)
        out = out if shortcut is None else out.add_(shortcut)
    elif shortcut is None:
        torch.baddbmm(start, *factors, out=rows)
    else:
        torch.add(_matrices(shortcut, last), start, out=rows)
        rows.baddbmm_(*factors)
    return out


def _multiply_backward(
    grad: Tensor,
    x: Tensor,
    kernels: Tensor,
    stride: Any,
    need_x: bool,
    need_kernels: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of x and of kernels, as `_multiply` takes them."""
    last = is_channels_last(x)
    rows, read = _matrices(grad, last), _strided(x, stride)
    grad_x = grad_kernels = None
    if need_x:
        each = _each(kernels, x)
        grad_x = _maps((rows @ each) if last else (each.mT @ rows), read, last)
        if read is not x:
            spread = torch.zeros_like(x)
            _strided(spread, stride).copy_(grad_x)
            grad_x = spread
    if need_kernels:
        inputs = _matrices(read, last)
        grad_kernels = (rows.mT @ inputs) if last else (rows @ inputs.mT)
        grad_kernels = grad_kernels[..., None, None].sum_to_size(kernels.shape)
    return grad_x, grad_kernels


def is_channels_last(x: Tensor) -> bool:
    """Tell whether channels come last in memory, and only so."""
    last = x.is_contiguous(memory_format=torch.channels_last)
    return last and not x.is_contiguous()


def _strided(x: Tensor, stride: Any) -> Tensor:
    """Return the pixels of x that a 1x1 convolution reads: x itself or a view."""
    vertical, horizontal = stride
    return x if vertical == horizontal == 1 else x[:, :, ::vertical, ::horizontal]


def _matrices(x: Tensor, last: bool) -> Tensor:
    """(N, C, H, W) to (N, C, HW), or (N, HW, C) if channels come last in memory.

    A view where x has that memory format.
    """
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
        return x.permute(0, 2, 3, 1).flatten(1, 2)
    return x.contiguous().flatten(2)


def _maps(rows: Tensor, like: Tensor, last: bool) -> Tensor:
    """Undo :func:`_matrices`, with the height and width of ``like``."""
    samples, _, height, width = like.shape
    if last:
        return rows.view(samples, height, width, rows.shape[2]).permute(0, 3, 1, 2)
    return rows.view(samples, rows.shape[1], height, width)


def _each(kernels: Tensor, x: Tensor) -> Tensor:
    """(N or 1, C, K, 1, 1) to (N, C, K)."""
    return kernels.flatten(2).expand(len(x), -1, -1)


class _ScaledConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        shift: Tensor,
        shortcut: Tensor | None,
        settings: _Settings,
        relu: bool,
    ) -> Tensor:
        out = _forward(x, weight, scale, shift, shortcut, settings, relu)
        ctx.save_for_backward(x, weight, scale, out if relu else None)
        ctx.settings = settings
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        reject_double_backward()
        x, weight, scale, out = ctx.saved_tensors
        settings: _Settings = ctx.settings
        need_x, need_weight, need_scale, need_shift, need_shortcut = (
            ctx.needs_input_grad[:5]
        )
        grad_weight = grad_scale = grad_shift = None
        with no_autocast(x):
            if out is not None:
                grad = torch.ops.aten.threshold_backward(grad, out, 0)
            kernels = _scaled(weight, scale, x.dtype)
            needs = (need_x, need_weight or need_scale)
            if settings.matrices:
                grad_x, products = _multiply_backward(
                    grad, x, kernels, settings.stride, *needs
                )
            else:
                grad_x, products = _convolve_backward(
                    grad, x, kernels, settings, *needs
                )
            if need_scale:
                grad_scale = (products * weight).sum((2, 3, 4), dtype=scale.dtype)
            if need_weight:
                grad_weight = (products * scale[:, :, None, None, None]).sum(0)
                grad_weight = grad_weight.to(weight.dtype)
            if need_shift:
                grad_shift = grad.sum((2, 3), dtype=scale.dtype)
                grad_shift = grad_shift.sum_to_size(scale.shape)
        grad_shortcut = grad if need_shortcut else None
        return grad_x, grad_weight, grad_scale, grad_shift, grad_shortcut, None, None
