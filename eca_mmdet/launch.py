"""From command-line arguments to a built Runner; shared by train, test and demo."""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from typing import Any

from eca_mmdet import preflight, registration
from eca_mmdet.errors import UserError
from eca_mmdet.paths import resolve_config
from eca_mmdet.weights.detector import read_detector


def load_config(args: argparse.Namespace) -> Any:
    """Read the config and its overrides; mmdet is imported here.

    Args:
        args: with config, cfg_options, launcher and local_rank.

    Raises:
        UserError: the config does not exist, does not parse, or an override is not
            KEY=VALUE.
    """
    path = resolve_config(args.config)
    registration.register()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    from mmengine.config import Config

    try:
        cfg = Config.fromfile(str(path))
    except (OSError, SyntaxError, KeyError, ImportError) as error:
        raise UserError(
            f'{path} is not a config that mmengine reads: {error}'
        ) from error
    cfg.launcher = args.launcher
    cfg.merge_from_dict(parse_options(args.cfg_options))
    require_sections(cfg)
    return cfg


def require_sections(cfg: Any) -> None:
    """Refuse a file that parses but is no detector config.

    Raises:
        UserError: naming what is missing.
    """
    missing = [key for key in ('model', 'test_dataloader') if key not in cfg]
    if missing:
        raise UserError(
            f'{cfg.filename} is not a detector config: it has no {", ".join(missing)}. '
            'Inherit one of the shipped ones (eca-mmdet configs).'
        )


def parse_options(options: list[str]) -> dict[str, Any]:
    """Turn KEY=VALUE strings into a dict, values as mmdet's ``--cfg-options`` reads.

    Raises:
        UserError: an option without '='.
    """
    from mmengine.config import DictAction

    for option in options:
        if '=' not in option:
            raise UserError(
                f'--cfg-options takes KEY=VALUE, for example '
                f'train_dataloader.batch_size=4; got {option!r}.'
            )
    parser = argparse.ArgumentParser()
    parser.add_argument('--o', nargs='*', action=DictAction, default={})
    return dict(parser.parse_args(['--o', *options]).o or {})


def set_work_dir(cfg: Any, args: argparse.Namespace) -> None:
    """Apply mmdet's order: command line, config, ``work_dirs/NAME``."""
    from pathlib import Path

    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif not cfg.get('work_dir'):
        cfg.work_dir = str(Path('work_dirs') / Path(cfg.filename).stem)


def start_from_scratch(cfg: Any) -> None:
    """Drop the backbone's weights, and thaw what is frozen because of them."""
    backbone = cfg.model.backbone
    backbone.init_cfg = None
    backbone.frozen_stages = -1
    backbone.norm_eval = False


def use_amp(cfg: Any) -> None:
    """Switch to mixed precision with a dynamic loss scale."""
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def resume_from(cfg: Any, checkpoint: str) -> None:
    """Continue from a checkpoint, or with 'auto' from the latest in the work folder."""
    cfg.resume = True
    cfg.load_from = None if checkpoint == 'auto' else checkpoint


def images_per_step(cfg: Any) -> int:
    """Return processes x batch x accumulated steps."""
    processes = 1
    if cfg.launcher != 'none':
        names = ('WORLD_SIZE', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE')
        sizes = [int(os.environ[name]) for name in names if name in os.environ]
        processes = sizes[0] if sizes else 1
    batch = cfg.train_dataloader.get('batch_size') or 1
    accumulation = cfg.optim_wrapper.get('accumulative_counts', 1)
    return int(processes * batch * accumulation)


def apply_lr_policy(cfg: Any, scale: bool) -> None:
    """Scale the learning rate to the images a step, and say so in one line.

    mmengine's own scaling does not count accumulated steps, so the rate is written
    into the config here and mmengine's is switched off.

    Args:
        cfg: with ``auto_scale_lr.base_batch_size``, the batch its rate is meant for.
        scale: False leaves the rate as written.
    """
    policy = cfg.get('auto_scale_lr') or {}
    base = policy.get('base_batch_size')
    lr = cfg.optim_wrapper.optimizer.lr
    step = images_per_step(cfg)
    cfg.auto_scale_lr = dict(enable=False, base_batch_size=base or step)
    if not scale:
        line = f'lr {lr:g} as written: {step} images a step'
        line += f', config made for {base}' if base else ''
    elif base is None:
        line = f'lr {lr:g} as written: the config names no base batch size'
    else:
        scaled = lr * step / base
        cfg.optim_wrapper.optimizer.lr = scaled
        line = f'lr {lr:g} -> {scaled:g}: {step} of {base} images a step'
    if is_main_process():
        print(line, flush=True)


def is_main_process() -> bool:
    """Tell rank 0 (or a job of one process) from the others."""
    return int(os.environ.get('RANK', os.environ.get('SLURM_PROCID', 0))) == 0


def check(cfg: Any, training: bool) -> None:
    """Run every check that needs no model and no image.

    Raises:
        UserError: the first fault.
    """
    preflight.check_backbone(cfg)
    if training:
        preflight.check_backbone_weights(cfg)
        start = cfg.get('load_from')
        if start and '://' not in start:
            read_detector(start)
    preflight.check_data(cfg, training)


def build_runner(cfg: Any) -> Any:
    """Return mmengine's Runner (or the config's own ``runner_type``)."""
    from mmdet.utils import setup_cache_size_limit_of_dynamo
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    silence_known_warnings()
    setup_cache_size_limit_of_dynamo()
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    runner.logger.addFilter(_is_worth_reading)
    return runner


def _is_worth_reading(record: logging.LogRecord) -> bool:
    """Drop what mmengine logs about its own deprecated names."""
    message = record.getMessage()
    return not ('"FileClient" will be' in message or '"HardDiskBackend" is' in message)


def silence_known_warnings() -> None:
    """Hide third-party warnings that a user can do nothing about."""
    for message in (
        'Failed to search registry with scope',  # mmengine, on its own hooks
        '__floordiv__ is deprecated',  # mmdet, on torch
        'torch.meshgrid: in an upcoming release',  # mmdet, on torch
        'torch.utils.checkpoint: the use_reentrant',  # mmdet, with_cp=True
        "'pin_memory' argument is set as true but no accelerator",  # torch, on CPU
    ):
        warnings.filterwarnings('ignore', f'.*{message}')
