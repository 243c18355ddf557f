"""Train a config: checks, learning rate, exact resuming, clean ends."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from eca_mmdet import compat
from eca_mmdet.checkpoints.io import each_read_once
from eca_mmdet.engine import distributed
from eca_mmdet.engine.checkpointing import (
    find_checkpoint,
    locked_folder,
    named_checkpoint,
    resume_from,
)
from eca_mmdet.engine.config import (
    apply_lr_policy,
    images_per_step,
    load_config,
    set_randomness,
    set_work_dir,
    start_from_scratch,
    use_amp,
)
from eca_mmdet.engine.failures import Interrupted, Interrupts, as_user_error
from eca_mmdet.engine.preflight import check, missing_numbers
from eca_mmdet.engine.settings import apply_settings, choose_device
from eca_mmdet.utils.errors import RunError, UserError
from eca_mmdet.utils.io import frozen_objects

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.hooks import Hook

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training."""

    work_dir: Path  # with checkpoints and the config
    log_dir: Path  # with the log, and metrics.json of the last validation
    checkpoint: Path | None  # the latest; None if the config writes none
    model: Any = field(repr=False)  # the detector, as trained
    best: Path | None  # of a config with save_best, and its score
    best_score: float | None
    bad_images: Path | None  # list of the broken images that were replaced


def train(
    config: str | Path | Config,
    work_dir: str | Path | None = None,
    *,
    options: Sequence[str] = (),
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    image_size: tuple[int, ...] | None = None,
    workers: int | None = None,
    device: str | None = None,
    resume: str | None = None,
    seed: int | None = None,
    deterministic: bool = False,
    amp: bool = False,
    scale_lr: bool = True,
    from_scratch: bool = False,
    on_nan: Literal['stop', 'skip'] = 'stop',
    nan_limit: int = 10,
    skip_bad_images: int = 0,
    launcher: str = 'none',
    local_rank: int = 0,
    dist_timeout: int | None = None,
    resume_hint: str = "train(..., resume='auto')",
    amp_dtype: str | None = None,
    compile: bool = False,
    display: Hook | None = None,
    patience: int | None = None,
    ema: bool = False,
) -> TrainingResult:
    """Train a detector, after checking its config, weights and data.

    >>> import eca_mmdet
    >>> name = 'retinanet_eca-r50_fpn_4xb2-1x_coco'
    >>> result = eca_mmdet.train(name)  # doctest: +SKIP
    >>> result.checkpoint  # doctest: +SKIP
    PosixPath('work_dirs/retinanet_eca-r50_fpn_4xb2-1x_coco/epoch_12.pth')

    Args:
        config: shipped name, a file, or what ``load_config`` returned.
        work_dir: for logs and checkpoints; default: the config's, ``work_dirs/NAME``.
        options: overrides as ``KEY=VALUE``.
        epochs: number of epochs; milestones and warm-up change in proportion.
        batch_size: images per step and process; the learning rate follows.
        lr: learning rate, used as given, whatever the batch.
        image_size: long and short side in px of the box that images are resized to; a
            single number is for both.
        workers: data loading processes of each loader; 0 loads in the main process.
        device: 'cpu', 'cuda' or 'cuda:N'; default: a GPU if there is one.
        resume: a checkpoint, or 'auto' for the latest in ``work_dir``.
        seed: default: the config's, or a new one, which is recorded.
        deterministic: the same weights again with the same seed.
        amp: mixed precision: bfloat16 where the device computes in it, else float16.
        scale_lr: scale the learning rate to the images per step.
        from_scratch: random backbone weights, and no frozen stages.
        on_nan: what to do about a batch whose loss is not finite.
        nan_limit: batches that may be skipped.
        skip_bad_images: broken images that may be replaced.
        launcher: 'none', 'pytorch', 'slurm' or 'mpi'.
        local_rank: of this process on its machine, where the launcher sets none.
        dist_timeout: seconds that a process waits for the others.
        resume_hint: how to resume, for messages.
        amp_dtype: mixed precision in 'bfloat16' or 'float16'.
        compile: backbone and neck through ``torch.compile``.
        display: shows the training in place of mmengine's log, which then goes to its
            file alone.
        patience: validations without a better score after which the training stops.
        ema: average the weights over the steps, for validations and checkpoints.

    Raises:
        UserError: a check failed; nothing was trained.
        RunError: the training failed; the message names the checkpoint to resume.
        Interrupted: ctrl-C or SIGTERM; a checkpoint of the last step was written.
    """
    choose_device(device, launcher)
    cfg = load_config(config, options, launcher, local_rank, dist_timeout)
    set_work_dir(cfg, work_dir)
    main = distributed.is_main_process()  # which holds the folder for all
    lock = locked_folder(cfg.work_dir) if main else contextlib.nullcontext('')
    with lock as left_behind, each_read_once(), frozen_objects():
        if left_behind and resume:
            logger.info(
                f'the last training in {cfg.work_dir} ({left_behind}) terminated '
                'unexpectedly: killed, or out of memory'
            )
        if from_scratch:
            start_from_scratch(cfg)
        if amp or amp_dtype:
            use_amp(cfg, amp_dtype)
        set_randomness(cfg, seed, deterministic)
        resume_from(cfg, resume)
        apply_settings(
            cfg,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            image_size=image_size,
            workers=workers,
            patience=patience,
            ema=ema,
        )
        check(cfg, training=True)
        if note := missing_numbers(cfg, 'val'):
            logger.warning('%s', note)
        scale_lr = scale_lr and lr is None
        apply_lr_policy(cfg, scale_lr)
        limit = nan_limit if on_nan == 'skip' else None
        with distributed.job(cfg), as_user_error(None), compat.formatting_once():
            runner = _build(cfg, scale_lr, limit, skip_bad_images, display)
            if compile:
                compile_features(runner.model)
            stopped = _run(runner, resume_hint)
        if stopped is not None:
            raise stopped
    best, score = map(runner.message_hub.runtime_info.get, ('best_ckpt', 'best_score'))
    return TrainingResult(
        Path(runner.work_dir),
        Path(runner.log_dir),
        named_checkpoint(runner.work_dir),
        distributed.unwrapped(runner.model),
        Path(best) if best else None,
        score,
        _bad_images(runner),
    )


