"""Cache of the columns of annotation files: mapped into memory, shared by processes.

A cache is a safetensors file, numbers without code. A name is a hash of the path of the
annotation file, so that a file that changes has one cache.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from eca_mmdet.utils.io import whole_file

Columns = dict[str, npt.NDArray[Any]]

SWITCH = 'ECA_MMDET_CACHE'
"""Environment variable: a folder for the caches, or empty for none."""

_TYPES = {
    'BOOL': np.bool_,
    'U8': np.uint8,
    'I8': np.int8,
    'I32': np.int32,
    'I64': np.int64,
    'F64': np.float64,
}
_UNUSED_DAYS = 60
_PATIENCE = 60.0
"""Seconds to wait for another process that reads the same file."""


def cache_path(file: Path) -> Path | None:
    """Return where the cache of an annotation file is, None if it has none."""
    folder = os.environ.get(SWITCH)
    if folder is None:
        home = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
        folder = os.path.join(home, 'eca_mmdet')
    folder = os.path.expanduser(folder)
    if not folder or folder.startswith('~'):  # switched off, or there is no home
        return None
    name = hashlib.sha256(os.fsencode(file.resolve())).hexdigest()
    return Path(folder).absolute() / f'{name[:32]}.safetensors'


def read_columns(path: Path) -> tuple[dict[str, str], Columns] | None:
    """Return the metadata and columns of a cache, None if it is not a whole one."""
    try:
        with safe_open(path, 'np') as checked:
            metadata = checked.metadata() or {}
        with open(path, 'rb') as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        os.utime(path)  # in use
        length = int.from_bytes(data[:8], 'little')
        header = msgspec.json.decode(data[8 : 8 + length])
        header.pop('__metadata__', None)
        columns = {
            name: np.frombuffer(
                data,
                _TYPES[entry['dtype']],
                int(np.prod(entry['shape'])),
                8 + length + entry['data_offsets'][0],
            ).reshape(entry['shape'])
            for name, entry in header.items()
        }
    except (OSError, ValueError, KeyError, SafetensorError):
        return None
    return metadata, columns


def write_columns(path: Path, metadata: dict[str, str], columns: Columns) -> bool:
    """Write a cache whole or not at all; return whether it could be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_unused(path.parent)
        with whole_file(path) as partial:
            save_file(columns, partial, metadata)
    except (OSError, SafetensorError):  # read-only, or the disk is full
        return False
    return True


def _remove_unused(folder: Path) -> None:
    """Remove caches that nobody has used for long, and parts that a kill left."""
    for path in folder.glob('*.safetensors*'):
        if path.stat().st_mtime < time.time() - _UNUSED_DAYS * 86400:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def one_at_a_time(handle: int) -> Iterator[None]:
    """Let the processes of a job wait for the first that has opened a file here.

    A process that holds the file for longer, or a file system without locks, does not
    stop anybody.
    """
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            time.sleep(0.1)
        except OSError:
            break
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)
