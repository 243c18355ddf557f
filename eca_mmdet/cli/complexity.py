"""``eca-mmdet complexity``: what detectors cost."""

from __future__ import annotations

import argparse
import json
from typing import Any

from eca_mmdet.cli.common import OVERRIDES, Adder, Commands, at_least_1

MIB = 2**20


def add_parser(commands: Commands) -> None:
    """Add ``complexity``."""
    complexity = commands.add_parser(
        'complexity',
        help='parameters, multiply-adds, memory and time of detectors',
        description='Count what detectors cost. No weights and no data are needed.',
    )
    add = Adder(complexity)
    add(
        'configs',
        nargs='*',
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
        '--imagenet',
        "also the paper's ImageNet classifiers beside their published cost",
    )
    add.flag(
        '--latency', 'also time backbones and detectors on this device, side by side'
    )
    add.value('--rounds', 'N', 'of --latency', 10, at_least_1)
    add('--cfg-options', help='override config entries, as in mmdet', **OVERRIDES)
    add.flag('--json', 'print JSON')


def run(args: argparse.Namespace) -> int:
    """Count, and print as a table or as JSON."""
    from eca_mmdet.utils.errors import UserError

    if not args.configs and not args.imagenet:
        raise UserError(
            "name one or more configs, 'tables' for the paper's, or give --imagenet. "
            'The shipped names: eca-mmdet configs',
            code='config-not-found',
        )
    shape = (args.shape[0], args.shape[1])
    result: dict[str, Any] = {'shape': [3, shape[1], shape[0]]}
    if args.configs:
        result[args.convention] = _rows(args, shape)
    if args.imagenet:
        from eca_mmdet.analysis.complexity import imagenet_costs

        result['imagenet'] = imagenet_costs()
    if args.latency and args.configs:
        from eca_mmdet.analysis.complexity import load_configs
        from eca_mmdet.analysis.latency import time_configs

        configs = load_configs(args.configs, args.cfg_options)
        result['latency'] = time_configs(configs, shape, args.rounds)
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        print('\n\n'.join(_texts(result)))
    return 0


def _rows(args: argparse.Namespace, shape: tuple[int, int]) -> list[dict[str, Any]]:
    """Return the rows of a convention as JSON has them."""
    from dataclasses import asdict

    from eca_mmdet.analysis.complexity import complexity

    if args.convention == 'exact':
        return [
            {'config': row.config, **asdict(row.cost), 'total': asdict(row.cost.total)}
            for row in complexity(args.configs, shape, options=args.cfg_options)
        ]
    rows = complexity(args.configs, shape, convention='paper', options=args.cfg_options)
    known = (asdict(row).items() for row in rows)
    return [{key: value for key, value in row if value is not None} for row in known]


def _texts(result: dict[str, Any]) -> list[str]:
    texts = []
    if 'paper' in result:
        texts.append(_paper_text(result['paper'], result['shape']))
    texts += [_exact_text(row, result['shape']) for row in result.get('exact', ())]
    if 'imagenet' in result:
        texts.append(_imagenet_text(result['imagenet']))
    if 'latency' in result:
        texts.append(_latency_text(result['latency']))
    return texts


def _paper_text(rows: list[Any], shape: list[int]) -> str:
    cells = [
        [row['config'], f'{row["params_m"]:.2f}', f'{row["gflops"]:.2f}']
        + [f'{v:.2f}' for v in (row.get('published') or {}).values()]
        for row in rows
    ]
    width = max(map(len, cells))
    header = ['', 'Params (M)', 'GFLOPs', 'published Params', 'published GFLOPs']
    cells = [row + [''] * (width - len(row)) for row in cells]
    title = f"By the convention of the paper's tables, {'x'.join(map(str, shape))}:"
    return f'{title}\n{_table(header[:width], cells)}'


def _exact_text(row: Any, shape: list[int]) -> str:
    def line(name: str, cost: Any) -> list[str]:
        gmacs, mib = cost['macs'] / 1e9, cost['saved_bytes'] / MIB
        counts = [f'{cost["params"]:,}', f'{cost["trained"]:,}']
        return [name, *counts, f'{gmacs:.3f}', f'{mib:.1f}']

    lines = [line(name, cost) for name, cost in row['parts'].items()]
    lines += [line('total', row['total']), line('of it the gates', row['gates'])]
    header = ['', 'Params', 'trained', 'GMACs', 'MiB for backward']
    boxes, masks = row['box_regions'], row['mask_regions']
    return (
        f'{row["config"]}, {"x".join(map(str, shape))}:\n'
        f'{_table(header, lines)}\n'
        f'GMACs: one image, {boxes[0]} boxes and {masks[0]} masks; convolutions and '
        'matrix products, without element-wise work.\n'
        f'Backward: a step of {row["images"]} images, {boxes[1]} boxes and {masks[1]} '
        'masks in all; activations without the losses.\n'
        + (f'NOT COUNTED: {", ".join(row["not_run"])}\n' if row['not_run'] else '')
        + f'Highest activations at inference: {row["peak_bytes"] / MIB:.0f} MiB.'
    )


def _imagenet_text(rows: list[Any]) -> str:
    cells = []
    for row in rows:
        name = row.get('model') or f'ResNet-{row["depth"]}'
        cost = row['counted']
        counted = [f'{cost[key]:.3f}' if cost else '' for key in ('params', 'gflops')]
        cells.append(
            [f'{name}, {row["attention"]}', *counted]
            + [f'{row["params"]:g}', f'{row["gflops"]:g}', row['missing'] or '']
        )
    header = ['', 'Params', 'GFLOPs', 'published Params', 'published GFLOPs', '']
    title = 'ImageNet classifiers, 3x224x224, in 2^20 and 2^30 (MobileNetV2: 10^9):'
    return f'{title}\n{_table(header, cells)}'


def _latency_text(result: dict[str, Any]) -> str:
    setting = result['setting']
    cells = [
        [name, f'{times["backbone_ms"]:.1f}', f'{times["backbone_ratio"]:.2f}']
        + [f'{times["detector_ms"]:.1f}', f'{times["detector_ratio"]:.2f}']
        for name, times in result['models'].items()
    ]
    header = ['', 'backbone (ms)', 'ratio', 'detector (ms)', 'ratio']
    described = ', '.join(f'{key} {value}' for key, value in setting.items())
    return (
        f'Median of {result["rounds"]} rounds, side by side, random weights:\n'
        f'{_table(header, cells)}\n{described}'
    )


def _table(header: list[str], cells: list[list[str]]) -> str:
    from eca_mmdet.evaluation.tables import render

    return render(header, cells, 'table')
