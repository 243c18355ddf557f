"""``eca-mmdet report``: one page of one or more runs."""

from __future__ import annotations

import argparse
import sys

from eca_mmdet.cli.common import Adder, Commands, count
from eca_mmdet.utils.text import printable


def add_parser(commands: Commands) -> None:
    """Add ``report``."""
    report = commands.add_parser(
        'report',
        help='one HTML page of a run: numbers, curves, errors, images, gates',
        description='Make one self-contained HTML page of a run, or of several beside '
        'each other: from what mmengine writes and from metrics.json.',
    )
    add = Adder(report)
    add(
        'runs',
        nargs='+',
        metavar='RUN_DIR',
        help='work_dir of a training or test, folder of demo or eval, or a log file',
    )
    add('--out', metavar='HTML', help='page to write (default: RUN_DIR/report.html)')
    add('--labels', nargs='+', metavar='NAME', help='names of the runs on the page')
    add('--images', metavar='DIR', help="images (default: the config's folder)")
    add('--ann', metavar='A.json', help='annotations (default: the recorded file)')
    text = 'worst and best images to show of each run'
    add.value('--examples', 'N', text, 6, count)
    text = (
        'images to measure the gates on, where the folder has no gates.json; 0 for none'
    )
    add.value('--gate-images', 'N', text, 20, count)
    text = 'do not build the detector: no costs, and no gates but those of a gates.json'
    add.flag('--no-model', text)


def run(args: argparse.Namespace) -> int:
    """Write the page, and say what is missing on it."""
    from eca_mmdet.reporting.page import report

    made = report(
        args.runs,
        args.out,
        args.labels,
        args.images,
        args.ann,
        args.examples,
        args.gate_images,
        not args.no_model,
    )
    for label, lines in made.missing.items():
        for line in lines:
            print(printable(f'not shown of {label}: {line}'), file=sys.stderr)
    before = ', in place of the one before' if made.replaced else ''
    print(printable(f'page{before}: {made.path}'))
    return 0
