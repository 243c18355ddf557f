"""Arguments of the commands about the published tables and about costs."""

from __future__ import annotations

from eca_mmdet.cli.common import Commands, at_least_1, positive


def add_complexity(commands: Commands) -> None:
    """Add ``complexity``."""
    complexity = commands.add_parser(
        'complexity',
        help='parameters, multiply-adds, memory and time of detectors',
        description='Count what detectors cost. No weights and no data are needed.',
    )
    add = complexity.add_argument
    add(
        'configs',
        nargs='*',
        metavar='NAME|CONFIG',
        help="shipped names or files; 'tables' for all of the paper's tables",
    )
    add(
        '--shape',
        nargs=2,
        type=int,
        default=(1280, 800),
        metavar=('W', 'H'),
        help='of the input in pixels (default: 1280 800)',
    )
    add(
        '--convention',
        choices=('paper', 'exact'),
        default='exact',
        help="'paper' counts as the published tables do",
    )
    add(
        '--imagenet',
        action='store_true',
        help="also the paper's ImageNet classifiers beside their published cost",
    )
    add(
        '--latency',
        action='store_true',
        help='also time backbones and detectors on this device, side by side',
    )
    add(
        '--rounds',
        type=at_least_1,
        default=10,
        metavar='N',
        help='of --latency (default: 10)',
    )
    add(
        '--cfg-options',
        nargs='+',
        metavar='KEY=VALUE',
        default=[],
        help='override config entries, as in mmdet',
    )
    add('--json', action='store_true', help='print JSON')


def add_attention(commands: Commands) -> None:
    """Add ``attention``."""
    attention = commands.add_parser(
        'attention',
        help='the attention mechanisms of the ECA-Net comparison: properties and costs',
        description='Recompute the table of attention mechanisms: does it reduce the '
        'dimensionality (DR), do channels interact (CCI), parameters, operations and '
        'time on a map as C4 of an 800x1280 image.',
    )
    add = attention.add_argument
    add(
        'mechanisms',
        nargs='*',
        metavar='NAME',
        help='as eca, cbam or se-var1 (default: all)',
    )
    add('--channels', type=at_least_1, default=256, metavar='C', help='default: 256')
    add(
        '--size',
        nargs=2,
        type=at_least_1,
        default=(50, 80),
        metavar=('H', 'W'),
        help='of the map (default: 50 80)',
    )
    add(
        '--rounds',
        type=at_least_1,
        default=9,
        metavar='N',
        help='of the timing, whose median is printed (default: 9)',
    )
    add('--json', action='store_true', help='print JSON')


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
