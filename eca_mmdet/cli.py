"""The ``eca-mmdet`` command: parsing and exit codes. Each command is a module.

Exit codes: 0 success, 1 a check failed, 2 bad usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import pickle
import sys
from collections.abc import Sequence

import eca_mmdet
from eca_mmdet.errors import UserError, printable


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = build_parser().parse_args(argv)
    command = importlib.import_module(f'eca_mmdet.commands.{args.command}')
    try:
        return int(command.run(args))
    except (UserError, eca_mmdet.registration.InstallError) as error:
        print(f'eca-mmdet {args.command}: {printable(str(error))}', file=sys.stderr)
        return 2
    except pickle.UnpicklingError as error:  # a file that mmengine itself loaded
        from eca_mmdet.weights.files import refusal

        reason = refusal('a file that the config names', error)
        print(f'eca-mmdet {args.command}: {printable(str(reason))}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f'eca-mmdet {args.command}: interrupted', file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command; imports nothing heavy."""
    parser = argparse.ArgumentParser(
        prog='eca-mmdet', description='ECA-Net backbones for MMDetection 3.x.'
    )
    parser.add_argument(
        '--version', action='version', version=f'eca-mmdet {eca_mmdet.__version__}'
    )
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    _add_demo(commands)
    _add_train(commands)
    _add_test(commands)
    _add_configs(commands)
    _add_weights(commands)
    return parser


_Commands = argparse._SubParsersAction  # argparse has no public name for it


def _add_demo(commands: _Commands[argparse.ArgumentParser]) -> None:
    demo = commands.add_parser(
        'demo',
        help='train and evaluate a small detector on generated shapes',
        description='Write a data set of generated shapes, train a small detector '
        'on it from random weights, evaluate it on held-out images, and leave tables '
        'and pictures in a run folder.',
    )
    demo.add_argument(
        '--detector', choices=('faster', 'mask', 'retinanet'), default='mask'
    )
    demo.add_argument('--attention', choices=('eca', 'se', 'none'), default='eca')
    demo.add_argument('--depth', type=int, choices=(18, 50), default=18)
    demo.add_argument(
        '--quick',
        action='store_true',
        help='about 20 s; shows that everything runs, learns little',
    )
    demo.add_argument('--seed', type=int, default=0)
    demo.add_argument(
        '--out',
        metavar='DIR',
        help='run folder to create (default: runs/demo-DATE-TIME)',
    )


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
    # torchrun and torch.distributed.launch pass one of the two spellings.
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS
    )


def _add_train(commands: _Commands[argparse.ArgumentParser]) -> None:
    train = commands.add_parser(
        'train',
        help='train a config',
        description="Train with mmengine's Runner, after checking files, classes "
        'and weights. The learning rate follows the batch.',
    )
    train.add_argument(
        'config',
        metavar='NAME|CONFIG',
        help='shipped name (see: eca-mmdet configs) or a file',
    )
    _add_run_options(train)
    train.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from CHECKPOINT, or from the latest in work-dir',
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


def _add_test(commands: _Commands[argparse.ArgumentParser]) -> None:
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
    test.add_argument('--json', action='store_true', help='print the metrics as JSON')


def _add_configs(commands: _Commands[argparse.ArgumentParser]) -> None:
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


def _add_weights(commands: _Commands[argparse.ArgumentParser]) -> None:
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


if __name__ == '__main__':
    sys.exit(main())
