"""mmengine's Runner with exact resuming, atomic checkpoints and named broken images."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmengine.runner.checkpoint import load_state_dict

from eca_mmdet import compat
from eca_mmdet.checkpoints.download import fetch, is_fetched
from eca_mmdet.checkpoints.io import forget_checkpoints, read_checkpoint
from eca_mmdet.engine import config, distributed
from eca_mmdet.engine.checkpointing import BACKEND, POINTER, write_whole_files
from eca_mmdet.engine.data_loading import FaultTolerantDataset
from eca_mmdet.engine.display import Forwarded
from eca_mmdet.engine.failures import Interrupts
from eca_mmdet.engine.loops import (
    GRADIENTS,
    ExactEpochLoop,
    ExactIterLoop,
    TrainingStateHook,
)
from eca_mmdet.utils.io import whole_file

_LOOPS: dict[Any, Any] = {
    'EpochBasedTrainLoop': ExactEpochLoop,
    'IterBasedTrainLoop': ExactIterLoop,
    EpochBasedTrainLoop: ExactEpochLoop,
    IterBasedTrainLoop: ExactIterLoop,
}


class ResumableRunner(Runner):  # type: ignore[misc]
    """A Runner whose training can be killed at any time and resumes bit for bit.

    Its config, log, hooks and checkpoints are mmengine's. With a training loop other
    than mmengine's two it behaves as mmengine's Runner.

    Attributes:
        quiet: mmengine's log goes to its file alone; set while one is constructed.
    """

    quiet = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Batches without a finite loss that may be skipped; None stops at the first.
        self.nan_limit: int | None = None
        self.tolerated_images = 0  # broken training images that may be replaced
        self.interrupts = Interrupts()  # the caller installs the handlers
        self.resumed_meta: dict[str, Any] = {}
        self.resumed_gradients: Any = {}
        self.loaded_file: dict[str, str] = {}  # path and SHA-256
        super().__init__(*args, **kwargs)
        write_whole_files(self)
        self.register_hook(TrainingStateHook())

    @property
    def bad_images(self) -> Path:
        """The list of broken images that were replaced in this run."""
        return Path(self.log_dir) / 'bad_images.txt'

    def build_logger(self, *args: Any, **kwargs: Any) -> Any:
        """Build mmengine's logger, without its console output if ``quiet``."""
        logger = super().build_logger(*args, **kwargs)
        if self.quiet:
            logger.handlers[:] = [
                Forwarded() if type(handler) is logging.StreamHandler else handler
                for handler in logger.handlers
            ]
        return logger

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
        """Build a data loader whose dataset names its broken images."""
        if isinstance(dataloader, dict) and isinstance(dataloader.get('dataset'), dict):
            training = 'ReplayedBatchSampler' in str(
                (dataloader.get('batch_sampler') or {}).get('type')
            )
            watched = dict(
                type=FaultTolerantDataset,
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

    def load_checkpoint(
        self,
        filename: str,
        map_location: Any = 'cpu',
        strict: bool = False,
        **more: Any,
    ) -> Any:
        """Load a checkpoint as the checks have read it, and keep its training's state.

        mmengine would read it again, by other rules; it reads addresses of its own.
        """
        if is_fetched(filename):
            model = distributed.unwrapped(self.model)
            file = read_checkpoint(fetch(filename)).named_as(model.state_dict())
            checkpoint = file.content()
            self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
            load_state_dict(model, checkpoint['state_dict'], strict)
            self.loaded_file = {'file': str(filename), 'sha256': file.sha256}
            self.logger.info(f'Load checkpoint from {filename}')
        else:
            checkpoint = super().load_checkpoint(filename, map_location, strict, **more)
        if compat.is_resuming(self):  # not of a detector whose weights are only a start
            self.resumed_meta = checkpoint.get('meta') or {}
            self.resumed_gradients = checkpoint.get(GRADIENTS)
        return checkpoint

    def load_or_resume(self) -> None:
        """Load the checkpoint to start from; then its memory is free."""
        super().load_or_resume()
        forget_checkpoints()

    def save_interrupted(self) -> Path | None:
        """Write a checkpoint of this step; None if there is nothing to save.

        Nothing is written in the middle of a step, nor before a resumed training has
        restored all of its state.
        """
        loop = compat.train_loop(self)
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
        with whole_file(path.with_name(POINTER)) as partial:
            partial.write_text(str(path))
        return path


def build_runner(cfg: Any, display: Hook | None = None) -> Any:
    """Return a ``ResumableRunner`` (or the config's own ``runner_type``).

    With a ``display``, mmengine's log goes to its file alone.
    """
    from mmdet.utils import setup_cache_size_limit_of_dynamo

    from eca_mmdet.evaluation.metric import MetricsFileHook

    config.silence_known_warnings()
    setup_cache_size_limit_of_dynamo()
    distributed.start_processes_on_cpu(cfg)
    own = 'runner_type' in cfg
    with compat.replaced(ResumableRunner, quiet=display is not None):
        runner = RUNNERS.build(cfg) if own else ResumableRunner.from_cfg(cfg)
    runner.logger.addFilter(_is_worth_reading)
    if not any(isinstance(hook, MetricsFileHook) for hook in runner.hooks):
        runner.register_hook(MetricsFileHook())  # the config has hooks of its own
    if display is not None and runner.rank == 0:
        runner.register_hook(display)
    return runner


def _is_worth_reading(record: logging.LogRecord) -> bool:
    """Drop what mmengine logs about its own deprecated names."""
    message = record.getMessage()
    return not ('"FileClient" will be' in message or '"HardDiskBackend" is' in message)
