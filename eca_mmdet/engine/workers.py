"""The processes that load data: none stays behind."""

from __future__ import annotations

import contextlib
import ctypes
import signal
from collections.abc import Iterator
from typing import Any

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux


@contextlib.contextmanager
def ending_workers(runner: Any) -> Iterator[None]:
    """Let the data loaders' processes end by themselves after the block.

    mmengine leaves them to the end of the program, where Python kills them, and each
    killed one leaves a socket in the folder of temporary files. In a program that goes
    on they stay until garbage is collected, which then waits five seconds for each.

    Args:
        runner: mmengine's; it can run again, with new processes.
    """
    try:
        yield
    finally:
        for name in ('_train_loop', '_val_loop', '_test_loop'):
            loop = getattr(runner, name, None)
            loader: Any = getattr(loop, 'dataloader', None)
            for holder in (loader, getattr(loop, 'dataloader_iterator', None)):
                _end_workers(getattr(holder, '_iterator', None))
            if hasattr(loader, '_iterator'):
                loader._iterator = None  # else the next loop would wait for them


def _end_workers(iterator: Any) -> None:
    """Shut down PyTorch's iterator over a loader, if it has processes."""
    if hasattr(iterator, '_shutdown_workers'):
        iterator._shutdown_workers()


def tie_to_parent() -> None:
    """Let this worker end with the process that it loads for, however that ends.

    PyTorch's workers look for their parent as well; but one with batches that nobody
    has taken then waits for its pipe, which the others hold open, for ever.
    """
    with contextlib.suppress(OSError, AttributeError):  # another system than Linux
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
