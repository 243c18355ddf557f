"""RoIAlign from torchvision, forward and backward, against slow loops."""

import math

import numpy as np
import pytest
import torch

from eca_mmdet.mmcv_ops import roi_align as roi_align_ops

pytestmark = [pytest.mark.openmmlab, pytest.mark.usefixtures('supplied_operators')]


def sample(plane, y, x):
    """Bilinear value and the weights of its four neighbours, as RoIAlign samples."""
    height, width = plane.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0, []
    y, x = max(y, 0), max(x, 0)
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy = 0 if top == height - 1 else y - top
    dx = 0 if left == width - 1 else x - left
    corners = [
        (top, left, (1 - dy) * (1 - dx)),
        (top, right, (1 - dy) * dx),
        (bottom, left, dy * (1 - dx)),
        (bottom, right, dy * dx),
    ]
    return sum(plane[r, c] * w for r, c, w in corners), corners


def roi_align_loop(features, rois, size, scale, ratio, mode, aligned, grad):
    """Return the output, and the gradient of sum(output * grad) by the features."""
    _, channels, _, _ = features.shape
    rows, columns = size
    output = np.zeros((len(rois), channels, rows, columns))
    gradient = np.zeros_like(features)
    for k, (image, *corners) in enumerate(rois):
        x1, y1, x2, y2 = (v * scale - (0.5 if aligned else 0) for v in corners)
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = max(width, 1), max(height, 1)
        ny = ratio if ratio > 0 else math.ceil(height / rows)
        nx = ratio if ratio > 0 else math.ceil(width / columns)
        for c, i, j in np.ndindex(channels, rows, columns):
            plane = features[int(image), c]
            samples = [
                sample(
                    plane,
                    y1 + (i + (a + 0.5) / ny) * height / rows,
                    x1 + (j + (b + 0.5) / nx) * width / columns,
                )
                for a in range(ny)
                for b in range(nx)
            ]
            if mode == 'avg':
                shares = [(s, 1 / len(samples)) for s in samples]
            else:
                shares = [(max(samples, key=lambda s: s[0]), 1.0)]
            output[k, c, i, j] = sum(value * share for (value, _), share in shares)
            for (_, neighbours), share in shares:
                for r, column, weight in neighbours:
                    gradient[int(image), c, r, column] += (
                        weight * share * grad[k, c, i, j]
                    )
    return output, gradient


ROIS = np.array(
    [
        [0, 4.0, 6.0, 40.0, 44.0],
        [1, -9.0, -5.0, 20.0, 11.0],  # over the border
        [0, 30.0, 30.0, 90.0, 95.0],  # outside, partly
        [1, 10.0, 10.0, 10.5, 11.0],  # tiny
        [0, 0.0, 0.0, 55.0, 14.0],
    ]
)


@pytest.mark.parametrize('mode', ['avg', 'max'])
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('ratio', [0, 1, 2, 3])
def test_roi_align_forward_and_backward(ratio, aligned, mode):
    from mmcv.ops import roi_align

    rng = np.random.default_rng(ratio)
    features = rng.normal(size=(2, 3, 15, 13))
    grad = rng.normal(size=(len(ROIS), 3, 3, 4))
    expected, expected_grad = roi_align_loop(
        features, ROIS, (3, 4), 0.25, ratio, mode, aligned, grad
    )
    x = torch.tensor(features, requires_grad=True)
    out = roi_align(x, torch.tensor(ROIS), (3, 4), 0.25, ratio, mode, aligned)
    np.testing.assert_allclose(out.detach().numpy(), expected, atol=1e-9)
    out.backward(torch.tensor(grad))
    np.testing.assert_allclose(x.grad.numpy(), expected_grad, atol=1e-9)
    if mode == 'avg':
        check_deterministic_gradient(grad, expected_grad, ratio, aligned)


def check_deterministic_gradient(grad, expected, ratio, aligned):
    """What a GPU gets under deterministic algorithms, on top of a gradient."""
    found = torch.ones(expected.shape, dtype=torch.float64)
    arguments = (torch.tensor(grad), torch.tensor(ROIS), found, 0.25, ratio, aligned)
    roi_align_ops._separable_backward(*arguments)
    np.testing.assert_allclose(found.numpy(), expected + 1, atol=1e-9)


def test_deterministic_gradient_in_chunks_of_channels(monkeypatch):
    monkeypatch.setattr(roi_align_ops, '_CHUNK', 1)
    test_roi_align_forward_and_backward(0, True, 'avg')


def test_forward_is_the_kernel_under_deterministic_algorithms():
    """torchvision's own function leaves it for Python there, 10,000 times slower."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Record(TorchDispatchMode):
        called = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.called.append(str(function))
            return function(*args, **(kwargs or {}))

    x, rois = torch.randn(2, 3, 15, 13), torch.tensor(ROIS, dtype=torch.float32)
    torch.use_deterministic_algorithms(True)
    try:
        with Record():
            out = x.new_zeros(5, 3, 7, 7)
            empty = x.new_zeros(0)
            roi_align_ops.roi_align_forward(
                x, rois, out, empty, empty, 7, 7, 0.25, 0, 1, True
            )
    finally:
        torch.use_deterministic_algorithms(False)
    assert 'torchvision.roi_align.default' in Record.called


@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_roi_align_of_no_rois(mode):
    from mmcv.ops import roi_align

    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    out = roi_align(x, torch.zeros(0, 5), (7, 7), 0.5, 0, mode, True)
    assert out.shape == (0, 2, 7, 7)
    out.sum().backward()
    assert x.grad.abs().sum() == 0


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_roi_align_of_half_features_is_computed_in_float32(dtype):
    from mmcv.ops import roi_align

    x = torch.randn(2, 3, 15, 13).to(dtype).requires_grad_()
    rois = torch.tensor(ROIS, dtype=torch.float32)
    out = roi_align(x, rois, (3, 4), 0.25, 2, 'avg', True)
    exact = roi_align(x.detach().float(), rois, (3, 4), 0.25, 2, 'avg', True)
    assert out.dtype == dtype
    torch.testing.assert_close(out, exact.to(dtype), rtol=0, atol=0)
    out.float().sum().backward()
    assert x.grad.dtype == dtype and x.grad.abs().sum() > 0


@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_roi_align_of_features_that_autocast_narrowed(mode):
    """A convolution under autocast hands over bfloat16 beside float32 RoIs."""
    from mmcv.ops import roi_align

    convolution = torch.nn.Conv2d(3, 4, 1)
    image, rois = torch.randn(2, 3, 15, 13), torch.tensor(ROIS, dtype=torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        features = convolution(image)
        out = roi_align(features, rois, (3, 4), 0.25, 2, mode, True)
        loss = out.float().sum()
    assert features.dtype == out.dtype == torch.bfloat16
    exact = roi_align(features.detach().float(), rois, (3, 4), 0.25, 2, mode, True)
    torch.testing.assert_close(out, exact.bfloat16(), rtol=0, atol=0)
    loss.backward()
    assert convolution.weight.grad.abs().min() > 0
