"""From command-line arguments to a built Runner; shared by train, test and demo."""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from pathlib import Path
from typing import Any

from eca_mmdet import registration
from eca_mmdet.catalog.configs import resolve_config
from eca_mmdet.checkpoints.detector import require_converted, require_fit
from eca_mmdet.checkpoints.download import fetch, is_address, is_fetched
from eca_mmdet.checkpoints.io import read_checkpoint
from eca_mmdet.engine import distributed as processes
from eca_mmdet.engine.preflight import data as preflight_data
from eca_mmdet.engine.preflight import model as preflight
from eca_mmdet.utils.errors import UserError


def load_config(args: argparse.Namespace) -> Any:
    """Read the config and its overrides; mmdet is imported here.

    Args:
        args: with config, cfg_options, launcher and local_rank.

    Raises:
        UserError: the config does not exist, does not parse, or an override is not
            KEY=VALUE, or the launcher did not start this process.
    """
    path = resolve_config(args.config)
    processes.require_launcher(args.launcher)
    forbid_code_in_files()
    registration.register()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    from mmengine.config import Config

    try:
        cfg = Config.fromfile(str(path))
    except Exception as error:  # a config is code: it may raise anything
        raise UserError(
            f'{path} is not a config that mmengine reads: '
            f'{type(error).__name__}: {error}'
        ) from error
    cfg.launcher = args.launcher
    options = parse_options(args.cfg_options)
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise UserError(
            f'--cfg-options {" ".join(args.cfg_options)} does not fit {path}: {error}'
        ) from error
    processes.set_timeout(cfg, getattr(args, 'dist_timeout', None))
    return cfg


def forbid_code_in_files() -> None:
    """Make every ``torch.load`` of this process and its children read tensors alone.

    onedl-mmengine falls back to unpickling whatever a file asks for, with a warning;
    PyTorch's own switch forbids that, whoever loads.

    Raises:
        UserError: the environment asks for the opposite.
    """
    if os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '0') not in ('', '0'):
        raise UserError(
            'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set: it lets files run code, and this '
            'command reads none that do. Unset it; a file of yours that is refused can '
            'be converted once: eca-mmdet weights convert FILE NEW --trust NAME.'
        )
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'


def require_sections(cfg: Any, training: bool) -> None:
    """Refuse a file that parses but is no detector config.

    Raises:
        UserError: naming what is missing.
    """
    needed = ['model', 'test_dataloader', 'test_evaluator']
    if training and cfg.get('test_time_only'):
        raise UserError(f'{cfg.filename} is for testing alone: {cfg.test_time_only}')
    if training:
        needed = ['model', 'train_dataloader', 'train_cfg', 'optim_wrapper']
    missing = [key for key in needed if not cfg.get(key)]
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
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif not cfg.get('work_dir'):
        cfg.work_dir = str(Path('work_dirs') / Path(cfg.filename).stem)


def start_from_scratch(cfg: Any) -> None:
    """Drop the backbone's weights, and thaw what is frozen because of them."""
    backbone = cfg.model.backbone
    backbone.init_cfg = None
    for key, value in (('frozen_stages', -1), ('norm_eval', False)):
        if key in backbone:  # other families have no such argument
            backbone[key] = value


def use_amp(cfg: Any) -> None:
    """Switch to mixed precision with a dynamic loss scale.

    Raises:
        UserError: no accelerator is there; mmengine's AMP refuses the CPU.
    """
    from mmengine.device import get_device

    if get_device() == 'cpu':
        raise UserError('--amp needs a GPU, and PyTorch sees none. Train without it.')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def images_per_step(cfg: Any) -> int:
    """Return processes x batch x accumulated steps."""
    world = processes.count_processes(cfg.launcher)
    batch = cfg.train_dataloader.get('batch_size') or 1
    accumulation = cfg.optim_wrapper.get('accumulative_counts', 1)
    return int(world * batch * accumulation)


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
    optimizer: Any = cfg.optim_wrapper.get('optimizer') or {}
    lr = optimizer.get('lr')
    step = images_per_step(cfg)
    cfg.auto_scale_lr = dict(enable=False, base_batch_size=base or step)
    if lr is None:
        return
    if cfg.get('resume'):
        line = 'lr continues from the checkpoint'
    elif not scale:
        line = f'lr {lr:g} as written: {step} images a step'
        line += f', config made for {base}' if base else ''
    elif base is None:
        line = f'lr {lr:g} as written: the config names no base batch size'
    else:
        scaled = lr * step / base
        optimizer.lr = scaled
        line = f'lr {lr:g} -> {scaled:g}: {step} of {base} images a step'
    say(line)


