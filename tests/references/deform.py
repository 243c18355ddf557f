"""Deformable convolution and its gradients, sample by sample, from mmcv's rule.

Source: mmcv's CPU kernels (``csrc/pytorch/cpu/modulated_deform_conv.cpp``). A sample
at (y, x) counts if ``y > -1 and x > -1 and y < height and x < width``; the others are 0
and pass no gradient. Offsets and masks are read as flat buffers of each image.
"""

import math

import numpy as np


def deform_conv(x, offset, mask, weight, grad, stride, pad, dilation, deform_groups):
    """Return the output and the gradients by x, offset, mask and weight.

    All are float64 arrays; ``grad`` is the gradient of the output, the three pairs are
    (y, x). The groups of the convolution follow from the shape of the weight.
    """
    (height, width), (kh, kw) = x.shape[2:], weight.shape[2:]
    n, out_channels, rows, columns = grad.shape
    out = np.zeros(grad.shape)
    d_x, d_weight = np.zeros(x.shape), np.zeros(weight.shape)
    d_offset, d_mask = np.zeros(offset.shape), np.zeros(mask.shape)
    group_in, group_out = weight.shape[1], out_channels * weight.shape[1] // x.shape[1]
    for b, c, i, j in np.ndindex(n, x.shape[1], rows, columns):
        first = c // group_in * group_out
        own = slice(first, first + group_out)  # output channels of c's group
        for p, q in np.ndindex(kh, kw):
            plane = c // (x.shape[1] // deform_groups) * kh * kw + p * kw + q
            at_mask = plane * rows * columns + i * columns + j
            at_y = 2 * plane * rows * columns + i * columns + j
            at_x = at_y + rows * columns
            y = i * stride[0] - pad[0] + p * dilation[0] + offset[b].flat[at_y]
            z = j * stride[1] - pad[1] + q * dilation[1] + offset[b].flat[at_x]
            if not (y > -1 and z > -1 and y < height and z < width):
                continue
            value = by_y = by_x = 0.0
            taps = weight[own, c % group_in, p, q]
            above = taps @ grad[b, own, i, j]
            scale = mask[b].flat[at_mask]
            top, left = math.floor(y), math.floor(z)
            for row, share_y, sign_y in ((top, top + 1 - y, -1), (top + 1, y - top, 1)):
                for column, share_x, sign_x in (
                    (left, left + 1 - z, -1),
                    (left + 1, z - left, 1),
                ):
                    if 0 <= row < height and 0 <= column < width:
                        pixel = x[b, c, row, column]
                        value += share_y * share_x * pixel
                        by_y += sign_y * share_x * pixel
                        by_x += sign_x * share_y * pixel
                        d_x[b, c, row, column] += share_y * share_x * scale * above
            out[b, own, i, j] += taps * value * scale
            d_weight[own, c % group_in, p, q] += grad[b, own, i, j] * value * scale
            d_offset[b].flat[at_y] += by_y * scale * above
            d_offset[b].flat[at_x] += by_x * scale * above
            d_mask[b].flat[at_mask] += value * above
    return out, d_x, d_offset, d_mask, d_weight
