"""Tensors that follow from a layer's arguments: FcaNet's DCT filters."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from eca_mmdet.checkpoints.key_maps import Canonical
from eca_mmdet.models.dct import STAGE_SIZES, dct_filters


def unusual_constants(canonical: Canonical) -> list[str]:
    """Say which filters are not those that this package's ResNets give FcaNet.

    Args:
        canonical: of the file; tensors of the meta device pass by their shape.
    """
    problems = []
    for name, tensor in canonical.constants.items():
        stage = re.match(r'layer(\d+)', name)
        number = int(stage[1]) if stage else 0
        size = STAGE_SIZES[min(max(number, 1), len(STAGE_SIZES)) - 1]
        if (
            tensor.dim() != 3
            or tensor.shape[0] % 16
            or tensor.shape[1:] != (size, size)
        ):
            problems.append(
                f'{name} has shape {tuple(tensor.shape)} where the authors have '
                f'channels, {size}, {size}'
            )
        elif not same_filters(tensor, dct_filters(tensor.shape[0], size)):
            problems.append(f'{name} is of other frequencies than the best 16')
    return problems


def same_filters(theirs: Tensor, ours: Tensor) -> bool:
    """Tell whether filters are equal but for rounding; those without values are."""
    if theirs.is_meta or ours.is_meta:
        return theirs.shape == ours.shape
    return torch.allclose(theirs.float().cpu(), ours.float().cpu(), atol=1e-5)
