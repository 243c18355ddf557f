"""``eca-mmdet export``: a detector for programs without PyTorch."""

from __future__ import annotations

import argparse

from eca_mmdet.cli.common import Adder, Commands


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
    _add_options(onnx, 'OUT.onnx')
    openvino = formats.add_parser(
        'openvino',
        help="the same for Intel's OpenVINO: a graph in XML, and its weights",
        description='Write OUT.xml and OUT.bin, run them with OpenVINO on the CPU '
        'beside mmdet on real images, and say how far the two are apart. Only files '
        'that pass are put there.',
    )
    _add_options(openvino, 'OUT.xml')


def _add_options(parser: argparse.ArgumentParser, out: str) -> None:
    # Before --size, which would take the file for a side.
    parser.usage = f'%(prog)s CONFIG CHECKPOINT {out} [options]'
    add = Adder(parser)
    add('config', metavar='CONFIG', help='name or file; it is Python and is run')
    add('checkpoint', metavar='CHECKPOINT', help='checkpoint file, or a work folder')
    add('out', metavar=out, help='file to write')
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
    from eca_mmdet.export.exporter import export_onnx

    export_onnx(
        args.checkpoint,
        args.out,
        size,
        config=args.config,
        part=args.part,
        check=args.check,
        images=args.images,
        force=args.force,
        form=args.format,
    )
    return 0


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
