"""Where a training goes on, or that it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eca_mmdet.checkpoints.download import is_address
from eca_mmdet.engine import checkpoint_files as checkpoints
from eca_mmdet.engine import config as launch
from eca_mmdet.utils.errors import UserError


def resume_from(cfg: Any, checkpoint: str | None) -> None:
    """Continue from a checkpoint, or with 'auto' from the latest in the work folder.

    The seed continues too, and with it the order of the images; not of an address,
    which one process downloads for all, later.

    Args:
        cfg: with work_dir; ``resume`` in it is the same as 'auto'.
        checkpoint: None for a new training.

    Raises:
        UserError: there is a checkpoint that cannot be continued, or one that a new
            training would overwrite.
    """
    if cfg.get('resume') and not checkpoint:
        checkpoint = cfg.get('load_from') or 'auto'
    cfg.resume = False
    if not checkpoint:
        require_no_checkpoints(cfg.work_dir)
        return
    if checkpoint == 'auto':
        found = checkpoints.find_checkpoint(cfg.work_dir)
        if found is None:
            launch.say(
                f'nothing to resume in {cfg.work_dir}: starting from the beginning'
            )
            return
    elif is_address(checkpoint):
        cfg.resume, cfg.load_from = True, checkpoint
        return
    else:
        path = Path(checkpoint)
        found = checkpoints.Found(path, checkpoints.read_meta(path))
    if found.note:
        launch.say(f'going on from {found.path}, since {found.note}')
    cfg.resume, cfg.load_from = True, str(found.path)
    seed = found.meta.get('seed')
    if isinstance(seed, int):
        cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': seed}


def require_no_checkpoints(folder: str) -> None:
    """Refuse to train over the checkpoints of an earlier training."""
    names = checkpoints.existing(folder) if launch.is_main_process() else []
    if names:
        raise UserError(
            f'{folder} has {len(names)} checkpoints of an earlier training '
            f'({names[-1]}), which a new one would overwrite. To go on from them: '
            '--resume. To begin anew: another --work-dir, or remove them.'
        )
