"""``eca-mmdet paper tables``: the published numbers, with their sources."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from eca_mmdet.cli.common import Commands


def add_parser(commands: Commands) -> None:
    """Add the command to the parser."""
    tables = commands.add_parser(
        'paper tables',
        help='the published numbers of the ECA-Net tables, with sources',
        description='Print Params, GFLOPs and AP as published.',
    )
    add = tables.add_argument
    text = "as faster:r50:eca, or a pattern as 'mask:*' (default: all)"
    add('rows', nargs='*', metavar='ROW', help=text)
    add('--detector', choices=('faster', 'mask', 'retinanet'))
    add('--format', choices=('table', 'md', 'csv', 'json', 'latex'), default='table')


def run(args: argparse.Namespace) -> int:
    """Print the rows of both tasks."""
    from eca_mmdet.catalog.published import (
        AP_COLUMNS,
        MARK,
        cells_of,
        published,
        published_rows,
    )
    from eca_mmdet.evaluation.tables import render

    rows = published_rows(args.rows, args.detector)
    if args.format == 'json':
        sources = published()['sources']
        print(json.dumps({'sources': sources, 'rows': [asdict(r) for r in rows]}))
        return 0
    header = ['row', 'Params (M)', 'GFLOPs', *AP_COLUMNS]
    for index, task in enumerate(('box', 'mask')):
        cells = [
            [row.row, *cells_of(row, task)] for row in rows if task in row.numbers()
        ]
        if not cells:
            continue
        if args.format == 'table':
            print(('' if index == 0 else '\n') + f'{task} AP, as published:')
        elif index:
            print()
        print(render(header, cells, args.format))
    if args.format == 'table':
        print(f'\n{MARK} confirmed in no copy at hand. Sources, in --format json:')
        for key, name in published()['sources'].items():
            print(f'  {key}: {name}')
    return 0
