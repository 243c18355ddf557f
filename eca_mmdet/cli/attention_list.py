"""``eca-mmdet attention list``: the mechanisms' properties and costs."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from eca_mmdet.catalog.mechanisms import find_mechanism
from eca_mmdet.cli.common import Adder, Commands, at_least_1

if TYPE_CHECKING:
    from eca_mmdet.analysis.attention import MechanismRow


def add_parser(commands: Commands) -> None:
    """Add ``attention``."""
    attention = commands.add_parser(
        'attention list',
        help='the attention mechanisms of the ECA-Net comparison: properties and costs',
        description='Recompute the table of attention mechanisms: does it reduce the '
        'dimensionality (DR), do channels interact (CCI), parameters, operations and '
        'time on a map as C4 of an 800x1280 image.',
    )
    add = Adder(attention)
    text = 'as eca, cbam or se-var1 (default: all)'
    add('mechanisms', nargs='*', metavar='NAME', help=text)
    add('--channels', type=at_least_1, default=256, metavar='C', help='default: 256')
    add(
        '--size',
        nargs=2,
        type=at_least_1,
        default=(50, 80),
        metavar=('H', 'W'),
        help='of the map (default: 50 80)',
    )
    add.value('--rounds', 'N', 'of the timing, whose median is printed', 9, at_least_1)
    add.flag('--json', 'print JSON')


def run(args: argparse.Namespace) -> int:
    """Compute, and print as a table or as JSON."""
    from dataclasses import asdict

    named = map(find_mechanism, args.mechanisms)
    chosen = [*{row.key: row for row in named}.values()]
    from eca_mmdet.analysis.attention import compare_mechanisms
    from eca_mmdet.evaluation.tables import render

    shape = (1, args.channels, *args.size)
    rows = compare_mechanisms(chosen, args.channels, tuple(args.size), args.rounds)
    if args.json:
        result = {
            'shape': shape,
            'setting': _setting(),
            'rows': [asdict(row) for row in rows],
        }
        print(json.dumps(result, indent=1))
        return 0
    header = 'mechanism DR CCI rank parameters published GFLOPs ms top-1'.split()
    print(render(header, [_cells(row) for row in rows], 'table'))
    print(_legend(shape))
    return 0


def _cells(row: MechanismRow) -> list[str]:
    top1 = row.reported_top1
    return [
        row.name,
        'yes' if row.reduces else 'no',
        'yes' if row.interacts else 'no',
        str(row.rank),
        f'{row.parameters:,}',
        row.published_parameters or '-',
        f'{row.gflops:.4f}',
        f'{row.milliseconds:.2f}',
        '-' if top1 is None else f'{top1:.2f}',
    ]


def _setting() -> dict[str, Any]:
    import platform

    import torch

    return {
        'processor': platform.processor() or platform.machine(),
        'threads': torch.get_num_threads(),
        'torch': torch.__version__,
    }


def _legend(shape: tuple[int, ...]) -> str:
    setting = _setting()
    _, channels, height, width = shape
    return f"""
{channels} channels, a map of {height} x {width}; the layers' defaults.
DR: the gate depends on the channels of another position through at most C/2
dimensions; rank is that of the Jacobian, at random weights. CCI: it depends on other
channels than its own.
published: parameters in the paper's tables (weights; biases and norms are not in them;
k of ECA is 3 there, and here computed from the channels).
GFLOPs: multiply-adds of convolutions and matrix products, and one operation an element
of everything else.
ms: inference on the CPU ({setting['processor']}, {setting['threads']} threads, torch \
{setting['torch']}), in turns, median.
top-1: reported for ResNet-50 on ImageNet; - where the ECA-Net tables have none."""
