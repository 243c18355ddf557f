"""Reading of files with limits, writing them whole or not at all, and run folders."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import select
import shlex
import stat
import subprocess
import tempfile
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

from eca_mmdet.utils.errors import CommandError, UserError

_SHARE = 4
"""A file may take 1/4 of the memory; JSON grows when it is parsed."""

_PATIENCE = 3.0
"""Seconds to wait for a process to open the other end of a pipe."""

_SAVING = 20.0
"""Seconds for an interrupted command to save what it has."""


def require_regular(path: Path, what: str, most: int | None = None) -> None:
    """Reject a path that is not a regular file, or is too large.

    Args:
        path: path of the file.
        what: kind of the file for messages, e.g. ``'annotation file'``.
        most: largest size in bytes; None for a share of the machine's memory.
    """
    name = f'{what} {str(path)!r}'
    try:
        found = path.stat()
    except FileNotFoundError:
        raise UserError(f'{name} does not exist.', code='file-not-found') from None
    except OSError as error:
        raise _unreadable(path, what, error) from error
    if stat.S_ISDIR(found.st_mode):
        raise _unreadable(path, what, IsADirectoryError(0, 'it is a folder'))
    if not stat.S_ISREG(found.st_mode):
        raise UserError(
            f'{name} is not a regular file; save it as one first.',
            code='file-unreadable',
        )
    most = _memory_share() if most is None else most
    if found.st_size > most:
        raise UserError(
            f'{name} is too large to be read: {found.st_size >> 20:,} MiB, and up to '
            f'{most >> 20:,} can be. Is it the right file?',
            code='file-too-large',
        )


def _unreadable(path: Path, what: str, error: OSError) -> UserError:
    return UserError(
        f'{what} {str(path)!r} cannot be read: {error.strerror}.',
        code='file-unreadable',
    )


def _memory_share() -> int:
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // _SHARE


def read_file(path: Path, what: str, most: int | None = None) -> bytes:
    """Return the bytes of a file; arguments and errors as :func:`require_regular`."""
    require_regular(path, what, most)
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, what, error) from error


class JsonFile(NamedTuple):
    """Content of a JSON file, SHA-256 of its bytes, and its first four bytes."""

    content: Any
    sha256: str
    head: bytes


def read_json(path: str | Path, what: str, most: int | None = None) -> JsonFile:
    """Read a JSON file, or a pipe such as a shell's ``<(zcat results.json.gz)``.

    Arguments and errors are those of :func:`require_regular`; ``not-json`` in addition.
    """
    path = Path(path)
    raw = _read_stream(path, what, _memory_share() if most is None else most)
    try:
        content = _parse(raw)
    except RecursionError:
        reason = 'it is nested too deeply'
    except ValueError as error:  # also numbers of 5,000 digits
        reason = str(error)
        if isinstance(error, json.JSONDecodeError) and raw.rstrip()[-1:] not in b'}]':
            reason += '. It ends too early: it was not written or downloaded to the end'
    else:
        return JsonFile(content, hashlib.sha256(raw).hexdigest(), raw[:4])
    raise UserError(f'{what} {str(path)!r} is not JSON: {reason}', code='not-json')


def _parse(raw: bytes) -> Any:
    """Parse JSON in a third of the time of json, which parses what msgspec refuses."""
    import msgspec

    with no_garbage_collection():
        try:
            return msgspec.json.decode(raw)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return json.loads(raw)


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Let Python look for no garbage among millions of new objects that are none."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextlib.contextmanager
def frozen_objects() -> Iterator[None]:
    """Let the garbage collector leave alone what exists already: mostly modules."""
    gc.collect()  # the model of an earlier training would be kept
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


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
        raise _unreadable(path, what, error) from error
    return b''.join(parts)


def _open_pipe(path: Path, name: str) -> IO[bytes]:
    """Open a pipe; reject one that no process opens for writing."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not select.select([handle], [], [], _PATIENCE)[0]:
        # Reading returns nothing without a writer, and raises where one is slow.
        with contextlib.suppress(BlockingIOError):
            os.read(handle, 1)
            os.close(handle)
            raise UserError(
                f'{name} is a pipe that no process writes to.', code='file-unreadable'
            )
    os.set_blocking(handle, True)
    return open(handle, 'rb')


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a name beside ``path`` to write to; it becomes ``path`` at the end.

    If the block raises, or the program stops, ``path`` is as it was. The mode is that
    of any new file. Raises OSError if the file cannot be written.
    """
    with whole_files(path) as (partial,):
        yield partial


@contextlib.contextmanager
def whole_files(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Yield names as :func:`whole_file` does: all become their paths, or none does."""
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
    """Write a JSON file whole or not at all; missing folders are created."""
    write_json_files({path: content}, indent)


