"""Types of arguments, and options that several commands share."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from typing import Any, TypeAlias

Commands: TypeAlias = 'argparse._SubParsersAction[argparse.ArgumentParser]'


def count(text: str) -> int:
    """Read a whole number from 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f'must be 0 or more; got {text}')
    return value


def at_least_1(text: str) -> int:
    """Read a whole number from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'must be 1 or more; got {text}')
    return value


def seed(text: str) -> int:
    """Read a seed: NumPy's are below 2**32, and workers and ranks add to it."""
    value = int(text)
    if not 0 <= value < 2**31:
        raise argparse.ArgumentTypeError(f'must be from 0 to 2**31 - 1; got {text}')
    return value


def fraction(text: str) -> float:
    """Read a number from 0 to 1."""
    value = float(text)
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise argparse.ArgumentTypeError(f'must be from 0 to 1; got {text}')
    return value


def positive(text: str) -> float:
    """Read a number from 0."""
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f'must be 0 or more; got {text}')
    return value


def share(text: str) -> float:
    """Read a number between 0 and 1, neither of them."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f'must be between 0 and 1; got {text}')
    return value


def add_data_options(parser: argparse._ActionsContainer) -> None:
    """Add what ``init`` and ``train --data`` have in common."""
    add = parser.add_argument
    add(
        '--images',
        metavar='DIR',
        help='that the file names are relative to (default: looked for around the '
        'annotation file)',
    )
    add('--val-images', metavar='DIR', help='the same for the validation file')
    add(
        '--model',
        metavar='NAME',
        help='config to inherit, or the start of its name (default: '
        'mask-rcnn_eca-r50, or faster-rcnn_eca-r50 where masks are missing)',
    )
    add('--weights', metavar='FILE', help='detector or backbone to start from')
    add(
        '--keep-classes',
        action='store_true',
        help='with a detector: keep what it knows of classes with equal names',
    )
    add(
        '--keep-defaults',
        action='store_true',
        help="leave the config's image size and anchors as they are",
    )
    add(
        '--epochs',
        type=at_least_1,
        metavar='N',
        help='default: by the number of images',
    )


def data_options(args: argparse.Namespace, command: str) -> dict[str, Any]:
    """Return the options of :func:`add_data_options`, and the command line as typed.

    Args:
        args: arguments of the command.
        command: its name; ``tools/train.py`` is typed without it.
    """
    words = sys.argv[1:]
    typed = words if words[:1] == [command] else [command, *words]
    return {
        'images': args.images,
        'val_images': args.val_images,
        'model': args.model,
        'weights': args.weights,
        'keep_classes': args.keep_classes,
        'keep_defaults': args.keep_defaults,
        'epochs': args.epochs,
        'command': shlex.join(['eca-mmdet', *typed]),
    }


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``train`` and ``test``: folder, overrides, processes."""
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


def run_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return these options as keyword arguments of ``engine.train`` and ``test``."""
    return {
        'work_dir': args.work_dir,
        'options': args.cfg_options,
        'launcher': args.launcher,
        'local_rank': args.local_rank,
        'dist_timeout': args.dist_timeout,
    }
