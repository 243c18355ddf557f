"""``eca-mmdet complexity``: what detectors cost."""

from __future__ import annotations

import argparse
import json
from typing import Any

from eca_mmdet.cli.common import Commands, at_least_1

MIB = 2**20


def add_parser(commands: Commands) -> None:
    """Add ``complexity``."""
    complexity = commands.add_parser(
        'complexity',
        help='parameters, multiply-adds, memory and time of detectors',
        description='Count what detectors cost. No weights and no data are needed.',
    )
    add = complexity.add_argument
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
    add(
        '--imagenet',
        action='store_true',
        help="also the paper's ImageNet classifiers beside their published cost",
    )
    add(
        '--latency',
        action='store_true',
        help='also time backbones and detectors on this device, side by side',
    )
    add(
        '--rounds',
        type=at_least_1,
        default=10,
        metavar='N',
        help='of --latency (default: 10)',
    )
    add(
        '--cfg-options',
        nargs='+',
        metavar='KEY=VALUE',
        default=[],
        help='override config entries, as in mmdet',
    )
    add('--json', action='store_true', help='print JSON')


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
    found: dict[str, Any] = {'shape': [3, shape[1], shape[0]]}
    if args.configs:
        found[args.convention] = _rows(args, shape)
    if args.imagenet:
        from eca_mmdet.analysis.paper_cost import imagenet_costs

        found['imagenet'] = imagenet_costs()
    if args.latency and args.configs:
        from eca_mmdet.analysis.complexity import load_configs
        from eca_mmdet.analysis.latency import time_configs

        configs = load_configs(args.configs, args.cfg_options)
        found['latency'] = time_configs(configs, shape, args.rounds)
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        print('\n\n'.join(_texts(found)))
    return 0


def _rows(args: argparse.Namespace, shape: tuple[int, int]) -> list[dict[str, Any]]:
    """Return the rows of a convention as JSON has them."""
    from dataclasses import asdict

    from eca_mmdet.analysis.complexity import complexity

    if args.convention == 'paper':
        rows = complexity(
            args.configs, shape, convention='paper', options=args.cfg_options
        )
        return [
            {key: value for key, value in asdict(row).items() if value is not None}
            for row in rows
        ]
    return [
        {'config': row.config, **asdict(row.cost), 'total': asdict(row.cost.total)}
        for row in complexity(args.configs, shape, options=args.cfg_options)
    ]


def _texts(found: dict[str, Any]) -> list[str]:
    texts = []
    if 'paper' in found:
        texts.append(_paper_text(found['paper'], found['shape']))
    for one in found.get('exact', ()):
        texts.append(_exact_text(one, found['shape']))
    if 'imagenet' in found:
        texts.append(_imagenet_text(found['imagenet']))
    if 'latency' in found:
        texts.append(_latency_text(found['latency']))
    return texts


def _paper_text(rows: list[Any], shape: list[int]) -> str:
    cells = [
        [row['config'], f'{row["params_m"]:.2f}', f'{row["gflops"]:.2f}']
        + [f'{v:.2f}' for v in (row.get('published') or {}).values()]
        for row in rows
    ]
    width = max(map(len, cells))
    header = ['', 'Params (M)', 'GFLOPs', 'published Params', 'published GFLOPs'][
        :width
    ]
    cells = [row + [''] * (width - len(row)) for row in cells]
    title = f"By the convention of the paper's tables, {'x'.join(map(str, shape))}:"
    return f'{title}\n{_table(header, cells)}'


def _exact_text(one: Any, shape: list[int]) -> str:
    def line(name: str, cost: Any) -> list[str]:
        return [
            name,
            f'{cost["params"]:,}',
            f'{cost["trained"]:,}',
            f'{cost["macs"] / 1e9:.3f}',
            f'{cost["saved_bytes"] / MIB:.1f}',
        ]

    lines = [line(name, cost) for name, cost in one['parts'].items()]
    lines += [line('total', one['total']), line('of it the gates', one['gates'])]
    header = ['', 'Params', 'trained', 'GMACs', 'MiB for backward']
    boxes, masks = one['box_regions'], one['mask_regions']
    return (
        f'{one["config"]}, {"x".join(map(str, shape))}:\n'
        f'{_table(header, lines)}\n'
        f'GMACs: one image, {boxes[0]} boxes and {masks[0]} masks; convolutions and '
        'matrix products, without element-wise work.\n'
        f'Backward: a step of {one["images"]} images, {boxes[1]} boxes and {masks[1]} '
        'masks in all; activations without the losses.\n'
        + (f'NOT COUNTED: {", ".join(one["not_run"])}\n' if one['not_run'] else '')
        + f'Highest activations at inference: {one["peak_bytes"] / MIB:.0f} MiB.'
    )


def _imagenet_text(rows: list[Any]) -> str:
    cells = []
    for row in rows:
        name = row.get('model') or f'ResNet-{row["depth"]}'
        cost = row['counted']
        counted = (
            [f'{cost["params"]:.3f}', f'{cost["gflops"]:.3f}'] if cost else ['', '']
        )
        cells.append(
            [f'{name}, {row["attention"]}', *counted]
            + [f'{row["params"]:g}', f'{row["gflops"]:g}', row['missing'] or '']
        )
    header = ['', 'Params', 'GFLOPs', 'published Params', 'published GFLOPs', '']
    title = 'ImageNet classifiers, 3x224x224, in 2^20 and 2^30 (MobileNetV2: 10^9):'
    return f'{title}\n{_table(header, cells)}'


def _latency_text(found: dict[str, Any]) -> str:
    setting = found['setting']
    cells = [
        [name, f'{one["backbone_ms"]:.1f}', f'{one["backbone_ratio"]:.2f}']
        + [f'{one["detector_ms"]:.1f}', f'{one["detector_ratio"]:.2f}']
        for name, one in found['models'].items()
    ]
    header = ['', 'backbone (ms)', 'ratio', 'detector (ms)', 'ratio']
    described = ', '.join(f'{key} {value}' for key, value in setting.items())
    return (
        f'Median of {found["rounds"]} rounds, side by side, random weights:\n'
        f'{_table(header, cells)}\n{described}'
    )


def _table(header: list[str], cells: list[list[str]]) -> str:
    from eca_mmdet.evaluation.tables import render

    return render(header, cells, 'table')
