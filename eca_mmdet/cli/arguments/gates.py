"""Arguments of ``gates``."""

from __future__ import annotations

from eca_mmdet.cli.common import Commands, at_least_1, fraction


def add_gates(commands: Commands) -> None:
    """Add ``gates``."""
    gates = commands.add_parser(
        'gates',
        help="a trained detector's gate values by channel, stage and class",
        description='Run images through the backbone and neck of trained detectors, '
        'and show what their gates do: values by channel averaged per class, kernels, '
        'dead and saturated channels. Pictures and gates.json go to a run folder.',
    )
    add = gates.add_argument
    add(
        'checkpoints',
        nargs='+',
        metavar='CHECKPOINT',
        help='of mmengine; several are drawn side by side',
    )
    add(
        '--images',
        required=True,
        metavar='DIR|ANN',
        help='a folder, or a COCO annotation file, which has classes too',
    )
    add(
        '--images-dir',
        metavar='DIR',
        help="of the annotation file's images (default: looked for around it)",
    )
    add(
        '--classes',
        nargs='+',
        metavar='NAME',
        help='of the annotation file (default: the four on most images)',
    )
    add(
        '--limit',
        type=at_least_1,
        default=100,
        metavar='N',
        help='images, as many of each class as can be (default: 100)',
    )
    add(
        '--dead',
        type=fraction,
        default=0.05,
        metavar='X',
        help="below X of the gate's range on all images (default: 0.05)",
    )
    add(
        '--saturated',
        type=fraction,
        default=0.95,
        metavar='X',
        help='above X of it on all images (default: 0.95)',
    )
    add(
        '--constant',
        type=fraction,
        default=0.001,
        metavar='X',
        help='standard deviation over images below X of it (default: 0.001)',
    )
    add(
        '--config',
        nargs='+',
        metavar='NAME|FILE',
        help='instead of the config in the checkpoint: one for all, or one for each',
    )
    add('--device', metavar='NAME', help='as cpu or cuda:0 (default: the best)')
    add('--out', metavar='DIR', help='run folder to create (default: runs/gates-DATE)')
    add('--json', action='store_true', help='print JSON')
