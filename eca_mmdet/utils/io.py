"""Files read with limits, and written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Container, Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from eca_mmdet.utils.errors import UserError

_SHARE = 4
"""A file may be as large as this part of the memory; JSON grows when it is read."""

_PATIENCE = 3.0
"""Seconds to wait for somebody to open the other end of a pipe."""


def require_regular(path: Path, what: str, most: int | None = None) -> None:
    """Refuse what reading would wait for or never end with, and what is too large.

    Args:
        path: of the file.
        what: it is, for the message, as 'annotation file'.
        most: bytes; None for a share of the machine's memory.

    Raises:
        UserError: it does not exist, is a folder, a pipe or a device, or too large.
    """
    name = f'{what} {str(path)!r}'
    try:
        found = path.stat()
    except FileNotFoundError:
        raise UserError(f'{name} does not exist.') from None
    except OSError as error:
        raise UserError(f'{name} cannot be read: {error.strerror}.') from error
    if stat.S_ISDIR(found.st_mode):
        raise UserError(f'{name} cannot be read: it is a folder.')
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f'{name} is not a regular file; save it as one first.')
    most = _memory() // _SHARE if most is None else most
    if found.st_size > most:
        raise UserError(
            f'{name} is too large to be read: {found.st_size >> 20:,} MiB, and up to '
            f'{most >> 20:,} can be. Is it the right file?'
        )


def read_file(path: Path, what: str, most: int | None = None) -> bytes:
    """Return the bytes of a file; arguments and errors as :func:`require_regular`."""
    require_regular(path, what, most)
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f'{what} {str(path)!r} cannot be read: {error.strerror}.'
        ) from error


def read_json_bytes(path: Path, what: str) -> bytes:
    """Return the bytes of a JSON file, or of a pipe that somebody writes to.

    A file of zeros is not read to its end.

    Raises:
        UserError: as :func:`require_regular`; or it has nothing in it.
    """
    name = f'{what} {str(path)!r}'
    pipe = path.is_fifo()  # as a shell's <(zcat results.json.gz)
    if not pipe:
        require_regular(path, what)
    try:
        first, file = _open_pipe(path, name) if pipe else (b'', path.open('rb'))
        with file:
            head = first or file.read(4096)
            if not head.strip(b'\0 \t\r\n'):
                kind = 'begins with zeros' if head.strip() else 'is empty'
                raise UserError(f'{name} is not JSON: it {kind}. Get the file again.')
            return head + _rest(file, name)
    except OSError as error:
        raise UserError(f'{name} cannot be read: {error.strerror}.') from error


def _rest(file: IO[bytes], name: str) -> bytes:
    parts, left = [], _memory() // _SHARE
    while part := file.read(1 << 24):
        parts.append(part)
        left -= len(part)
        if left < 0:
            raise UserError(f'{name} has no end, or is too large to be read.')
    return b''.join(parts)


def _open_pipe(path: Path, name: str) -> tuple[bytes, IO[bytes]]:
    """Open a pipe, but do not wait for ever for somebody to write to it.

    Returns:
        The first bytes, if there are some already, and what the others come from.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            first = os.read(handle, 4096)
        except BlockingIOError:  # there is a writer, who has said nothing yet
            os.set_blocking(handle, True)
            return b'', open(handle, 'rb')
        if first:
            os.set_blocking(handle, True)
            return first, open(handle, 'rb')
        time.sleep(0.05)
    os.close(handle)
    raise UserError(f'{name} is a pipe that nobody writes to.')


def _memory() -> int:
    """Return the bytes of the machine's memory."""
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a name beside ``path`` to write to; it becomes ``path`` at the end.

    If the block raises, or the program stops, ``path`` is as it was. The mode is that
    of any new file.

    Raises:
        OSError: the folder or its disk does not take the file.
    """
    with whole_files(path) as (partial,):
        yield partial


@contextlib.contextmanager
def whole_files(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Yield names to write to; as ``whole_file``, and none becomes its path alone.

    Raises:
        OSError: the folder or its disk does not take one of the files.
    """
    partials: list[Path] = []
    try:
        for path in paths:
            handle, name = tempfile.mkstemp('.partial', f'.{path.name}.', path.parent)
            os.close(handle)
            partials.append(Path(name))
        yield tuple(partials)
        for partial in partials:
            with open(partial, 'rb+') as file:
                os.fsync(file.fileno())
            os.chmod(partial, 0o666 & ~_umask())
        for partial, path in zip(partials, paths, strict=True):
            os.replace(partial, path)
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: str | Path, content: Any, indent: int | None = 1) -> None:
    """Write a JSON file whole or not at all; missing folders are created.

    Raises:
        UserError: it cannot be written (``file-not-written``).
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            partial.write_text(json.dumps(content, indent=indent) + '\n', 'utf-8')
    except OSError as error:
        raise UserError(
            f'{path} cannot be written: {error.strerror or error}.',
            code='file-not-written',
        ) from error


def require_free(*paths: str | Path, option: str = '--out') -> None:
    """Refuse to overwrite: raise if one of the paths exists, before long work.

    Args:
        paths: files or folders that are about to be created.
        option: the option that names them, for the message.

    Raises:
        UserError: one exists, a dangling link included (``output-exists``).
    """
    for path in paths:
        if os.path.lexists(path):
            raise UserError(
                f'{path} exists, and this command overwrites nothing. Remove it or '
                f'name another with {option}.',
                code='output-exists',
            )


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with open(path, 'rb') as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def describe_file(path: str | Path) -> dict[str, str]:
    """Return the path and SHA-256 of a file, as records store them."""
    return {'file': str(path), 'sha256': sha256_of(path)}


def make_run_folder(name: str | None, kind: str) -> Path:
    """Create a run folder; never reuse one.

    Args:
        name: the folder, or None for ``runs/KIND-DATE-TIME``.
        kind: the command, as 'demo'.

    Raises:
        UserError: it exists, or cannot be created.
    """
    stamp = datetime.now().strftime('%Y%m%d-%H%M%S')
    default = Path('runs') / f'{kind}-{stamp}'
    tries = [Path(name)] if name else [default]
    tries += [] if name else [Path(f'{default}-{index}') for index in range(2, 100)]
    for out in tries:
        try:
            out.mkdir(parents=True)
            return out
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f'cannot create the run folder {out}: {error}') from error
    require_free(tries[0])
    raise AssertionError('unreachable: the path exists')


def take_own_folder(out: Path, own: Container[str]) -> None:
    """Make the folder of a command that goes on, or take one of an earlier call.

    Args:
        out: the folder.
        own: names of what the command leaves in it.

    Raises:
        UserError: it cannot be a folder, or has something else in it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        names = (one.name for one in out.iterdir())
        # Hidden files are the system's, or half-written ones of a call that was killed.
        strangers = [one for one in names if one not in own and one[0] != '.']
    except OSError as error:
        raise UserError(f'--out {out} cannot be a folder: {error}.') from error
    if strangers:
        raise UserError(
            f'--out {out} has {strangers[0]!r} in it, which is not of this command. '
            'Name a new folder, or one of an earlier call.'
        )
