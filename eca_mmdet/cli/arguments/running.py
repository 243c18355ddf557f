"""Arguments of the commands that run a detector."""

from __future__ import annotations

import argparse

from eca_mmdet.catalog.mechanisms import KEYS
from eca_mmdet.cli.common import Commands, add_data_options, at_least_1, count, seed


def add_demo(commands: Commands) -> None:
    """Add ``demo``."""
    demo = commands.add_parser(
        'demo',
        help='train and evaluate a small detector on generated shapes',
        description='Write a data set of generated shapes, train a small detector '
        'on it from random weights, evaluate it on held-out images, and leave tables, '
        'pictures and a page of the run in a folder.',
    )
    demo.add_argument(
        '--detector', choices=('faster', 'mask', 'retinanet'), default='mask'
    )
    demo.add_argument(
        '--attention',
        choices=('none', *KEYS),
        default='eca',
        metavar='NAME',
        help='a mechanism of eca-mmdet attention, or none (default: eca)',
    )
    demo.add_argument('--depth', type=int, choices=(18, 50), default=18)
    demo.add_argument(
        '--quick',
        action='store_true',
        help='about 20 s; shows that everything runs, learns little',
    )
    demo.add_argument('--seed', type=int, default=0)
    demo.add_argument(
        '--no-report', action='store_true', help='do not write report.html'
    )
    demo.add_argument(
        '--out',
        metavar='DIR',
        help='run folder to create (default: runs/demo-DATE-TIME)',
    )


def add_compare_attention(commands: Commands) -> None:
    """Add ``compare-attention``."""
    compare = commands.add_parser(
        'compare-attention',
        help='train the small detector with several mechanisms, and compare',
        description='Train the detector of eca-mmdet demo with each mechanism and '
        'seed, and print AP with its spread, parameters, time and memory. Finished '
        'runs are kept; the same command goes on after an interruption.',
    )
    add = compare.add_argument
    add(
        '--mechanisms',
        nargs='+',
        metavar='NAME',
        default=['none', 'se', 'cbam', 'eca'],
        help="of eca-mmdet attention, 'none', or 'all' (default: none se cbam eca)",
    )
    add('--seeds', type=at_least_1, default=3, metavar='N', help='default: 3')
    add('--detector', choices=('faster', 'mask', 'retinanet'), default='mask')
    add(
        '--quick',
        action='store_true',
        help='12 steps a run; shows that everything runs, compares nothing',
    )
    add(
        '--out',
        default='runs/compare-attention',
        metavar='DIR',
        help='runs and results (default: runs/compare-attention)',
    )
    add('--json', action='store_true', help='print JSON')


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--work-dir',
        metavar='DIR',
        help='logs and checkpoints (default: work_dirs/CONFIG)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        metavar='KEY=VALUE',
        default=[],
        help='override config entries, as in mmdet',
    )
    parser.add_argument(
        '--launcher', choices=('none', 'pytorch', 'slurm', 'mpi'), default='none'
    )
    parser.add_argument(
        '--dist-timeout',
        type=at_least_1,
        metavar='SECONDS',
        help='with a launcher: how long a process waits for the others (default: 600)',
    )
    # torchrun and torch.distributed.launch pass one of the two spellings.
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS
    )


def add_train(commands: Commands) -> None:
    """Add ``train``."""
    train = commands.add_parser(
        'train',
        help='train a config',
        description="Train with mmengine's Runner, after checking files, classes "
        'and weights. The learning rate follows the batch.',
    )
    train.add_argument(
        'config',
        nargs='?',
        metavar='NAME|CONFIG',
        help='shipped name (see: eca-mmdet configs) or a file; not with --data',
    )
    data = train.add_argument_group(
        'your own data', 'what eca-mmdet init does, then the training'
    )
    data.add_argument(
        '--data',
        nargs='+',
        metavar='A.json',
        help='annotations for training and for validation, or a folder with both',
    )
    add_data_options(data)
    _add_run_options(train)
    train.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from CHECKPOINT, or from the latest in work-dir',
    )
    train.add_argument(
        '--on-nan',
        choices=('stop', 'skip'),
        default='stop',
        help='a loss that is NaN or infinite: stop (default), or skip the batch',
    )
    train.add_argument(
        '--nan-limit',
        type=count,
        default=10,
        metavar='N',
        help='with --on-nan skip: stop after N such batches (default: 10)',
    )
    train.add_argument(
        '--skip-bad-images',
        type=count,
        default=0,
        metavar='N',
        help='replace up to N images that cannot be read, and list them (default: 0)',
    )
    train.add_argument(
        '--seed',
        type=seed,
        metavar='N',
        help="of weights, order and augmentation (default: the config's, or a new one)",
    )
    train.add_argument(
        '--deterministic',
        action='store_true',
        help='the same weights again with the same --seed; slower on a GPU',
    )
    train.add_argument('--amp', action='store_true', help='mixed precision')
    train.add_argument('--auto-scale-lr', action='store_true', help=argparse.SUPPRESS)
    train.add_argument(
        '--no-scale-lr',
        action='store_true',
        help='use the lr as written, whatever the batch',
    )
    train.add_argument(
        '--from-scratch',
        action='store_true',
        help='random backbone weights; nothing frozen',
    )


def add_test(commands: Commands) -> None:
    """Add ``test``."""
    test = commands.add_parser(
        'test',
        help='evaluate a checkpoint and print its AP table',
        description='Run a detector over its test set and print the COCO AP table.',
    )
    test.add_argument(
        'config',
        metavar='NAME|CONFIG',
        help='shipped name (see: eca-mmdet configs) or a file',
    )
    test.add_argument('checkpoint', metavar='CHECKPOINT')
    _add_run_options(test)
    test.add_argument('--classwise', action='store_true', help='AP of each class')
    test.add_argument(
        '--save-results',
        metavar='DIR',
        help='write the detections as COCO result files',
    )
    test.add_argument(
        '--format-only',
        action='store_true',
        help="evaluate nothing; also write COCO's submission zip (test-dev)",
    )
    test.add_argument(
        '--fast',
        action='store_true',
        help='fused norms, channels-last, bfloat16 in backbone and neck',
    )
    test.add_argument(
        '--compile',
        action='store_true',
        help='with --fast: the backbone through torch.compile as well',
    )
    test.add_argument(
        '--compare',
        action='store_true',
        help='with --fast: evaluate without it first, and print what it changes',
    )
    test.add_argument('--json', action='store_true', help='print the metrics as JSON')