def write_json_files(
    contents: Mapping[Path, Any] | Mapping[str | Path, Any], indent: int | None = 1
) -> None:
    """Write JSON files, all of them or none; missing folders are created."""
    texts = {
        path: json.dumps(content, indent=indent, default=_as_list) + '\n'
        for path, content in contents.items()
    }
    write_texts(texts)


def _as_list(value: Any) -> list[Any]:
    if not isinstance(value, Sequence) or isinstance(value, (bytes, bytearray)):
        raise TypeError(f'{type(value).__name__} has no form in JSON')
    return list(value)


def write_texts(texts: Mapping[Path, str] | Mapping[str | Path, str]) -> None:
    """Write text files, all of them or none; missing folders are created."""
    paths = [Path(path) for path in texts]
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        with whole_files(*paths) as partials:
            for partial, text in zip(partials, texts.values(), strict=True):
                partial.write_text(text, 'utf-8', 'replace')
    except OSError as error:
        raise UserError(
            f'{", ".join(map(str, paths))} cannot be written: '
            f'{error.strerror or error}.',
            code='file-not-written',
        ) from error


def require_free(*paths: str | Path, option: str = '--out') -> None:
    """Refuse to overwrite a file, a folder or a dangling link, before long work.

    ``option`` is the option that names them, for the message.
    """
    for path in paths:
        if os.path.lexists(path):
            raise UserError(
                f'{path} exists, and this command overwrites nothing. Remove it or '
                f'name another with {option}.',
                code='output-exists',
            )


def sha256_of(file: str | Path | IO[bytes]) -> str:
    """Return the SHA-256 of a file, or of the rest of an open one, as hexadecimals."""
    if isinstance(file, (str, Path)):
        with open(file, 'rb') as opened:
            return sha256_of(opened)
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def describe_file(path: str | Path) -> dict[str, str]:
    """Return the path and SHA-256 of a file, as records store them."""
    return {'file': str(path), 'sha256': sha256_of(path)}


def make_run_folder(name: str | None, kind: str, option: str = '--out') -> Path:
    """Create a new run folder, ``runs/KIND-DATE-TIME`` unless it has a name.

    ``kind`` is the command, e.g. 'demo'; ``option`` names the folder.
    """
    default = f'runs/{kind}-{datetime.now():%Y%m%d-%H%M%S}'
    tries = [name] if name else [default, *(f'{default}-{n}' for n in range(2, 100))]
    for out in map(Path, tries):
        try:
            out.mkdir(parents=True)
            return out
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(
                f'cannot create the run folder {out}: {error}', code='file-not-written'
            ) from error
    require_free(tries[0], option=option)
    raise AssertionError('unreachable: the path exists')


def take_own_folder(out: Path, own: Container[str]) -> None:
    """Create the folder of a resumable command, or accept one of an earlier call.

    ``own`` has the names of the files that the command leaves in it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        names = (path.name for path in out.iterdir())
        # Hidden files are the system's, or half-written ones of a call that was killed.
        others = [name for name in names if name not in own and name[0] != '.']
    except OSError as error:
        raise UserError(
            f'--out {out} cannot be a folder: {error}.', code='file-not-written'
        ) from error
    if others:
        raise UserError(
            f'--out {out} has {others[0]!r} in it, which is not of this command. '
            'Name a new folder, or one of an earlier call.',
            code='output-exists',
        )


def read_record(path: Path, is_sound: Callable[[Any], object]) -> dict[str, Any] | None:
    """Return the record of an earlier run; None if it is missing, damaged or unsound.

    ``is_sound`` may raise what comes of entries that are absent or of another type.
    """
    try:
        record = json.loads(path.read_text())
        return dict(record) if is_sound(record) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def run_logged(command: Sequence[str], log: Path) -> None:
    """Run a command with its output at the end of a file.

    Raises:
        CommandError: it cannot be started, or fails; with the last line of its output.
    """
    with open(log, 'a') as file:
        file.write(f'$ {shlex.join(command)}\n')
        file.flush()
        try:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        except OSError as error:
            raise CommandError(f'{command[0]} cannot be started: {error}') from error
        try:
            code = process.wait()
        except BaseException as error:
            # A terminal sends ctrl-C to the command as well, which then saves what it
            # has; a second signal would cut that off.
            if isinstance(error, KeyboardInterrupt):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_SAVING)
            if process.poll() is None:
                process.terminate()
                process.wait()
            raise
    if code:
        lines = [line for line in log.read_text(errors='replace').splitlines() if line]
        raise CommandError(f'exit code {code}: {lines[-1][:300]} (all of it: {log})')
