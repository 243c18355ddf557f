"""``eca-mmdet attention``: the mechanisms' properties and costs."""

from __future__ import annotations

import argparse
import json
from typing import Any

from eca_mmdet import registration
from eca_mmdet.catalog.mechanisms import MECHANISMS, Mechanism, find_mechanism
from eca_mmdet.catalog.published import published
from eca_mmdet.evaluation.tables import render
from eca_mmdet.utils.errors import UserError

_HEADER = [
    *('mechanism', 'DR', 'CCI', 'rank', 'parameters', 'published', 'GFLOPs', 'ms'),
    'top-1',
]


def run(args: argparse.Namespace) -> int:
    """Compute, and print as a table or as JSON."""
    chosen = [find_mechanism(one) for one in dict.fromkeys(args.mechanisms)]
    registration.register()
    shape = (1, args.channels, *args.size)
    rows = _rows(chosen or list(MECHANISMS), shape, args.rounds)
    if args.json:
        print(
            json.dumps({'shape': shape, 'setting': _setting(), 'rows': rows}, indent=1)
        )
        return 0
    print(render(_HEADER, [_cells(row) for row in rows], 'table'))
    print(_legend(shape))
    return 0


def _rows(
    mechanisms: list[Mechanism], shape: tuple[int, ...], rounds: int
) -> list[dict[str, Any]]:
    from eca_mmdet.analysis import attention as analysis

    channels = shape[1]
    layers = [_built(one, channels) for one in mechanisms]
    try:
        times = analysis.time_layers(layers, shape, rounds)
    except ValueError as error:
        raise UserError(f'--size {shape[2]} {shape[3]}: {error}') from error
    rows = []
    for one, layer, spent in zip(mechanisms, layers, times, strict=True):
        found = analysis.properties(layer, channels)
        counted = analysis.operations(
            analysis.build_layer(one, channels, 'meta'), shape
        )
        rows.append(
            {
                'key': one.key,
                'name': one.name,
                'layer': dict(one.layer),
                'source': one.source,
                'reduces': found.reduces,
                'interacts': found.interacts,
                'rank': found.rank,
                'parameters': sum(p.numel() for p in layer.parameters()),
                'published_parameters': one.published,
                'gflops': counted / 1e9,
                'milliseconds': spent,
                'reported_top1': reported_top1(one),
            }
        )
    return rows


def _built(mechanism: Mechanism, channels: int) -> Any:
    from eca_mmdet.analysis.attention import build_layer

    try:
        return build_layer(mechanism, channels)
    except ValueError as error:
        raise UserError(
            f'{mechanism.name} cannot have {channels} channels: {error}'
        ) from error


def reported_top1(mechanism: Mechanism) -> float | None:
    """Return ResNet-50's published ImageNet top-1 in percent; None if there is none."""
    variants = published()['attention']['imagenet']['rows']
    for row in variants:
        if row['name'] == mechanism.imagenet:
            return float(row['top1'])
    for row in published()['imagenet']['rows']:
        if row.get('depth') == 50 and row['attention'] == mechanism.imagenet:
            return float(row['top1'])
    return None


def _cells(row: dict[str, Any]) -> list[str]:
    top1 = row['reported_top1']
    return [
        row['name'],
        'yes' if row['reduces'] else 'no',
        'yes' if row['interacts'] else 'no',
        str(row['rank']),
        f'{row["parameters"]:,}',
        row['published_parameters'] or '-',
        f'{row["gflops"]:.4f}',
        f'{row["milliseconds"]:.2f}',
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
