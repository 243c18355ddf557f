"""Comparisons with tolerances relative to the size of the values."""

from __future__ import annotations

import torch


def assert_near(got, expected, tolerance, name='', scale=0.0):
    """Compare tensors or arrays, relative to the largest expected value.

    Each entry is a sum whose rounding is proportional to its terms. An entry near zero
    therefore gets the tolerance of the large ones.

    Args:
        got: Values to check.
        expected: Reference values.
        tolerance: Largest difference allowed, as a share of the largest value.
        name: Shown on failure.
        scale: Size of the terms, where all the values may be smaller.
    """
    got, expected = (torch.as_tensor(one).detach().double() for one in (got, expected))
    assert got.shape == expected.shape, name
    assert got.isfinite().all(), name
    if expected.numel():
        error = (got - expected).abs().max().item()
        largest = max(expected.abs().max().item(), scale)
        assert error <= tolerance * largest, (name, error, largest)


def assert_near_gradients(got, expected, tolerance):
    """Compare gradients by name, each relative to its own largest value.

    Some are zero but for rounding, such as that of a bias before batch statistics or
    before a softmax. Their tolerance is relative to a thousandth of the largest
    gradient.
    """
    assert got.keys() == expected.keys()
    largest = max(
        one.abs().max().item() for one in expected.values() if one is not None
    )
    for name, value in expected.items():
        assert (got[name] is None) == (value is None), name
        if value is not None:
            assert_near(got[name], value, tolerance, name, scale=1e-3 * largest)


def matching_order(boxes, labels, expected_boxes, expected_labels):
    """Return the index of each expected box among the boxes.

    Boxes that are sorted by score come in an order that depends on the CPU where
    scores differ by rounding only.
    """
    assert len(boxes) == len(labels) == len(expected_boxes) == len(expected_labels)
    if not len(boxes):
        return torch.zeros(0, dtype=torch.long)
    boxes, expected_boxes = map(torch.as_tensor, (boxes, expected_boxes))
    labels, expected_labels = map(torch.as_tensor, (labels, expected_labels))
    distance = (boxes - expected_boxes[:, None]).abs().amax(2)
    distance[labels != expected_labels[:, None]] = torch.inf
    order = distance.argmin(1)
    assert sorted(order.tolist()) == list(range(len(boxes)))
    return order
