"""Signals, and failures outside the program, such as a full disk."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

from eca_mmdet import compat
from eca_mmdet.utils.errors import RunError, UserError

_DISK = {
    errno.ENOSPC: 'the disk is full',
    errno.EDQUOT: 'the disk quota is used up',
    errno.EFBIG: 'a file may not become that large here',
    errno.EROFS: 'the disk is read-only',
    errno.EIO: 'the disk does not answer',
}

_OUT_OF_MEMORY = (
    'the memory of {} ran out. Smaller batches (--cfg-options '
    'train_dataloader.batch_size=1; the learning rate follows), --amp on a GPU, or '
    'recomputing (model.backbone.with_cp=True) help.'
)
_OUT_OF_GPU_MEMORY = (
    'out of memory',  # torch.cuda.OutOfMemoryError too
    'CUDNN_STATUS_ALLOC_FAILED',
    'CUDNN_STATUS_NOT_INITIALIZED',  # it cannot create its handle then, either
    'CUBLAS_STATUS_ALLOC_FAILED',
    'CUBLAS_STATUS_NOT_INITIALIZED',
)
_MEMORY_OF_WORKERS = (
    'Most often memory ran out: fewer workers (--cfg-options '
    "train_dataloader.num_workers=1) or more memory helps; the kernel's log (dmesg) "
    'says so.'
)
_DECODER = (
    'A decoder that crashes on one of these files is the usual reason: eca-mmdet '
    'data check reads them all.'
)
_MEANINGS = (
    (
        ("can't allocate memory",),
        'out-of-memory',
        _OUT_OF_MEMORY.format('this machine'),
    ),
    (_OUT_OF_GPU_MEMORY, 'out-of-memory', _OUT_OF_MEMORY.format('the GPU')),
    (
        ('No working C++ compiler', 'working triton installation'),
        'package-missing',
        'torch.compile finds no compiler: C++ for a CPU, Triton for a GPU. Install it, '
        'or leave out --compile.',
    ),
    (
        ('No space left on device',),
        'disk-full',
        'the disk or /dev/shm is full. Make room, or use fewer workers.',
    ),
)
"""Texts in RuntimeErrors of PyTorch, with code and message."""

_MISTAKE = re.compile(
    r"\w+\.__init__\(\) got an unexpected keyword argument '\w+'"
    r'|\S+ is not in the \S+ registry'
)


@contextlib.contextmanager
def as_user_error(runner: Any) -> Iterator[None]:
    """Report running out of memory, a full disk, dead workers etc. in one line.

    The runner's workers tell which images were being read. Without one, the caller
    explains running out of memory.
    """
    try:
        yield
    except UserError as error:
        # From a worker, the message comes inside a stack trace of text.
        text = str(error)
        inner = text.rpartition('BadImageError: ')[2].strip()
        if inner != text:
            raise RunError(inner, code='broken-image') from None
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in _DISK:
            raise RunError(text, code=error.code) from error
        raise
    except MemoryError as error:
        if runner is None:
            raise
        line = _OUT_OF_MEMORY.format('this machine')
        raise RunError(line, code='out-of-memory') from error
    except FileNotFoundError as error:
        if runner is None:
            raise
        # From a worker, only the last line of its stack trace names the file.
        name = error.filename or str(error).rstrip().rpartition('\n')[2]
        raise UserError(
            f'a file that the run needs does not exist: {name}.',
            code='file-not-found',
        ) from error
    except OSError as error:
        if error.errno not in _DISK:
            raise
        where = f', at {error.filename}' if error.filename else ''
        raise RunError(
            f'{_DISK[error.errno]}{where}: nothing of what was being written is left. '
            'Make room.',
            code='disk-full',
        ) from error
    except (KeyError, TypeError) as error:
        mistake = _mistake_of_config(error)
        if mistake is None:
            raise
        raise UserError(mistake, code='config-invalid') from error
    except RuntimeError as error:
        if 'does not have a deterministic implementation' in str(error):
            operator = str(error).split(' ')[0]
            raise UserError(
                f'--deterministic: PyTorch has no deterministic {operator} for this '
                'device, so that two runs could differ. Train without it, or on the '
                'CPU.',
                code='unsupported-model',
            ) from error
        explained = None if runner is None else _explain(error, runner)
        if explained is None:
            raise
        raise explained from error


def _mistake_of_config(error: KeyError | TypeError) -> str | None:
    """Return what is wrong with a part that mmengine was building, None if unknown."""
    found = _MISTAKE.search(str(error.args[0]) if error.args else '')
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    if not found or all(one.f_code.co_name != 'build_from_cfg' for one in frames):
        return None
    return (
        f'a part of the config cannot be built: {found[0]}. Look for the misspelt '
        'entry in the config or in --cfg-options.'
    )


def _explain(error: RuntimeError, runner: Any) -> RunError | None:
    """Return what a RuntimeError of PyTorch means for the user, None if unknown."""
    text = str(error)
    if 'DataLoader worker' in text and ('killed' in text or 'exited' in text):
        files = _being_loaded(runner)
        at = f' while it read one of: {", ".join(files)}' if files else ''
        killed = 'Killed' in text
        how = 'was killed' if killed else 'died'
        why = _MEMORY_OF_WORKERS if killed else _DECODER
        return RunError(f'a data loader worker {how}{at}. {why}', code='worker-died')
    for forms, code, meaning in _MEANINGS:
        if any(form in text for form in forms):
            return RunError(meaning, code=code)
    return None


def is_out_of_gpu_memory(error: BaseException) -> bool:
    """Whether PyTorch, cuDNN or cuBLAS ran out of the GPU's memory."""
    text = str(error) if isinstance(error, RuntimeError) else ''
    return any(form in text for form in _OUT_OF_GPU_MEMORY)


