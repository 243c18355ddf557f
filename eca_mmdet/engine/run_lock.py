"""Lock of a work folder: one training at a time."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from eca_mmdet.utils.errors import UserError

_NAME = '.training'
# What file systems without such locks say: no protection there.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class RunLock:
    """Hold a work folder, made if need be, for the time of a ``with`` block.

    The kernel releases it when the process ends, however it ends; the content of the
    file then stays: ``left_behind`` is the last holder if it was killed ('process 7 on
    HOST, since DATE'), or ''. ``work`` and ``option`` are for messages.
    """

    def __init__(
        self, folder: str | Path, work: str = 'training', option: str = '--work-dir'
    ) -> None:
        self._path = Path(folder) / _NAME
        self._work, self._option = work, option
        self.left_behind = ''
        self._file: Any = None
        self._made: list[Path] = []

    def __enter__(self) -> RunLock:
        folder = self._path.parent
        try:
            # Innermost first.
            self._made = [
                path for path in (folder, *folder.parents) if not path.exists()
            ]
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, 'a+', encoding='utf-8', errors='replace')
            held = not (_lock(self._file) and _is_there(self._path, self._file))
        except OSError as error:
            raise UserError(
                f'nothing can be written to the work folder {folder}: '
                f'{error.strerror}. Name another with {self._option}.',
                code='file-not-written',
            ) from error
        self._file.seek(0)
        holder = _describe(self._file.read())
        if held:
            self._file.close()
            raise UserError(
                f'{folder} is the work folder of a {self._work} that runs '
                f'now ({holder or "unknown"}). Wait for it, or name another with '
                f'{self._option}.',
                code='folder-in-use',
            )
        self.left_behind = holder
        self._file.truncate(0)
        since = time.strftime('%Y-%m-%d %H:%M:%S')
        text = {'process': os.getpid(), 'host': socket.gethostname(), 'since': since}
        self._file.write(json.dumps(text) + '\n')
        self._file.flush()
        return self

    def __exit__(self, *error: object) -> None:
        self._path.unlink(missing_ok=True)
        self._file.close()
        for folder in self._made:  # a training that was rejected leaves nothing
            try:
                folder.rmdir()
            except OSError:
                break


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
