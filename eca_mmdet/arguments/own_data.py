"""Arguments of the commands that start from the user's own data."""

from __future__ import annotations

import argparse

from eca_mmdet.arguments.types import Commands, at_least_1


def add_init(commands: Commands) -> None:
    """Add ``init``."""
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


def add_data_options(parser: argparse._ActionsContainer) -> None:
    """Add what ``init`` and ``train --data`` have in common."""
    add = parser.add_argument
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
        'mask-rcnn_eca-r50, or faster-rcnn_eca-r50 where masks are missing)',
    )
    add('--weights', metavar='FILE', help='detector or backbone to start from')
    add(
        '--keep-classes',
        action='store_true',
        help='with a detector: keep what it knows of classes with equal names',
    )
    add(
        '--keep-defaults',
        action='store_true',
        help="leave the config's image size and anchors as they are",
    )
    add(
        '--epochs',
        type=at_least_1,
        metavar='N',
        help='default: by the number of images',
    )