def is_main_process() -> bool:
    """Tell rank 0 (or a job of one process) from the others."""
    names = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')
    ranks = [int(os.environ[name]) for name in names if name in os.environ]
    return not ranks or ranks[0] == 0


def say(line: str) -> None:
    """Print a line, once a job."""
    if is_main_process():
        print(line, flush=True)


def check(cfg: Any, training: bool) -> None:
    """Run every check that needs no image. Rank 0 does it for all.

    A detector that is loaded whole brings its backbone: ``init_cfg`` is then dropped,
    since mmengine would want the backbone's own file first all the same.

    Raises:
        UserError: the first fault.
    """
    require_sections(cfg, training)
    start = cfg.get('load_from')
    if start and cfg.model.get('backbone'):
        cfg.model.backbone.init_cfg = None
    if not is_main_process():
        return
    backbone = preflight.check_backbone(cfg)
    preflight.check_operators(cfg)
    if training and not start:
        preflight.check_backbone_weights(cfg, backbone)
    elif training and not is_address(str(start)):
        read_checkpoint(start)
    preflight_data.check_data(cfg, training)


def check_start(cfg: Any, runner: Any, exact: bool) -> None:
    """Hold the detector that the run starts from against the model.

    Args:
        cfg: with ``load_from``; nothing is done without.
        runner: built, so that one process downloads for all.
        exact: every tensor must fit (test, resume); else the backbone's must, and one
            line says which others begin new.

    Raises:
        WeightsError: it does not fit.
    """
    start = str(cfg.get('load_from') or '')
    if not start:
        return
    if not is_fetched(start):
        say(f'{start}: mmengine loads it; whether it fits is not checked')
        return
    if isinstance(runner.model, dict):
        say(f'{start}: whether it fits is not checked: {cfg.runner_type} builds later')
        return
    path = str(fetch(start))
    runner._load_from = path  # mmengine would download an address once more
    file = read_checkpoint(path)
    if exact:
        require_fit(file.state, runner.model, start)
        return
    require_converted(file)
    from eca_mmdet.engine.hooks.fine_tuning import check_classes

    for line in check_classes(cfg, runner, file):
        say(line)


def build_runner(cfg: Any) -> Any:
    """Return a ``CarefulRunner`` (or the config's own ``runner_type``)."""
    from mmdet.utils import setup_cache_size_limit_of_dynamo
    from mmengine.registry import RUNNERS

    from eca_mmdet.engine.runner import CarefulRunner
    from eca_mmdet.evaluation.hook import MetricsFileHook

    silence_known_warnings()
    setup_cache_size_limit_of_dynamo()
    processes.start_processes_on_cpu(cfg)
    own = 'runner_type' in cfg
    runner = RUNNERS.build(cfg) if own else CarefulRunner.from_cfg(cfg)
    runner.logger.addFilter(_is_worth_reading)
    if not any(isinstance(hook, MetricsFileHook) for hook in runner.hooks):
        runner.register_hook(MetricsFileHook())  # the config has hooks of its own
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
        'Setting (OMP|MKL)_NUM_THREADS environment',  # mmengine, on what it sets
        '`broadcast_buffers` is deprecated',  # torch, on mmengine's wrapper
        "'pin_memory' argument is set as true but no accelerator",  # torch, on CPU
    ):
        warnings.filterwarnings('ignore', f'.*{message}')
