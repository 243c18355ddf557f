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
    handle, name = tempfile.mkstemp('.partial', f'.{path.name}.', path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with open(partial, 'rb+') as file:
            os.fsync(file.fileno())
        os.chmod(partial, 0o666 & ~_umask())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
