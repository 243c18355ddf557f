"""Focal loss and deformable operators, forward and backward, against slow loops."""

import itertools
import math

import numpy as np
import pytest
import torch

from tests.references.deform import deform_conv

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


LAYERS = {  # kernel, stride, padding, dilation (y, x each), groups, offset groups
    'plain': ((3, 3), (1, 1), (1, 1), (1, 1), 1, 1),
    'stride': ((3, 3), (2, 1), (1, 0), (1, 1), 1, 1),
    'wide': ((2, 3), (1, 2), (2, 3), (2, 1), 2, 1),
    'groups': ((1, 2), (1, 1), (0, 2), (1, 3), 2, 2),
    'offset groups': ((2, 2), (1, 1), (1, 1), (1, 1), 1, 4),
}


@pytest.mark.parametrize('layer', LAYERS)
@pytest.mark.parametrize(
    ('version', 'offsets'),
    [
        *itertools.product((1, 2), ('zero', 'integer', 'half', 'any')),
        (2, 'larger maps'),
    ],
)
def test_deform_conv(version, offsets, layer):
    """Values and gradients, also of samples on the border, equal those of a loop."""
    from mmcv.ops import deform_conv2d, modulated_deform_conv2d

    kernel, stride, pad, dilation, groups, deform_groups = LAYERS[layer]
    random = np.random.default_rng(sum(map(ord, layer + offsets)))
    x = random.normal(size=(2, 4, 4, 5))
    weight = random.normal(size=(6, 4 // groups, *kernel))
    rows, columns = (
        (size + 2 * p - (k - 1) * d - 1) // s + 1
        for size, k, s, p, d in zip((4, 5), kernel, stride, pad, dilation, strict=True)
    )
    more = 3 if offsets == 'larger maps' else 0
    taps = deform_groups * math.prod(kernel)
    shape = (2, 2 * taps, rows + more, columns + more)
    offset = {
        'zero': np.zeros(shape),
        'integer': random.integers(-6, 7, shape).astype(float),
        'half': random.integers(-6, 7, shape) / 2,
    }.get(offsets, random.normal(size=shape, scale=2))
    mask = random.random((2, taps, *shape[2:])) if version == 2 else np.ones(shape)
    grad = random.normal(size=(2, 6, rows, columns))
    options = (stride, pad, dilation, groups, deform_groups)
    expected = deform_conv(
        x, offset, mask, weight, grad, stride, pad, dilation, deform_groups
    )
    inputs = [torch.tensor(a, requires_grad=True) for a in (x, offset, mask, weight)]
    if version == 2:
        bias = torch.randn(6, dtype=torch.float64, requires_grad=True)
        out = modulated_deform_conv2d(*inputs, bias, *options)
        out.backward(torch.tensor(grad))
        np.testing.assert_allclose(bias.grad, grad.sum((0, 2, 3)))
        out = out - bias[:, None, None]
    else:
        del inputs[2]
        out = deform_conv2d(*inputs, *options)
        out.backward(torch.tensor(grad))
        expected = (*expected[:3], expected[4])
    found = [out.detach(), *(each.grad for each in inputs)]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize(
    ('version', 'offset', 'mask'),
    [
        (1, (2, 18, 5, 5), None),  # larger maps, which mmcv accepts in v2 only
        (1, (3, 18, 4, 4), None),
        (1, (2, 36, 4, 4), None),
        (2, (2, 18, 3, 4), (2, 9, 4, 4)),
        (2, (2, 18, 4, 4), (2, 9, 4, 3)),
        (2, (1, 18, 9, 9), (2, 9, 4, 4)),
    ],
)
def test_deform_conv_rejects_maps(version, offset, mask):
    from mmcv.ops import deform_conv2d, modulated_deform_conv2d

    x, weight = torch.randn(2, 3, 4, 4), torch.randn(5, 3, 3, 3)
    with pytest.raises(RuntimeError, match='do not fit'):
        if version == 1:
            deform_conv2d(x, torch.randn(offset), weight, 1, 1)
        else:
            given = torch.randn(offset), torch.rand(mask)
            modulated_deform_conv2d(x, *given, weight, None, 1, 1)


@pytest.mark.parametrize('sides', [(16, 8, 4), (15, 8, 4), (7, 4, 2, 1)])
def test_dyhead_trains(sides):
    """Its convolutions get the offsets and masks of the next finer level."""
    from mmdet.models.necks import DyHead

    neck = DyHead(in_channels=16, out_channels=16, num_blocks=2)
    maps = [torch.rand(2, 16, side, side) for side in sides]
    outs = neck(maps)
    assert [out.shape for out in outs] == [each.shape for each in maps]
    sum(out.square().sum() for out in outs).backward()
    assert all(parameter.grad.isfinite().all() for parameter in neck.parameters())


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


def test_map_sizes_are_read_once_for_all_layers(monkeypatch):
    """Not by backward either; but again for other sizes, in the same memory too."""
    from mmcv.ops.multi_scale_deform_attn import (
        MultiScaleDeformableAttnFunction,
        multi_scale_deformable_attn_pytorch,
    )

    shapes, start = torch.tensor([[4, 5], [2, 3]]), torch.tensor([0, 20])
    locations = torch.rand(1, 3, 1, 2, 2, 2)
    weights = torch.rand(1, 3, 1, 2, 2)
    reads = []
    read = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, 'tolist', lambda t: reads.append(1) or read(t))
    index = torch.Tensor.__index__
    monkeypatch.setattr(
        torch.Tensor, '__index__', lambda t: reads.append(1) or index(t)
    )

    def layer(shapes, context=torch.enable_grad):
        with context():
            value = torch.randn(1, 26, 1, 2, requires_grad=True)
            out = MultiScaleDeformableAttnFunction.apply(
                value, shapes, start, locations, weights, 64
            )
            seen = len(reads)
            expected = multi_scale_deformable_attn_pytorch(
                value, read(shapes), locations, weights
            )
            del reads[seen:]
            assert torch.equal(out, expected)
            return out

    (layer(shapes) + layer(shapes)).sum().backward()
    assert len(reads) == 1
    shapes.copy_(shapes.flip(1))
    layer(shapes).sum().backward()
    assert len(reads) == 2
    for _ in range(3):  # one after the other, where allocators reuse memory
        layer(torch.tensor([[5, 4], [3, 2]]))
        layer(torch.tensor([[10, 2], [6, 1]]))
    assert len(reads) == 8
    with torch.inference_mode():
        layer(torch.tensor([[4, 5], [2, 3]]), torch.inference_mode)


def test_deform_conv_has_no_deterministic_gradient_on_a_gpu(monkeypatch):
    """torchvision's kernel adds in any order, and does not say so."""
    from mmcv.ops import deform_conv2d

    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    out = deform_conv2d(x, torch.zeros(1, 18, 4, 4), torch.randn(3, 2, 3, 3), 1, 1)
    monkeypatch.setattr(torch, 'are_deterministic_algorithms_enabled', lambda: True)
    out.sum().backward(retain_graph=True)
    monkeypatch.setattr(torch.Tensor, 'is_cuda', True, raising=False)
    with pytest.raises(RuntimeError, match='not have a deterministic implementation'):
        out.sum().backward()


def test_unsupplied_operator_names_itself():
    from mmcv.ops import RoIPool

    pool = RoIPool(7, 1.0)
    with pytest.raises(NotImplementedError, match="'roi_pool_forward'.*MMCV_WITH_OPS"):
        pool(torch.randn(1, 1, 8, 8), torch.tensor([[0.0, 0, 0, 4, 4]]))
