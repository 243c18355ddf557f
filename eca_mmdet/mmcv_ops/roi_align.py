"""RoIAlign with the signatures of mmcv's extension.

Source: He et al., Mask R-CNN, ICCV 2017. Average pooling is torchvision's kernel;
max pooling is torchvision's kernel at one sample a bin, reduced here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eca_mmdet.mmcv_ops.library import operators

__all__ = ['roi_align_backward', 'roi_align_forward']

MAX, AVERAGE = 0, 1


def _compute_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill ``output`` (and the arg-max positions in max mode) in place.

    Args:
        input: FloatTensor[N, C, H, W]; half and bfloat16 are computed in float32.
        rois: FloatTensor[K, 5], (image, x1, y1, x2, y2) in image pixels.
        output: FloatTensor[K, C, aligned_height, aligned_width].
        argmax_y: like ``output`` in max mode, in feature pixels; otherwise empty.
        argmax_x: the same along x.
        aligned_height: bins along y.
        aligned_width: bins along x.
        spatial_scale: feature size over image size.
        sampling_ratio: samples a bin and axis; 0 or less means ceil(bin size).
        pool_mode: 0 maximum, 1 average of the samples.
        aligned: shift by half a pixel; False is MMDetection v1's convention.
    """
    dtype = _compute_dtype(input)
    features, regions = input.to(dtype), rois.to(dtype)
    size = (aligned_height, aligned_width)
    if pool_mode == MAX:
        options = (spatial_scale, sampling_ratio, aligned)
        results = (output, argmax_y, argmax_x)
        _max_forward(features, regions, results, size, options)
        return
    with torch.autocast(input.device.type, enabled=False):
        pooled = operators(features).roi_align(
            features, regions, spatial_scale, *size, sampling_ratio, aligned
        )
    output.copy_(pooled)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the features' gradient to ``grad_input``; see :func:`roi_align_forward`."""
    if not len(rois):
        return
    dtype = _compute_dtype(grad_output)
    if pool_mode == MAX:
        _max_backward(grad_output, rois, argmax_y, argmax_x, grad_input)
        return
    grad = operators(grad_output)._roi_align_backward(
        grad_output.to(dtype).contiguous(),
        rois.to(dtype),
        spatial_scale,
        aligned_height,
        aligned_width,
        *grad_input.shape,
        sampling_ratio,
        aligned,
    )
    grad_input.add_(grad)


def _max_forward(
    features: Tensor,
    rois: Tensor,
    results: tuple[Tensor, Tensor, Tensor],
    size: tuple[int, int],
    options: tuple[float, int, bool],
) -> None:
    """Pool the maximum over the samples of each bin, RoIs of one grid at a time."""
    scale, sampling_ratio, aligned = options
    rows, columns = size
    output, argmax_y, argmax_x = results
    # Start and extent of each RoI in feature pixels, (K,) each.
    shift = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (rois[:, 1:] * scale - shift).unbind(dim=1)
    width, height = x2 - x1, y2 - y1
    if not aligned:
        width, height = width.clamp(min=1), height.clamp(min=1)
    grid_y = (height / rows).ceil().long().clamp(min=1)
    grid_x = (width / columns).ceil().long().clamp(min=1)
    if sampling_ratio > 0:
        grid_y = grid_x = torch.full_like(grid_y, sampling_ratio)
    grids = set(zip(grid_y.tolist(), grid_x.tolist(), strict=True))
    for ny, nx in sorted(grids):
        chosen = ((grid_y == ny) & (grid_x == nx)).nonzero().squeeze(1)
        samples = operators(features).roi_align(
            features, rois[chosen], scale, rows * ny, columns * nx, 1, aligned
        )
        bins = samples.unflatten(3, (columns, nx)).unflatten(2, (rows, ny))
        bins = bins.transpose(3, 4).flatten(4)  # (K, C, rows, columns, ny * nx)
        value, index = bins.max(dim=-1)
        row = torch.arange(rows, device=rois.device)[:, None] * ny + index // nx
        column = torch.arange(columns, device=rois.device) * nx + index % nx
        step_y = (height[chosen] / (rows * ny))[:, None, None, None]
        step_x = (width[chosen] / (columns * nx))[:, None, None, None]
        y = y1[chosen][:, None, None, None] + (row + 0.5) * step_y
        x = x1[chosen][:, None, None, None] + (column + 0.5) * step_x
        output[chosen] = value.to(output.dtype)
        argmax_y[chosen] = y.to(argmax_y.dtype)
        argmax_x[chosen] = x.to(argmax_x.dtype)


def _max_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
) -> None:
    """Give each bin's gradient to the four neighbours of its maximal sample."""
    batch, channels, height, width = grad_input.shape
    inside = (argmax_y >= -1) & (argmax_y <= height)
    inside &= (argmax_x >= -1) & (argmax_x <= width)
    y, x = argmax_y.clamp(0, height - 1), argmax_x.clamp(0, width - 1)
    top, left = y.floor().long(), x.floor().long()
    dy, dx = y - top, x - left
    image = rois[:, 0].long()[:, None, None, None]
    channel = torch.arange(channels, device=rois.device)[:, None, None]
    plane = (image * channels + channel) * (height * width)
    flat = torch.zeros(
        grad_input.numel(), dtype=_compute_dtype(grad_output), device=rois.device
    )
    for row, weight_y in ((top, 1 - dy), ((top + 1).clamp(max=height - 1), dy)):
        for column, weight_x in ((left, 1 - dx), ((left + 1).clamp(max=width - 1), dx)):
            share = (grad_output * weight_y * weight_x * inside).to(flat.dtype)
            flat.index_add_(
                0, (plane + row * width + column).flatten(), share.flatten()
            )
    grad_input.add_(flat.view_as(grad_input))
