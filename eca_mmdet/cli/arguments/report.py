"""Arguments of the command that draws runs."""

from __future__ import annotations

from eca_mmdet.cli.common import Commands, count


def add_report(commands: Commands) -> None:
    """Add ``report``."""
    report = commands.add_parser(
        'report',
        help='one HTML page of a run: numbers, curves, errors, images, gates',
        description='Make one self-contained HTML page of a run, or of several beside '
        'each other: from what mmengine writes and from metrics.json. Logs of mmdet 2 '
        'are read as well.',
    )
    add = report.add_argument
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
    add(
        '--examples',
        type=count,
        default=6,
        metavar='N',
        help='worst and best images to show of each run (default: 6)',
    )
    add(
        '--gate-images',
        type=count,
        default=20,
        metavar='N',
        help='images to measure the gates on, where the folder has no gates.json; 0 '
        'for none (default: 20)',
    )
    add(
        '--no-model',
        action='store_true',
        help='do not build the detector: no costs, and no gates but those of a '
        'gates.json',
    )
