"""``eca-mmdet export``: a detector for programs without PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path

from eca_mmdet.cli.common import Adder, Commands, suggest


def add_parser(commands: Commands) -> None:
    """Add ``export``."""
    export = commands.add_parser(
        'export',
        help='write a detector as an ONNX or OpenVINO file, and check it',
        description='Write a trained detector for programs without PyTorch. What '
        'comes before and after the network is in the file: the objects come out, and '
        'the metadata say how images go in.',
    )
    formats = export.add_subparsers(dest='format', required=True, metavar='FORMAT')
    onnx = formats.add_parser(
        'onnx',
        help='one ONNX file, with the suppression of overlapping boxes in it',
        description='Write an ONNX file, run it with onnxruntime beside mmdet on real '
        'images, and say how far the two are apart. Only a file that passes is put '
        'at OUT.onnx.',
    )
    _add_options(onnx, '.onnx')
    openvino = formats.add_parser(
        'openvino',
        help="the same for Intel's OpenVINO: a graph in XML, and its weights",
        description='Write OUT.xml and OUT.bin, run them with OpenVINO on the CPU '
        'beside mmdet on real images, and say how far the two are apart. Only files '
        'that pass are put there.',
    )
    _add_options(openvino, '.xml')


def _add_options(parser: argparse.ArgumentParser, suffix: str) -> None:
    out = f'OUT{suffix}'
    text = (
        'checkpoint file, or a work folder; before it, its config: a name or a file, '
        f'which is Python and is run (default: the one in the checkpoint). {out}: file '
        f'to write (default: CHECKPOINT{suffix})'
    )
    # Before --size, which would take the file for a side.
    parser.usage = f'%(prog)s [CONFIG] CHECKPOINT [{out}] [options]'
    add = Adder(parser)
    add('paths', nargs='+', metavar=f'[CONFIG] CHECKPOINT [{out}]', help=text)
    parser.set_defaults(trailing='paths', suffix=suffix)
    text = 'heads are neck and heads: what the backbone gives goes in (default: all)'
    add('--part', choices=('all', 'backbone', 'heads'), default='all', help=text)
    add(
        '--size',
        nargs='+',
        default=['dynamic'],
        metavar='SIZE',
        help='H W, height and width in px of every input, padding and all; or dynamic, '
        'any size (default)',
    )
    text = 'compare the file to mmdet (default)'
    add('--check', action='store_true', default=True, help=text)
    text = 'do not; nobody then knows whether the file is right'
    add('--no-check', dest='check', action='store_false', help=text)
    text = "images for the check (default: the config's test images)"
    add('--images', metavar='DIR', help=text)
    add.flag('--force', f'replace {out}, once the new file is written and checked')


def run(args: argparse.Namespace) -> int:
    """Write the files and check them; nothing is put in place before that."""
    size = _size(args.size)
    config, checkpoint, out = _paths(args.paths, args.suffix)
    from eca_mmdet.export.exporter import export_onnx

    report = export_onnx(
        checkpoint,
        out,
        size,
        config=config,
        part=args.part,
        check=args.check,
        images=args.images,
        force=args.force,
        form=args.format,
    )
    if args.part == 'all' and args.format == 'onnx':
        suggest(['predict', report.paths[0], 'IMAGES'])
    return 0


def _paths(words: list[str], suffix: str) -> tuple[str | None, str, str]:
    """Return config, checkpoint and file to write of [CONFIG] CHECKPOINT [OUT]."""
    from eca_mmdet.checkpoints.download import is_address
    from eca_mmdet.engine.checkpointing import checkpoint_of
    from eca_mmdet.utils.errors import UserError

    *before, last = words
    if not before or (len(before) == 1 and not last.lower().endswith(suffix)):
        checkpoint = checkpoint_of(last)
        name = checkpoint.rpartition('/')[2] if is_address(checkpoint) else checkpoint
        before, last = [*before, checkpoint], str(Path(name).with_suffix(suffix))
    if len(before) > 2:
        raise UserError(
            f'[CONFIG] CHECKPOINT [OUT{suffix}] are expected; got {len(words)}: '
            f'{" ".join(words)}.',
            code='option-invalid',
        )
    *config, checkpoint = before
    return config[0] if config else None, checkpoint, last


def _size(words: list[str]) -> tuple[int, int] | None:
    """Read --size; None is any size."""
    from eca_mmdet.utils.errors import UserError

    if words == ['dynamic']:
        return None
    if len(words) == 2 and all(word.isdecimal() and int(word) > 0 for word in words):
        return int(words[0]), int(words[1])
    raise UserError(
        'a height and a width in px, as in --size 800 1344, or --size dynamic is '
        f'expected; got --size {" ".join(words)}.',
        code='option-invalid',
    )
