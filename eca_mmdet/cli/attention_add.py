"""``eca-mmdet attention add``: attention in the backbone of any config."""

from __future__ import annotations

import argparse
import shlex

from eca_mmdet.cli.common import Adder, Commands
from eca_mmdet.cli.init import print_config


def add_parser(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        'attention add',
        help='add an attention mechanism to a config with a ResNet-like backbone',
        description='Print a config that inherits CONFIG and has attention in its '
        'backbone: eca-mmdet attention add CONFIG cbam > new.py. The network and its '
        'weights stay; what starts random is printed beside it.',
    )
    add = Adder(parser)
    text = 'config: a shipped name, a file, or mmdet::FOLDER/FILE'
    add('config', metavar='CONFIG', help=text)
    text = 'attention mechanism, e.g. cbam (docs/attention.md lists all)'
    add('mechanism', metavar='NAME', help=text)
    text = "detector or backbone to start from (default: the config's)"
    add('--weights', metavar='FILE', help=text)


def run(args: argparse.Namespace) -> int:
    """Print the config; what changes goes to stderr."""
    from eca_mmdet.autoconfig.plan import add_attention

    words = ['eca-mmdet', 'attention', 'add', args.config, args.mechanism]
    words += ['--weights', args.weights] if args.weights else []
    return print_config(
        lambda: add_attention(
            args.config, args.mechanism, args.weights, shlex.join(words)
        ),
        ['train', '--data', 'TRAIN.json', 'VAL.json', '--model', 'CONFIG.py'],
    )
