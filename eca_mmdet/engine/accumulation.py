"""Gradients that are added up over several steps, across a checkpoint."""

from __future__ import annotations

from typing import Any

from torch import Tensor

GRADIENTS = 'eca_mmdet_gradients'
"""Entry of a checkpoint that was written before they were used."""


def is_accumulating(optim_wrapper: Any) -> bool:
    """Tell whether gradients were added up and not yet used."""
    counts = getattr(optim_wrapper, '_accumulative_counts', 1)
    counted = getattr(optim_wrapper, '_inner_count', 0)
    last = counted == getattr(optim_wrapper, '_max_counts', -1)
    return bool(counted % counts and not last)


def gradients_of(model: Any) -> dict[str, Tensor]:
    """Return copies of a model's gradients, on the CPU, by parameter."""
    return {
        name: one.grad.detach().cpu().clone()
        for name, one in model.named_parameters()
        if one.grad is not None
    }


def restore_gradients(model: Any, gradients: Any) -> None:
    """Give the parameters of a model the gradients that a checkpoint kept."""
    if not isinstance(gradients, dict):
        return
    for name, one in getattr(model, 'module', model).named_parameters():
        kept = gradients.get(name)
        if isinstance(kept, Tensor) and kept.shape == one.shape:
            one.grad = kept.to(one.device, one.dtype)
