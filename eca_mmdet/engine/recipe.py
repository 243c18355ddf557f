"""How a config trains: learning rate, precision, starting weights, work folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from eca_mmdet.engine import distributed
from eca_mmdet.utils.errors import UserError

logger = logging.getLogger(__name__)


def set_work_dir(cfg: Any, work_dir: str | Path | None) -> None:
    """Apply mmdet's order: the argument, the config's own, ``work_dirs/NAME``."""
    if work_dir:
        cfg.work_dir = str(work_dir)
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
        UserError: there is no accelerator; mmengine's AMP does not run on the CPU.
    """
    from mmengine.device import get_device

    if get_device() == 'cpu':
        raise UserError(
            '--amp needs a GPU, and PyTorch sees none. Train without it.',
            code='no-gpu',
        )
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def images_per_step(cfg: Any) -> int:
    """Return processes x batch x accumulated steps."""
    world = distributed.count_processes(cfg.launcher)
    batch = cfg.train_dataloader.get('batch_size') or 1
    accumulation = cfg.optim_wrapper.get('accumulative_counts', 1)
    return int(world * batch * accumulation)


def apply_lr_policy(cfg: Any, scale: bool) -> None:
    """Scale the learning rate to the images per step, and log it in one line.

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
    logger.info(line)
