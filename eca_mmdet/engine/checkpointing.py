"""The work folder of a training: its lock, and checkpoints, whole and found again."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.fileio import LocalBackend, register_backend

from eca_mmdet.checkpoints.download import is_address
from eca_mmdet.checkpoints.io import read_checkpoint
from eca_mmdet.engine.distributed import is_main_process
from eca_mmdet.utils.errors import MissingWeightsError, UserError, WeightsError
from eca_mmdet.utils.io import whole_file

logger = logging.getLogger(__name__)

_LOCK = '.training'
# What file systems without such locks say: no protection there.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

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
        if isinstance(hook, CheckpointHook):
            remote = '://' in str(hook.out_dir or runner.work_dir)
            if not (hook.backend_args or hook.file_client_args or remote):
                hook.backend_args = {'backend': BACKEND}


def resume_from(cfg: Any, checkpoint: str | None) -> str:
    """Set a config to resume a checkpoint, or with 'auto' the latest in ``work_dir``.

    Returns a line that says so if there is none, or ''.

    The seed continues too, and with it the order of the images; not for an address,
    which one process downloads for all, later. ``cfg.resume`` is the same as 'auto'.
    """
    if cfg.get('resume') and not checkpoint:
        checkpoint = cfg.get('load_from') or 'auto'
    cfg.resume = False
    if not checkpoint:
        require_no_checkpoints(cfg.work_dir)
        return ''
    meta: dict[str, Any] = {}
    if checkpoint == 'auto':
        point = find_checkpoint(cfg.work_dir)
        if point is None:
            line = f'nothing to resume in {cfg.work_dir}: starting from the beginning'
            logger.info(line)
            return line
        checkpoint, meta, note = str(point.path), point.meta, point.note
        if note:
            logger.info(f'resuming from {checkpoint}, since {note}')
    elif not is_address(checkpoint):
        checkpoint = str(Path(checkpoint))
        meta = read_meta(checkpoint)
    cfg.resume, cfg.load_from = True, checkpoint
    seed = meta.get('seed')
    if isinstance(seed, int):
        cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': seed}
    return ''


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
        reason = (
            'does not say at which step it was written: it is not a training '
            'checkpoint and cannot be resumed'
        )
    elif 'optimizer' not in file.extras:
        reason = (
            'holds no optimizer state (save_optimizer=False, or a published file): '
            'training cannot go on from it'
        )
    else:
        return dict(file.meta)
    raise WeightsError(
        f'{checkpoint} {reason}. To start from its weights: --cfg-options '
        'load_from=FILE.',
        code='checkpoint-incomplete',
    )


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


def checkpoint_of(path: str | Path) -> str:
    """Return a file or address as it is; of a work folder, the best or last checkpoint.

    The best is the newest ``best_*.pth``; which one was taken is logged.

    Raises:
        MissingWeightsError: no checkpoint is in the folder.
    """
    folder = Path(path)
    if is_address(str(path)) or not folder.is_dir():
        return str(path)
    kind, files = 'best', list(folder.glob('best_*.pth'))
    if not files:
        kind, named = 'last', named_checkpoint(folder)
        files = [named] if named and named.is_file() else list(folder.glob('*.pth'))
    if not files:
        raise MissingWeightsError(
            f'{folder} is a folder without a checkpoint (*.pth). Name a checkpoint, or '
            'the work folder of a training.'
        )
    found = max(files, key=lambda file: file.stat().st_mtime)
    logger.warning('%s: the %s checkpoint in %s', found, kind, folder)
    return str(found)


@contextlib.contextmanager
def locked_folder(
    folder: str | Path, work: str = 'training', option: str = '--work-dir'
) -> Iterator[str]:
    """Hold a work folder, made if need be, for the time of a ``with`` block.

    The kernel releases it when the process ends, however it ends; the content of the
    file then stays. Yields the last holder if it was killed ('process 7 on HOST, since
    DATE'), or ''; checkpoints that it had begun to write are removed. ``work`` and
    ``option`` are for messages.
    """
    path = Path(folder) / _LOCK
    folder = path.parent
    try:
        # Innermost first.
        made = [parent for parent in path.parents if not parent.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        file = open(path, 'a+', encoding='utf-8', errors='replace')
        held = not (_lock(file) and _is_there(path, file))
    except OSError as error:
        raise UserError(
            f'nothing can be written to the work folder {folder}: {error.strerror}. '
            f'Name another with {option}.',
            code='file-not-written',
        ) from error
    with file:
        file.seek(0)
        holder = _describe(file.read())
        if held:
            raise UserError(
                f'{folder} is the work folder of a {work} that runs now '
                f'({holder or "unknown"}). Wait for it, or name another with {option}.',
                code='folder-in-use',
            )
        file.truncate(0)
        since = time.strftime('%Y-%m-%d %H:%M:%S')
        text = {'process': os.getpid(), 'host': socket.gethostname(), 'since': since}
        file.write(json.dumps(text) + '\n')
        file.flush()
        for name in ('*.pth', POINTER):
            for partial in folder.glob(f'.{name}.*.partial'):
                partial.unlink(missing_ok=True)
        try:
            yield holder
        finally:
            path.unlink(missing_ok=True)
            file.close()
            with contextlib.suppress(OSError):
                for parent in made:  # a training that was rejected leaves nothing
                    parent.rmdir()


def _is_there(path: Path, file: Any) -> bool:
    """Return whether an open file still has its name; its last holder removes it."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _lock(file: Any) -> bool:
    """Lock a file for this process; False if another has it."""
    try:
        import fcntl
    except ImportError:  # Windows: no protection
        return True
    try:
        # Unlike flock's, workers that outlive their parent do not keep this lock.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _describe(text: str) -> str:
    """Return the process that wrote the file; '' if there is none."""
    try:
        content = json.loads(text)
        return 'process {process:d} on {host:.99}, since {since:.19}'.format(**content)
    except (ValueError, TypeError, KeyError):
        return ''
