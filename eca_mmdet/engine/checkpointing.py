"""Checkpoints of a training: written whole or not at all, and found again to resume."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.fileio import LocalBackend, register_backend

from eca_mmdet.checkpoints.download import is_address
from eca_mmdet.checkpoints.io import read_checkpoint
from eca_mmdet.engine.distributed import is_main_process
from eca_mmdet.utils.errors import UserError, WeightsError
from eca_mmdet.utils.io import whole_file

logger = logging.getLogger(__name__)

BACKEND = 'whole_files'
POINTER = 'last_checkpoint'
"""File in a work folder that names the latest checkpoint, as mmengine writes it."""


class WholeFiles(LocalBackend):  # type: ignore[misc]
    """mmengine's local files, with nothing removed before its successor exists.

    mmengine removes the oldest checkpoint, and then begins to write the new one over
    its name, byte by byte: a kill or a full disk between the two leaves neither.
    """

    _outdated: list[str] = []  # of the process: mmengine makes a backend a call

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file whole, then remove what it replaces."""
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            partial.write_bytes(obj)
        while self._outdated:
            old = Path(self._outdated.pop())
            if old != path:
                old.unlink(missing_ok=True)

    def remove(self, filepath: str | Path) -> None:
        """Remove a file after the next one has been written."""
        self._outdated.append(str(filepath))


def write_whole_files(runner: Any) -> None:
    """Make the checkpoint hooks of a Runner write through ``WholeFiles``.

    Hooks that were given a storage of their own keep it.
    """
    from mmengine.hooks import CheckpointHook

    register_backend(BACKEND, WholeFiles, force=True)
    WholeFiles._outdated.clear()
    for hook in runner.hooks:
        if not isinstance(hook, CheckpointHook):
            continue
        remote = '://' in str(hook.out_dir or runner.work_dir)
        if not (hook.backend_args or hook.file_client_args or remote):
            hook.backend_args = {'backend': BACKEND}


def remove_partial(folder: str | Path) -> None:
    """Remove what a killed training had begun to write in its work folder."""
    for name in ('*.pth', POINTER):
        for path in Path(folder).glob(f'.{name}.*.partial'):
            path.unlink(missing_ok=True)


def point_to(checkpoint: Path) -> None:
    """Make ``--resume`` take this checkpoint."""
    with whole_file(checkpoint.with_name(POINTER)) as partial:
        partial.write_text(str(checkpoint))


def resume_from(cfg: Any, checkpoint: str | None) -> None:
    """Set a config to resume a checkpoint, or with 'auto' the latest in ``work_dir``.

    The seed continues too, and with it the order of the images; not for an address,
    which one process downloads for all, later. ``cfg.resume`` is the same as 'auto'.
    """
    if cfg.get('resume') and not checkpoint:
        checkpoint = cfg.get('load_from') or 'auto'
    cfg.resume = False
    if not checkpoint:
        require_no_checkpoints(cfg.work_dir)
        return
    if checkpoint == 'auto':
        point = find_checkpoint(cfg.work_dir)
        if point is None:
            logger.info(
                f'nothing to resume in {cfg.work_dir}: starting from the beginning'
            )
            return
    elif is_address(checkpoint):
        cfg.resume, cfg.load_from = True, checkpoint
        return
    else:
        path = Path(checkpoint)
        point = ResumePoint(path, read_meta(path))
    if point.note:
        logger.info(f'resuming from {point.path}, since {point.note}')
    cfg.resume, cfg.load_from = True, str(point.path)
    seed = point.meta.get('seed')
    if isinstance(seed, int):
        cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': seed}


def require_no_checkpoints(folder: str) -> None:
    """Check that a new training overwrites no checkpoints of an earlier one."""
    if not is_main_process():
        return
    patterns = ('epoch_*.pth', 'iter_*.pth', 'best_*.pth')
    names = sorted(path.name for p in patterns for path in Path(folder).glob(p))
    if names:
        raise UserError(
            f'{folder} has {len(names)} checkpoints of an earlier training '
            f'({names[-1]}), which a new one would overwrite. To continue it: '
            '--resume. To start again: another --work-dir, or remove them.',
            code='output-exists',
        )


class ResumePoint(NamedTuple):
    """A checkpoint to resume from."""

    path: Path
    meta: dict[str, Any]  # what mmengine wrote: epoch, iter, seed, ...
    note: str = ''  # why it is not the latest


def read_meta(checkpoint: str | Path) -> dict[str, Any]:
    """Return a training checkpoint's ``meta``; reject any other file."""
    file = read_checkpoint(str(checkpoint))
    counts = [file.meta.get(key) for key in ('epoch', 'iter')]
    if not all(isinstance(n, int) and n >= 0 for n in counts):
        raise WeightsError(
            f'{checkpoint} does not say at which step it was written: it is not a '
            'training checkpoint and cannot be resumed. To start from its weights: '
            '--cfg-options load_from=FILE.',
            code='checkpoint-incomplete',
        )
    if 'optimizer' not in file.extras:
        raise WeightsError(
            f'{checkpoint} holds no optimizer state (save_optimizer=False, or a '
            'published file): training cannot go on from it. To start from its '
            'weights: --cfg-options load_from=FILE.',
            code='checkpoint-incomplete',
        )
    return dict(file.meta)


def find_checkpoint(folder: str | Path) -> ResumePoint | None:
    """Return the latest complete checkpoint of a work folder, or None.

    That is the one that ``last_checkpoint`` names; if it is missing or damaged, the
    complete one with most steps. A folder with only damaged ones is an error.
    """
    folder = Path(folder)
    named = named_checkpoint(folder)
    points, reasons = [], {}
    for path in filter(None, dict.fromkeys([named, *sorted(folder.glob('*.pth'))])):
        try:
            point = ResumePoint(path, read_meta(path))
        except WeightsError as error:
            reasons[path] = str(error)
            continue
        if path == named:
            return point
        points.append(point)
    if points:
        best = max(points, key=lambda point: int(point.meta['iter']))
        return best._replace(note=next(iter(reasons.values()), ''))
    present = [path for path in reasons if path.exists()]
    if present:
        raise WeightsError(
            f'no checkpoint in {folder} can be resumed from. {reasons[present[0]]} '
            'Train into another --work-dir.',
            code='checkpoint-incomplete',
        )
    return None


def named_checkpoint(folder: str | Path) -> Path | None:
    """Return the checkpoint that ``last_checkpoint`` names, also in a moved folder."""
    try:
        text = (Path(folder) / POINTER).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    if not text or '\0' in text:
        return None
    path = Path(text)  # relative to the folder in which training was started
    beside = Path(folder) / path.name
    return beside if beside.is_file() or not path.is_file() else path
