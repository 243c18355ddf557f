"""Checkpoint entries that let a training resume within an epoch or an accumulation."""

from __future__ import annotations

from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from torch import Tensor

from eca_mmdet import compat
from eca_mmdet.engine.nan_guard import require_finite

POSITION = 'eca_mmdet_position'
"""Entry of a checkpoint's meta: batches done in its epoch, and images per batch."""

GRADIENTS = 'eca_mmdet_gradients'
"""Entry of a checkpoint that was written before accumulated gradients were applied."""


class TrainingStateHook(Hook):  # type: ignore[misc]
    """Reject NaN in checkpoints, and save in each the position in the data."""

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Check and complete what is about to be written."""
        require_finite(checkpoint)
        position = getattr(compat.train_loop(runner), 'data_position', None)
        if position is not None:  # a loop of ours
            checkpoint['meta'][POSITION] = position(checkpoint['meta'])
        if compat.is_accumulating(runner.optim_wrapper) and get_world_size() == 1:
            checkpoint[GRADIENTS] = gradients_of(runner.model)


def gradients_of(model: Any) -> dict[str, Tensor]:
    """Return copies of a model's gradients, on the CPU, by parameter."""
    return {
        name: parameter.grad.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def restore_gradients(model: Any, gradients: Any) -> None:
    """Set the gradients of a model's parameters to those of a checkpoint."""
    if not isinstance(gradients, dict):
        return
    for name, parameter in getattr(model, 'module', model).named_parameters():
        kept = gradients.get(name)
        if isinstance(kept, Tensor) and kept.shape == parameter.shape:
            parameter.grad = kept.to(parameter.device, parameter.dtype)
