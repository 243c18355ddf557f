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
