"""``eca-mmdet data convert``: read the labels of other tools as COCO."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from eca_mmdet.cli.common import Commands, suggest
from eca_mmdet.utils.text import plural, printable

if TYPE_CHECKING:
    from eca_mmdet.datasets.converters.conversion import Converted


def add_parser(commands: Commands) -> None:
    """Add the command to the parser."""
    to_coco = commands.add_parser(
        'data convert',
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
    add(
        '--labels',
        choices=('boxes', 'polygons'),
        help='YOLO labels of more than six columns: boxes followed by keypoints, '
        'confidence or track id, or polygons (default: what their values allow)',
    )
    add(
        '--units',
        choices=('normalized', 'pixels'),
        help='YOLO coordinates outside 0-1: normalized and over the edge of the image, '
        'or pixels (default: refuse them)',
    )
    add(
        '--voc-origin',
        type=int,
        choices=(0, 1),
        help='Pascal VOC number of the first pixel (default: 0 if boxes begin at 0 or '
        'have fractions, otherwise 1)',
    )
    add('--json', action='store_true', help='print JSON')


def run(args: argparse.Namespace) -> int:
    """Convert, and print what was written and what was left out."""
    from eca_mmdet.datasets.converters.conversion import convert
    from eca_mmdet.datasets.converters.labels import Choices

    out = None if args.out is None else Path(args.out)
    choices = Choices(args.labels, args.units, args.voc_origin)
    converted = convert(Path(args.source), out, choices)
    if args.json:
        entries = [dataclasses.asdict(dataset) for dataset in converted]
        print(json.dumps({'files': entries}, indent=1, default=str))
    else:
        lines = [line for dataset in converted for line in _lines(dataset)]
        print('\n'.join(map(printable, lines)))
        _say_what_is_next({dataset.split: dataset for dataset in converted})
    return 0


def _say_what_is_next(converted: dict[str, Converted]) -> None:
    first = next(iter(converted.values()))
    parts = [converted[part].file for part in ('train', 'val') if part in converted]
    suggest(
        ['data', 'check', first.file, '--images', first.images],
        ['train', '--data', *parts]
        if len(parts) == 2
        else ['data', 'split', first.file, '--val', '0.2'],
    )


def _lines(dataset: Converted) -> list[str]:
    verb = 'written' if dataset.written else 'there already, with the same content'
    if dataset.kind == 'coco' and not dataset.written:
        verb = 'COCO as it is'
    counts = plural(dataset.image_count, 'image')
    counts += f', {plural(dataset.annotation_count, "annotation")}'
    if dataset.found_count != dataset.annotation_count:
        counts += f' of {dataset.found_count} in the source'
    classes = ', '.join(dataset.classes[:20])
    if len(dataset.classes) > 20:
        classes += f', ... ({len(dataset.classes)})'
    return [
        f'{dataset.file}: {verb}',
        f'  {counts}',
        f'  images are relative to {dataset.images}',
        f'  classes: {classes}',
        *(f'  {note}' for note in dataset.notes),
    ]
