"""Arguments of the commands that start from the user's own data."""

from __future__ import annotations

import argparse

from eca_mmdet.cli.common import Commands, at_least_1, seed, share


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


def add_to_coco(commands: Commands) -> None:
    """Add ``to-coco``."""
    to_coco = commands.add_parser(
        'to-coco',
        help='read a YOLO, Pascal VOC, LabelMe or CVAT folder as COCO',
        description='Write a COCO annotation file for each split of a data set that '
        'another tool labelled. The source is not changed, the images are not copied.',
    )
    add = to_coco.add_argument
    add(
        'source',
        metavar='SOURCE',
        help="folder of the data set, its data.yaml, or CVAT's annotations.xml",
    )
    add(
        '--out',
        metavar='DIR',
        help='folder to write to (default: SOURCE-coco, beside SOURCE)',
    )
    add('--json', action='store_true', help='print JSON')


def add_split(commands: Commands) -> None:
    """Add ``split``."""
    split = commands.add_parser(
        'split',
        help='split an annotation file for training and validation',
        description='Write A_train.json and A_val.json. The same file, in any order, '
        'and the same seed give the same split on every machine.',
    )
    add = split.add_argument
    add('file', metavar='A.json', help='COCO annotation file')
    add(
        '--val',
        type=share,
        required=True,
        metavar='SHARE',
        help='of the images for validation, as 0.2',
    )
    add('--test', type=share, metavar='SHARE', help='of the images for a third file')
    add(
        '--stratify',
        action='store_true',
        help='give each part nearly the same share of every class',
    )
    add(
        '--group-by',
        metavar='FIELD',
        help="images with the same FIELD stay together, as video_id; 'folder' is the "
        'folder in file_name',
    )
    add(
        '--images',
        metavar='DIR',
        help='their folder: files that are the same byte for byte stay together',
    )
    add('--seed', type=seed, default=0, metavar='N', help='default: 0')
    add('--out', metavar='DIR', help='folder to write to (default: beside A.json)')
    add('--json', action='store_true', help='print JSON')
