"""The filters of FcaNet's pooling: frequencies of a discrete cosine transform.

Source: Qin et al., FcaNet, ICCV 2021, arXiv:2012.11879; frequencies and sizes follow
cfzd/FcaNet. Only PyTorch is needed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

GRID = 7  # frequencies are numbered on a 7 x 7 transform
TOP_16 = (
    *((0, 0), (0, 1), (6, 0), (0, 5), (0, 2), (1, 0), (1, 2), (4, 0)),
    *((5, 0), (1, 6), (3, 0), (0, 4), (0, 6), (0, 3), (3, 5), (2, 2)),
)
"""The 16 frequencies (vertical, horizontal) that did best by themselves, best first."""

STAGE_SIZES = (56, 28, 14, 7)
"""Side of the transform in each stage of a ResNet, the maps of an image of 224 px."""


def dct_filters(channels: int, size: int, frequencies: int = 16) -> Tensor:
    """Return (channels, size, size) filters as the authors' files have them."""
    vertical, horizontal = separable_filters(channels, size, frequencies)
    return vertical[:, :, None] * horizontal[:, None, :]


def separable_filters(channels: int, size: int, frequencies: int) -> list[Tensor]:
    """Return the (channels, size) factors of the filters, vertical and horizontal."""
    basis = _cosine_basis(size)[:: size // GRID]
    chosen = torch.tensor(TOP_16[:frequencies], device='cpu')
    share = channels // frequencies
    return [basis[indices].repeat_interleave(share, 0) for indices in chosen.T]


def _cosine_basis(size: int) -> Tensor:
    """Return the orthonormal DCT-II basis: (frequency, position)."""
    position = torch.arange(size, dtype=torch.float64, device='cpu')
    waves = torch.cos(math.pi / size * position[:, None] * (position + 0.5))
    scale = torch.full((size, 1), (2 / size) ** 0.5, dtype=torch.float64, device='cpu')
    scale[0] = size**-0.5
    return (waves * scale).float()
