"""``eca-mmdet paper reproduce``: measure the published rows on COCO."""

from __future__ import annotations

import argparse
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eca_mmdet.cli.common import OVERRIDES, Adder, Commands, positive
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.text import printable

if TYPE_CHECKING:
    from eca_mmdet.reproduce.plan import Job
    from eca_mmdet.reproduce.run import Settings

logger = logging.getLogger(__name__)


def add_parser(commands: Commands) -> None:
    """Add ``reproduce``."""
    reproduce = commands.add_parser(
        'paper reproduce',
        help='measure the published rows on COCO, beside the reported ones',
        description='For each row of the tables: find its weights by content, test (or '
        'train and test) on val2017, and report. Each row is recorded when it is done; '
        'the same command goes on after an interruption.',
    )
    add = Adder(reproduce)
    add('--coco', required=True, metavar='DIR', help='with val2017/ and annotations/')
    add('--weights', required=True, metavar='DIR', help='searched with its folders')
    add('--rows', nargs='+', metavar='ROW', help='as faster:r50:eca or mask:* (all)')
    add.flag(
        '--train',
        "train rows that have no detector by the paper's recipe, from ImageNet weights",
    )
    add('--devices', type=int, default=1, metavar='N', help='processes a job')
    add('--launcher', choices=('none', 'pytorch', 'slurm', 'mpi'), default='none')
    add(
        '--launch-with',
        default='',
        metavar='WORDS',
        help="before each job's command, as 'srun -n 8'; for slurm and mpi",
    )
    add.value('--tolerance', 'AP', 'for released detectors, 0-100', 0.1, positive)
    text = 'for detectors that were trained again'
    add.value('--tolerance-retrained', 'AP', text, 0.4, positive)
    add.flag('--dry-run', 'say what would run and what is missing')
    add('--out', default='runs/reproduce', metavar='DIR', help='records and reports')
    add('--published', metavar='FILE', help='other published numbers, same form')
    add('--cfg-options', help='overrides for every job', **OVERRIDES)


def run(args: argparse.Namespace) -> int:
    """Plan, measure row by row, report; 1 if a row failed or is outside."""
    from eca_mmdet.catalog.published import PUBLISHED, published_rows
    from eca_mmdet.reproduce.plan import make_plan, open_coco, scan
    from eca_mmdet.reproduce.run import FAILED, OUTSIDE, Settings, as_tables, reproduce

    launcher, prefix = _launch(args)
    if not args.out:
        raise UserError(
            '--out needs a folder; got an empty name.', code='option-invalid'
        )
    published = Path(args.published) if args.published else PUBLISHED
    rows = published_rows(args.rows or (), path=published)
    coco = open_coco(args.coco, args.train)
    files, notes = scan(args.weights, leave_out=args.out)
    jobs = make_plan(rows, files, args.train)
    settings = Settings(
        coco,
        Path(args.out),
        args.devices,
        launcher,
        prefix,
        tuple(args.cfg_options),
        args.tolerance,
        args.tolerance_retrained,
    )
    _check_paths(jobs, settings)
    logger.warning('%s: %s', coco.root, coco.departure or 'COCO val2017')
    for note in notes:
        logger.warning('not used: %s', note)
    if args.dry_run:
        return _print_plan(jobs, settings)
    outcomes = reproduce(jobs, settings, notes)
    print(as_tables(outcomes, coco.departure, options=settings.options))
    logger.warning('reports: %s/tables.md, .tex and .json', settings.out)
    return int(any(outcome.verdict in (OUTSIDE, FAILED) for outcome in outcomes))


def _launch(args: argparse.Namespace) -> tuple[str, tuple[str, ...]]:
    """Return mmengine's launcher and the words before each command."""
    launcher = args.launcher
    if args.devices < 1:
        raise UserError(
            f'--devices must be at least 1; got {args.devices}.', code='option-invalid'
        )
    if args.devices > 1 and launcher == 'none':
        launcher = 'pytorch'
    if bool(args.launch_with) != (launcher in ('slurm', 'mpi')):
        raise UserError(
            "--launcher slurm and mpi need --launch-with, e.g. 'srun -n 8' or 'mpirun "
            "-n 8'; with others each of its processes would do all the work.",
            code='option-conflict',
        )
    try:
        return launcher, tuple(shlex.split(args.launch_with))
    except ValueError as error:
        raise UserError(
            f'--launch-with {args.launch_with!r} cannot be read: {error}.',
            code='option-invalid',
        ) from error


def _check_paths(jobs: Sequence[Job], settings: Settings) -> None:
    """Refuse paths that mmengine's KEY=VALUE would read as a list."""
    trained = [str(job.weights) for job in jobs if job.action == 'train']
    for path in (settings.coco.root, *trained):
        if any(sign in path for sign in ',[](){}"\'') or path.split() != [path]:
            raise UserError(
                f'{path}: a path with a space, comma, quote or bracket cannot be given '
                'to a config; rename it or make a link to it.',
                code='option-invalid',
            )


def _print_plan(jobs: Sequence[Job], settings: Settings) -> int:
    """Print what would run, and what is missing."""
    from eca_mmdet.reproduce.run import measured_before

    for job in jobs:
        if job.action == 'none':
            print(printable(f'{job.row.row}: {job.note}'))
            continue
        known = ', measured before' if measured_before(job, settings) else ''
        words = f'{job.action} {job.config} {job.weights}{known}'
        print(printable(f'{job.row.row}: {words}'))
        for line in filter(None, (*job.options, job.note)):
            print(printable(f'    {line}'))
    return 0
