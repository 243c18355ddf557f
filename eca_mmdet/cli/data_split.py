"""``eca-mmdet data split``: divide an annotation file for training and validation."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from eca_mmdet.cli.common import Adder, Commands, seed, share, suggest
from eca_mmdet.utils.text import clipped, printable

if TYPE_CHECKING:
    from eca_mmdet.datasets.splitting import SplitReport

_MOST_ROWS = 60  # classes in the printed table; of more, those that lack a part


def add_parser(commands: Commands) -> None:
    """Add the command to the parser."""
    split = commands.add_parser(
        'data split',
        help='split an annotation file for training and validation',
        description='Write A_train.json and A_val.json. The same file, in any order, '
        'and the same seed give the same split on every machine.',
    )
    add = Adder(split)
    add('file', metavar='A.json', help='COCO annotation file')
    text = 'of the images for validation, as 0.2'
    add('--val', type=share, required=True, metavar='SHARE', help=text)
    add('--test', type=share, metavar='SHARE', help='of the images for a third file')
    add.flag('--stratify', 'give each part nearly the same share of every class')
    add(
        '--group-by',
        metavar='FIELD',
        help="images with the same FIELD stay together, as video_id; 'folder' is the "
        'folder in file_name',
    )
    text = 'their folder: files that are the same byte for byte stay together'
    add('--images', metavar='DIR', help=text)
    add('--seed', type=seed, default=0, metavar='N', help='default: 0')
    add('--out', metavar='DIR', help='folder to write to (default: beside A.json)')
    add.flag('--json', 'print JSON')


def run(args: argparse.Namespace) -> int:
    """Split, write the files, and print what each has of every class."""
    from eca_mmdet.datasets.splitting import split_annotations

    report = split_annotations(
        args.file,
        args.val,
        args.test,
        args.stratify,
        args.group_by,
        args.images,
        args.seed,
        args.out,
    )
    if args.json:
        print(json.dumps(report.to_dict(), indent=1))
    else:
        print('\n'.join(_lines(report, {'val': args.val, 'test': args.test})))
        parts = [report.files[part] for part in ('train', 'val')]
        suggest(['train', '--data', *parts])
    return 0


def _lines(report: SplitReport, shares: dict[str, float]) -> list[str]:
    from eca_mmdet.evaluation.tables import render

    total = sum(report.images.values())
    lines, header = [], ['class']
    for part, path in report.files.items():
        count = report.images[part]
        asked = f', asked for {shares[part]:.1%}' if part in shares else ''
        lines.append(
            printable(
                f'{path}: {count} of {total} images ({count / total:.1%}{asked}), '
                f'{report.annotations[part]} annotations'
            )
        )
        header += [f'{part} images', 'objects']
    table = render(header, _rows(report), 'table')
    remarks = [clipped(line, 1000) for line in _remarks(report)]
    return [*lines, '', table, *([''] if remarks else []), *remarks]


def _rows(report: SplitReport) -> list[list[str]]:
    shown = report.classes
    if len(shown) > _MOST_ROWS:
        shown = [
            entry
            for entry in shown
            if not all(entry[p]['objects'] for p in report.files)
        ]
    rows = []
    for entry in shown[:_MOST_ROWS]:
        row = [clipped(entry['name'])]
        for part in report.files:
            row += [str(entry[part]['images']), str(entry[part]['objects'])]
        rows.append(row)
    rest = len(report.classes) - len(rows)
    if rest:
        rows.append([f'({rest} more classes)', *[''] * (2 * len(report.files))])
    return rows


def _remarks(report: SplitReport) -> list[str]:
    what = 'images or groups' if report.grouped else 'images'
    named = (
        (report.too_rare, f'too few {what} to be in each part: %s'),
        (report.not_in_each_part, 'no split was found with these in each part: %s'),
        (
            report.nothing_to_train_on,
            'warning: no object that mmdet trains on in %s: eca-mmdet data check says '
            'why',
        ),
    )
    counted = (
        (report.crowds, 'not counted as objects: %d crowd annotations'),
        (
            report.left_out_annotations,
            'in no part: %d annotations of images that are not in the file, or of '
            'none. Look with eca-mmdet data check.',
        ),
    )
    lines = [text % ', '.join(names) for names, text in named if names]
    return lines + [text % count for count, text in counted if count]