def _being_loaded(runner: Any) -> list[str]:
    files: list[str] = []
    for loop in compat.built_loops(runner):
        loading = getattr(getattr(loop.dataloader, 'dataset', None), 'loading', None)
        if callable(loading):
            files += loading()
    return files


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


_forking: list[bool] = []
"""Not empty while this process is being forked: Python drops what is raised then."""

# Called before those of other modules begin, and after they end.
os.register_at_fork(
    before=lambda: _forking.append(True),
    after_in_parent=_forking.clear,
    after_in_child=_forking.clear,
)


class Interrupted(KeyboardInterrupt):  # noqa: N818 - it is one
    """Training was asked to stop by a signal, and has, between two steps."""

    def __init__(self, number: int, message: str = '') -> None:
        super().__init__(message)
        self.signal = number


class Interrupts:
    """Signal handlers for the time of a ``with`` block."""

    def __init__(self) -> None:
        self.requested = 0  # number of the signal that came
        # One that every process of the job knows of. Another may come while they talk,
        # and is for the next step.
        self.agreed = 0
        # Raise as soon as a signal comes; False keeps it until stop_if_agreed() or
        # stop_if_asked() is called. A second one always raises.
        self.at_once = True
        self.ignored = False  # while the last checkpoint is being written
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        for number in _SIGNALS:
            try:
                self._before[number] = signal.signal(number, self._handle)
            except ValueError:  # only the main thread may; others get none
                break
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # A data loader's worker is ended by the main process.
        if self.ignored or os.getpid() != self._process:
            return
        again, self.requested = bool(self.requested), number
        if (self.at_once or again) and not _forking:
            raise Interrupted(number)
        # Logging takes locks, which a signal handler must not wait for.
        sys.stderr.write(
            'stopping when this step or validation is done, with a checkpoint; '
            'once more stops at once, without\n'
        )
        sys.stderr.flush()

    def stop_if_agreed(self) -> None:
        """Raise for a signal that every process knows of."""
        if self.agreed:
            raise Interrupted(self.agreed)

    def stop_if_asked(self) -> None:
        """Raise for a signal that was held back."""
        if self.requested:
            raise Interrupted(self.requested)
