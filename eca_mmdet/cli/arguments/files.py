"""Arguments of the commands that look at files."""

from __future__ import annotations

from eca_mmdet.cli.common import Commands, count, fraction


def add_eval(commands: Commands) -> None:
    """Add ``eval``."""
    evaluation = commands.add_parser(
        'eval',
        help='COCO AP and AR of saved predictions, of any program',
        description='Evaluate COCO result files. With several, each further one is '
        'also compared to the first, with a bootstrap interval over images.',
    )
    add = evaluation.add_argument
    add('--ann', required=True, metavar='A.json', help='COCO annotation file')
    add(
        '--results',
        required=True,
        nargs='+',
        metavar='R.json',
        help='COCO result files',
    )
    add(
        '--types',
        nargs='+',
        choices=('bbox', 'segm'),
        help='default: what the results have',
    )
    add('--classwise', action='store_true', help='also a table of the classes')
    add('--classes', nargs='+', metavar='NAME', help='evaluate these alone')
    add(
        '--format',
        choices=('table', 'md', 'csv', 'json', 'latex'),
        default='table',
        help='json has full precision, 0-1',
    )
    add(
        '--max-dets',
        nargs='+',
        type=int,
        default=(1, 10, 100),
        metavar='N',
        help="detections an image and class (default: COCO's 1 10 100)",
    )
    add('--backend', choices=('hotcoco', 'pycocotools'), default='hotcoco')
    add(
        '--bootstrap',
        type=count,
        default=300,
        metavar='N',
        help='samples for the interval of a difference; 0 for none (default: 300)',
    )
    add('--seed', type=count, default=0, help='of the bootstrap')
    add(
        '--analysis',
        action='store_true',
        help='errors by kind, confusion matrix, PR curves, calibration, worst images: '
        'into metrics.json and as pictures',
    )
    add(
        '--score-thr',
        type=fraction,
        default=0.3,
        metavar='S',
        help='lowest score in the confusion matrix and the worst images (default: 0.3)',
    )
    add(
        '--out',
        metavar='DIR',
        help='folder to create (default: runs/eval-DATE-TIME)',
    )


def add_check_data(commands: Commands) -> None:
    """Add ``check-data``."""
    check = commands.add_parser(
        'check-data',
        help='find faults of annotation files and images; repair a copy',
        description='Look through a COCO annotation file for what makes training or '
        'AP fail or be wrong. Exit code 0: no fault, 1: errors or warnings.',
    )
    check.add_argument('file', metavar='ANN.json', help='annotations of instances')
    check.add_argument(
        '--images', metavar='DIR', help='its images: each is read to the end'
    )
    check.add_argument(
        '--val', metavar='ANN.json', help='validation file, to hold against the first'
    )
    check.add_argument('--val-images', metavar='DIR', help='images of --val')
    check.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help="the config's classes, in its order, separated by spaces",
    )
    check.add_argument(
        '--fix', metavar='OUT.json', help='write a repaired copy and check that'
    )
    check.add_argument('--json', action='store_true', help='print JSON')


def add_configs(commands: Commands) -> None:
    """Add ``configs``."""
    configs = commands.add_parser('configs', help='list the shipped configs')
    configs.add_argument(
        'pattern',
        nargs='?',
        default='*',
        metavar='PATTERN',
        help='shell pattern or a part of the name',
    )
    configs.add_argument('--path', metavar='NAME', help="print one config's file")
    configs.add_argument('--json', action='store_true', help='names and files as JSON')


def add_weights(commands: Commands) -> None:
    """Add ``weights``."""
    weights = commands.add_parser(
        'weights',
        help='recognise and convert files of weights',
        description='Say what a file of weights is and which backbone it fits; or '
        "rename its tensors for mmdet, the ECA-Net authors' code or timm.",
    )
    actions = weights.add_subparsers(dest='action', required=True, metavar='ACTION')
    inspect = actions.add_parser('inspect', help='say what a file is')
    inspect.add_argument('file', metavar='FILE', help='path, https:// or hf:// address')
    convert = actions.add_parser(
        'convert', help='rename the tensors; every one is mapped or listed as dropped'
    )
    convert.add_argument('source', metavar='SRC', help='path, https:// or hf://')
    convert.add_argument(
        'target', metavar='DST', help='file to write, .safetensors or .pth'
    )
    convert.add_argument('--to', choices=('mmdet', 'authors', 'timm'), default='mmdet')
    convert.add_argument(
        '--force', action='store_true', help='replace DST if it exists'
    )
    convert.add_argument(
        '--v1-retinanet',
        action='store_true',
        help='SRC is a RetinaNet of MMDetection v1 (its names cannot tell)',
    )
    for action in (inspect, convert):
        action.add_argument(
            '--trust',
            action='append',
            default=[],
            metavar='MODULE.CLASS',
            help='let reading use this class; the refusal of a file names it. Only '
            'for files whose maker you trust',
        )
        action.add_argument('--json', action='store_true', help='print JSON')
