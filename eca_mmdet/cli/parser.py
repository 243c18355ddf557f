"""The parser of every command. Nothing heavy is imported for ``--help``."""

from __future__ import annotations

import argparse
import importlib

import eca_mmdet

COMMANDS = {
    'demo': '',
    'init': '',
    'train': '',
    'test': '',
    'predict': '',
    'export': '',
    'eval': '',
    'report': '',
    'check_data': '',
    'to_coco': '',
    'split': '',
    'attention': '',
    'compare_attention': '',
    'gates': '',
    'complexity': '',
    'tables': '',
    'reproduce': '',
    'configs': '',
    'weights': '',
    'doctor': '',
}
"""In the order of ``--help``; where the arguments are not yet in the command's file."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    parser = argparse.ArgumentParser(
        prog='eca-mmdet', description='ECA-Net backbones for MMDetection 3.x.'
    )
    parser.add_argument(
        '--version', action='version', version=f'eca-mmdet {eca_mmdet.__version__}'
    )
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name, arguments in COMMANDS.items():
        if arguments:
            module = importlib.import_module(f'eca_mmdet.cli.arguments.{arguments}')
            getattr(module, f'add_{name}')(commands)
        else:
            module = importlib.import_module(f'eca_mmdet.cli.{name}')
            module.add_parser(commands)
    return parser
