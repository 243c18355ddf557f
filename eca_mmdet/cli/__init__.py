"""The ``eca-mmdet`` command: each subcommand is a module of this package.

Exit codes: 0 success, 1 a check or a run failed, 2 bad usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import pickle
import sys
from collections.abc import Sequence

import eca_mmdet
from eca_mmdet.engine.distributed import is_main_process
from eca_mmdet.engine.failures import as_user_error
from eca_mmdet.utils.console import printed_messages
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
        from eca_mmdet.checkpoints.reading import refusal

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
