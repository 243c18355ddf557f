"""Printing of the library's log messages by the command line."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

from eca_mmdet.utils.text import printable


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
