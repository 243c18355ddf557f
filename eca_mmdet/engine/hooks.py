"""Hooks of every training: exact resuming, and a learning rate for the batch."""

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
            checkpoint[GRADIENTS] = {
                name: parameter.grad.detach().cpu().clone()
                for name, parameter in runner.model.named_parameters()
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


_KEY = 'images_per_step'


class ResumedBatchHook(Hook):  # type: ignore[misc]
    """Record images per step in checkpoints, and follow a change when resuming.

    mmengine looks for it in a field that checkpoints of 3.x do not have, and then keeps
    the learning rate of the old batch.

    Args:
        images: per step, over all processes.
        scale: scale the learning rate with the images (``--no-scale-lr`` does not).
    """

    def __init__(self, images: int, scale: bool) -> None:
        self.images, self.scale = images, scale

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Record what the learning rate in this file belongs to."""
        checkpoint['meta'][_KEY] = self.images

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Scale the rates in the loaded file, before the optimizer takes them."""
        if not compat.is_resuming(runner):
            return
        before = checkpoint.get('meta', {}).get(_KEY)
        if before is None:
            line = f'{self.images} images a step; the checkpoint does not say its own'
        elif before == self.images:
            line = f'{self.images} images a step as before'
        elif not self.scale:
            line = f'{self.images} images a step, not {before}: lr left as it was'
        else:
            factor = self.images / before
            scale_rates(checkpoint, factor)
            line = f'{self.images} images a step, not {before}: lr x {factor:g}'
        runner.logger.info(f'resumed: {line}')


def scale_rates(checkpoint: dict[str, Any], factor: float) -> None:
    """Multiply every learning rate of a checkpoint, its schedulers' included.

    Schedulers compute the next rate from the last, so that the factor stays. An
    absolute ``eta_min`` does not scale; it does not at the start of a run either.
    """
    for group in checkpoint.get('optimizer', {}).get('param_groups', []):
        for key in ('lr', 'initial_lr'):
            if key in group:
                group[key] = group[key] * factor
    for scheduler in checkpoint.get('param_schedulers', []):
        if scheduler.get('param_name') == 'lr':
            for key in compat.SCHEDULER_RATES:
                scheduler[key] = [value * factor for value in scheduler[key]]
