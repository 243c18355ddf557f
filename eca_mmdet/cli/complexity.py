"""``eca-mmdet complexity``: what detectors cost."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from eca_mmdet.catalog.published import published, published_rows
from eca_mmdet.evaluation.tables import render
from eca_mmdet.utils.errors import UserError

MIB = 2**20


def run(args: argparse.Namespace) -> int:
    """Count, and print as a table or as JSON."""
    if not args.configs and not args.imagenet:
        raise UserError(
            "name one or more configs, 'tables' for the paper's, or give --imagenet. "
            'The shipped names: eca-mmdet configs'
        )
    shape = (args.shape[1], args.shape[0])
    if min(shape) < 32:
        raise UserError(f'--shape must be at least 32 32; got {args.shape}.')
    configs = _load(args)
    found: dict[str, Any] = {'shape': [3, *shape]}
    if args.convention == 'paper' and configs:
        found['paper'] = _paper(configs, shape, bool(args.cfg_options))
    elif configs:
        found['exact'] = _exact(configs, shape)
    if args.imagenet:
        found['imagenet'] = _imagenet()
    if args.latency and configs:
        found['latency'] = _latency(configs, shape, args.rounds)
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        print('\n\n'.join(_texts(found)))
    return 0


def _load(args: argparse.Namespace) -> list[tuple[str, Any]]:
    names: list[str] = []
    for name in args.configs:
        tables = name == 'tables'
        names += [one.config for one in published_rows()] if tables else [name]
    from eca_mmdet.engine.config import load_config

    configs = []
    for name in dict.fromkeys(names):
        cfg = load_config(name, args.cfg_options)
        if not cfg.get('model'):
            raise UserError(
                f'{cfg.filename} is not a detector config: it has no model.'
            )
        configs.append((name, cfg))
    if args.imagenet and not configs:
        from eca_mmdet import registration

        registration.register()
    return configs


def _paper(
    configs: list[tuple[str, Any]], shape: tuple[int, int], changed: bool
) -> list[Any]:
    from eca_mmdet.analysis.complexity.paper import paper_cost
    from eca_mmdet.engine.config import build_model

    known = {one.config: one for one in published_rows()}
    rows = []
    for name, cfg in configs:
        row: dict[str, Any] = {
            'config': name,
            **paper_cost(build_model(cfg, 'meta'), shape),
        }
        if name in known and shape == (800, 1280) and not changed:
            row['published'] = {
                'params_m': known[name].params_m.value,
                'gflops': known[name].gflops.value,
            }
        rows.append(row)
    return rows


def _exact(configs: list[tuple[str, Any]], shape: tuple[int, int]) -> list[Any]:
    from eca_mmdet.analysis.complexity.exact import exact_cost
    from eca_mmdet.engine.config import build_model

    rows = []
    for name, cfg in configs:
        cost = exact_cost(build_model(cfg, 'meta'), cfg, shape)
        rows.append({'config': name, **asdict(cost), 'total': asdict(cost.total)})
    return rows


def _imagenet() -> list[Any]:
    from eca_mmdet.analysis.complexity.imagenet import MISSING, classifier_cost

    rows = []
    for row in published()['imagenet']['rows']:
        cost = classifier_cost(row)
        rows.append({**row, 'counted': cost, 'missing': None if cost else MISSING})
    return rows


def _latency(
    configs: list[tuple[str, Any]], shape: tuple[int, int], rounds: int
) -> dict[str, Any]:
    from mmengine.device import get_device

    from eca_mmdet.analysis.latency import measure
    from eca_mmdet.engine.config import build_model

    device = get_device()
    models = []
    for name, cfg in configs:
        model = build_model(cfg)
        model.init_cfg = None
        models.append((name, model.to(device)))
        model.eval()
    return measure(models, shape, rounds)


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
    return f'{title}\n{render(header, cells, "table")}'


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
        f'{render(header, lines, "table")}\n'
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
    return f'{title}\n{render(header, cells, "table")}'


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
        f'{render(header, cells, "table")}\n{described}'
    )
