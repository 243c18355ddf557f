"""``eca-mmdet init``: a config for the user's own data."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from eca_mmdet.cli.common import (
    Commands,
    add_data_options,
    at_least_1,
    data_options,
    suggest,
)

if TYPE_CHECKING:
    from eca_mmdet.autoconfig.plan import ProposedConfig


def add_parser(commands: Commands) -> None:
    """Add the command to the parser."""
    init = commands.add_parser(
        'init',
        help='write a config for your own data',
        description='Read annotation files and print a config that trains on them: '
        'eca-mmdet init --train A.json --val B.json > config.py. What was found and '
        'proposed is printed beside it.',
    )
    add = init.add_argument
    add('--train', required=True, metavar='A.json|DIR', help='training annotations')
    add('--val', metavar='B.json|DIR', help='validation annotations')
    add_data_options(init)
    add(
        '--epochs',
        type=at_least_1,
        metavar='N',
        help='number of epochs (default: by the number of images)',
    )


def run(args: argparse.Namespace) -> int:
    """Print the config; what was found and proposed goes to stderr."""
    from eca_mmdet.autoconfig.plan import make_config

    options = data_options(args, 'init')
    return print_config(lambda: make_config(args.train, args.val, **options))


def print_config(propose: Callable[[], ProposedConfig], *more: Sequence[object]) -> int:
    """Print a config; what its proposal logs goes to stderr.

    ``more`` are commands that use the config, beside its training.
    """
    with contextlib.redirect_stdout(sys.stderr):
        proposed = propose()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding='utf-8')  # as mmengine reads configs
    print(proposed.text, end='')
    suggest(['train', 'CONFIG.py'], *more)
    return 0
