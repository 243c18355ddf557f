"""Read what a user names: a regular file, of a size that can be worked on."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from eca_mmdet.errors import UserError

_SHARE = 4
"""A file may have this part of the machine's memory: read, JSON is some times larger."""


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
    """Return the bytes of a JSON file; a file of zeros is not read to its end.

    Raises:
        UserError: as :func:`require_regular`; or it has nothing in it.
    """
    require_regular(path, what)
    try:
        with path.open('rb') as file:
            head = file.read(4096)
    except OSError as error:
        raise UserError(
            f'{what} {str(path)!r} cannot be read: {error.strerror}.'
        ) from error
    if not head.strip(b'\0 \t\r\n'):
        kind = 'has nothing but zeros at its start' if head.strip() else 'is empty'
        raise UserError(
            f'{what} {str(path)!r} is not JSON: it {kind}. Get the file again.'
        )
    return read_file(path, what)


def _memory() -> int:
    """Return the bytes of the machine's memory."""
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
