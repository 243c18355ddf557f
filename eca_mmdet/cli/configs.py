"""``eca-mmdet configs``: the shipped configs by name."""

from __future__ import annotations

import argparse
import json

from eca_mmdet.catalog.configs import describe_configs, resolve_config, shipped_configs
from eca_mmdet.cli.common import Adder, Commands
from eca_mmdet.utils.errors import UserError

_LEGEND = """
AP: as reported for COCO with the ECA-Net paper, 0-100 (†: in one source only); not
measured here.
weights of the backbone: automatic (downloaded when training starts), manual (a file to
get first: docs/weights.md) or random."""


def add_parser(commands: Commands) -> None:
    """Add the command to the parser."""
    configs = commands.add_parser('configs', help='list the shipped configs')
    add = Adder(configs)
    text = 'shell pattern or a part of the name'
    add('pattern', nargs='?', default='*', metavar='PATTERN', help=text)
    add('--path', metavar='NAME', help="print one config's file")
    add.flag('--all', 'also list the configs of MMDetection v1 checkpoints')
    add.flag('--json', 'print names and files of all of them as JSON')


def run(args: argparse.Namespace) -> int:
    """Print a table, or the file of one config."""
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
        return 0
    from tabulate import tabulate

    current = {n: path for n, path in configs.items() if path.parent.name != 'legacy'}
    listed = configs if args.all else current or configs
    print(tabulate(describe_configs(listed), headers='keys', tablefmt='plain'))
    print(_LEGEND)
    if hidden := len(configs) - len(listed):
        print(f'{hidden} configs of MMDetection v1 are not listed: --all')
    return 0
