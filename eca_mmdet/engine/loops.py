"""Training loops and hooks for exact resuming, within an epoch too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import Tensor

from eca_mmdet import compat
from eca_mmdet.engine.data_loading import ReplayedBatchSampler, seed_step
from eca_mmdet.engine.distributed import unwrapped
from eca_mmdet.engine.nan_guard import GuardedOptimizer, require_finite
from eca_mmdet.utils.errors import RunError

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
                for name, parameter in unwrapped(runner.model).named_parameters()
                if parameter.grad is not None
            }


def restore_gradients(model: Any, gradients: Any) -> None:
    """Set the gradients of a model's parameters to those of a checkpoint.

    Raises:
        RunError: a gradient belongs to no parameter of its shape.
    """
    if not isinstance(gradients, dict):
        return
    # One process under a launcher once saved the names of its DDP wrapper.
    kept = {name.removeprefix('module.'): value for name, value in gradients.items()}
    for name, parameter in unwrapped(model).named_parameters():
        name = name.removeprefix('module.')
        value = kept.get(name)
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            parameter.grad = value.to(parameter.device, parameter.dtype)
            del kept[name]
    if kept:
        raise RunError(
            f'the checkpoint holds accumulated gradients of {next(iter(kept))}, which '
            'is no parameter of this model, or one of another shape. Resume with the '
            'config of the training.',
            code='checkpoint-mismatch',
        )


class ResumedBatchHook(Hook):  # type: ignore[misc]
    """Record images per step in checkpoints, and follow a change when resuming.

    mmengine looks for it in a field that checkpoints of 3.x do not have, and then keeps
    the learning rate of the old batch. ``images`` counts all processes.
    """

    def __init__(self, images: int, scale: bool) -> None:
        self.images, self.scale = images, scale

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Record what the learning rate in this file belongs to."""
        checkpoint['meta']['images_per_step'] = self.images

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Scale the rates in the loaded file, before the optimizer takes them."""
        if not compat.is_resuming(runner):
            return
        before = checkpoint.get('meta', {}).get('images_per_step')
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


class NotesHook(Hook):  # type: ignore[misc]
    """Log lines right before the first step, below all that mmengine logs before it."""

    priority = 'LOWEST'

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = [*filter(None, lines)]

    def before_train_epoch(self, runner: Any) -> None:
        """Log them, once."""
        while self.lines:
            runner.logger.warning(self.lines.pop(0))


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


class ExactLoop:
    """Base class of both loops: a step's random numbers depend only on its number."""

    runner: Any
    dataloader: Any
    stop_training: bool
    val_begin: int
    val_interval: int
    _decide_current_val_interval: Callable[[], None]
    _iter: int
    _epoch: int
    _guard: GuardedOptimizer
    batches_done = 0  # in this epoch
    whole = False  # between two steps: what a checkpoint can hold

    def _build(self, runner: Any, dataloader: Any, endless: bool) -> Any:
        """Return the data loader, its batches replayable."""
        if not isinstance(dataloader, dict):
            return dataloader
        dataloader = dict(dataloader)
        dataloader['batch_sampler'] = dict(
            type=ReplayedBatchSampler,
            inner=dataloader.get('batch_sampler'),
            drop_last=dataloader.pop('drop_last', False),
            endless=endless,
        )
        return runner.build_dataloader(
            dataloader, seed=runner.seed, diff_rank_seed=compat.differs_by_rank(runner)
        )

    def _begin(self, epoch: int, batches: int, done: int, end: int, unit: str) -> None:
        """Restore the position of the data, and gradients that were not yet applied.

        ``batches`` are those of ``epoch`` that are done, for checkpoints of mmengine's
        own Runner. ``done`` of ``end`` epochs or iterations are for the log.
        """
        runner = self.runner
        self._guard = GuardedOptimizer(runner)
        position = runner.resumed_meta.get(POSITION)
        position = position if isinstance(position, dict) else {}
        counted, images = position.get('counted'), position.get('images')
        if isinstance(counted, int):
            compat.set_steps_counted(runner.optim_wrapper, counted)
        restore_gradients(runner.model, runner.resumed_gradients)
        runner.resumed_gradients = {}
        self.batches_done = batches
        if isinstance(position.get('batches'), int) and isinstance(images, int):
            seen = position['batches'] * images  # in batches of today's size
            self.batches_done = max(0, seen // self._images_a_batch())
        sampler = self.dataloader.batch_sampler
        if isinstance(sampler, ReplayedBatchSampler):
            sampler.start_at(epoch, self.batches_done)
        if done >= end:
            line = f'nothing is left to train: the checkpoint is of {unit} {done}'
            runner.logger.info(f'{line}, and the training ends at {end}')
        self._let_interrupt()

    def _step(self, batch_idx: int, batch: Any) -> None:
        runner, interrupts = self.runner, self.runner.interrupts
        interrupts.at_once = self.whole = False
        seed_step(runner.seed, get_rank(), self._iter)
        runner.call_hook('before_train_iter', batch_idx=batch_idx, data_batch=batch)
        outputs = self._guard.train_step(batch)
        runner.call_hook(
            'after_train_iter', batch_idx=batch_idx, data_batch=batch, outputs=outputs
        )
        self._iter += 1
        self.batches_done += 1
        self.whole = True
        if not compat.is_accumulating(runner.optim_wrapper):
            interrupts.stop_if_agreed()  # in all processes at the same step
            self._let_interrupt()

    def _let_interrupt(self) -> None:
        """Let a single process stop at once, between two steps."""
        self.whole = True
        if get_world_size() == 1:
            self.runner.interrupts.at_once = True
            self.runner.interrupts.stop_if_asked()

    def _validate_if_due(self, done: int, end: int) -> None:
        """Validate after ``done`` of ``end`` epochs or iterations, if it is time."""
        self._decide_current_val_interval()
        due = done >= self.val_begin and (done % self.val_interval == 0 or done == end)
        if self.runner.val_loop is None or not due:
            return
        self._let_interrupt()
        averaged = any(isinstance(hook, EMAHook) for hook in self.runner.hooks)
        # The hook lends the model its averages meanwhile.
        self.whole = self.runner.interrupts.at_once = not averaged
        self.runner.val_loop.run()
        self.runner.interrupts.at_once = False
        self._let_interrupt()

    def data_position(self, meta: Any) -> dict[str, int]:
        """Return the position in the data, which a checkpoint needs to resume an epoch.

        Hooks write a checkpoint, with epoch and iter in ``meta``, before the loop has
        counted the step or epoch that has just ended.
        """
        ended = meta['epoch'] > self._epoch
        batches = 0 if ended else self.batches_done + meta['iter'] - self._iter
        counted = compat.steps_counted(self.runner.optim_wrapper)
        images = self._images_a_batch()
        return {'batches': batches, 'images': images, 'counted': counted}

    def _images_a_batch(self) -> int:
        return int(self.dataloader.batch_sampler.batch_size * get_world_size())


class ExactEpochLoop(ExactLoop, EpochBasedTrainLoop):  # type: ignore[misc]
    """Training by epochs, resumed within one if need be."""

    def __init__(self, runner: Any, dataloader: Any, **options: Any) -> None:
        EpochBasedTrainLoop.__init__(
            self, runner, self._build(runner, dataloader, endless=False), **options
        )

    def run(self) -> Any:
        """Train; a validation that was due when the checkpoint was written comes first.

        Whether it was finished before the interruption is not known; it changes
        nothing of the training.
        """
        self.runner.interrupts.at_once = False
        self.runner.call_hook('before_train')
        self._begin(self._epoch, 0, self._epoch, self._max_epochs, 'epoch')
        if self._epoch and not self.batches_done:
            self._validate_if_due(self._epoch, self._max_epochs)
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate_if_due(self._epoch, self._max_epochs)
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        """Train the rest of an epoch."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for index, batch in enumerate(self.dataloader, self.batches_done):
            self._step(index, batch)
        self.runner.interrupts.at_once = self.whole = False
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
        self.batches_done = 0
        self._let_interrupt()
        self.runner.interrupts.at_once = False


class _UnstartedLoader:
    """Stands for a data loader that mmengine 0.10.7 would start too early."""

    def __init__(self, loader: Any) -> None:
        self.dataset = loader.dataset

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class ExactIterLoop(ExactLoop, IterBasedTrainLoop):  # type: ignore[misc]
    """Training by iterations. A resumed run skips what was trained without reading."""

    def __init__(self, runner: Any, dataloader: Any, **options: Any) -> None:
        loader = self._build(runner, dataloader, endless=True)
        IterBasedTrainLoop.__init__(self, runner, _UnstartedLoader(loader), **options)
        self.dataloader = loader

    def run(self) -> Any:
        """Train; see ``ExactEpochLoop.run`` on validation."""
        self.runner.interrupts.at_once = False
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        self._begin(0, self._iter, self._iter, self._max_iters, 'step')
        if self._iter:
            self._validate_if_due(self._iter, self._max_iters)
        batches = iter(self.dataloader)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self._step(self._iter, next(batches))
            self._validate_if_due(self._iter, self._max_iters)
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model
