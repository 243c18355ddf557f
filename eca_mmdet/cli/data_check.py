"""``eca-mmdet data check``: find the faults of annotation files, and repair a copy."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from eca_mmdet.cli.common import Commands, suggest
from eca_mmdet.utils.text import plural, printable

if TYPE_CHECKING:
    from eca_mmdet.datasets.checking import DataReport
    from eca_mmdet.datasets.rules.rule import Fault


def add_parser(commands: Commands) -> None:
    """Add the command to the parser."""
    check = commands.add_parser(
        'data check',
        help='find faults of annotation files and images; repair a copy',
        description='Look through a COCO annotation file for what makes training or '
        'AP fail or be wrong. Exit code 0: no fault, 1: errors or warnings.',
    )
    add = check.add_argument
    add('file', metavar='ANN.json', help='annotations of instances')
    add('--images', metavar='DIR', help='its images: each is opened')
    add('--val', metavar='ANN.json', help='validation file, to hold against the first')
    add('--val-images', metavar='DIR', help='images of --val')
    add(
        '--classes',
        nargs='+',
        metavar='NAME',
        help="the config's classes, in its order, separated by spaces",
    )
    add('--fix', metavar='OUT.json', help='write a repaired copy and check that')
    add(
        '--force',
        action='store_true',
        help='write the copy even if more than 10%% of the images, objects or masks '
        'had to be removed',
    )
    add('--json', action='store_true', help='print JSON')


def run(args: argparse.Namespace) -> int:
    """Check, repair if asked; 1 if there is an error or a warning."""
    from eca_mmdet.datasets.checking import check_annotations

    names = 'file images val val_images classes fix force'.split()
    report = check_annotations(*(getattr(args, name) for name in names))
    if args.json:
        print(json.dumps(report.to_dict(), indent=1))
    else:
        print('\n'.join(map(printable, _lines(report))))
        _say_what_is_next(args, report)
    return int(bool(report.errors or report.warnings))


def _say_what_is_next(args: argparse.Namespace, report: DataReport) -> None:
    faulty = any(fault.severity != 'note' for fault in report.checked[0].faults)
    if faulty and not args.fix:
        suggest(['data', 'check', args.file, '--fix', 'REPAIRED.json'])
    elif args.val and not (report.errors or report.warnings):
        suggest(['train', '--data', args.file, args.val])
    elif not faulty and not args.val:
        suggest(['data', 'split', args.file, '--val', '0.2'])


def _lines(report: DataReport) -> list[str]:
    lines = []
    for file in report.checked:
        sizes = ', '.join(f'{count} {key}' for key, count in file.counts.items())
        if sizes or file.faults:
            lines.append(f'{file.name}: {sizes}' if sizes else file.name)
        lines += map(_line, file.faults)
    if report.errors or report.warnings:
        lines.append(
            f'kinds of fault: {plural(report.errors, "error")}, '
            f'{plural(report.warnings, "warning")}'
        )
    else:
        lines.append('no fault')
    if report.fixed is None and not report.refused:
        return lines
    refused = f'{report.refused}: not written, too much is removed. The repairs:'
    lines += [f'{report.fixed.name}: a repaired copy' if report.fixed else refused]
    lines += [f'  {count} {repair}' for repair, count in report.repairs.items()]
    if report.fixed:
        left = [fault for fault in report.fixed.faults if fault.severity != 'note']
        decide = ['still there, for you to decide:', *map(_line, left)]
        lines += decide if left else ['checked again: no fault']
    gone = (f'{n} of {total} {key}' for key, (n, total) in report.removed.items())
    force = '' if report.fixed else '; --force writes the copy all the same'
    return [*lines, f'removed: {", ".join(gone)}{force}']


def _line(fault: Fault) -> str:
    return f'  {fault.severity + ":":9}{fault.line()}'
