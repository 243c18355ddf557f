"""Failures in the course of a run, told as one line."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Any

from eca_mmdet.utils.errors import RunError, UserError

_DISK = {
    errno.ENOSPC: 'the disk is full',
    errno.EDQUOT: 'the disk quota is used up',
    errno.EFBIG: 'a file may not become that large here',
    errno.EROFS: 'the disk is read-only',
    errno.EIO: 'the disk does not answer',
}


@contextlib.contextmanager
def told(runner: Any) -> Iterator[None]:
    """Turn what is no fault of the program into one line.

    Args:
        runner: mmengine's, for what its workers were at; None where none runs, and
            memory that runs out is the caller's to explain.

    Raises:
        RunError: saying what happened and what helps.
    """
    try:
        yield
    except UserError as error:
        # From a worker, the message comes inside a stack trace of text.
        text = str(error)
        inner = text.rpartition('BadImageError: ')[2].strip()
        if inner != text:
            raise RunError(inner) from None
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in _DISK:
            raise RunError(text) from error
        raise
    except MemoryError as error:
        if runner is None:
            raise
        raise RunError(_out_of_memory('this machine')) from error
    except OSError as error:
        if error.errno not in _DISK:
            raise
        where = f', at {error.filename}' if error.filename else ''
        raise RunError(
            f'{_DISK[error.errno]}{where}: nothing of what was being written is left. '
            'Make room.'
        ) from error
    except RuntimeError as error:
        line = None if runner is None else explain(error, runner)
        if line is None:
            raise
        raise RunError(line) from error


def explain(error: RuntimeError, runner: Any) -> str | None:
    """Return what a RuntimeError of PyTorch means for the user, None if unknown."""
    text = str(error)
    if 'DataLoader worker' in text and ('killed' in text or 'exited' in text):
        killed = 'Killed' in text
        files = _in_hand(runner)
        at = f' while it read one of: {", ".join(files)}' if files else ''
        why = (
            'Most often memory ran out: fewer workers (--cfg-options '
            "train_dataloader.num_workers=1) or more memory helps; the kernel's log "
            '(dmesg) says so.'
            if killed
            else 'A decoder that crashes on one of these files is the usual reason: '
            'eca-mmdet check-data reads them all.'
        )
        how = 'was killed' if killed else 'died'
        return f'a data loader worker {how}{at}. {why}'
    if "can't allocate memory" in text:
        return _out_of_memory('this machine')
    if 'out of memory' in text:  # torch.cuda.OutOfMemoryError is a RuntimeError
        return _out_of_memory('the GPU')
    if 'No space left on device' in text:
        return 'the disk or /dev/shm is full. Make room, or use fewer workers.'
    return None


def _out_of_memory(where: str) -> str:
    return (
        f'the memory of {where} ran out. Smaller batches (--cfg-options '
        'train_dataloader.batch_size=1; the learning rate follows), --amp on a GPU, or '
        'recomputing (model.backbone.with_cp=True) help.'
    )


def _in_hand(runner: Any) -> list[str]:
    files: list[str] = []
    for name in ('_train_loop', '_val_loop', '_test_loop'):
        loader = getattr(getattr(runner, name, None), 'dataloader', None)
        loading = getattr(getattr(loader, 'dataset', None), 'loading', None)
        if callable(loading):
            files += loading()
    return files
