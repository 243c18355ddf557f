"""The parser of every command. Nothing heavy is imported for ``--help``."""

from __future__ import annotations

import argparse
import importlib

import eca_mmdet

COMMANDS = (
    *('demo', 'init', 'train', 'test', 'predict', 'export', 'eval', 'report'),
    *('check_data', 'to_coco', 'split', 'attention', 'compare_attention', 'gates'),
    *('complexity', 'tables', 'reproduce', 'configs', 'weights', 'doctor'),
)
"""Modules of the commands, in the order of ``--help``."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    parser = argparse.ArgumentParser(
        prog='eca-mmdet', description='ECA-Net backbones for MMDetection 3.x.'
    )
    parser.add_argument(
        '--version', action='version', version=f'eca-mmdet {eca_mmdet.__version__}'
    )
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name in COMMANDS:
        importlib.import_module(f'eca_mmdet.cli.{name}').add_parser(commands)
    return parser
