"""``eca-mmdet train``: mmdet's training with the traps closed."""

from __future__ import annotations

import argparse
import contextlib
import logging
import shlex
import sys
from collections.abc import Iterator
from typing import Any

from eca_mmdet.cli.common import data_options
from eca_mmdet.engine import config as launch
from eca_mmdet.engine import distributed as processes
from eca_mmdet.engine import seeding as determinism
from eca_mmdet.engine.workers import ending_workers
from eca_mmdet.utils.errors import RunError, UserError


def run(args: argparse.Namespace) -> int:
    """Check, scale the learning rate, train."""
    from eca_mmdet.autoconfig.inputs import Options
    from eca_mmdet.autoconfig.training import config_of
    from eca_mmdet.engine.checkpoint_files import remove_partial
    from eca_mmdet.engine.run_lock import RunLock

    args.config, args.work_dir = config_of(
        args.config,
        args.data or (),
        Options(**data_options(args, 'train')),
        args.work_dir,
        bool(args.resume),
        args.launcher,
    )
    cfg = launch.load_config(args)
    launch.set_work_dir(cfg, args)
    if not launch.is_main_process():
        return _train(cfg, args)
    with RunLock(cfg.work_dir) as lock:
        if lock.left_behind and args.resume:
            print(
                f'the last training in {cfg.work_dir} ({lock.left_behind}) ended '
                'without a word: it was killed, or memory ran out'
            )
        remove_partial(cfg.work_dir)
        return _train(cfg, args)


def _train(cfg: Any, args: argparse.Namespace) -> int:
    from eca_mmdet.engine.resume import resume_from

    if args.from_scratch:
        launch.start_from_scratch(cfg)
    if args.amp:
        launch.use_amp(cfg)
    determinism.set_randomness(cfg, args.seed, args.deterministic)
    resume_from(cfg, args.resume)
    launch.check(cfg, training=True)
    launch.apply_lr_policy(cfg, scale=not args.no_scale_lr)
    from eca_mmdet.engine.hooks.resumed_batch import follow_batch
    from eca_mmdet.engine.interrupts import Interrupted, Interrupts

    with processes.job(cfg), determinism.explained():
        runner = launch.build_runner(cfg)
        follow_batch(cfg, runner, scale=not args.no_scale_lr)
        launch.check_start(cfg, runner, exact=bool(cfg.get('resume')))
        set_tolerance(runner, args)
        interrupts = getattr(runner, 'interrupts', None) or Interrupts()
        with interrupts, _silent_log_errors(), _resumable(runner):
            try:
                with ending_workers(runner):
                    runner.train()
            except Interrupted as stop:
                interrupts.ignored = True
                _keep(runner)
                return 128 + stop.signal
    _name_bad_images(runner)
    return 0


def set_tolerance(runner: Any, args: argparse.Namespace) -> None:
    """Apply --on-nan and --skip-bad-images.

    Raises:
        UserError: the config has a runner of its own, which knows neither.
    """
    from mmdet.engine.hooks import CheckInvalidLossHook

    from eca_mmdet.engine.nan_guard import OnNan
    from eca_mmdet.engine.runner import CarefulRunner

    if isinstance(runner, CarefulRunner):
        if args.on_nan == 'skip':  # mmdet's hook would end it, without the loss
            runner._hooks = [
                one for one in runner.hooks if not isinstance(one, CheckInvalidLossHook)
            ]
        runner.on_nan = OnNan(args.on_nan == 'skip', args.nan_limit)
        runner.tolerated_images = args.skip_bad_images
    elif args.on_nan == 'skip' or args.skip_bad_images:
        raise UserError(
            '--on-nan skip and --skip-bad-images need the runner of this command; the '
            f'config has runner_type={runner.cfg.runner_type!r}.'
        )


@contextlib.contextmanager
def _silent_log_errors() -> Iterator[None]:
    """Print no stack trace for each line that a full disk does not take."""
    before, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        yield
    finally:
        logging.raiseExceptions = before


@contextlib.contextmanager
def _resumable(runner: Any) -> Iterator[None]:
    """Add to a failure what is left, and how to go on."""
    from eca_mmdet.engine.error_translation import told

    try:
        with told(runner):
            yield
    except RunError as error:
        left = _what_is_left(runner.work_dir)
        raise type(error)(f'{error} {left}') from error


def _what_is_left(work_dir: str) -> str:
    from eca_mmdet.engine.checkpoint_files import find_checkpoint

    try:
        found = find_checkpoint(work_dir)
    except UserError as error:
        return str(error)
    if found is None:
        return 'No checkpoint was written yet.'
    return f'Last good checkpoint: {found.path}; go on from it: {go_on()}'


def _keep(runner: Any) -> None:
    """After ctrl-C: write a checkpoint, and say how to go on."""
    path = None
    if hasattr(runner, 'save_interrupted'):
        path = runner.save_interrupted()
    if not launch.is_main_process():
        return
    if path is None:
        line = f'stopped at once. {_what_is_left(runner.work_dir)}'
    else:
        line = (
            f'stopped after step {runner.iter}; all of it is in {path}. Go on: '
            f'{go_on()}'
        )
    print(f'eca-mmdet train: {line}', file=sys.stderr)


def go_on() -> str:
    """Return the command that was started, with --resume."""
    if any(word.startswith('--launcher') for word in sys.argv):
        return 'the same command with --resume'
    words = ['eca-mmdet', *sys.argv[1:]]
    for at, word in enumerate(words):
        if word == '--resume' or word.startswith('--resume='):
            end = at + 1
            if word == '--resume' and end < len(words) and words[end][0] != '-':
                end += 1  # its CHECKPOINT: the latest is wanted now
            words[at:end] = []
            break
    at = words.index('--cfg-options') if '--cfg-options' in words else len(words)
    return shlex.join([*words[:at], '--resume', *words[at:]])


def _name_bad_images(runner: Any) -> None:
    path = getattr(runner, 'bad_images', None)
    if path is not None and path.is_file() and launch.is_main_process():
        many = len(path.read_text(encoding='utf-8').splitlines())
        print(
            f'{many} broken images were replaced by others; they are listed in {path}'
        )
