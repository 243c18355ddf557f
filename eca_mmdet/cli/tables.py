"""``eca-mmdet tables``: the published numbers, with their sources."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from eca_mmdet.catalog.published import (
    AP_COLUMNS,
    MARK,
    cells_of,
    published,
    published_rows,
)
from eca_mmdet.evaluation.tables import render


def run(args: argparse.Namespace) -> int:
    """Print the rows of both tasks."""
    rows = published_rows(args.rows, args.detector)
    if args.format == 'json':
        sources = published()['sources']
        print(json.dumps({'sources': sources, 'rows': [asdict(r) for r in rows]}))
        return 0
    header = ['row', 'Params (M)', 'GFLOPs', *AP_COLUMNS]
    for index, task in enumerate(('box', 'mask')):
        cells = [
            [one.row, *cells_of(one, task)] for one in rows if task in one.numbers()
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
