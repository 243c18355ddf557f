"""Deformable convolution and attention with the signatures of mmcv's extension.

Source: Dai et al. 2017 and Zhu et al. 2019 (deformable convolution v1, v2), Zhu et
al. 2021 (Deformable DETR). The forward passes are torchvision's ``deform_conv2d`` and
mmcv's own pure-torch attention; each backward pass differentiates a second forward,
so training costs one forward more than with a compiled mmcv.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from eca_mmdet import compat
from eca_mmdet.mmcv_ops.library import at_least_float32, package


def _add_gradients(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    grad_output: Tensor,
    targets: Sequence[Tensor],
    scale: float = 1.0,
) -> None:
    """Add ``scale`` times the gradient by each input to its target, in place.

    torchvision's kernel adds in any order on a GPU, and does not ask PyTorch.
    """
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    required = torch.are_deterministic_algorithms_enabled() and not warned
    if grad_output.is_cuda and required:
        raise RuntimeError(
            'deformable_backward does not have a deterministic implementation.'
        )
    dtype = at_least_float32(inputs[0]).dtype
    with torch.enable_grad(), torch.autocast(grad_output.device.type, enabled=False):
        leaves = [tensor.detach().to(dtype).requires_grad_() for tensor in inputs]
        grads = torch.autograd.grad(function(*leaves), leaves, grad_output.to(dtype))
    for target, grad in zip(targets, grads, strict=True):
        target.add_(grad, alpha=scale)


def _prefix(maps: Tensor, batch: int, shape: tuple[int, ...], exact: bool) -> Tensor:
    """Read the first values of each image's maps as (batch, *shape), as mmcv does.

    mmcv's v2 kernels look at the number of values only, and DyHead relies on it: it
    gives maps of a finer level. v1 needs maps of the shape (``exact``).
    """
    count = math.prod(shape)
    if (exact and maps.shape != (batch, *shape)) or (
        len(maps) < batch or maps[:1].numel() < count
    ):
        raise RuntimeError(
            f'offsets or masks of shape {tuple(maps.shape)} do not fit: this '
            f'deformable convolution reads {(batch, *shape)}.'
        )
    return maps[:batch].flatten(1)[:, :count].reshape(batch, *shape)


def _without_outside(offset: Tensor, grid: list[Tensor]) -> Tensor:
    """Cut the gradient of samples at -1 or before, which mmcv counts as outside.

    torchvision differentiates those at exactly -1 towards the inside.

    Args:
        offset: FloatTensor[N, groups * kh * kw * 2, H', W'].
        grid: y (kh, H') and x (kw, W') of each sample without its offset.
    """
    y, x = grid
    shape = (len(offset), -1, len(y), len(x), 2, *offset.shape[2:])
    pairs = offset.reshape(shape)  # y, x
    rows = pairs.select(4, 0) + y[:, None, :, None]
    columns = pairs.select(4, 1) + x[:, None, :]
    outside = (rows <= -1) | (columns <= -1)
    return torch.where(outside.unsqueeze(4), pairs.detach(), pairs).flatten(1, 4)


def _deform_conv2d(options: dict[str, Any]) -> Callable[..., Tensor]:
    """Bind torchvision's operator to mmcv's keyword names (v1 or v2 spelling)."""
    modulated = 'stride_h' in options

    def pair(name_v2: str, name_v1: str) -> tuple[int, int]:
        if modulated:
            return options[f'{name_v2}_h'], options[f'{name_v2}_w']
        return options[f'{name_v1}H'], options[f'{name_v1}W']

    geometry = {
        'stride': pair('stride', 'd'),
        'padding': pair('pad', 'pad'),
        'dilation': pair('dilation', 'dilation'),
    }

    def run(
        x: Tensor,
        offset: Tensor,
        weight: Tensor,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        sides = zip(x.shape[2:], weight.shape[2:], *geometry.values(), strict=True)
        grid = [
            torch.arange(0, size + 2 * pad - (taps - 1) * dilation, stride)
            + (torch.arange(taps) * dilation - pad)[:, None]
            for size, taps, stride, pad, dilation in sides
        ]
        taps, samples = zip(*(side.shape for side in grid), strict=True)
        channels = options['deformable_group'] * math.prod(taps)
        offset = _prefix(offset, len(x), (2 * channels, *samples), exact=not modulated)
        if mask is not None:
            mask = _prefix(mask, len(x), (channels, *samples), exact=False)
        if offset.requires_grad:
            offset = _without_outside(offset, [side.to(offset) for side in grid])
        dtype = at_least_float32(x).dtype
        given = (x, offset, weight, bias, mask)
        *tensors, mask = (None if t is None else t.to(dtype) for t in given)
        with torch.autocast(x.device.type, enabled=False):
            return package().ops.deform_conv2d(*tensors, mask=mask, **geometry)  # type: ignore[no-any-return]

    return run


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **options: Any,
) -> None:
    """Fill ``output`` (N, C_out, H', W') with the convolution at shifted samples."""
    output.copy_(_deform_conv2d(options)(input, offset, weight))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **options: Any,
) -> None:
    """Add to the gradients of the input and of the offsets, in place."""
    run = _deform_conv2d(options)
    inputs, targets = (input, offset), (grad_input, grad_offset)
    _add_gradients(lambda x, o: run(x, o, weight), inputs, grad_output, targets)


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    scale: float = 1.0,
    **options: Any,
) -> None:
    """Add ``scale`` times the gradient of the weight, in place."""
    run = _deform_conv2d(options)
    # The convolution is linear in its weight: its gradient is the same at zero.
    inputs, targets = (torch.zeros_like(grad_weight),), (grad_weight,)
    _add_gradients(lambda w: run(input, offset, w), inputs, grad_output, targets, scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    with_bias: bool,
    **options: Any,
) -> None:
    """Fill ``output`` (N, C_out, H', W'); each sample is scaled by ``mask``."""
    run = _deform_conv2d(options)
    output.copy_(run(input, offset, weight, mask, bias if with_bias else None))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    with_bias: bool,
    **options: Any,
) -> None:
    """Add to the gradients of input, weight, bias, offsets and mask, in place."""
    inputs = [input, offset, weight, mask, bias]
    targets = [grad_input, grad_offset, grad_weight, grad_mask, grad_bias]
    count = 5 if with_bias else 4
    run = _deform_conv2d(options)
    _add_gradients(run, inputs[:count], grad_output, targets[:count])


_last_shapes: list[Any] = []
"""What identifies map sizes on a device, the same numbers on the host, the tensor."""


def _sizes(shapes: Tensor) -> list[list[int]]:
    """Return (levels, 2) heights and widths, read from the device once.

    All layers of a detector get the same tensor, or backward's alias of it. The cached
    one is kept, so that no other takes its place in memory.
    """
    if shapes.is_inference():  # without a version
        return shapes.tolist()
    key = (shapes.device, shapes.data_ptr(), shapes.shape, compat.version_of(shapes))
    if not _last_shapes or _last_shapes[0] != key:
        _last_shapes[:] = key, shapes.tolist(), shapes
    return _last_shapes[1]  # type: ignore[no-any-return]


def _attention(shapes: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Bind mmcv's attention in PyTorch to the sizes of its maps."""
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    def run(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return multi_scale_deformable_attn_pytorch(  # type: ignore[no-any-return]
            value, _sizes(shapes), locations, weights
        )

    return run


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Return FloatTensor[N, queries, channels]; shapes as mmcv documents them."""
    run = _attention(value_spatial_shapes)
    return run(value, sampling_locations, attention_weights)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Add to the gradients of value, sampling locations and weights, in place."""
    inputs = (value, sampling_locations, attention_weights)
    targets = (grad_value, grad_sampling_loc, grad_attn_weight)
    _add_gradients(_attention(value_spatial_shapes), inputs, grad_output, targets)
