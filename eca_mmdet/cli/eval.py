"""``eca-mmdet eval``: COCO numbers of saved predictions. Needs no mmdet."""

from __future__ import annotations

import argparse
import json
import sys

from eca_mmdet.cli.common import Adder, Commands, count, fraction, suggest
from eca_mmdet.utils.text import printable


def add_parser(commands: Commands) -> None:
    """Add the command to the parser."""
    evaluation = commands.add_parser(
        'eval',
        help='COCO AP and AR of saved predictions, of any program',
        description='Evaluate COCO result files. With several, each further one is '
        'also compared to the first, with a bootstrap interval over images.',
    )
    add = Adder(evaluation)
    add('--ann', required=True, metavar='A.json', help='COCO annotation file')
    add(
        '--results',
        required=True,
        nargs='+',
        metavar='R.json',
        help='COCO result files',
    )
    types = ('bbox', 'segm')
    add('--types', nargs='+', choices=types, help='default: what the results have')
    add.flag('--classwise', 'also AP by class; of several files, with the differences')
    add('--classes', nargs='+', metavar='NAME', help='evaluate these alone')
    formats = ('table', 'md', 'csv', 'json', 'latex')
    text = 'json has full precision, 0-1'
    add('--format', choices=formats, default='table', help=text)
    add(
        '--max-dets',
        nargs='+',
        type=int,
        default=(1, 10, 100),
        metavar='N',
        help="detections an image and class (default: COCO's 1 10 100)",
    )
    add('--backend', choices=('hotcoco', 'pycocotools'), default='hotcoco')
    text = 'samples for the interval of a difference; 0 for none'
    add.value('--bootstrap', 'N', text, 300, count)
    add('--seed', type=count, default=0, help='of the bootstrap')
    add.flag(
        '--analysis',
        'TIDE errors (Cls: wrong class, Loc: poorly localized, Both, Dupe: duplicate, '
        'Bkg: background, Miss: missed), confusion matrix, PR curves, calibration, '
        'worst images: into metrics.json and as pictures',
    )
    text = 'lowest score in the confusion matrix and the worst images'
    add.value('--score-thr', 'S', text, 0.3, fraction)
    add('--out', metavar='DIR', help='folder to create (default: runs/eval-DATE-TIME)')


def run(args: argparse.Namespace) -> int:
    """Evaluate; the result is on stdout, everything else on stderr."""
    from eca_mmdet.evaluation.api import evaluate

    report = evaluate(
        args.ann,
        args.results,
        types=args.types,
        classes=args.classes,
        max_dets=args.max_dets,
        backend=args.backend,
        bootstrap=args.bootstrap,
        seed=args.seed,
        analysis=args.analysis,
        score_thr=args.score_thr,
        out=args.out or True,
    )
    lines = [f'note: {note}' for note in report.notes]
    lines += [f'pictures: {folder}' for folder in report.drawings]
    lines += [f'all numbers: {report.folder}/metrics.json']
    if args.format == 'json':
        print(json.dumps(report.record, indent=1))
    else:
        print(report.table(args.format, args.classwise))
    print('\n'.join(map(printable, lines)), file=sys.stderr)
    suggest(['report', report.folder, '--images', 'DIR'])
    return 0
