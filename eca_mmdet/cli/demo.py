"""``eca-mmdet demo``: data, training, evaluation and pictures in one command."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time

from eca_mmdet.catalog.mechanisms import KEYS
from eca_mmdet.cli.common import Adder, Commands, suggest


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    demo = commands.add_parser(
        'demo',
        help='train and evaluate a small detector on generated shapes',
        description='Write a data set of generated shapes, train a small detector '
        'on it from random weights, evaluate it on held-out images, and leave tables, '
        'pictures and a page of the run in a folder.',
    )
    add = Adder(demo)
    add('--detector', choices=('faster', 'mask', 'retinanet'), default='mask')
    add(
        '--attention',
        choices=('none', *KEYS),
        default='eca',
        metavar='NAME',
        help='a mechanism of eca-mmdet attention list, or none (default: eca)',
    )
    add('--depth', type=int, choices=(18, 50), default=18)
    add.flag('--quick', 'about 20 s; shows that everything runs, learns little')
    add('--seed', type=int, default=0)
    add.flag('--no-report', 'do not write report.html')
    text = 'run folder to create (default: runs/demo-DATE-TIME)'
    where = demo.add_mutually_exclusive_group()
    where.add_argument('--out', metavar='DIR', help=text)
    where.add_argument(
        '--data-only',
        metavar='DIR',
        help='only draw 300 images (60 with --quick) into a new folder, with a COCO '
        'annotation file: the data of docs/tutorial.md',
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo and print where everything is."""
    from rich.console import Console

    from eca_mmdet import registration
    from eca_mmdet.datasets.shapes import write_shapes
    from eca_mmdet.utils.io import make_run_folder

    if args.data_only:
        data = make_run_folder(args.data_only, 'demo', '--data-only')
        images = 60 if args.quick else 300
        write_shapes(data, args.seed, {'photos': images})
        print(f'{images} images: {data}/photos, {data}/annotations/photos.json')
        return 0
    start = time.monotonic()
    # Bound to today's stdout: the training below redirects the name.
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    console.print('loading mmdet ...')
    registration.register()
    from eca_mmdet.demo.run import run_demo, write_results
    from eca_mmdet.reporting.page import report

    out = make_run_folder(args.out, 'demo')
    console.print(f'run folder: {out}')
    options = (args.detector, args.attention, args.depth, args.seed, args.quick)
    try:
        record = run_demo(out, console, *options)
    except KeyboardInterrupt:
        console.print(f'stopped; what was written so far is in {out}')
        raise
    record['seconds'] = round(time.monotonic() - start, 1)
    write_results(record, out)
    page = None
    if not args.no_report:
        console.print('drawing the report ...')
        page = out / 'report.html'
        with open(os.devnull, 'w') as nowhere, contextlib.redirect_stdout(nowhere):
            report(out, page)
    console.print(
        f'\nCOCO AP and AR on the held-out images, 0-100:\n{record["table"]}\n'
    )
    console.print(f'{time.monotonic() - start:.0f} s in all; the numbers and pictures:')
    for name in ('ap_table.md', 'metrics.json', 'loss_curve.png', 'predictions.png'):
        console.print(f'  {out / name}')
    if page is not None:
        console.print(f'Open this in a browser:\n  {page.resolve()}')
    run = out / 'train'
    suggest(['predict', run, out / 'data' / 'val'], ['export', 'onnx', run])
    return 0
