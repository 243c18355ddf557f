"""Triton kernels of the lean layers on CUDA, one for each operator of ``kernels``.

Arithmetic is float32, addresses have 64 bits; NaN passes as it does through PyTorch's
own operators. A map (N, C, H, W) is read in tiles of channels and pixels, in either
memory format. Each launcher fills the operator's outputs, its first argument.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from eca_mmdet.models.lean.kernels import quarters, tiles


@triton.jit
def _epilogue(
    y, shift, factors, shortcut, means, sizes, RELU: tl.constexpr, TILE: tl.constexpr
):
    C, HW, SC, SP, SPAN = sizes
    n, start = tl.program_id(2), tl.program_id(0) * SPAN
    c = tl.program_id(1) * TILE[0] + tl.arange(0, TILE[0])
    base = (tl.zeros([TILE[0]], tl.int64) + n) * C * HW + c.to(tl.int64) * SC
    add = tl.load(shift + c, c < C, 0.0)[:, None]
    by = 1.0
    if factors is not None:
        by = tl.load(factors + n * C + c, c < C, 0.0)[:, None]
    total = tl.zeros([TILE[0], TILE[1]], tl.float32)
    for first in range(start, tl.minimum(start + SPAN, HW), TILE[1]):
        p = first + tl.arange(0, TILE[1])
        at = base[:, None] + p[None, :].to(tl.int64) * SP
        ok = (c < C)[:, None] & (p < HW)[None, :]
        value = (tl.load(y + at, ok, 0.0).to(tl.float32) + add) * by
        if shortcut is not None:
            value += tl.load(shortcut + at, ok, 0.0).to(tl.float32)
        if RELU:
            value = tl.where(value <= 0, 0.0, value)  # NaN stays
        rounded = value.to(y.dtype.element_ty)
        tl.store(y + at, rounded, ok)
        total += tl.where(ok, rounded.to(tl.float32), 0.0)
    if means is not None:
        at = (n * C + c) * tl.num_programs(0) + tl.program_id(0)
        tl.store(means + at, tl.sum(total, 1) / HW, c < C)


def epilogue_(means: Any, y: Any, *more: Any) -> None:
    """Run ``kernels.epilogue_``; ``more`` are the operator's further arguments."""
    *tensors, relu, pooled = more
    sizes, grid, tile = tiles(y, pooled)
    outputs = means if pooled else None
    _epilogue[(*grid, len(y))](y, *tensors, outputs, sizes, relu, tile, num_warps=8)


@triton.jit
def _masked(grad, out, extra, ranges, result, sums, N, sizes, TILE: tl.constexpr):
    # One program a sample (grid z = N), or one for all (grid z = 1).
    C, HW, SC, SP, SPAN = sizes
    n, start = tl.program_id(2), tl.program_id(0) * SPAN
    c = tl.program_id(1) * TILE[0] + tl.arange(0, TILE[0])
    total = tl.zeros([TILE[0], TILE[1]], tl.float32)
    by = 1.0
    if ranges is not None:
        by = tl.load(ranges + c, c < C, 0.0)[:, None]
    for sample in range(n, tl.where(tl.num_programs(2) == 1, N, n + 1)):
        base = (tl.zeros([TILE[0]], tl.int64) + sample) * C * HW
        base += c.to(tl.int64) * SC
        more = tl.zeros([TILE[0], 1], tl.float32)
        if extra is not None:
            more += tl.load(extra + sample * C + c, c < C, 0.0)[:, None] / HW
        for first in range(start, tl.minimum(start + SPAN, HW), TILE[1]):
            p = first + tl.arange(0, TILE[1])
            at = base[:, None] + p[None, :].to(tl.int64) * SP
            ok = (c < C)[:, None] & (p < HW)[None, :]
            value = tl.load(grad + at, ok, 0.0).to(tl.float32) + more
            value = tl.where(tl.load(out + at, ok, 0.0) <= 0, 0.0, value)
            total += value
            tl.store(result + at, (value * by).to(result.dtype.element_ty), ok)
    at = (n * C + c) * tl.num_programs(0) + tl.program_id(0)
    tl.store(sums + at, tl.sum(total, 1), c < C)


def masked(outputs: Any, grad: Any, out: Any, *more: Any) -> None:
    """Run ``kernels.masked``."""
    extra, ranges, _ = more
    sizes, grid, tile = tiles(out, True)
    _masked[(*grid, len(outputs[1]))](
        *(grad, out, extra, ranges, *outputs, len(out), sizes, tile), num_warps=16
    )


@triton.jit
def _scale(gamma, variance, epsilon, half: tl.constexpr):
    """Return scale and 1 / deviation, and by what float16 kernels are divided."""
    inverse = tl.rsqrt(tl.load(variance) + epsilon)
    scale = tl.load(gamma) * inverse
    size = scale * 0 + 1
    if half:
        bits = tl.maximum(tl.abs(scale), 2.0**-12).to(tl.int32, bitcast=True)
        size = (bits & 0x7F800000).to(tl.float32, bitcast=True)
    return scale, inverse, size


