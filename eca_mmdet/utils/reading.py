"""Read what a user names: a regular file, of a size that can be worked on."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import IO

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
