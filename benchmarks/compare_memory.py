"""Train the same detectors with memory='lean' and 'plain': AP and loss curves.

    python benchmarks/compare_memory.py OUT [--seeds 3]

Two schedules on the generated shapes, both formulations with the same weights, data and
order for each seed:

- demo: Mask R-CNN ResNet-18 of ``eca-mmdet demo``, from random weights.
- fine-tune: Mask R-CNN ResNet-50, 200 steps; the backbone starts from one training of
  its own (seed 0, plain, the demo's schedule), its norms fixed and stage 1 frozen, as a
  COCO recipe has it.

Finished runs stay in OUT and are not repeated. Prints tables, writes ``curves.png``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from eca_mmdet import registration
from eca_mmdet.datasets.shapes import SPLITS, write_shapes
from eca_mmdet.demo import run as demo
from eca_mmdet.demo.run import ProgressHook
from eca_mmdet.engine.runner import build_runner
from eca_mmdet.models.backbones.resnet import MEMORY
from eca_mmdet.utils.images import new_figure

SCHEDULES = ('demo', 'fine-tune')
STEPS, WARM_UP = 200, 20
LABELS = {'bbox': 'box AP', 'segm': 'mask AP'}


def main(argv: list[str] | None = None) -> int:
    """Train what is not there yet, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path, metavar='OUT')
    parser.add_argument('--seeds', type=int, default=3)
    args = parser.parse_args(argv)
    registration.register()
    args.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, list[Any]]] = {}
    for schedule in SCHEDULES:
        results[schedule] = {memory: [] for memory in MEMORY}
        for seed in range(args.seeds):
            for memory in MEMORY:
                record = cached(args.out, schedule, memory, seed)
                results[schedule][memory].append(record)
    print(f'{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__},')
    print(f'{date.today()}, {args.seeds} seeds')
    for schedule, both in results.items():
        print(f'\n{schedule}:')
        print_table(both)
    plot(results, args.out / 'curves.png')
    print(f'\n{args.out / "curves.png"}')
    return 0


def cached(out: Path, schedule: str, memory: str, seed: int) -> Any:
    """Return the record of a run, which is made if it is not there."""
    path = out / f'{schedule}_{memory}_{seed}.json'
    if not path.is_file():
        print(f'{schedule}, {memory}, seed {seed}', flush=True)
        cfg = compose(out, schedule, memory, seed)
        record = train(cfg, out / 'train' / path.stem)
        path.write_text(json.dumps(record) + '\n')
    return json.loads(path.read_text())


def compose(out: Path, schedule: str, memory: str, seed: int) -> Any:
    """Return the config of one run."""
    data = out / f'data-{seed}'
    if not data.is_dir():
        write_shapes(data, seed=seed, sizes=SPLITS)
    depth = 18 if schedule == 'demo' else 50
    cfg = demo.compose('mask', 'eca', depth, data.resolve(), seed)
    backbone = cfg.model.backbone
    backbone.memory = memory
    if schedule == 'fine-tune':
        backbone.frozen_stages, backbone.norm_eval = 1, True
        backbone.init_cfg = dict(type='ECAPretrained', checkpoint=str(start(out)))
        cfg.train_cfg.max_iters = cfg.train_cfg.val_interval = STEPS
        warm_up, cosine = cfg.param_scheduler
        warm_up.end = cosine.begin = WARM_UP
        cosine.T_max = STEPS - WARM_UP
    return cfg


def start(out: Path) -> Path:
    """Return the backbone that fine-tuning starts from, trained if it is not there."""
    path = out / 'backbone.pth'
    if path.is_file():
        return path
    print('fine-tune: training the backbone to start from', flush=True)
    data = out / 'data-0'
    cfg = demo.compose('mask', 'eca', 50, data.resolve(), seed=0)
    cfg.model.backbone.memory = 'plain'
    train(cfg, out / 'train' / 'backbone', keep=path)
    return path


def train(cfg: Any, folder: Path, keep: Path | None = None) -> dict[str, Any]:
    """Train; return the losses and the AP, and leave the backbone's weights in keep."""
    cfg.work_dir = str(folder)
    cfg.experiment_name = cfg.visualizer.name = folder.name
    hook = ProgressHook(Console())
    with open(os.devnull, 'w') as nowhere, contextlib.redirect_stdout(nowhere):
        runner = build_runner(cfg)
        runner.register_hook(hook, priority='LOWEST')
        try:
            runner.train()
        finally:
            hook.close()
    if keep is not None:
        torch.save(runner.model.backbone.state_dict(), keep)
    ap = {task: hook.metrics[f'coco/{task}_mAP'] for task in LABELS}
    return {'losses': hook.losses, **ap}


def print_table(both: dict[str, list[Any]]) -> None:
    """Print AP by seed, and how far apart the loss curves are."""
    for task, label in LABELS.items():
        for memory, records in both.items():
            values = [100 * record[task] for record in records]
            each = '  '.join(f'{value:5.1f}' for value in values)
            print(f'{label:8} {memory:6} {each}   mean {statistics.mean(values):5.1f}')
    means = {
        memory: np.mean([record['losses'] for record in records], axis=0)
        for memory, records in both.items()
    }
    seeds = np.array([record['losses'] for record in both['plain']])
    apart = np.abs(means['lean'] - means['plain']).mean()
    print(f'loss: lean and plain {apart:.3f} apart on average (means over seeds);')
    print(f'      between seeds of plain the standard deviation is {spread(seeds):.3f}')


def spread(losses: Any) -> float:
    """Return the standard deviation over seeds, averaged over the steps."""
    return float(losses.std(axis=0, ddof=1).mean()) if len(losses) > 1 else 0.0


def plot(results: dict[str, dict[str, list[Any]]], path: Path) -> None:
    """Draw the running mean of every run's loss, lean over plain."""
    figure, panels = new_figure(1, 2, figsize=(10, 4), layout='constrained')
    colours = {'lean': '#d55e00', 'plain': '#0072b2'}
    widths = {'lean': 1.2, 'plain': 3.0}
    for axes, (schedule, both) in zip(panels, results.items(), strict=True):
        for memory in reversed(MEMORY):
            for number, record in enumerate(both[memory]):
                mean = np.convolve(record['losses'], np.ones(20) / 20, mode='valid')
                steps = np.arange(20, 20 + len(mean))
                label = None if number else memory
                axes.plot(
                    *(steps, mean),
                    color=colours[memory],
                    linewidth=widths[memory],
                    alpha=1 if memory == 'lean' else 0.35,
                    label=label,
                )
        axes.set(xlabel='step', ylabel='training loss, mean of 20 steps')
        axes.set(title=schedule, ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, title=f'{len(both["lean"])} seeds')
    figure.savefig(path, dpi=120)


if __name__ == '__main__':
    raise SystemExit(main())
