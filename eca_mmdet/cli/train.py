"""``eca-mmdet train``: mmdet's training with checks and exact resuming."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from typing import TYPE_CHECKING

from eca_mmdet.cli.common import (
    Adder,
    Commands,
    add_data_options,
    add_run_options,
    at_least_1,
    count,
    data_options,
    display,
    rate,
    run_options,
    seed,
    suggest,
)
from eca_mmdet.engine.distributed import is_main_process

if TYPE_CHECKING:
    from eca_mmdet.engine.training import TrainingResult

_OPTIONS = (
    *('resume', 'seed', 'deterministic', 'amp', 'amp_dtype', 'compile'),
    *('from_scratch', 'on_nan', 'nan_limit', 'skip_bad_images'),
    *('batch_size', 'lr', 'image_size', 'workers', 'device', 'patience', 'ema'),
)
"""Options that are arguments of :func:`eca_mmdet.train`."""

_LEAST_SIDE = 16
"""Of ``--imgsz``: in smaller images no anchor meets an object, and flips can fail."""


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    train = commands.add_parser(
        'train',
        help='train a config',
        description="Train with mmengine's Runner, after checking files, classes "
        'and weights. The learning rate follows the batch.',
    )
    add = Adder(train)
    add(
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
    _add_settings(train.add_argument_group('settings, for any config'))
    add_run_options(train)
    add(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from CHECKPOINT, or from the latest in work-dir',
    )
    add(
        '--on-nan',
        choices=('stop', 'skip'),
        default='stop',
        help='a loss that is NaN or infinite: stop (default), or skip the batch',
    )
    text = 'with --on-nan skip: stop after N such batches'
    add.value('--nan-limit', 'N', text, 10, count)
    text = 'replace up to N images that cannot be read, and list them'
    add.value('--skip-bad-images', 'N', text, 0, count)
    add(
        '--seed',
        type=seed,
        metavar='N',
        help="of weights, order and augmentation (default: the config's, or a new one)",
    )
    add.flag(
        '--deterministic',
        'the same weights again with the same --seed; slower on a GPU',
    )
    add.flag(
        '--amp',
        'mixed precision: bfloat16 where the device computes in it, else float16',
    )
    add(
        '--amp-dtype',
        choices=('bfloat16', 'float16'),
        help='mixed precision in this type, whatever the device',
    )
    add.flag(
        '--compile',
        'backbone and neck through torch.compile; the first steps take minutes',
    )
    add.flag('--auto-scale-lr', argparse.SUPPRESS)
    add.flag('--no-scale-lr', 'use the lr as written, whatever the batch')
    add.flag('--from-scratch', 'random backbone weights; nothing frozen')


def image_size(text: str) -> tuple[int, ...]:
    """Read '640' or '1333x800', the long side first or last."""
    words = text.split('x')
    if len(words) > 2 or not all(re.fullmatch('[0-9]{1,9}', word) for word in words):
        raise argparse.ArgumentTypeError(f'must be as 640 or 1333x800; got {text!r}')
    sides = tuple(sorted(map(int, words), reverse=True))
    if sides[-1] < _LEAST_SIDE:
        reason = f'must be {_LEAST_SIDE} px or more; got {text}'
        raise argparse.ArgumentTypeError(reason)
    return sides


def _add_settings(parser: argparse._ActionsContainer) -> None:
    add = Adder(parser)
    add(
        '--epochs',
        type=at_least_1,
        metavar='N',
        help="number of epochs; the learning rate's course changes in proportion "
        "(default: the config's; with --data by the number of images)",
    )
    add(
        '--batch-size',
        type=at_least_1,
        metavar='N',
        help='images per step and process; the learning rate follows',
    )
    add('--lr', type=rate, metavar='X', help='learning rate, used as given')
    add(
        '--imgsz',
        dest='image_size',
        type=image_size,
        metavar='LONG[xSHORT]',
        help='sides in px of the box that images are resized to, e.g. 1333x800, or 640 '
        'for 640x640',
    )
    add(
        '--workers',
        type=count,
        metavar='N',
        help='data loading processes of each loader',
    )
    add(
        '--patience',
        type=at_least_1,
        metavar='N',
        help='stop after N validations in which AP did not rise by 0.1; the best '
        'checkpoint is kept (default: train to the end)',
    )
    add.flag(
        '--ema',
        'exponential moving average of the weights, for validations and checkpoints',
    )
    add(
        '--device',
        metavar='NAME',
        help='cpu, cuda or cuda:N (default: a GPU if there is one)',
    )


def run(args: argparse.Namespace) -> int:
    """Train; after ctrl-C say what was saved."""
    from eca_mmdet.autoconfig.inputs import Options
    from eca_mmdet.autoconfig.plan import config_of
    from eca_mmdet.engine.failures import Interrupted
    from eca_mmdet.engine.settings import choose_device
    from eca_mmdet.engine.training import train

    data = data_options(args, 'train')
    # A config for the user's own data is written with that number of epochs.
    epochs = None if args.data else data.pop('epochs')
    # Before a config is written, and before its batch is fitted to the device's memory.
    choose_device(args.device, args.launcher)
    config, args.work_dir = config_of(
        args.config,
        args.data or (),
        Options(**data),
        args.work_dir,
        bool(args.resume),
        args.launcher,
        args.from_scratch,
    )
    try:
        with display(args) as shown:
            result = train(
                config,
                **run_options(args),
                **{name: getattr(args, name) for name in _OPTIONS},
                epochs=epochs,
                scale_lr=not args.no_scale_lr,
                resume_hint=resume_command(),
                display=shown,
            )
    except Interrupted as stop:
        if is_main_process():
            print(f'eca-mmdet train: {stop}', file=sys.stderr)
        return 128 + stop.signal
    _say_what_is_next(result)
    return 0


def _say_what_is_next(result: TrainingResult) -> None:
    from eca_mmdet.export.heads import is_covered

    checkpoint = result.best or result.checkpoint
    if checkpoint is None:  # the config writes none
        return
    if is_main_process():
        print(f'{"best" if result.best else "last"} checkpoint: {checkpoint}')
    folder = result.work_dir
    commands = [['report', folder], ['predict', folder, 'IMAGES']]
    if is_covered(result.model):
        commands.append(['export', 'onnx', folder])
    suggest(*commands)


def resume_command() -> str:
    """Return the command that was started, with --resume."""
    if any(word.startswith('--launcher') for word in sys.argv):
        return 'the same command with --resume'
    words = ['eca-mmdet', *sys.argv[1:]]
    for at, word in enumerate(words):
        if word == '--resume' or word.startswith('--resume='):
            end = at + 1
            if word == '--resume' and end < len(words) and words[end][0] != '-':
                end += 1  # its CHECKPOINT: the latest is wanted now
            words[at:end] = []
            break
    at = words.index('--cfg-options') if '--cfg-options' in words else len(words)
    return shlex.join([*words[:at], '--resume', *words[at:]])
