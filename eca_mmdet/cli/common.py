"""Types of arguments, and options that several commands share."""

from __future__ import annotations

import argparse
import contextlib
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from eca_mmdet.engine.distributed import is_main_process
from eca_mmdet.utils.text import printable

_GROUPS = {
    'data': 'Check, convert and split data sets.',
    'attention': 'Compare attention mechanisms.',
    'paper': "The ECA-Net paper's tables: published numbers, and measuring them.",
}


class Commands:
    """Adds the parsers of commands, and keeps their help by name.

    A name of two words, such as 'data check', is an action of a group.
    """

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        settings: dict[str, Any] = {'metavar': 'COMMAND', 'help': argparse.SUPPRESS}
        self._actions = {'': self._add_actions(parser, **settings)}
        self.help: dict[str, str] = {}

    @staticmethod
    def _add_actions(parser: argparse.ArgumentParser, **settings: Any) -> Any:
        return parser.add_subparsers(
            dest='command', required=True, prog=parser.prog, **settings
        )

    def add_parser(
        self, name: str, *, help: str, **settings: Any
    ) -> argparse.ArgumentParser:
        """Add one; arguments as argparse's."""
        self.help[name] = help
        group, _, action = name.rpartition(' ')
        if group not in self._actions:
            parser = self._actions[''].add_parser(group, description=_GROUPS[group])
            self._actions[group] = self._add_actions(parser)
        actions = self._actions[group]
        if group:
            settings['help'] = help
        added: argparse.ArgumentParser = actions.add_parser(action, **settings)
        if group:
            actions.metavar = '|'.join(actions.choices)
        added.set_defaults(command=name)
        return added


Number = TypeVar('Number', int, float)


def _number(
    name: str, kind: type[Number], accepts: Callable[[Number], bool], expected: str
) -> Callable[[str], Number]:
    """Return a type of argument."""
    noun = 'a whole number' if kind is int else 'a number'

    def read(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            reason = f'must be {noun}, {expected}; got {text!r}'
            raise argparse.ArgumentTypeError(reason) from None
        if not accepts(value):  # NaN is in no range
            raise argparse.ArgumentTypeError(f'must be {expected}; got {text}')
        return value

    read.__name__ = name
    return read


count = _number('count', int, lambda n: n >= 0, '0 or more')
at_least_1 = _number('at_least_1', int, lambda n: n >= 1, '1 or more')
# NumPy's seeds are below 2**32, and workers and ranks add to it.
seed = _number('seed', int, lambda n: 0 <= n < 2**31, 'from 0 to 2**31 - 1')
fraction = _number('fraction', float, lambda x: 0 <= x <= 1, 'from 0 to 1')
share = _number('share', float, lambda x: 0 < x < 1, 'between 0 and 1')
positive = _number(
    'positive', float, lambda x: 0 <= x < math.inf, '0 or more, and finite'
)
rate = _number('rate', float, lambda x: 0 < x < math.inf, 'more than 0, and finite')


def suggest(*commands: Sequence[object]) -> None:
    """Print commands to go on with, ready to copy; on stderr, since they are no result.

    Args:
        commands: words after ``eca-mmdet``. Paths below the current folder are made
            relative; a word in capitals is for the user to replace.
    """
    if not is_main_process():
        return
    here = Path.cwd()
    print('Next:', file=sys.stderr)
    for words in commands:
        shown = [
            str(path.relative_to(here) if here in path.parents else word)
            for word in words
            for path in [Path(str(word))]
        ]
        print(printable(f'  eca-mmdet {shlex.join(shown)}'), file=sys.stderr)


_DATA = 'images val_images model weights keep_classes keep_defaults epochs'.split()


OVERRIDES: dict[str, Any] = {'nargs': '+', 'metavar': 'KEY=VALUE', 'default': []}
"""Settings of ``--cfg-options``."""


class Adder:
    """Adds options to a parser, in one line each."""

    def __init__(self, parser: argparse._ActionsContainer) -> None:
        self._add = parser.add_argument

    def __call__(self, *names: str, **settings: Any) -> None:
        """Add an argument; names and settings as argparse takes them."""
        self._add(*names, **settings)

    def flag(self, name: str, help: str) -> None:
        """Add an option without a value."""
        self._add(name, action='store_true', help=help)

    def value(
        self, name: str, metavar: str, help: str, default: Any, kind: Any = str
    ) -> None:
        """Add an option with a default, which is appended to its help."""
        text = f'{help} (default: {default})'
        self._add(name, metavar=metavar, type=kind, default=default, help=text)


def add_data_options(parser: argparse._ActionsContainer) -> None:
    """Add what ``init`` and ``train --data`` have in common."""
    add = Adder(parser)
    add(
        '--images',
        metavar='DIR',
        help='that the file names are relative to (default: looked for around the '
        'annotation file)',
    )
    add('--val-images', metavar='DIR', help='the same for the validation file')
    add(
        '--model',
        metavar='NAME',
        help='config to inherit, or the start of its name (default: '
        'mask-rcnn_eca-r50d, or faster-rcnn_eca-r50d where masks are missing)',
    )
    add('--weights', metavar='FILE', help='detector or backbone to start from')
    add.flag(
        '--keep-classes',
        'with a detector: keep what it knows of classes with equal names',
    )
    add.flag('--keep-defaults', "leave the config's image size and anchors as they are")


def data_options(args: argparse.Namespace, command: str) -> dict[str, Any]:
    """Return the options of :func:`add_data_options`, and the command line as typed.

    ``tools/train.py`` is typed without the name of the command.
    """
    words = sys.argv[1:]
    typed = words if words[:1] == [command] else [command, *words]
    options = {name: getattr(args, name) for name in _DATA}
    return {**options, 'command': shlex.join(['eca-mmdet', *typed])}


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``train`` and ``test``: folder, overrides, processes."""
    add = parser.add_argument
    add(
        '--work-dir',
        metavar='DIR',
        help='logs and checkpoints (default: work_dirs/CONFIG)',
    )
    add('--cfg-options', help='override config entries, as in mmdet', **OVERRIDES)
    add('--launcher', choices=('none', 'pytorch', 'slurm', 'mpi'), default='none')
    add(
        '--dist-timeout',
        type=at_least_1,
        metavar='SECONDS',
        help='with a launcher: how long a process waits for the others (default: 600)',
    )
    text = "mmengine's log on the terminal as well: environment, config, each step"
    add('--verbose', action='store_true', help=text)
    # torchrun and torch.distributed.launch pass one of the two spellings.
    add('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def display(args: argparse.Namespace) -> Any:
    """Return what shows a training or a test, as a context; None with --verbose."""
    if args.verbose:
        return contextlib.nullcontext()
    from rich.console import Console

    from eca_mmdet.engine.display import Display

    return Display(Console(file=sys.stdout, soft_wrap=True))


def run_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return these options as keyword arguments of ``engine.train`` and ``test``."""
    return {
        'work_dir': args.work_dir,
        'options': args.cfg_options,
        'launcher': args.launcher,
        'local_rank': args.local_rank,
        'dist_timeout': args.dist_timeout,
    }
