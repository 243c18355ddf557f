"""A convolution with a norm and a gate folded in, and what follows it.

out = relu(s (conv(x, w) + b) + shortcut), with w and b by output channel and a gate s
by sample and output channel. A gate on the weights costs next to nothing, where one on
the result would read and write C x H x W values.

Backward keeps x and out, and makes w again from the parameters. With g = dL/d(sum),
which is dL/d(out) where out > 0, the gradient G of a sample's weights s w gives both
dL/dw = sum of s G and dL/ds = sum of G w + b sum(g); nothing is divided by a parameter,
so that no value of one makes this lose precision.

On a CPU a 1x1 convolution runs as matrix products, one a sample, which take less time
than the convolution that PyTorch runs, the larger the map the less
(``benchmarks/benchmark_layers.py``). On CUDA cuDNN convolves, and shift, gate, shortcut
and ReLU are one kernel after it (``kernels.epilogue_``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eca_mmdet.models.lean import kernels as ops
from eca_mmdet.models.lean.folding import Folded, no_autocast, reject_double_backward
from eca_mmdet.models.lean.kernels import is_channels_last


class _Settings(NamedTuple):
    stride: Any
    padding: Any
    dilation: Any
    groups: int
    matrices: bool  # matrix products instead of convolutions
    relu: bool = False
    pooled: bool = False
    again: Any = None  # of Folded
    narrow: bool = False  # round shifts to the dtype of the result first


def folded_conv(
    x: Tensor,
    conv: nn.Conv2d,
    folded: Folded,
    factors: Tensor | None = None,
    shortcut: Tensor | None = None,
    relu: bool = False,
    pooled: bool = False,
) -> Any:
    """Return ``relu(factors * (conv(x, kernel) + shift) + shortcut)``.

    Args:
        x: (N, K, H, W), in the dtype that the convolution runs in.
        conv: to C channels, zero-padded; 1x1 and of stride 1 if there are factors.
        folded: its kernel and shift.
        factors: (N, C), a gate.
        shortcut: (N, C, H', W') like the result; it is not written to.
        relu: False leaves the ReLU out.
        pooled: return the result and its (N, C) means over pixels.
    """
    settings = _settings(x, conv)._replace(relu=relu, pooled=pooled, again=folded.again)
    tensors = (x, folded.kernel, folded.shift, factors, shortcut)
    with no_autocast(x):
        if torch.is_grad_enabled():
            return _FoldedConv.apply(*tensors, settings)
        return _forward(*tensors, settings._replace(narrow=True))


def pooled_output(x_means: Tensor, folded: Folded) -> tuple[Tensor, Folded]:
    """Return the (N, C) means of a 1x1 convolution's output, from its input's.

    And the convolution to go on with: gradients of both uses are added as they come.
    """
    if not torch.is_grad_enabled():
        kernel = folded.kernel.flatten(1)
        return torch.addmm(folded.shift, x_means, kernel.T), folded
    pooled, kernel, shift = _PooledOutput.apply(
        x_means, folded.kernel, folded.shift, folded.again
    )
    return pooled, Folded(kernel, shift, folded.again)


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
    matrices = is_pointwise(conv) and not ops.is_cuda(x)
    stride, padding, dilation = map(pair, (conv.stride, conv.padding, conv.dilation))
    return _Settings(stride, padding, dilation, conv.groups, matrices)


def _forward(
    x: Tensor,
    kernel: Tensor,
    shift: Tensor,
    factors: Tensor | None,
    shortcut: Tensor | None,
    settings: _Settings,
) -> Any:
    relu, pooled = settings.relu, settings.pooled
    if ops.is_cuda(x):
        out = F.conv2d(x, kernel.to(x.dtype), None, *settings[:4])
        means = ops.epilogue_(out, shift, factors, shortcut, relu, pooled)
        if pooled:
            return out, means[..., 0] if means.shape[2] == 1 else means.sum(2)
        return out
    # In training the shift stays float32: rounded to half precision it would err alike
    # at every pixel, which the gradients of a gate add up.
    dtype = x.dtype if settings.narrow else shift.dtype
    if settings.matrices:
        kernels, shifts = kernel[None].to(x.dtype), shift[None]
        if factors is not None:
            kernels, shifts = _by_sample(kernel, factors, x.dtype), shift * factors
        out = _multiply(x, kernels, shifts.to(dtype), shortcut, settings.stride)
    else:
        shift = shift.to(dtype)
        wider = shift.dtype != x.dtype
        bias = None if wider else shift
        out = F.conv2d(x, kernel.to(x.dtype), bias, *settings[:4])
        out = out.add_(ops.by_channel(shift)) if wider else out
        out = out if shortcut is None else out.add_(shortcut)
    out = out.relu_() if relu else out
    return (out, ops.pixel_means(out)) if pooled else out


def _by_sample(kernel: Tensor, factors: Tensor, dtype: torch.dtype) -> Tensor:
    """(C, K, 1, 1) and (N, C) to (N, C, K, 1, 1), rounded once to ``dtype``."""
    shape = (*factors.shape, *kernel.shape[1:])
    out = torch.empty(shape, dtype=dtype, device=kernel.device)
    return torch.mul(kernel, factors[:, :, None, None, None], out=out)


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
        with _tf32_of_convolutions(x):
            grad_x = _maps((rows @ each) if last else (each.mT @ rows), read, last)
        if read is not x:
            spread = torch.zeros_like(x)
            _strided(spread, stride).copy_(grad_x)
            grad_x = spread
    if need_kernels:
        inputs = _matrices(read, last)
        factors = (rows.mT, inputs) if last else (rows, inputs.mT)
        grad_kernels = _products(*factors)[..., None, None].sum_to_size(kernels.shape)
    return grad_x, grad_kernels


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


def _products(rows: Tensor, columns: Tensor) -> Tensor:
    """Return ``rows @ columns``, of float16 in float32, whose range the sums need."""
    if rows.dtype != torch.float16:
        with _tf32_of_convolutions(rows):
            return rows @ columns
    if rows.is_cuda and hasattr(torch.ops.aten.bmm, 'dtype'):  # torch 2.8
        return torch.ops.aten.bmm.dtype(rows, columns, torch.float32)  # type: ignore[no-any-return]
    return rows.float() @ columns.float()


@contextlib.contextmanager
def _tf32_of_convolutions(x: Tensor) -> Iterator[None]:
    """Let matrix products use TF32 where PyTorch lets cuDNN use it."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    if (
        not x.is_cuda
        or x.dtype != torch.float32
        or matmul.allow_tf32 == cudnn.allow_tf32
    ):
        yield
        return
    before, matmul.allow_tf32 = matmul.allow_tf32, cudnn.allow_tf32
    try:
        yield
    finally:
        matmul.allow_tf32 = before


