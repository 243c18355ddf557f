"""``eca-mmdet cost``: what detectors cost."""

from __future__ import annotations

import argparse
import json
from typing import Any

from eca_mmdet.cli.common import OVERRIDES, Adder, Commands, at_least_1

MIB = 2**20


def add_parser(commands: Commands) -> None:
    """Add ``complexity``."""
    complexity = commands.add_parser(
        'cost',
        help='parameters, multiply-adds, memory and time of detectors',
        description='Count what detectors cost. No weights and no data are needed.',
    )
    add = Adder(complexity)
    add(
        'configs',
        nargs='+',
        metavar='NAME|CONFIG',
        help="shipped names or files; 'tables' for all of the paper's tables",
    )
    add(
        '--shape',
        nargs=2,
        type=int,
        default=(1280, 800),
        metavar=('W', 'H'),
        help='of the input in pixels (default: 1280 800)',
    )
    add(
        '--convention',
        choices=('paper', 'exact'),
        default='exact',
        help="'paper' counts as the published tables do",
    )
    add.flag(
        '--latency', 'also time backbones and detectors on this device, side by side'
    )
    add.value('--rounds', 'N', 'of --latency', 10, at_least_1)
    add('--cfg-options', help='override config entries, as in mmdet', **OVERRIDES)
    add.flag('--json', 'print JSON')


def run(args: argparse.Namespace) -> int:
    """Count, and print as a table or as JSON."""
    from dataclasses import asdict

    from eca_mmdet.analysis.complexity import complexity, load_configs

    width, height = args.shape
    counted: Any = complexity(
        args.configs, (width, height), args.convention, options=args.cfg_options
    )
    shape = f'3x{height}x{width}'
    if args.convention == 'exact':
        rows = [
            {'config': row.config, **asdict(row.cost), 'total': asdict(row.cost.total)}
            for row in counted
        ]
        texts = [_exact_text(row, shape) for row in rows]
    else:
        known = [asdict(row).items() for row in counted]
        rows = [{k: v for k, v in row if v is not None} for row in known]
        texts = [_paper_text(rows, shape)]
    result: dict[str, Any] = {'shape': [3, height, width], args.convention: rows}
    if args.latency:
        from eca_mmdet.analysis.complexity import time_configs

        configs = load_configs(args.configs, args.cfg_options)
        result['latency'] = time_configs(configs, (width, height), args.rounds)
        texts.append(_latency_text(result['latency']))
    print(json.dumps(result, indent=1) if args.json else '\n\n'.join(texts))
    return 0


def _paper_text(rows: list[Any], shape: str) -> str:
    from eca_mmdet.evaluation.tables import render

    cells = []
    for row in rows:
        numbers = row['params_m'], row['gflops'], *row.get('published', {}).values()
        cells.append([row['config'], *(f'{number:.2f}' for number in numbers)])
    header = ['', 'Params (M)', 'GFLOPs', 'published Params', 'published GFLOPs']
    width = max(map(len, cells))
    cells = [row + [''] * (width - len(row)) for row in cells]
    title = f"By the convention of the paper's tables, {shape}:"
    return f'{title}\n{render(header[:width], cells, "table")}'


def _exact_text(row: Any, shape: str) -> str:
    from eca_mmdet.evaluation.tables import render

    costs = {**row['parts'], 'total': row['total'], 'of it the gates': row['gates']}
    cells = [
        [name, f'{cost["params"]:,}', f'{cost["trained"]:,}']
        + [f'{cost["macs"] / 1e9:.3f}', f'{cost["saved_bytes"] / MIB:.1f}']
        for name, cost in costs.items()
    ]
    header = ['', 'Params', 'trained', 'GMACs', 'MiB for backward']
    boxes, masks = row['box_regions'], row['mask_regions']
    return (
        f'{row["config"]}, {shape}:\n{render(header, cells, "table")}\n'
        f'GMACs: one image, {boxes[0]} boxes and {masks[0]} masks; convolutions and '
        'matrix products, without element-wise work.\n'
        f'Backward: a step of {row["images"]} images, {boxes[1]} boxes and {masks[1]} '
        'masks in all; activations without the losses.\n'
        + (f'NOT COUNTED: {", ".join(row["not_run"])}\n' if row['not_run'] else '')
        + f'Highest activations at inference: {row["peak_bytes"] / MIB:.0f} MiB.'
    )


def _latency_text(result: dict[str, Any]) -> str:
    from eca_mmdet.evaluation.tables import render

    cells = [
        [name, f'{times["backbone_ms"]:.1f}', f'{times["backbone_ratio"]:.2f}']
        + [f'{times["detector_ms"]:.1f}', f'{times["detector_ratio"]:.2f}']
        for name, times in result['models'].items()
    ]
    header = ['', 'backbone (ms)', 'ratio', 'detector (ms)', 'ratio']
    described = ', '.join(f'{key} {value}' for key, value in result['setting'].items())
    return (
        f'Median of {result["rounds"]} rounds, side by side, random weights:\n'
        f'{render(header, cells, "table")}\n{described}'
    )
