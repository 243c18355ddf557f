"""Log messages of the library as lines of the command line, and progress bars."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator

from eca_mmdet.utils.text import printable

PATIENCE = 2.0
"""Seconds until a progress bar appears."""


class _Printer(logging.Handler):
    """Print messages as plain lines: warnings and notes to stderr, others to stdout.

    The streams are looked up for each message, since callers redirect them.
    """

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        print(printable(record.getMessage()), file=stream, flush=True)


@contextlib.contextmanager
def printed_messages(main_process: bool = True) -> Iterator[None]:
    """Print what ``logging.getLogger('eca_mmdet')`` and its children report.

    Args:
        main_process: False prints warnings only, for the other ranks of a job.
    """
    logger = logging.getLogger('eca_mmdet')
    handler = _Printer()
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if main_process else logging.WARNING)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])  # also clears the cache of enabled levels
        logger.propagate = before[1]


@contextlib.contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """Show a progress bar on stderr if it is a terminal and the work takes a while.

    Yields a function that counts one item; without ``total``, the bar only moves.
    """
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=total)
    timer = threading.Timer(PATIENCE, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield lambda: bar.advance(task)
    finally:
        timer.cancel()
        timer.join()  # it may be showing the bar just now
        bar.stop()
