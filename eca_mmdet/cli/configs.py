"""``eca-mmdet configs``: the shipped configs by name."""

from __future__ import annotations

import argparse
import json

from eca_mmdet.catalog.configs import resolve_config, shipped_configs
from eca_mmdet.cli.common import Adder, Commands
from eca_mmdet.utils.errors import UserError


def add_parser(commands: Commands) -> None:
    """Add the command to the parser."""
    configs = commands.add_parser('configs', help='list the shipped configs')
    add = Adder(configs)
    text = 'shell pattern or a part of the name'
    add('pattern', nargs='?', default='*', metavar='PATTERN', help=text)
    add('--path', metavar='NAME', help="print one config's file")
    add.flag('--json', 'names and files as JSON')


def run(args: argparse.Namespace) -> int:
    """Print names, or the file of one."""
    if args.path:
        print(resolve_config(args.path))
        return 0
    configs = shipped_configs(args.pattern)
    if not configs:
        raise UserError(
            f'no shipped config matches {args.pattern!r}.', code='config-not-found'
        )
    if args.json:
        print(json.dumps({name: str(path) for name, path in configs.items()}, indent=1))
    else:
        print('\n'.join(configs))
    return 0
