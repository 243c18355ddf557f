"""ReLU and max pooling as one operation that keeps no full-size map.

relu(max(x)) = max(relu(x)). Pooling first leaves one small result to keep, where max
pooling by itself keeps its whole input, the largest map of a ResNet, for its shape.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eca_mmdet.models.lean.folding import bypassable, refuse_double_backward


def relu_max_pool(x: Tensor, relu: nn.Module, pool: nn.Module) -> Tensor:
    """Return ``pool(relu(x))``.

    Args:
        x: (N, C, H, W); may be written to.
        relu: ``nn.ReLU``; another activation is called.
        pool: ``nn.MaxPool2d``; another layer is called.
    """
    kinds = type(relu) is nn.ReLU and type(pool) is nn.MaxPool2d
    if not kinds or pool.return_indices or not torch.is_grad_enabled():
        return pool(relu(x))  # type: ignore[no-any-return]
    if not bypassable(relu, pool):
        return pool(relu(x))  # type: ignore[no-any-return]
    settings = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    return _ReluMaxPool.apply(x, tuple(map(_pair, settings)), pool.ceil_mode)  # type: ignore[no-any-return]


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


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
        last = x.is_contiguous(memory_format=torch.channels_last)
        ctx.last = last and not x.is_contiguous()
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_double_backward()
        out, indices = ctx.saved_tensors
        form = torch.channels_last if ctx.last else torch.contiguous_format
        # PyTorch's kernel asks for the input, and reads its shape and format alone.
        shape = torch.empty(
            ctx.size, dtype=grad.dtype, device=grad.device, memory_format=form
        )
        grad = torch.ops.aten.threshold_backward(grad, out, 0)
        grad_x = torch.ops.aten.max_pool2d_with_indices_backward(
            grad, shape, *ctx.settings, ctx.ceil_mode, indices
        )
        return grad_x, None, None
