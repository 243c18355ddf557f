"""Operators of the lean layers: one kernel each on CUDA (Triton), eager elsewhere.

They are called through ``torch.ops.eca_mmdet``, so that dispatch modes and fake tensors
see one operator with its inputs and outputs.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from eca_mmdet import compat

logger = logging.getLogger(__name__)

_LIBRARY: Any = getattr(torch.library, 'Library')('eca_mmdet', 'DEF')  # noqa: B009
_OPS: Any = torch.ops.eca_mmdet
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@functools.cache
def _triton() -> Any:
    """Return the module of kernels, or None: Triton 3.3 (torch 2.7) takes tuples."""
    try:
        version = importlib.import_module('triton').__version__
    except (ImportError, AttributeError):
        return None
    if tuple(map(int, version.split('.')[:2])) < (3, 3):
        return None
    return importlib.import_module('eca_mmdet.models.lean.triton_kernels')


def is_cuda(x: Tensor) -> bool:
    """Tell whether cuDNN convolves x: 1x1 convolutions are no matrix products then."""
    return x.is_cuda


def is_fused(x: Tensor) -> bool:
    """Tell whether these operators are one kernel each for tensors like x."""
    if not x.is_cuda or x.dtype not in _FLOATS or _triton() is None:
        return False
    if x.device not in _working:
        _working[x.device] = True  # while they are compared
        with compat.no_dispatch_modes():  # which would count this, or make it fake
            _working[x.device] = x.device.type != 'cuda' or _works_on(x.device)
    return _working[x.device]


_working: dict[torch.device, bool] = {}


def _works_on(device: torch.device) -> bool:
    """Compare each kernel on a GPU with PyTorch's operators on the CPU, once."""
    generator = torch.Generator('cpu').manual_seed(0)
    draw = functools.partial(
        torch.rand, generator=generator, dtype=torch.float32, device='cpu'
    )
    maps = [draw(2, 8, 5, 7) - 0.5 for _ in range(3)]
    by_sample, vectors = draw(2, 8), [draw(8) + 0.5 for _ in range(4)]
    weight, product = draw(8, 6, 1, 1), draw(2, 8, 6)
    calls: tuple[tuple[Callable[..., Any], Any], ...] = (
        (epilogue_, (maps[0], vectors[0], by_sample, maps[1], True, True)),
        (masked, (maps[1], maps[2], by_sample, vectors[0], True)),
        (fold, ([weight], vectors, [1e-5], [torch.float32], False)),
        (fold_backward, ([weight], vectors[:1], [weight], vectors, [1e-5], [True] * 2)),
        (
            gated_gradients,
            (product, weight[:, :, 0, 0], by_sample, vectors[0], by_sample),
        ),
    )
    try:
        for function, args in calls:
            there = tree_map_only(Tensor, lambda one: one.to(device, copy=True), args)
            expected = tree_leaves((function(*args), args))
            for own, wanted in zip(
                tree_leaves((function(*there), there)), expected, strict=True
            ):
                if isinstance(own, Tensor):
                    torch.testing.assert_close(own.cpu(), wanted, atol=1e-4, rtol=1e-3)
    except Exception as error:  # Triton, its compiler and the driver raise many kinds
        reason = str(error).strip().splitlines() or [type(error).__name__]
        logger.warning(
            'the Triton kernels of the lean backbone do not work on %s (%s); '
            "PyTorch's operators compute the same in more passes",
            *(device, reason[0]),
        )
        return False
    return True


def _are_fused(*tensors: Tensor) -> bool:
    """Tell whether ``is_fused``, and these are dense and float32."""
    return is_fused(tensors[0]) and all(
        one.dtype == torch.float32 and (one.is_contiguous() or is_channels_last(one))
        for one in tensors
    )


_RUNS: dict[str, Callable[..., Any]] = {}


