"""``eca-mmdet to-coco``: read the labels of other tools as COCO."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from eca_mmdet.datasets.converters.conversion import Converted, convert
from eca_mmdet.utils.text import printable


def run(args: argparse.Namespace) -> int:
    """Convert, and say what was made and what was left out."""
    out = None if args.out is None else Path(args.out)
    converted = convert(Path(args.source), out)
    if args.json:
        entries = [dataclasses.asdict(one) for one in converted]
        print(json.dumps({'files': entries}, indent=1, default=str))
    else:
        lines = [line for one in converted for line in _lines(one)]
        print('\n'.join(map(printable, lines)))
    return 0


def _lines(one: Converted) -> list[str]:
    verb = 'written' if one.written else 'there already, with the same content'
    if one.kind == 'coco':
        verb = 'COCO as it is'
    counts = f'{one.image_count} images, {one.annotation_count} annotations'
    if one.found_count != one.annotation_count:
        counts += f' of {one.found_count} in the source'
    classes = ', '.join(one.classes[:20])
    if len(one.classes) > 20:
        classes += f', ... ({len(one.classes)})'
    return [
        f'{one.file}: {verb}',
        f'  {counts}',
        f'  images are relative to {one.images}',
        f'  classes: {classes}',
        *(f'  {note}' for note in one.notes),
    ]
