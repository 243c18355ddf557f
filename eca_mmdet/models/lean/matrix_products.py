"""A 1x1 convolution as matrix products, one a sample.

On a CPU they take less time than the convolution that PyTorch runs, the larger the map
the less (``benchmarks/benchmark_layers.py``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def forward(
    x: Tensor, kernels: Tensor, shift: Tensor, shortcut: Tensor | None, stride: Any
) -> Tensor:
    """Return ``kernels x + shift + shortcut``.

    Args:
        x: (N, K, H, W).
        kernels: (N or 1, C, K, 1, 1).
        shift: (N or 1, C), of x's dtype or, added after the product, wider.
        shortcut: of the result's shape, not written to; None for 0.
        stride: vertical and horizontal.

    Returns:
        (N, C, H / stride, W / stride), rounded up, in x's memory format.
    """
    last = _is_channels_last(x)
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


def backward(
    grad: Tensor,
    x: Tensor,
    kernels: Tensor,
    stride: Any,
    need_x: bool,
    need_kernels: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of x and of kernels, as :func:`forward` takes them."""
    last = _is_channels_last(x)
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


def _is_channels_last(x: Tensor) -> bool:
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
