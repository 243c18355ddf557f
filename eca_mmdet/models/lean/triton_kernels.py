"""Triton kernels of the lean layers on CUDA, one for each operator of ``kernels``.

Arithmetic is float32; NaN passes as it does through PyTorch's own operators. A map
(N, C, H, W) is read in tiles of BC channels and BP pixels, in either memory format.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from eca_mmdet.models.lean.kernels import fold_outputs


@triton.jit
def _epilogue(
    y,
    shift,
    factors,
    shortcut,
    means,
    C,
    HW,
    SC,
    SP,
    SPAN,
    RELU: tl.constexpr,
    FACTORS: tl.constexpr,
    SHORTCUT: tl.constexpr,
    POOLED: tl.constexpr,
    BC: tl.constexpr,
    BP: tl.constexpr,
):
    n = tl.program_id(2)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    start = tl.program_id(0) * SPAN
    base = n.to(tl.int64) * C * HW
    add = tl.load(shift + c, c < C, 0.0)[:, None]
    if FACTORS:
        by = tl.load(factors + n * C + c, c < C, 0.0)[:, None]
    total = tl.zeros([BC, BP], tl.float32)
    for first in range(start, tl.minimum(start + SPAN, HW), BP):
        p = first + tl.arange(0, BP)
        ok = (c < C)[:, None] & (p < HW)[None, :]
        at = base + c[:, None] * SC + p[None, :] * SP
        value = tl.load(y + at, ok, 0.0).to(tl.float32) + add
        if FACTORS:
            value *= by
        if SHORTCUT:
            value += tl.load(shortcut + at, ok, 0.0).to(tl.float32)
        if RELU:
            value = tl.where(value <= 0, 0.0, value)  # NaN stays
        rounded = value.to(y.dtype.element_ty)
        tl.store(y + at, rounded, ok)
        if POOLED:
            total += tl.where(ok, rounded.to(tl.float32), 0.0)
    if POOLED:
        chunks = tl.num_programs(0)
        at = (n * C + c) * chunks + tl.program_id(0)
        tl.store(means + at, tl.sum(total, 1) / HW, c < C)


@triton.jit
def _masked(
    grad,
    out,
    extra,
    ranges,
    result,
    sums,
    N,
    C,
    HW,
    SC,
    SP,
    SPAN,
    EXTRA: tl.constexpr,
    RANGES: tl.constexpr,
    BC: tl.constexpr,
    BP: tl.constexpr,
):
    # One program a sample (grid z = N), or one for all (grid z = 1).
    alone = tl.num_programs(2) == 1
    n = tl.program_id(2)
    end = tl.where(alone, N, n + 1)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    start = tl.program_id(0) * SPAN
    total = tl.zeros([BC, BP], tl.float32)
    if RANGES:
        by = tl.load(ranges + c, c < C, 0.0)[:, None]
    for sample in range(n, end):
        base = (tl.zeros([BC], tl.int64) + sample) * C * HW + c * SC
        if EXTRA:
            more = tl.load(extra + sample * C + c, c < C, 0.0)[:, None] / HW
        for first in range(start, tl.minimum(start + SPAN, HW), BP):
            p = first + tl.arange(0, BP)
            ok = (c < C)[:, None] & (p < HW)[None, :]
            at = base[:, None] + p[None, :] * SP
            value = tl.load(grad + at, ok, 0.0).to(tl.float32)
            if EXTRA:
                value += more
            value = tl.where(tl.load(out + at, ok, 0.0) <= 0, 0.0, value)
            total += value
            if RANGES:
                value *= by
            tl.store(result + at, value.to(result.dtype.element_ty), ok)
    at = (n * C + c) * tl.num_programs(0) + tl.program_id(0)
    tl.store(sums + at, tl.sum(total, 1), c < C)


@triton.jit
def _range(scale):
    """Return the power of two at or below |scale|, at least 2**-12."""
    size = tl.maximum(tl.abs(scale), 2.0**-12)
    bits = size.to(tl.int32, bitcast=True) & 0x7F800000
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _fold(
    weights,
    gammas,
    betas,
    means,
    variances,
    kernels,
    shifts,
    ranges,
    channels,
    lengths,
    epsilons,
    COUNT: tl.constexpr,
    RANGED: tl.constexpr,
    B: tl.constexpr,
):
    row = tl.program_id(0)
    start = 0
    for i in tl.static_range(COUNT):
        c = row - start
        if (c >= 0) & (c < channels[i]):
            scale = tl.load(gammas[i] + c) * tl.rsqrt(
                tl.load(variances[i] + c) + epsilons[i]
            )
            shift = tl.load(betas[i] + c) - tl.load(means[i] + c) * scale
            tl.store(shifts + row, shift)
            if RANGED and kernels[i].dtype.element_ty == tl.float16:
                size = _range(scale)
                tl.store(ranges + row, size)
                scale = scale / size
            base = c.to(tl.int64) * lengths[i]
            for first in range(0, lengths[i], B):
                k = first + tl.arange(0, B)
                ok = k < lengths[i]
                value = tl.load(weights[i] + base + k, ok) * scale
                tl.store(
                    kernels[i] + base + k, value.to(kernels[i].dtype.element_ty), ok
                )
        start += channels[i]


@triton.jit
def _fold_backward(
    grads,
    grad_shifts,
    weights,
    gammas,
    means,
    variances,
    grad_weights,
    grad_gammas,
    channels,
    lengths,
    epsilons,
    COUNT: tl.constexpr,
    B: tl.constexpr,
):
    row = tl.program_id(0)
    start = 0
    for i in tl.static_range(COUNT):
        c = row - start
        if (c >= 0) & (c < channels[i]):
            inverse = tl.rsqrt(tl.load(variances[i] + c) + epsilons[i])
            scale = tl.load(gammas[i] + c) * inverse
            size = 1.0
            if grads[i].dtype.element_ty == tl.float16:
                size = _range(scale)
            total = tl.zeros([B], tl.float32)
            base = c.to(tl.int64) * lengths[i]
            for first in range(0, lengths[i], B):
                k = first + tl.arange(0, B)
                ok = k < lengths[i]
                grad = tl.load(grads[i] + base + k, ok, 0.0).to(tl.float32)
                total += grad * tl.load(weights[i] + base + k, ok, 0.0)
                tl.store(grad_weights[i] + base + k, grad * (scale / size), ok)
            of_scale = tl.sum(total) / size
            of_scale -= tl.load(means[i] + c) * tl.load(grad_shifts[i] + c)
            tl.store(grad_gammas + row, of_scale * inverse)
        start += channels[i]


@triton.jit
def _gated_gradients(
    products,
    kernel,
    factors,
    shift,
    sums,
    grad_kernel,
    grad_factors,
    grad_shift,
    N,
    C,
    K,
    B: tl.constexpr,
):
    c = tl.program_id(0)
    row = c.to(tl.int64)
    base = row * K
    of_shift = 0.0
    for n in range(N):
        total = tl.zeros([B], tl.float32)
        for first in range(0, K, B):
            k = first + tl.arange(0, B)
            product = tl.load(products + (row + n * C) * K + k, k < K, 0.0)
            total += product.to(tl.float32) * tl.load(kernel + base + k, k < K, 0.0)
        pixels = tl.load(sums + n * C + c)
        of_factor = tl.sum(total) + tl.load(shift + c) * pixels
        tl.store(grad_factors + n * C + c, of_factor)
        of_shift += tl.load(factors + n * C + c) * pixels
    tl.store(grad_shift + c, of_shift)
    for first in range(0, K, B):
        k = first + tl.arange(0, B)
        total = tl.zeros([B], tl.float32)
        for n in range(N):
            product = tl.load(products + (row + n * C) * K + k, k < K, 0.0)
            total += product.to(tl.float32) * tl.load(factors + n * C + c)
        tl.store(grad_kernel + base + k, total, k < K)


def _tiles(x: Tensor, whole: bool) -> tuple[tuple[int, ...], tuple[int, int], Any]:
    """Return sizes for a kernel, programs over pixels and channels, and blocks.

    ``whole``: all pixels of a channel in one program, if its pixels are contiguous.
    """
    channels, pixels = x.shape[1], x.shape[2] * x.shape[3]
    if x.is_contiguous():
        block, tile, strides = 1, min(2048, triton.next_power_of_2(pixels)), (pixels, 1)
        span = pixels if whole else 2 * tile
    else:
        block = min(64, triton.next_power_of_2(channels))
        tile, strides = 2048 // block, (1, channels)
        span = 16 * tile
    grid = triton.cdiv(pixels, span), triton.cdiv(channels, block)
    return (channels, pixels, *strides, span), grid, dict(BC=block, BP=tile)


def epilogue_(
    y: Tensor,
    shift: Tensor,
    factors: Tensor | None,
    shortcut: Tensor | None,
    relu: bool,
    pooled: bool,
) -> Tensor:
    """Run ``kernels.epilogue_``."""
    sizes, grid, blocks = _tiles(y, pooled)
    means = y.new_empty((*y.shape[:2], grid[0] if pooled else 0), dtype=torch.float32)
    _epilogue[(*grid, len(y))](
        *(y, shift, factors, shortcut, means, *sizes),
        RELU=relu,
        FACTORS=factors is not None,
        SHORTCUT=shortcut is not None,
        POOLED=pooled,
        num_warps=8,
        **blocks,
    )
    return means


def masked(
    grad: Tensor,
    out: Tensor,
    extra: Tensor | None,
    ranges: Tensor | None,
    by_sample: bool,
) -> tuple[Tensor, Tensor]:
    """Run ``kernels.masked``."""
    sizes, grid, blocks = _tiles(out, True)
    result = torch.empty_like(out)
    samples = len(out) if by_sample else 1
    sums = out.new_empty((samples, out.shape[1], grid[0]), dtype=torch.float32)
    _masked[(*grid, samples)](
        *(grad, out, extra, ranges, result, sums, len(out), *sizes),
        EXTRA=extra is not None,
        RANGES=ranges is not None,
        num_warps=16,
        **blocks,
    )
    return result, sums


def fold(
    weights: list[Tensor],
    norms: list[Tensor],
    epsilons: list[float],
    dtype: torch.dtype,
    floats: list[bool],
    ranged: bool,
) -> list[Tensor]:
    """Run ``kernels.fold``."""
    outputs = fold_outputs(weights, norms, epsilons, dtype, floats, ranged)
    *kernels, shifts, ranges = outputs
    count = len(weights)
    gammas, betas, means, variances = (
        tuple(norms[i : i + count]) for i in range(0, 4 * count, count)
    )
    _fold[(len(shifts),)](
        *(tuple(weights), gammas, betas, means, variances, tuple(kernels)),
        *(shifts, ranges, *_rows(weights), tuple(epsilons)),
        COUNT=count,
        RANGED=len(ranges) > 0,
        B=512,
    )
    return outputs


def fold_backward(
    grads: list[Tensor],
    grad_shifts: list[Tensor],
    weights: list[Tensor],
    norms: list[Tensor],
    epsilons: list[float],
) -> list[Tensor]:
    """Run ``kernels.fold_backward``."""
    *results, flat, _ = fold_outputs(
        weights, norms, epsilons, torch.float32, [True] * len(weights), False
    )
    count = len(weights)
    gammas, _, means, variances = (
        tuple(norms[i : i + count]) for i in range(0, 4 * count, count)
    )
    _fold_backward[(len(flat),)](
        *(tuple(grads), tuple(grad_shifts), tuple(weights), gammas, means, variances),
        *(tuple(results), flat, *_rows(weights), tuple(epsilons)),
        COUNT=count,
        B=512,
    )
    return [*results, flat]


def _rows(weights: list[Tensor]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(map(len, weights)), tuple(w[0].numel() for w in weights)


def gated_gradients(
    products: Tensor, kernel: Tensor, factors: Tensor, shift: Tensor, sums: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Run ``kernels.gated_gradients``."""
    samples, channels, inputs = products.shape
    grad_kernel, grad_factors, grad_shift = map(
        torch.empty_like, (kernel, factors, shift)
    )
    _gated_gradients[(channels,)](
        *(products, kernel, factors, shift, sums),
        *(grad_kernel, grad_factors, grad_shift, samples, channels, inputs),
        B=min(512, triton.next_power_of_2(inputs)),
    )
    return grad_kernel, grad_factors, grad_shift
