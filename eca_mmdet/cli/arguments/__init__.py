"""The arguments of each command. Nothing heavy is imported for ``--help``."""

from __future__ import annotations

import argparse

import eca_mmdet
from eca_mmdet.cli.arguments import (
    costs,
    doctor,
    export,
    files,
    gates,
    own_data,
    prediction,
    report,
    running,
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    parser = argparse.ArgumentParser(
        prog='eca-mmdet', description='ECA-Net backbones for MMDetection 3.x.'
    )
    parser.add_argument(
        '--version', action='version', version=f'eca-mmdet {eca_mmdet.__version__}'
    )
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    running.add_demo(commands)
    own_data.add_init(commands)
    running.add_train(commands)
    running.add_test(commands)
    prediction.add_predict(commands)
    export.add_export(commands)
    files.add_eval(commands)
    report.add_report(commands)
    files.add_check_data(commands)
    own_data.add_to_coco(commands)
    own_data.add_split(commands)
    costs.add_attention(commands)
    running.add_compare_attention(commands)
    gates.add_gates(commands)
    costs.add_complexity(commands)
    costs.add_tables(commands)
    costs.add_reproduce(commands)
    files.add_configs(commands)
    files.add_weights(commands)
    doctor.add_doctor(commands)
    return parser
