"""The ``eca-mmdet`` command: each subcommand is a module of this package.

Exit codes: 0 success, 1 a check or a run failed, 2 bad usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import logging
import os
import pickle
import sys
from collections.abc import Iterator, Sequence

import eca_mmdet
from eca_mmdet.engine.distributed import is_main_process
from eca_mmdet.engine.failures import as_user_error
from eca_mmdet.utils.errors import UserError, shown
from eca_mmdet.utils.text import printable

_OPENCV = {
    'OPENCV_IO_MAX_IMAGE_PIXELS': str(2**28),
    'OPENCV_LOG_LEVEL': 'OFF',
    'OPENCV_FFMPEG_LOGLEVEL': '-8',
}
"""A small file may hold an image of gigabytes, and our messages replace OpenCV's.
Variables that are set already stay."""


COMMANDS = (
    *('demo', 'init', 'train', 'test', 'predict', 'export', 'eval', 'report'),
    *('check_data', 'to_coco', 'split', 'attention', 'compare_attention', 'gates'),
    *('complexity', 'tables', 'reproduce', 'configs', 'weights', 'doctor'),
)
"""Modules of the commands, in the order of ``--help``."""


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


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command. Nothing heavy is imported for ``--help``."""
    parser = argparse.ArgumentParser(
        prog='eca-mmdet', description='ECA-Net backbones for MMDetection 3.x.'
    )
    parser.add_argument(
        '--version', action='version', version=f'eca-mmdet {eca_mmdet.__version__}'
    )
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name in COMMANDS:
        importlib.import_module(f'eca_mmdet.cli.{name}').add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = build_parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # class names, on an ASCII terminal
            stream.reconfigure(errors='backslashreplace')
    for name, value in _OPENCV.items():  # read when OpenCV is loaded
        os.environ.setdefault(name, value)
    module = args.command.replace('-', '_')
    command = importlib.import_module(f'eca_mmdet.cli.{module}')
    try:
        with printed_messages(is_main_process()), as_user_error(None):
            return int(command.run(args))
    except UserError as error:
        message, code = f'{shown(error)} [{error.code}]', error.exit_code
    except pickle.UnpicklingError as error:  # a file that mmengine itself loaded
        from eca_mmdet.checkpoints.io import refusal

        reason = refusal('a file that the config names', error)
        message, code = f'{printable(str(reason))} [checkpoint-unsafe]', 2
    except MemoryError:
        message, code = 'a file needs more memory than there is [out-of-memory]', 2
    except RecursionError:
        message, code = 'a file is nested too deeply [file-unreadable]', 2
    except BrokenPipeError:  # `| head` closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        message, code = 'interrupted', 130
    print(f'eca-mmdet {args.command}: {message}', file=sys.stderr)
    return code
