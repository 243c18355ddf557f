"""mmcv operators from torchvision, forward and backward, against slow loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.openmmlab


@pytest.fixture(autouse=True)
def registered(mmdet_ready):
    from eca_mmdet.ops import mmcv_ext

    if not mmcv_ext.is_supplied():
        import mmcv._ext

        if not mmcv_ext.is_supplied():
            pytest.skip(f'mmcv has its own extension: {mmcv._ext.__file__}')


def iou(a, b, offset):
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    inter = max(width, 0) * max(height, 0)
    areas = [(c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b)]
    union = sum(areas) - inter
    return inter / union if union else 0.0


def nms_loop(boxes, scores, threshold, offset):
    order = sorted(range(len(boxes)), key=lambda i: -scores[i])
    kept = []
    for i in order:
        if all(iou(boxes[i], boxes[j], offset) <= threshold for j in kept):
            kept.append(i)
    return kept


def random_boxes(count, seed, side=60):
    rng = np.random.default_rng(seed)
    # Multiples of 1/4 keep every sum exact, so that float32 meets no tie.
    corner = rng.integers(0, side * 4, (count, 2)) / 4
    size = rng.integers(1, side * 2, (count, 2)) / 4
    boxes = np.hstack((corner, corner + size))
    scores = rng.permutation(count) / max(count, 1)
    return boxes.astype(np.float32), scores.astype(np.float32)


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.0, 0.3, 0.5, 0.7])
@pytest.mark.parametrize('count', [0, 1, 2, 80])
def test_nms(count, threshold, offset):
    from mmcv.ops import nms

    boxes, scores = random_boxes(count, seed=count)
    dets, kept = nms(
        torch.tensor(boxes).view(-1, 4), torch.tensor(scores), threshold, offset=offset
    )
    assert kept.tolist() == nms_loop(boxes, scores, threshold, offset)
    np.testing.assert_array_equal(dets[:, :4].numpy(), boxes[kept.numpy()])


def test_nms_offset_decides():
    """IoU 0.5 by lengths, 0.556 by pixels: only the offset separates them."""
    from mmcv.ops import nms

    boxes = torch.tensor([[0.0, 0, 3, 3], [0, 1, 3, 4]])  # 6/12 and 12/20
    scores = torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, 0.55)[1].tolist() == [0, 1]
    assert nms(boxes, scores, 0.55, offset=1)[1].tolist() == [0]


def test_nms_keeps_boxes_at_the_threshold():
    from mmcv.ops import nms

    boxes = torch.tensor([[0.0, 0, 3, 3], [0, 1, 3, 4]])
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.5)[1].tolist() == [0, 1]


@given(seed=st.integers(0, 10_000), offset=st.sampled_from([0, 1]))
@settings(max_examples=40, deadline=None)
def test_batched_nms_is_nms_per_class(seed, offset):
    from mmcv.ops import batched_nms

    boxes, scores = random_boxes(30, seed)
    labels = np.random.default_rng(seed).integers(0, 3, 30)
    config = dict(type='nms', iou_threshold=0.4, offset=offset)
    _, kept = batched_nms(
        torch.tensor(boxes), torch.tensor(scores), torch.tensor(labels), config
    )
    expected = []
    for label in range(3):
        own = np.flatnonzero(labels == label)
        expected += [own[i] for i in nms_loop(boxes[own], scores[own], 0.4, offset)]
    assert sorted(kept.tolist()) == sorted(expected)


def soft_nms_loop(boxes, scores, threshold, sigma, min_score, method, offset):
    scores = list(map(float, scores))
    alive, result = list(range(len(boxes))), []
    while alive:
        best = max(alive, key=lambda i: scores[i])
        result.append((best, scores[best]))
        alive.remove(best)
        for i in alive:
            overlap = iou(boxes[best], boxes[i], offset)
            if method == 'gaussian':
                scores[i] *= math.exp(-(overlap**2) / sigma)
            elif overlap >= threshold:
                scores[i] *= 0 if method == 'naive' else 1 - overlap
        alive = [i for i in alive if scores[i] >= min_score]
    return result


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
def test_soft_nms(method, offset):
    from mmcv.ops import soft_nms

    boxes, scores = random_boxes(40, seed=3, side=20)
    dets, kept = soft_nms(
        torch.tensor(boxes), torch.tensor(scores), 0.3, 0.5, 0.05, method, offset
    )
    expected = soft_nms_loop(boxes, scores, 0.3, 0.5, 0.05, method, offset)
    assert len(expected) < 40
    assert kept.tolist() == [i for i, _ in expected]
    np.testing.assert_allclose(dets[:, 4], [s for _, s in expected], rtol=1e-5)
    np.testing.assert_array_equal(dets[:, :4], boxes[kept.numpy()])


def test_soft_nms_of_nothing():
    from mmcv.ops import soft_nms

    dets, kept = soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert dets.shape == (0, 5) and kept.shape == (0,)


def test_nms_match():
    from mmcv.ops import nms_match

    boxes, scores = random_boxes(50, seed=5, side=20)
    groups = nms_match(torch.tensor(np.column_stack((boxes, scores))), 0.4)
    left = sorted(range(50), key=lambda i: -scores[i])
    expected = []
    while left:
        head, *rest = left
        taken = [i for i in rest if iou(boxes[head], boxes[i], 0) >= 0.4]
        expected.append([head, *taken])
        left = [i for i in rest if i not in taken]
    assert [group.tolist() for group in groups] == expected
    assert any(len(group) > 2 for group in expected)


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


def test_nms_of_boxes_that_autocast_narrowed():
    from mmcv.ops import nms

    boxes, scores = random_boxes(40, seed=9)
    boxes = torch.tensor(boxes).bfloat16()
    with torch.autocast('cpu', torch.bfloat16):
        _, kept = nms(boxes, torch.tensor(scores), 0.5)
    assert kept.tolist() == nms_loop(boxes.float().tolist(), scores, 0.5, 0)


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
