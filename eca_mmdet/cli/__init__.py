"""The ``eca-mmdet`` command: each subcommand is a module of this package.

Exit codes: 0 success, 1 a check or a run failed, 2 bad usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import gc
import importlib
import io
import logging
import os
import pickle
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import eca_mmdet
from eca_mmdet.cli.common import Commands
from eca_mmdet.engine.distributed import is_main_process
from eca_mmdet.engine.failures import as_user_error
from eca_mmdet.utils.errors import UserError, shown
from eca_mmdet.utils.text import printable, suggestion

_OPENCV = {
    'OPENCV_IO_MAX_IMAGE_PIXELS': str(2**28),
    'OPENCV_LOG_LEVEL': 'OFF',
    'OPENCV_FFMPEG_LOGLEVEL': '-8',
}
"""A small file may hold an image of gigabytes, and our messages replace OpenCV's.
Variables that are set already stay."""


GROUPS = {
    'Start': ('demo', 'doctor'),
    'Data': ('init', 'data check', 'data convert', 'data split'),
    'Detectors': ('train', 'test', 'predict', 'export', 'configs', 'weights'),
    'Results': ('eval', 'report', 'gates', 'cost'),
    'Attention': ('attention add', 'attention list', 'attention compare'),
    'The paper': ('paper tables', 'paper reproduce'),
}
"""Commands as ``--help`` lists them; 'data check' is in the module ``data_check``."""

_ALIASES = {'val': 'test', 'add-attention': 'attention add'}

_RENAMED = {
    'check-data': 'data check',
    'to-coco': 'data convert',
    'split': 'data split',
    'complexity': 'cost',
    'compare-attention': 'attention compare',
    'tables': 'paper tables',
    'reproduce': 'paper reproduce',
}
"""Names until 0.1, which still work in this release."""


_ELSEWHERE = {'conf': 'score-thr', 'lr0': 'lr', 'exist-ok': 'force', 'img': 'imgsz'}
"""Options of other programs, and ours for the same."""


class _Parser(argparse.ArgumentParser):
    """Says of an unknown option how its own command is used, and the nearest name.

    Words after the options belong to the argument that the default ``trailing`` names:
    argparse itself fills an argument of several words from one place alone.
    """

    def __init__(self, **settings: Any) -> None:
        # --conf is not --config.
        super().__init__(allow_abbrev=False, **settings)

    def parse_known_args(
        self, args: Any = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        found, unknown = super().parse_known_args(args, namespace)
        trailing = getattr(found, 'trailing', None)
        if trailing and not any(word.startswith('-') for word in unknown):
            getattr(found, trailing).extend(unknown)
            unknown = []
        if unknown:
            name = next((word for word in unknown if word.startswith('--')), '')
            options = re.findall(r'--([a-z][\w-]*)', self.format_help())
            known = {option: f'--{option}' for option in options}
            known |= {o: f'--{own}' for o, own in _ELSEWHERE.items() if own in options}
            near = suggestion(name[2:].partition('=')[0], known) if name else ''
            self.error(f'unrecognized arguments: {" ".join(unknown)}.{near}')
        return found, unknown


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
    parser = _Parser(
        prog='eca-mmdet',
        usage='eca-mmdet COMMAND ...',
        description='Train, evaluate, inspect and export MMDetection 3.x detectors '
        'with channel attention (ECA-Net and others).',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--version', action='version', version=f'eca-mmdet {eca_mmdet.__version__}'
    )
    commands = Commands(parser)
    groups = []
    for title, names in GROUPS.items():
        for name in names:
            _module(name).add_parser(commands)
        lines = (f'    {name:20}{commands.help[name]}' for name in names)
        groups.append('\n'.join([f'{title}:', *lines]))
    ending = 'eca-mmdet COMMAND --help describes a command.'
    parser.epilog = '\n\n'.join([*groups, ending])
    return parser


def _module(command: str) -> Any:
    return importlib.import_module(f'eca_mmdet.cli.{command.replace(" ", "_")}')


def _words(argv: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Return the command line with today's names; end at an unknown command."""
    words = list(argv)
    if not words:
        parser.print_help(sys.stderr)
        parser.exit(2)
    if words[0] == 'help':
        words = [*words[1:], '--help']
    if words[0] in _RENAMED:
        old, new = words[0], _RENAMED[words[0]]
        print(f'eca-mmdet {old} is now: eca-mmdet {new}', file=sys.stderr)
    words[:1] = (_RENAMED | _ALIASES).get(words[0], words[0]).split(' ')
    known = [name for names in GROUPS.values() for name in names]
    asks_help = words[1:2] in (['-h'], ['--help'])
    if words[0] == 'attention' and ' '.join(words[:2]) not in known and not asks_help:
        words.insert(1, 'list')  # all there was until 0.1
    heads = {name.split()[0] for name in known}
    if not words[0].startswith('-') and words[0] not in heads:
        names = {word: name for name in known for word in (name, *name.split())}
        near = suggestion(words[0], _RENAMED | names)
        parser.error(f'there is no command {words[0]!r}.{near} All: eca-mmdet --help')
    return words


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    if argv is None:  # the process ends, and so need not search its memory for garbage
        atexit.register(gc.freeze)
    parser = build_parser()
    args = parser.parse_args(_words(sys.argv[1:] if argv is None else argv, parser))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # class names, on an ASCII terminal
            stream.reconfigure(errors='backslashreplace')
    for name, value in _OPENCV.items():  # read when OpenCV is loaded
        os.environ.setdefault(name, value)
    command = _module(args.command)
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
