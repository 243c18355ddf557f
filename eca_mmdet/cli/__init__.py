"""The ``eca-mmdet`` command: exit codes. Each command is a module of ``commands``.

Exit codes: 0 success, 1 a check or a run failed, 2 bad usage, 130 interrupted.
"""

from __future__ import annotations

import importlib
import io
import os
import pickle
import sys
from collections.abc import Sequence

import eca_mmdet
from eca_mmdet.cli.parser import build_parser
from eca_mmdet.engine.error_translation import told
from eca_mmdet.utils.console import printed_messages
from eca_mmdet.utils.errors import UserError, shown
from eca_mmdet.utils.text import printable

_OPENCV = {
    'OPENCV_IO_MAX_IMAGE_PIXELS': str(2**28),
    'OPENCV_LOG_LEVEL': 'OFF',
    'OPENCV_FFMPEG_LOGLEVEL': '-8',
}
"""A small file may hold an image of gigabytes, and OpenCV's lines are told better
here. What a user has set stays."""


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
        with printed_messages(), told(None):
            return int(command.run(args))
    except (UserError, eca_mmdet.registration.InstallError) as error:
        code = getattr(error, 'code', 'install')
        print(f'eca-mmdet {args.command}: {shown(error)} [{code}]', file=sys.stderr)
        return getattr(error, 'exit_code', 2)
    except pickle.UnpicklingError as error:  # a file that mmengine itself loaded
        from eca_mmdet.checkpoints.io import refusal

        reason = refusal('a file that the config names', error)
        print(f'eca-mmdet {args.command}: {printable(str(reason))}', file=sys.stderr)
        return 2
    except (MemoryError, RecursionError) as error:
        what = 'is nested too deeply'
        if isinstance(error, MemoryError):
            what = 'needs more memory than there is'
        print(
            f'eca-mmdet {args.command}: a file that was given {what}; nothing was made '
            'of it.',
            file=sys.stderr,
        )
        return 2
    except BrokenPipeError:  # `| head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f'eca-mmdet {args.command}: interrupted', file=sys.stderr)
        return 130
