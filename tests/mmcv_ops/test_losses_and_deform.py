"""Focal loss and deformable operators, forward and backward, against slow loops."""

import math

import numpy as np
import pytest
import torch

pytestmark = [pytest.mark.openmmlab, pytest.mark.usefixtures('supplied_operators')]


@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('gamma', [0.0, 1.5, 2.0])
def test_sigmoid_focal_loss(gamma, weighted):
    from mmcv.ops import sigmoid_focal_loss

    logits = torch.tensor(
        [[-30.0, 0.3, 2.0], [0.0, -1.0, 30.0], [1.0, 5.0, -4.0]],
        dtype=torch.float64,
        requires_grad=True,
    )
    target = torch.tensor([1, 2, 3])  # 3 is background
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64) if weighted else None
    loss = sigmoid_focal_loss(logits, target, gamma, 0.25, weight, 'none')
    expected = np.zeros((3, 3))
    for n, c in np.ndindex(3, 3):
        p = 1 / (1 + math.exp(-logits[n, c].item()))
        positive = target[n] == c
        q, a = (p, 0.25) if positive else (1 - p, 0.75)
        expected[n, c] = -a * (1 - q) ** gamma * math.log(q)
        if weighted and target[n] < 3:
            expected[n, c] *= weight[target[n]]
    np.testing.assert_allclose(loss.detach().numpy(), expected, rtol=1e-7, atol=1e-12)

    analytic = torch.autograd.grad(
        sigmoid_focal_loss(logits, target, gamma, 0.25, weight, 'sum'), logits
    )[0]
    step = 1e-6
    for n, c in np.ndindex(3, 3):
        ends = []
        for sign in (1, -1):
            moved = logits.detach().clone()
            moved[n, c] += sign * step
            ends.append(
                sigmoid_focal_loss(moved, target, gamma, 0.25, weight, 'sum').item()
            )
        assert analytic[n, c].item() == pytest.approx(
            (ends[0] - ends[1]) / (2 * step), abs=1e-6
        )


def deform_conv_loop(x, offset, weight, mask, stride, pad):
    """Deformable convolution with one group, sample by sample."""
    n, c, h, w = x.shape
    out_channels, _, kh, kw = weight.shape
    rows = (h + 2 * pad - kh) // stride + 1
    columns = (w + 2 * pad - kw) // stride + 1
    out = np.zeros((n, out_channels, rows, columns))

    def at(plane, y, x):
        value = 0.0
        for r in (math.floor(y), math.floor(y) + 1):
            for col in (math.floor(x), math.floor(x) + 1):
                if 0 <= r < h and 0 <= col < w:
                    value += plane[r, col] * (1 - abs(y - r)) * (1 - abs(x - col))
        return value

    for b, i, j, t in np.ndindex(n, rows, columns, kh * kw):
        y = i * stride - pad + t // kw + offset[b, 2 * t, i, j]
        z = j * stride - pad + t % kw + offset[b, 2 * t + 1, i, j]
        scale = 1 if mask is None else mask[b, t, i, j]
        for ch in range(c):
            value = at(x[b, ch], y, z) * scale
            out[b, :, i, j] += weight[:, ch, t // kw, t % kw] * value
    return out


@pytest.mark.parametrize('stride', [1, 2])
def test_deform_conv(stride):
    from mmcv.ops import deform_conv2d

    x = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    rows, columns = (6 - 1) // stride + 1, (7 - 1) // stride + 1
    offset = torch.randn(2, 18, rows, columns, dtype=torch.float64)
    out = deform_conv2d(x, offset, weight, stride, 1)
    expected = deform_conv_loop(
        x.numpy(), offset.numpy(), weight.numpy(), None, stride, 1
    )
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-9)
    inputs = [t.requires_grad_() for t in (x, offset, weight)]
    assert torch.autograd.gradcheck(
        lambda *t: deform_conv2d(*t, stride, 1), inputs, fast_mode=True
    )


@pytest.mark.parametrize('with_bias', [False, True])
def test_modulated_deform_conv(with_bias):
    from mmcv.ops import modulated_deform_conv2d

    x = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    offset = torch.randn(2, 18, 6, 7, dtype=torch.float64)
    mask = torch.rand(2, 9, 6, 7, dtype=torch.float64)
    bias = torch.randn(4, dtype=torch.float64) if with_bias else None
    out = modulated_deform_conv2d(x, offset, mask, weight, bias, 1, 1)
    expected = deform_conv_loop(
        x.numpy(), offset.numpy(), weight.numpy(), mask.numpy(), 1, 1
    )
    if with_bias:
        expected += bias.numpy()[:, None, None]
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-9)
    inputs = [t.requires_grad_() for t in (x, offset, mask, weight)]
    if with_bias:
        bias.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *t: modulated_deform_conv2d(*t, bias, 1, 1), inputs, fast_mode=True
    )
    if with_bias:
        modulated_deform_conv2d(*inputs, bias, 1, 1).sum().backward()
        np.testing.assert_allclose(bias.grad.numpy(), 2 * 6 * 7)


def test_multi_scale_deformable_attention():
    """One level, one head: the weighted sum of bilinear samples."""
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    value = torch.randn(1, 20, 1, 2, dtype=torch.float64)  # 4 x 5 positions
    locations = torch.rand(1, 3, 1, 1, 2, 2, dtype=torch.float64)
    weights = torch.rand(1, 3, 1, 1, 2, dtype=torch.float64)
    shapes, start = torch.tensor([[4, 5]]), torch.tensor([0])

    def run(v, s, w):
        return MultiScaleDeformableAttnFunction.apply(v, shapes, start, s, w, 64)

    out = run(value, locations, weights)
    plane = value.numpy().reshape(4, 5, 2)
    for query in range(3):
        expected = np.zeros(2)
        for point in range(2):
            x, y = locations[0, query, 0, 0, point].numpy() * (5, 4) - 0.5
            for r in (math.floor(y), math.floor(y) + 1):
                for c in (math.floor(x), math.floor(x) + 1):
                    if 0 <= r < 4 and 0 <= c < 5:
                        share = (1 - abs(y - r)) * (1 - abs(x - c))
                        expected += (
                            plane[r, c] * share * weights[0, query, 0, 0, point].item()
                        )
        np.testing.assert_allclose(out[0, query].numpy(), expected, atol=1e-9)
    inputs = [t.requires_grad_() for t in (value, locations, weights)]
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


def test_unsupplied_operator_names_itself():
    from mmcv.ops import RoIPool

    pool = RoIPool(7, 1.0)
    with pytest.raises(NotImplementedError, match="'roi_pool_forward'.*MMCV_WITH_OPS"):
        pool(torch.randn(1, 1, 8, 8), torch.tensor([[0.0, 0, 0, 4, 4]]))
