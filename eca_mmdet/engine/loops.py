"""mmengine's two training loops, resumed exactly, within an epoch too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import EMAHook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from eca_mmdet import compat
from eca_mmdet.engine.data_loading import ReplayedBatchSampler
from eca_mmdet.engine.hooks import POSITION, restore_gradients
from eca_mmdet.engine.nan_guard import GuardedOptimizer
from eca_mmdet.engine.seeding import seed_step


class ExactLoop:
    """Base class of both: a step's random numbers depend only on its number."""

    runner: Any
    dataloader: Any
    val_loop: Any
    stop_training: bool
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

    def _begin(self, epoch: int, batches: int) -> None:
        """Set the position of the data."""
        self._guard = GuardedOptimizer(
            self.runner, self.runner.on_nan, self.runner.interrupts
        )
        self._continue_accumulation()
        sampler = self.dataloader.batch_sampler
        if isinstance(sampler, ReplayedBatchSampler):
            sampler.start_at(epoch, batches)

    def _continue_accumulation(self) -> None:
        """Restore accumulated gradients that were not yet applied."""
        kept = self.runner.resumed_meta.get(POSITION)
        counted = kept.get('counted') if isinstance(kept, dict) else None
        if isinstance(counted, int):
            compat.set_steps_counted(self.runner.optim_wrapper, counted)
        restore_gradients(self.runner.model, self.runner.resumed_gradients)
        self.runner.resumed_gradients = {}

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
        """Between two steps a single process may stop at once."""
        self.whole = True
        if get_world_size() == 1:
            self.runner.interrupts.at_once = True
            self.runner.interrupts.stop_if_asked()

    def _validate(self) -> None:
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

    def _resumed_batches(self, default: int) -> int:
        """Return how many batches, of today's size, the checkpoint has seen.

        The default is for checkpoints of mmengine's own Runner.
        """
        kept = self.runner.resumed_meta.get(POSITION)
        kept = kept if isinstance(kept, dict) else {}
        batches, images = kept.get('batches'), kept.get('images')
        if not (isinstance(batches, int) and isinstance(images, int)):
            return default
        return max(0, batches * images // self._images_a_batch())


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
        self.batches_done = self._resumed_batches(default=0)
        self._begin(self._epoch, self.batches_done)
        self._let_interrupt()
        if self._epoch and not self.batches_done:
            self._validate_if_due()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate_if_due()
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

    def _validate_if_due(self) -> None:
        self._decide_current_val_interval()
        last = self._epoch == self._max_epochs
        due = self._epoch % self.val_interval == 0 or last
        if self.runner.val_loop is not None and self._epoch >= self.val_begin and due:
            self._validate()


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
        self.batches_done = self._resumed_batches(default=self._iter)
        self._begin(0, self.batches_done)
        self._let_interrupt()
        if self._iter:
            self._validate_if_due()
        batches = iter(self.dataloader)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self._step(self._iter, next(batches))
            self._validate_if_due()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def _validate_if_due(self) -> None:
        self._decide_current_val_interval()
        last = self._iter == self._max_iters
        due = self._iter % self.val_interval == 0 or last
        if self.runner.val_loop is not None and self._iter >= self.val_begin and due:
            self._validate()
