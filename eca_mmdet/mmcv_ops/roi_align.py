"""RoIAlign with the signatures of mmcv's extension.

Source: He et al., Mask R-CNN, ICCV 2017. Average pooling is torchvision's kernel;
max pooling is torchvision's kernel at one sample a bin, reduced here. The gradient
under ``torch.use_deterministic_algorithms`` is computed here, for torchvision's kernel
has none on a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eca_mmdet.mmcv_ops.library import at_least_float32, operators

MAX, AVERAGE = 0, 1

_CHUNK = 1 << 26
"""Numbers that the deterministic gradient holds beside its result."""


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
    features = at_least_float32(input)
    regions = rois.to(features.dtype)
    size = (aligned_height, aligned_width)
    options = (spatial_scale, sampling_ratio, aligned)
    if pool_mode == MAX:
        results = (output, argmax_y, argmax_x)
        return _max_forward(features, regions, results, size, options)
    output.copy_(_pool(features, regions, size, *options))


def _pool(
    features: Tensor,
    rois: Tensor,
    size: tuple[int, int],
    scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Average the samples of each bin.

    The operator itself: ``torchvision.ops.roi_align`` would leave it for Python loops
    under deterministic algorithms, though its forward pass is deterministic.
    """
    with torch.autocast(features.device.type, enabled=False):
        pooled: Tensor = operators(features).roi_align(
            features, rois, scale, *size, sampling_ratio, aligned
        )
    return pooled


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
    """Put the features' gradient into ``grad_input``, which mmcv gives as zeros."""
    if not len(rois):
        return
    if pool_mode == MAX:
        return _max_backward(grad_output, rois, argmax_y, argmax_x, grad_input)
    grad_output = at_least_float32(grad_output)
    rois = rois.to(grad_output.dtype)
    if grad_input.is_cuda and torch.are_deterministic_algorithms_enabled():
        options = (spatial_scale, sampling_ratio, aligned)
        return _separable_backward(grad_output, rois, grad_input, *options)
    grad = operators(grad_output)._roi_align_backward(
        grad_output.contiguous(),
        rois,
        spatial_scale,
        aligned_height,
        aligned_width,
        *grad_input.shape,
        sampling_ratio,
        aligned,
    )
    grad_input.copy_(grad)


def _separable_backward(
    grad_output: Tensor,
    rois: Tensor,
    grad_input: Tensor,
    scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> None:
    """Add the gradient of average pooling by matrix products, which are deterministic.

    A bin is Y F X^T, with weights of the rows (Y) and columns (X) of a region. So the
    gradient of an image's features F is the sum of Y^T g X over its regions.
    """
    bins = grad_output.shape[2:]
    channels, height, width = grad_input.shape[1:]
    x, y, region_width, region_height = _in_features(rois, scale, aligned)
    rows = _axis_weights(y, region_height, bins[0], height, sampling_ratio)
    columns = _axis_weights(x, region_width, bins[1], width, sampling_ratio)
    for image, gradient in enumerate(grad_input):
        chosen = (rois[:, 0] == image).nonzero().squeeze(1)
        right = columns[chosen].flatten(0, 1)
        step = max(1, _CHUNK // max(1, len(right) * height))
        for start in range(0, channels, step):
            part = grad_output[chosen, start : start + step]
            left = torch.einsum('rph,rcpq->chrq', rows[chosen], part).flatten(2)
            gradient[start : start + step] += (left @ right).to(gradient.dtype)


def _axis_weights(
    start: Tensor, extent: Tensor, bins: int, length: int, sampling_ratio: int
) -> Tensor:
    """Return what each of ``length`` features weighs in each bin along one axis.

    Args:
        start: (K,) start of the regions, in features.
        extent: (K,) their extent.
        bins: bins of a region.
        length: features along the axis.
        sampling_ratio: as in :func:`roi_align_forward`.

    Returns:
        (K, bins, length).
    """
    size = extent / bins
    samples = (
        torch.full_like(size, sampling_ratio) if sampling_ratio > 0 else size.ceil()
    )
    features = torch.arange(length, device=start.device)
    corner = start[:, None] + torch.arange(bins, device=start.device) * size[:, None]
    weights = start.new_zeros(len(start), bins, length)
    for sample in range(int(samples.max())):
        at = corner + ((sample + 0.5) / samples * size)[:, None]
        used = (at >= -1) & (at <= length) & (sample < samples)[:, None]
        near = at.clamp(0, length - 1)[:, :, None] - features
        weights += (1 - near.abs()).relu() * used[:, :, None]
    return weights / samples.clamp(min=1)[:, None, None]


def _in_features(rois: Tensor, scale: float, aligned: bool) -> tuple[Tensor, ...]:
    """Return x, y, width and height of regions in features, (K,) each."""
    x1, y1, x2, y2 = (rois[:, 1:] * scale - (0.5 if aligned else 0.0)).unbind(dim=1)
    width, height = x2 - x1, y2 - y1
    if not aligned:
        width, height = width.clamp(min=1), height.clamp(min=1)
    return x1, y1, width, height


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
    x1, y1, width, height = _in_features(rois, scale, aligned)
    grid_y = (height / rows).ceil().long().clamp(min=1)
    grid_x = (width / columns).ceil().long().clamp(min=1)
    if sampling_ratio > 0:
        grid_y = grid_x = torch.full_like(grid_y, sampling_ratio)
    grids = set(zip(grid_y.tolist(), grid_x.tolist(), strict=True))
    for ny, nx in sorted(grids):
        chosen = ((grid_y == ny) & (grid_x == nx)).nonzero().squeeze(1)
        samples = _pool(
            features, rois[chosen], (rows * ny, columns * nx), scale, 1, aligned
        )
        bins = samples.view(*samples.shape[:2], rows, ny, columns, nx)
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
    flat = at_least_float32(torch.zeros_like(grad_input)).flatten()
    for row, weight_y in ((top, 1 - dy), ((top + 1).clamp(max=height - 1), dy)):
        for column, weight_x in ((left, 1 - dx), ((left + 1).clamp(max=width - 1), dx)):
            share = (grad_output * weight_y * weight_x * inside).to(flat.dtype)
            flat.index_add_(
                0, (plane + row * width + column).flatten(), share.flatten()
            )
    grad_input.add_(flat.view_as(grad_input))