@triton.jit
def _fold(
    weights, norms, kernels, shifts, ranges, sizes, COUNT: tl.constexpr, B: tl.constexpr
):
    gammas, betas, means, variances = norms
    channels, lengths, epsilons = sizes
    row, start = tl.program_id(0), 0
    for i in tl.static_range(COUNT):
        c = row - start
        if (c >= 0) & (c < channels[i]):
            kind = kernels[i].dtype.element_ty
            half: tl.constexpr = (ranges is not None) & (kind == tl.float16)
            scale, _, size = _scale(gammas[i] + c, variances[i] + c, epsilons[i], half)
            shift = tl.load(betas[i] + c) - tl.load(means[i] + c) * scale
            tl.store(shifts + row, shift)
            if half:
                tl.store(ranges + row, size)
            base = c.to(tl.int64) * lengths[i]
            for first in range(0, lengths[i], B):
                k = first + tl.arange(0, B)
                value = tl.load(weights[i] + base + k, k < lengths[i]) * (scale / size)
                tl.store(kernels[i] + base + k, value.to(kind), k < lengths[i])
        start += channels[i]


def fold(outputs: Any, weights: Any, norms: Any, epsilons: Any, *_: Any) -> None:
    """Run ``kernels.fold``."""
    *kernels, shifts, ranges = outputs
    sizes = _rows(weights, epsilons)
    _fold[(len(shifts),)](
        *(tuple(weights), quarters(norms), tuple(kernels), shifts),
        *(ranges if len(ranges) else None, sizes, len(weights), 512),
    )


@triton.jit
def _fold_backward(
    grads,
    weights,
    norms,
    results,
    of_gammas,
    sizes,
    COUNT: tl.constexpr,
    B: tl.constexpr,
):
    gammas, grad_shifts, means, variances = norms
    channels, lengths, epsilons = sizes
    row, start = tl.program_id(0), 0
    for i in tl.static_range(COUNT):
        c = row - start
        if (c >= 0) & (c < channels[i]):
            half: tl.constexpr = grads[i].dtype.element_ty == tl.float16
            scale, inverse, size = _scale(
                gammas[i] + c, variances[i] + c, epsilons[i], half
            )
            total = tl.zeros([B], tl.float32)
            base = c.to(tl.int64) * lengths[i]
            for first in range(0, lengths[i], B):
                k = first + tl.arange(0, B)
                ok = k < lengths[i]
                grad = tl.load(grads[i] + base + k, ok, 0.0).to(tl.float32)
                total += grad * tl.load(weights[i] + base + k, ok, 0.0)
                tl.store(results[i] + base + k, grad * (scale / size), ok)
            of_scale = tl.sum(total) / size
            of_scale -= tl.load(means[i] + c) * tl.load(grad_shifts[i] + c)
            tl.store(of_gammas + row, of_scale * inverse)
        start += channels[i]


def fold_backward(
    outputs: Any, grads: Any, grad_shifts: Any, weights: Any, norms: Any, epsilons: Any
) -> None:
    """Run ``kernels.fold_backward``."""
    *results, of_gammas = outputs
    gammas, _, *statistics = quarters(norms)
    _fold_backward[(len(of_gammas),)](
        *(tuple(grads), tuple(weights), (gammas, tuple(grad_shifts), *statistics)),
        *(tuple(results), of_gammas, _rows(weights, epsilons), len(weights), 512),
    )


def _rows(weights: list[Tensor], epsilons: list[float]) -> tuple[Any, ...]:
    lengths = tuple(weight[0].numel() for weight in weights)
    return tuple(map(len, weights)), lengths, tuple(epsilons)


@triton.jit
def _gated_gradients(
    products, kernel, factors, shift, sums, grads, N, C, K, B: tl.constexpr
):
    c = tl.program_id(0)
    row = c.to(tl.int64)
    of_shift = 0.0
    for n in range(N):
        total = tl.zeros([B], tl.float32)
        for first in range(0, K, B):
            k = first + tl.arange(0, B)
            product = tl.load(products + (row + n * C) * K + k, k < K, 0.0)
            total += product.to(tl.float32) * tl.load(kernel + row * K + k, k < K, 0.0)
        pixels = tl.load(sums + n * C + c)
        of_factor = tl.sum(total) + tl.load(shift + c) * pixels
        tl.store(grads[1] + n * C + c, of_factor)
        of_shift += tl.load(factors + n * C + c) * pixels
    tl.store(grads[2] + c, of_shift)
    for first in range(0, K, B):
        k = first + tl.arange(0, B)
        total = tl.zeros([B], tl.float32)
        for n in range(N):
            product = tl.load(products + (row + n * C) * K + k, k < K, 0.0)
            total += product.to(tl.float32) * tl.load(factors + n * C + c)
        tl.store(grads[0] + row * K + k, total, k < K)


def gated_gradients(outputs: Any, products: Any, *vectors: Any) -> None:
    """Run ``kernels.gated_gradients``."""
    samples, channels, inputs = products.shape
    block = min(512, triton.next_power_of_2(inputs))
    _gated_gradients[(channels,)](
        products, *vectors, tuple(outputs), samples, channels, inputs, block
    )
