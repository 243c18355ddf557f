"""Arguments of the commands that make annotation files: ``to-coco``, ``split``."""

from __future__ import annotations

from eca_mmdet.arguments.types import Commands, seed, share


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
