"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


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