class _FoldedConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        kernel: Tensor,
        shift: Tensor,
        factors: Tensor | None,
        shortcut: Tensor | None,
        settings: _Settings,
    ) -> Any:
        result = _forward(x, kernel, shift, factors, shortcut, settings)
        out = result[0] if settings.pooled else result
        ctx.save_for_backward(
            *(x, out if settings.relu else None, factors),
            shift if factors is not None else None,
            kernel if settings.again is None else None,
        )
        ctx.settings, ctx.dtypes = settings, (kernel.dtype, shift.dtype)
        return result

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor, grad_means: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        reject_double_backward()
        x, out, factors, shift, kernel = ctx.saved_tensors
        settings: _Settings = ctx.settings
        need_x, need_kernel, need_shift, need_factors, need_shortcut = (
            ctx.needs_input_grad[:5]
        )
        gated = factors is not None
        grad_kernel: Any = None
        grad_shift = grad_factors = ranges = None
        sums: Any = None
        with no_autocast(x):
            if kernel is None:
                kernel, ranges = settings.again()
            if out is not None:
                within = None if need_shortcut else ranges
                grad, sums = ops.masked(grad, out, grad_means, within, gated)
            elif need_shift:
                sums = ops.pixel_sums(grad, gated)
            inner = grad
            if ranges is not None and (out is None or need_shortcut):
                inner = grad * ops.by_channel(ranges).to(grad.dtype)
            if gated:
                kernels = _by_sample(kernel, factors, x.dtype)
                both: Any = _multiply_backward(
                    grad, x, kernels, settings.stride, need_x, True
                )
                grad_x, products = both
                grad_kernel, grad_factors, grad_shift = ops.gated_gradients(
                    products.flatten(2), kernel.flatten(1), factors, shift, sums
                )
                grad_kernel = grad_kernel[..., None, None]
            elif settings.matrices:
                grad_x, grad_kernel = _multiply_backward(
                    *(inner, x, kernel[None].to(x.dtype), settings.stride),
                    *(need_x, need_kernel),
                )
                grad_kernel = grad_kernel[0] if need_kernel else None
            else:
                grad_x, grad_kernel, _ = torch.ops.aten.convolution_backward(
                    *(inner, x, kernel.to(x.dtype), None),
                    *(settings.stride, settings.padding, settings.dilation),
                    *(False, [0, 0], settings.groups, [need_x, need_kernel, False]),
                )
            if not gated and need_shift:
                grad_shift = sums[0]
        return (
            *(grad_x, grad_kernel, grad_shift, grad_factors),
            *(grad if need_shortcut else None, None),
        )


class _PooledOutput(torch.autograd.Function):
    """The mean of a 1x1 convolution, which is one with the mean."""

    @staticmethod
    def forward(
        ctx: Any, means: Tensor, kernel: Tensor, shift: Tensor, again: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(means, kernel if again is None else None)
        ctx.again = again
        ctx.set_materialize_grads(False)
        return torch.addmm(shift, means, kernel.flatten(1).T), kernel, shift

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        reject_double_backward()
        grad, grad_kernel, grad_shift = grads
        if grad is None:
            return None, grad_kernel, grad_shift, None
        means, kernel = ctx.saved_tensors
        with no_autocast(means):
            if kernel is None:
                kernel, _ = ctx.again()
            grad_means = grad @ kernel.flatten(1)
            if grad_kernel is None:
                grad_kernel = (grad.T @ means).view_as(kernel)
            else:
                start = grad_kernel.flatten(1)
                grad_kernel = torch.addmm(start, grad.T, means).view_as(kernel)
            total = grad.sum(0)
            grad_shift = total if grad_shift is None else grad_shift + total
        return grad_means, grad_kernel, grad_shift, None
