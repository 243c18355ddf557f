"""Arguments of the commands about the published tables and about costs."""

from __future__ import annotations

from eca_mmdet.cli.common import Commands, at_least_1


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


def add_tables(commands: Commands) -> None:
    """Add ``tables``."""
    tables = commands.add_parser(
        'tables',
        help='the published numbers of the ECA-Net tables, with sources',
        description='Print Params, GFLOPs and AP as published.',
    )
    add = tables.add_argument
    add(
        'rows',
        nargs='*',
        metavar='ROW',
        help="as faster:r50:eca, or a pattern as 'mask:*' (default: all)",
    )
    add('--detector', choices=('faster', 'mask', 'retinanet'))
    add('--format', choices=('table', 'md', 'csv', 'json', 'latex'), default='table')
