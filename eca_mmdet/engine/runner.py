"""mmengine's Runner, which survives what happens to long trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from eca_mmdet.engine.accumulation import GRADIENTS, gradients_of, is_accumulating
from eca_mmdet.engine.checkpoint_files import BACKEND, point_to, write_whole_files
from eca_mmdet.engine.fault_tolerant_dataset import WatchedDataset
from eca_mmdet.engine.interrupts import Interrupts
from eca_mmdet.engine.loops import POSITION, ExactEpochLoop, ExactIterLoop
from eca_mmdet.engine.nan_guard import OnNan, require_finite

_LOOPS: dict[Any, Any] = {
    'EpochBasedTrainLoop': ExactEpochLoop,
    'IterBasedTrainLoop': ExactIterLoop,
    EpochBasedTrainLoop: ExactEpochLoop,
    IterBasedTrainLoop: ExactIterLoop,
}


class CarefulRunner(Runner):  # type: ignore[misc]
    """A Runner whose training can be cut off anywhere and goes on bit for bit.

    Its config, log, hooks and checkpoints are mmengine's. Trained by a loop other than
    mmengine's own two, it behaves as mmengine's Runner.

    Attributes:
        on_nan: what to do about a loss that is not finite.
        tolerated_images: broken training images that are replaced.
        interrupts: signals that came; handlers are the command's to install.
        resumed_meta: of the checkpoint that training goes on from.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.on_nan = OnNan()
        self.tolerated_images = 0
        self.interrupts = Interrupts()
        self.resumed_meta: dict[str, Any] = {}
        self.resumed_gradients: Any = {}
        super().__init__(*args, **kwargs)
        write_whole_files(self)
        self.register_hook(_CheckpointHook())

    @property
    def bad_images(self) -> Path:
        """The list of broken images that were replaced in this run."""
        return Path(self.log_dir) / 'bad_images.txt'

    def build_train_loop(self, loop: Any) -> Any:
        """Build the loop, the exact one where the config asks for mmengine's."""
        if isinstance(loop, dict):
            loop = dict(loop)
            unit = 'Epoch' if loop.get('by_epoch') else 'Iter'
            name = loop.get('type', f'{unit}BasedTrainLoop')
            if name in _LOOPS:
                loop.pop('by_epoch', None)
                loop['type'] = _LOOPS[name]
            else:
                self.logger.warning(
                    f"train_cfg.type={name!r} is not one of mmengine's two loops: "
                    'resuming may not be exact, NaN is not looked for, and ctrl-C '
                    'writes no checkpoint'
                )
        return super().build_train_loop(loop)

    def build_dataloader(
        self, dataloader: Any, seed: int | None = None, diff_rank_seed: bool = False
    ) -> Any:
        """Build a data loader whose data set names its broken images."""
        if isinstance(dataloader, dict) and isinstance(dataloader.get('dataset'), dict):
            training = 'ReplayedBatchSampler' in str(
                (dataloader.get('batch_sampler') or {}).get('type')
            )
            watched = dict(
                type=WatchedDataset,
                dataset=dataloader['dataset'],
                workers=dataloader.get('num_workers', 0),
            )
            if training:
                watched |= dict(
                    seed=seed,
                    tolerated=self.tolerated_images,
                    bad_images=str(self.bad_images),
                )
            dataloader = {**dataloader, 'dataset': watched}
        return Runner.build_dataloader(
            dataloader, seed=seed, diff_rank_seed=diff_rank_seed
        )

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint, and keep what it says of its training."""
        checkpoint = super().load_checkpoint(*args, **kwargs)
        if self._resume:  # not of a detector whose weights are only a start
            self.resumed_meta = checkpoint.get('meta') or {}
            self.resumed_gradients = checkpoint.get(GRADIENTS)
        return checkpoint

    def save_interrupted(self) -> Path | None:
        """Write a checkpoint of this very step; None if there is nothing to keep.

        Nothing is written of a step that was cut off in the middle, nor before a
        resumed training has taken up all of its state.

        Raises:
            OSError: the disk does not take it.
        """
        loop = self._train_loop
        if not isinstance(loop, (ExactEpochLoop, ExactIterLoop)):
            return None
        if not (loop.whole and loop.iter) or self.rank != 0:
            return None
        if isinstance(loop, ExactIterLoop):
            name = f'iter_{loop.iter}.pth'
        elif loop.batches_done:
            name = f'epoch_{loop.epoch}_iter_{loop.iter}.pth'
        else:
            name = f'epoch_{loop.epoch}.pth'
        path = Path(self.work_dir) / name
        self.save_checkpoint(
            str(path.parent),
            path.name,
            meta=dict(epoch=loop.epoch, iter=loop.iter),
            by_epoch=False,
            backend_args={'backend': BACKEND},
        )
        point_to(path)
        return path


class _CheckpointHook(Hook):  # type: ignore[misc]
    """Let no checkpoint hold NaN, and note in each where its data stood."""

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        require_finite(checkpoint)
        loop = runner._train_loop
        if isinstance(loop, (ExactEpochLoop, ExactIterLoop)):
            meta = checkpoint['meta']
            meta[POSITION] = loop.position(meta)
        if is_accumulating(runner.optim_wrapper) and get_world_size() == 1:
            checkpoint[GRADIENTS] = gradients_of(runner.model)
