"""Arguments of the commands about the published tables and about costs."""

from __future__ import annotations

from eca_mmdet.cli.common import Commands, positive


def add_reproduce(commands: Commands) -> None:
    """Add ``reproduce``."""
    reproduce = commands.add_parser(
        'reproduce',
        help='measure the published rows on COCO, beside the reported ones',
        description='For each row of the tables: find its weights by content, test (or '
        'train and test) on val2017, and report. Each row is recorded when it is done; '
        'the same command goes on after an interruption.',
    )
    add = reproduce.add_argument
    add('--coco', required=True, metavar='DIR', help='with val2017/ and annotations/')
    add('--weights', required=True, metavar='DIR', help='searched with its folders')
    add('--rows', nargs='+', metavar='ROW', help='as faster:r50:eca or mask:* (all)')
    add(
        '--train',
        action='store_true',
        help="train rows that have no detector by the paper's recipe, from ImageNet "
        'weights',
    )
    add('--devices', type=int, default=1, metavar='N', help='processes a job')
    add('--launcher', choices=('none', 'pytorch', 'slurm', 'mpi'), default='none')
    add(
        '--launch-with',
        default='',
        metavar='WORDS',
        help="before each job's command, as 'srun -n 8'; for slurm and mpi",
    )
    add(
        '--tolerance',
        type=positive,
        default=0.1,
        metavar='AP',
        help='for released detectors, 0-100 (default: 0.1)',
    )
    add(
        '--tolerance-retrained',
        type=positive,
        default=0.4,
        metavar='AP',
        help='for detectors that were trained again (default: 0.4)',
    )
    add(
        '--dry-run',
        action='store_true',
        help='say what would run, for how long and what is missing',
    )
    add('--out', default='runs/reproduce', metavar='DIR', help='records and reports')
    add('--published', metavar='FILE', help='other published numbers, same form')
    add(
        '--cfg-options',
        nargs='+',
        metavar='KEY=VALUE',
        default=[],
        help='overrides for every job',
    )