def compile_features(model: Any) -> None:
    """Put backbone and neck through ``torch.compile``, for images of any size.

    In place: names in the state dict stay. Shapes in the losses follow the objects.
    """
    from torch import nn

    detector = distributed.unwrapped(model)
    found = [getattr(detector, name, None) for name in ('backbone', 'neck')]
    parts = [part for part in found if isinstance(part, nn.Module)]
    if not parts:  # mmengine's FlexibleRunner builds its model later
        raise UserError(
            '--compile needs a detector with a backbone, and the runner of this '
            f'command; got {type(detector).__name__}.',
            code='unsupported-model',
        )
    for part in parts:
        compat.compile_any_size(part)


def _build(
    cfg: Any,
    scale_lr: bool,
    nan_limit: int | None,
    skip_bad_images: int,
    display: Hook | None,
) -> Any:
    """Return the Runner, the checkpoint that it starts from checked."""
    from mmdet.engine.hooks import CheckInvalidLossHook

    from eca_mmdet.engine.load_from import check_start
    from eca_mmdet.engine.loops import ResumedBatchHook
    from eca_mmdet.engine.runner import ResumableRunner, build_runner

    runner = build_runner(cfg, display)
    runner.register_hook(ResumedBatchHook(images_per_step(cfg), scale_lr))
    check_start(cfg, runner, exact=bool(cfg.get('resume')))
    if isinstance(runner, ResumableRunner):
        if nan_limit is not None:  # mmdet's hook would end it, without the loss
            compat.remove_hooks(runner, CheckInvalidLossHook)
        runner.nan_limit = nan_limit
        runner.tolerated_images = skip_bad_images
    elif nan_limit is not None or skip_bad_images:
        raise UserError(
            '--on-nan skip and --skip-bad-images need the runner of this command; the '
            f'config has runner_type={runner.cfg.runner_type!r}.',
            code='option-conflict',
        )
    return runner


def _run(runner: Any, resume_hint: str) -> Interrupted | None:
    """Train; after ctrl-C save the step, and return what to raise.

    A failure says what is left, and how to resume.
    """
    interrupts = getattr(runner, 'interrupts', None) or Interrupts()
    # No stack trace for each log line that a full disk does not take.
    with interrupts, compat.replaced(logging, raiseExceptions=False):
        try:
            with as_user_error(runner):
                try:
                    with distributed.ending_workers(runner):
                        runner.train()
                except Interrupted as stop:
                    interrupts.ignored = True
                    interrupted = Interrupted(stop.signal, _save(runner, resume_hint))
                    if interrupts.agreed:
                        distributed.wait_for_others()
                    return interrupted
        except RunError as error:
            left = _what_is_left(runner.work_dir, resume_hint)
            raise type(error)(f'{error} {left}', code=error.code) from error
    return None


def _what_is_left(work_dir: str, resume_hint: str) -> str:
    try:
        point = find_checkpoint(work_dir)
    except UserError as error:
        return str(error)
    if point is None:
        return 'No checkpoint was written yet.'
    return f'Last good checkpoint: {point.path}; resume it: {resume_hint}'


def _save(runner: Any, resume_hint: str) -> str:
    """Write a checkpoint if possible; return what is left and how to resume."""
    path = getattr(runner, 'save_interrupted', lambda: None)()
    if path is None:
        return f'stopped at once. {_what_is_left(runner.work_dir, resume_hint)}'
    done = f'stopped after step {runner.iter}; all of it is in {path}.'
    return f'{done} Resume: {resume_hint}'


def _bad_images(runner: Any) -> Path | None:
    path: Path | None = getattr(runner, 'bad_images', None)
    if path is None or not path.is_file():
        return None
    many = len(path.read_text(encoding='utf-8').splitlines())
    logger.info(
        f'{many} broken images were replaced by others; they are listed in {path}'
    )
    return path
