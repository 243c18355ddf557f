"""Non-maximum suppression from torchvision, against slow loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = [pytest.mark.openmmlab, pytest.mark.usefixtures('supplied_operators')]


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


def test_nms_of_boxes_that_autocast_narrowed():
    from mmcv.ops import nms

    boxes, scores = random_boxes(40, seed=9)
    boxes = torch.tensor(boxes).bfloat16()
    with torch.autocast('cpu', torch.bfloat16):
        _, kept = nms(boxes, torch.tensor(scores), 0.5)
    assert kept.tolist() == nms_loop(boxes.float().tolist(), scores, 0.5, 0)