def _operator(schema: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Define an operator by its schema and the function that makes its outputs."""

    def define(outputs: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            made = outputs(*args)
            first = next(leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor))
            # Triton launches on the current device.
            with torch.cuda.device_of(first):  # type: ignore[no-untyped-call]
                getattr(_triton(), name)(made, *args)
            return made

        name = schema.partition('(')[0]
        _LIBRARY.define(schema)
        torch.library.register_fake(f'eca_mmdet::{name}', outputs, lib=_LIBRARY)
        _RUNS[name] = run
        return outputs

    return define


def implement(device: str) -> None:
    """Register the Triton kernels for a device: 'CUDA', or 'CPU' in its interpreter."""
    for name, run in _RUNS.items():
        _LIBRARY.impl(name, run, device)


def tiles(x: Tensor, whole: bool) -> tuple[tuple[int, ...], tuple[int, int], Any]:
    """Return sizes for a kernel, programs over pixels and channels, and a tile's sides.

    ``whole``: all pixels of a channel in one program, if its pixels are contiguous.
    """
    channels, pixels = x.shape[1], max(1, x.shape[2] * x.shape[3])
    if x.is_contiguous():
        tile, strides = (1, min(2048, 1 << (pixels - 1).bit_length())), (pixels, 1)
        span = pixels if whole else 2 * tile[1]
    else:
        block = min(64, 1 << (channels - 1).bit_length())
        tile, strides = (block, 2048 // block), (1, channels)
        span = 16 * tile[1]
    grid = -(-pixels // span), -(-channels // tile[0])
    return (channels, pixels, *strides, span), grid, tile


def is_channels_last(x: Tensor) -> bool:
    """Tell whether channels come last in memory, and only so."""
    last = x.is_contiguous(memory_format=torch.channels_last)
    return last and not x.is_contiguous()


def like(x: Tensor, other: Tensor) -> Tensor:
    """Return x in the memory format of ``other``, itself where it has that."""
    last = is_channels_last(other)
    return x.contiguous(
        memory_format=torch.channels_last if last else torch.contiguous_format
    )


def wide(x: Tensor) -> Tensor:
    """Return x in float32 or wider, as the kernels of batch norm compute."""
    return x.float() if x.dtype.itemsize < 4 else x


def by_channel(vector: Tensor) -> Tensor:
    """(C,) or (N, C) to a shape that broadcasts with (N, C, H, W)."""
    return vector[..., None, None]


def epilogue_(
    y: Tensor,
    shift: Tensor,
    factors: Tensor | None = None,
    shortcut: Tensor | None = None,
    relu: bool = False,
    pooled: bool = False,
) -> Tensor:
    """Make y ``relu(factors * (y + shift) + shortcut)``; return its means.

    Args:
        y: (N, C, H, W), dense.
        shift: (C,), float32 or wider.
        factors: (N, C) of shift's dtype.
        shortcut: like y.
        relu: False leaves the ReLU out.
        pooled: whether to return means.

    Returns:
        (N, C, P) parts that sum to the means over pixels, or an empty tensor.
    """
    if is_fused(y):
        shortcut = None if shortcut is None else like(shortcut, y)
        factors = None if factors is None else factors.contiguous()
        return _OPS.epilogue_(y, shift, factors, shortcut, relu, pooled)  # type: ignore[no-any-return]
    value = y + by_channel(shift)
    if factors is not None:
        value.mul_(by_channel(factors))
    if shortcut is not None:
        value.add_(shortcut)
    y.copy_(value.relu_() if relu else value)
    return pixel_means(y)[..., None] if pooled else shift.new_empty((*y.shape[:2], 0))


def pixel_means(x: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C), float32 or wider."""
    return x.mean((2, 3), dtype=torch.promote_types(x.dtype, torch.float32))


def masked(
    grad: Tensor,
    out: Tensor,
    extra: Tensor | None = None,
    ranges: Tensor | None = None,
    by_sample: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the gradient before a ReLU and shift, times ``ranges``, and its sums.

    Args:
        grad: (N, C, H, W), of the ReLU's result ``out``.
        out: like grad, dense.
        extra: (N, C), gradient of the means of ``out``.
        ranges: (C,), applied after the sums.
        by_sample: sums over pixels only, not over samples.

    Returns:
        The gradient, like ``out``, and (M, C) sums, M = N or 1, float32 or wider.
    """
    if is_fused(out):
        extra = None if extra is None else extra.contiguous()
        result, sums = _OPS.masked(like(grad, out), out, extra, ranges, by_sample)
        return result, sums[..., 0] if sums.shape[2] == 1 else sums.sum(2)
    if extra is not None:
        pixels = max(1, out.shape[2] * out.shape[3])
        grad = wide(grad) + by_channel(extra / pixels)  # half precision would lose it
    grad = torch.ops.aten.threshold_backward(grad, out.to(grad.dtype), 0)
    sums = pixel_sums(grad, by_sample)
    if ranges is not None:
        grad = grad * by_channel(ranges)
    return grad.to(out.dtype), sums


def range_of(scale: Tensor) -> Tensor:
    """Return the power of two at or below |scale|, at least 2**-12: (C,) float32."""
    bits = scale.abs().clamp_min(2.0**-12).view(torch.int32)
    return (bits & 0x7F800000).view(torch.float32)


def pixel_sums(grad: Tensor, by_sample: bool) -> Tensor:
    """(N, C, H, W) to (N, C), or (1, C) over samples as well; float32 or wider."""
    dtype = torch.promote_types(grad.dtype, torch.float32)
    sums = grad.sum((2, 3) if by_sample else (0, 2, 3), dtype=dtype)
    return sums if by_sample else sums[None]


def _scale(gamma: Tensor, variance: Tensor, epsilon: float) -> Tensor:
    return wide(gamma) * torch.rsqrt(wide(variance) + epsilon)


def fold(
    weights: list[Tensor],
    norms: list[Tensor],
    epsilons: list[float],
    dtypes: list[torch.dtype],
    ranged: bool,
) -> tuple[list[Tensor], list[Tensor], list[Tensor | None]]:
    """Fold batch norms with fixed statistics into the convolutions before them.

    Args:
        weights: (C, K, h, w) of each convolution, dense.
        norms: all weights, then all biases, means, and variances, (C,) each.
        epsilons: one a norm.
        dtypes: of the kernels.
        ranged: divide float16 kernels by their ``range_of`` the scale.

    Returns:
        Kernels, scale * weight, in the weights' memory formats; shifts (C,), float32 or
        wider; and ranges, (C,) where a kernel was divided, otherwise None.
    """
    if _are_fused(*weights, *norms):
        half = next((dtype for dtype in dtypes if dtype.itemsize < 4), torch.float32)
        floats = [dtype.itemsize >= 4 for dtype in dtypes]
        *kernels, shift, size = _OPS.fold(
            weights, norms, epsilons, half, floats, ranged
        )
        channels = [len(weight) for weight in weights]
        shifts = list(shift.split(channels))
        parts = size.split(channels) if len(size) else [None] * len(channels)
        sizes = [
            part if dtype == torch.float16 else None
            for part, dtype in zip(parts, dtypes, strict=True)
        ]
        return kernels, shifts, sizes
    gammas, betas, means, variances = quarters(norms)
    kernels, shifts, sizes = [], [], []
    for i, (weight, dtype) in enumerate(zip(weights, dtypes, strict=True)):
        scale = _scale(gammas[i], variances[i], epsilons[i])
        shifts.append(torch.addcmul(wide(betas[i]), wide(means[i]), scale, value=-1))
        sizes.append(range_of(scale) if ranged and dtype == torch.float16 else None)
        scale = scale if sizes[-1] is None else scale / sizes[-1]
        kernels.append(
            torch.mul(
                weight,
                by_channel(scale)[:, None],
                out=torch.empty_like(weight, dtype=dtype),
            )
        )
    return kernels, shifts, sizes


def fold_backward(
    grads: list[Tensor | None],
    grad_shifts: list[Tensor | None],
    weights: list[Tensor],
    norms: list[Tensor],
    epsilons: list[float],
    needs: list[bool],
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Return the gradients of ``fold``'s weights and of the norms' weights.

    Args:
        grads: of the kernels; of float16 ones, times their ranges.
        grad_shifts: of the shifts, (C,).
        weights: as ``fold`` takes them.
        norms: as ``fold`` takes them.
        epsilons: as ``fold`` takes them.
        needs: whether each weight, then whether each norm's weight wants one.
    """
    count = len(weights)
    gammas, betas, means, variances = quarters(norms)
    of_shifts = [
        torch.zeros_like(wide(beta)) if grad is None else grad.contiguous()
        for grad, beta in zip(grad_shifts, betas, strict=True)
    ]
    if _are_fused(*weights, *norms) and any(needs):
        dense = [
            torch.zeros_like(weight) if grad is None else like(grad, weight)
            for grad, weight in zip(grads, weights, strict=True)
        ]
        *made, flat = _OPS.fold_backward(dense, of_shifts, weights, norms, epsilons)
        pairs = zip(made, grads, strict=True)
        of_weights = [None if grad is None else one for one, grad in pairs]
        return of_weights, list(flat.split([len(weight) for weight in weights]))
    results: list[Tensor | None] = [None] * count
    of_gammas: list[Tensor | None] = [None] * count
    for i, (weight, grad) in enumerate(zip(weights, grads, strict=True)):
        inverse = torch.rsqrt(wide(variances[i]) + epsilons[i])
        scale = wide(gammas[i]) * inverse
        half = grad is not None and grad.dtype == torch.float16
        size = range_of(scale) if half else None
        if needs[i] and grad is not None:
            by = by_channel(scale if size is None else scale / size)[:, None]
            results[i] = torch.mul(grad, by, out=torch.empty_like(weight))
        if needs[count + i]:
            of_scale = torch.zeros_like(scale)
            if grad is not None:
                of_scale = (grad * weight).sum((1, 2, 3), dtype=scale.dtype)
                of_scale = of_scale if size is None else of_scale / size
            of_scale = torch.addcmul(of_scale, wide(means[i]), of_shifts[i], value=-1)
            of_gammas[i] = (of_scale * inverse).to(gammas[i].dtype)
    return results, of_gammas


def quarters(norms: list[Tensor]) -> tuple[tuple[Tensor, ...], ...]:
    """Return weights, biases, means and variances of norms in one list."""
    count = len(norms) // 4
    return tuple(tuple(norms[i : i + count]) for i in range(0, 4 * count, count))


def gated_gradients(
    products: Tensor, kernel: Tensor, factors: Tensor, shift: Tensor, sums: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of kernel, factors and shift of a gated 1x1 convolution.

    Args:
        products: (N, C, K), gradient of each sample's output times its input.
        kernel: (C, K), float32 or wider.
        factors: (N, C), the gate.
        shift: (C,).
        sums: (N, C), the output's gradient summed over pixels.
    """
    if is_fused(products):
        return _OPS.gated_gradients(  # type: ignore[no-any-return]
            *(products.contiguous(), kernel.contiguous(), factors.contiguous()),
            *(shift, sums.contiguous()),
        )
    grad_factors = torch.addcmul(
        (products * kernel).sum(2, dtype=shift.dtype), shift, sums
    )
    grad_kernel = (products * factors[..., None]).sum(0, dtype=shift.dtype)
    return grad_kernel, grad_factors, (factors * sums).sum(0)


@_operator(
    'epilogue_(Tensor(a!) y, Tensor shift, Tensor? factors, Tensor? shortcut, '
    'bool relu, bool pooled) -> Tensor'
)
def _epilogue_outputs(y: Tensor, *rest: Any) -> Tensor:
    parts = tiles(y, True)[1][0] if rest[-1] else 0
    return y.new_empty((*y.shape[:2], parts), dtype=torch.float32)


@_operator(
    'masked(Tensor grad, Tensor out, Tensor? extra, Tensor? ranges, bool by_sample) '
    '-> (Tensor, Tensor)'
)
def _masked_outputs(grad: Tensor, out: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    shape = (len(out) if rest[-1] else 1, out.shape[1], tiles(out, True)[1][0])
    return torch.empty_like(out), out.new_empty(shape, dtype=torch.float32)


@_operator(
    'fold(Tensor[] weights, Tensor[] norms, float[] epsilons, ScalarType half, '
    'bool[] floats, bool ranged) -> Tensor[]'
)
def _fold_outputs(weights: list[Tensor], *rest: Any) -> list[Tensor]:
    _, _, half, floats, ranged = rest
    kernels = [
        torch.empty_like(weight, dtype=torch.float32 if is_float else half)
        for weight, is_float in zip(weights, floats, strict=True)
    ]
    rows, first = sum(map(len, weights)), weights[0]
    sizes = rows if ranged and half == torch.float16 else 0
    return [*kernels, first.new_empty(rows), first.new_empty(sizes)]


@_operator(
    'fold_backward(Tensor[] grads, Tensor[] grad_shifts, Tensor[] weights, '
    'Tensor[] norms, float[] epsilons) -> Tensor[]'
)
def _fold_backward_outputs(*args: Any) -> list[Tensor]:
    weights = args[2]
    rows = sum(map(len, weights))
    return [*map(torch.empty_like, weights), weights[0].new_empty(rows)]


@_operator(
    'gated_gradients(Tensor products, Tensor kernel, Tensor factors, Tensor shift, '
    'Tensor sums) -> (Tensor, Tensor, Tensor)'
)
def _gated_outputs(products: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
    return tuple(map(torch.empty_like, rest[:3]))


implement('CUDA')
