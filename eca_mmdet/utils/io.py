"""Files read with limits, and written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import stat
import tempfile
from collections.abc import Container, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

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
        raise UserError(f'{name} does not exist.', code='file-not-found') from None
    except OSError as error:
        raise UserError(
            f'{name} cannot be read: {error.strerror}.', code='file-unreadable'
        ) from error
    if stat.S_ISDIR(found.st_mode):
        raise UserError(
            f'{name} cannot be read: it is a folder.', code='file-unreadable'
        )
    if not stat.S_ISREG(found.st_mode):
        raise UserError(
            f'{name} is not a regular file; save it as one first.',
            code='file-unreadable',
        )
    most = _memory() // _SHARE if most is None else most
    if found.st_size > most:
        raise UserError(
            f'{name} is too large to be read: {found.st_size >> 20:,} MiB, and up to '
            f'{most >> 20:,} can be. Is it the right file?',
            code='file-too-large',
        )


def read_file(path: Path, what: str, most: int | None = None) -> bytes:
    """Return the bytes of a file; arguments and errors as :func:`require_regular`."""
    require_regular(path, what, most)
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f'{what} {str(path)!r} cannot be read: {error.strerror}.',
            code='file-unreadable',
        ) from error


class JsonFile(NamedTuple):
    """A JSON file, read.

    Attributes:
        content: of the file.
        sha256: of its bytes.
        head: its first bytes, which tell the encoding.
    """

    content: Any
    sha256: str
    head: bytes


def read_json(path: str | Path, what: str, most: int | None = None) -> JsonFile:
    """Read a JSON file, or a pipe such as a shell's ``<(zcat results.json.gz)``.

    Args:
        path: of the file.
        what: names its kind in messages, e.g. ``'annotation file'``.
        most: bytes; None for a share of the machine's memory.

    Raises:
        UserError: as :func:`require_regular`, or it is not JSON.
    """
    path = Path(path)
    name = f'{what} {str(path)!r}'
    raw = _read_stream(path, what, _memory() // _SHARE if most is None else most)
    try:
        content = json.loads(raw)
    except RecursionError:
        reason = 'it is nested too deeply'
    except ValueError as error:  # also numbers of 5,000 digits
        reason = str(error)
        if isinstance(error, json.JSONDecodeError) and raw.rstrip()[-1:] not in b'}]':
            reason += '. It ends too early: it was not written or downloaded to the end'
    else:
        return JsonFile(content, hashlib.sha256(raw).hexdigest(), raw[:4])
    raise UserError(f'{name} is not JSON: {reason}', code='not-json')


def _read_stream(path: Path, what: str, most: int) -> bytes:
    """Return the bytes of a file or pipe; a file of zeros is not read to its end."""
    name = f'{what} {str(path)!r}'
    pipe = path.is_fifo()
    if not pipe:
        require_regular(path, what, most)
    try:
        with _open_pipe(path, name) if pipe else path.open('rb') as file:
            parts = [file.read(4096)]
            if not parts[0].strip(b'\0 \t\r\n'):
                kind = 'begins with zeros' if parts[0].strip() else 'is empty'
                raise UserError(
                    f'{name} is not JSON: it {kind}. Get the file again.',
                    code='not-json',
                )
            while part := file.read(1 << 24):
                parts.append(part)
                most -= len(part)
                if most < 0:
                    raise UserError(
                        f'{name} has no end, or is too large to be read.',
                        code='file-too-large',
                    )
    except OSError as error:
        raise UserError(
            f'{name} cannot be read: {error.strerror}.', code='file-unreadable'
        ) from error
    return b''.join(parts)


def _open_pipe(path: Path, name: str) -> IO[bytes]:
    """Open a pipe; refuse one that no process opens for writing."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    ready = select.select([handle], [], [], _PATIENCE)[0]
    if not ready:
        try:
            # Nothing to read and no error: the end, since there is no writer.
            os.read(handle, 1)
        except BlockingIOError:  # a writer that has not written yet
            ready = [handle]
    if not ready:
        os.close(handle)
        raise UserError(
            f'{name} is a pipe that no process writes to.', code='file-unreadable'
        )
    os.set_blocking(handle, True)
    return open(handle, 'rb')


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
        placed: list[Path] = []
        try:
            for partial, path in zip(partials, paths, strict=True):
                os.replace(partial, path)
                placed.append(path)
        except OSError:
            for path in placed:
                path.unlink()
            raise
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
    write_json_files({path: content}, indent)


def write_json_files(
    contents: Mapping[Path, Any] | Mapping[str | Path, Any], indent: int | None = 1
) -> None:
    """Write JSON files, all of them or none; missing folders are created.

    Raises:
        UserError: one cannot be written (``file-not-written``).
    """
    paths = [Path(path) for path in contents]
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        with whole_files(*paths) as partials:
            for partial, content in zip(partials, contents.values(), strict=True):
                partial.write_text(json.dumps(content, indent=indent) + '\n', 'utf-8')
    except OSError as error:
        raise UserError(
            f'{", ".join(map(str, paths))} cannot be written: '
            f'{error.strerror or error}.',
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
