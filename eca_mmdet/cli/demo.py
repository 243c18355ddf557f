"""``eca-mmdet demo``: data, training, evaluation and pictures in one command."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from eca_mmdet import registration
from eca_mmdet.datasets.shapes import SPLITS, write_shapes
from eca_mmdet.demo import config
from eca_mmdet.demo.pictures import draw_loss_curve, draw_predictions
from eca_mmdet.engine import config as launch
from eca_mmdet.engine.workers import ending_workers
from eca_mmdet.evaluation.tables import ap_table, rows_of
from eca_mmdet.utils.io import make_run_folder, whole_file, write_json

PICTURES = 12


def run(args: argparse.Namespace) -> int:
    """Run the demo and say where everything is."""
    start = time.monotonic()
    # Bound to today's stdout: the training below redirects the name.
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    console.print('loading mmdet ...')
    registration.register()
    out = make_run_folder(args.out, 'demo')
    console.print(f'run folder: {out}')
    try:
        record = _train(args, out, console)
    except KeyboardInterrupt:
        console.print(f'stopped; what was written so far is in {out}')
        raise
    record['seconds'] = round(time.monotonic() - start, 1)
    write_results(record, out)
    page = None
    if not args.no_report:
        console.print('drawing the report ...')
        page = write_page(out)
    console.print(
        f'\nCOCO AP and AR on the held-out images, 0-100:\n{record["table"]}\n'
    )
    console.print(f'{time.monotonic() - start:.0f} s in all; the numbers and pictures:')
    for name in ('ap_table.md', 'metrics.json', 'loss_curve.png', 'predictions.png'):
        console.print(f'  {out / name}')
    if page is not None:
        console.print(f'Open this in a browser:\n  {page.resolve()}')
    return 0


def _train(args: argparse.Namespace, out: Path, console: Console) -> dict[str, Any]:
    """Write the data, train and evaluate; return the record of the run."""
    from eca_mmdet.demo.progress import ProgressHook

    sizes = config.QUICK_SIZES if args.quick else SPLITS
    console.print(f'drawing {sizes["train"]} + {sizes["val"]} images of shapes ...')
    data = write_shapes(out / 'data', seed=args.seed, sizes=sizes)
    cfg = config.compose(
        args.detector, args.attention, args.depth, data.resolve(), args.seed
    )
    if args.quick:
        config.shorten(cfg)
    cfg.work_dir = str(out / 'train')
    hook = ProgressHook(console)
    # mmengine's console output goes to its log file alone (train/*/*.log): its stream
    # handler keeps the stdout of the moment at which the Runner is built.
    with open(os.devnull, 'w') as nowhere, contextlib.redirect_stdout(nowhere):
        runner = launch.build_runner(cfg)
        runner.register_hook(hook, priority='LOWEST')
        try:
            with ending_workers(runner):
                runner.train()
        finally:
            hook.close()
        draw_loss_curve(hook.losses, out / 'loss_curve.png')
        draw_first_predictions(runner, out / 'predictions.png')
    rows = rows_of(hook.metrics)
    evaluated = json.loads((Path(runner.log_dir) / 'metrics.json').read_text())
    return {
        'detector': args.detector,
        'attention': args.attention,
        'depth': args.depth,
        'seed': args.seed,
        'quick': args.quick,
        'iterations': len(hook.losses),
        **evaluated,
        'table': ap_table(rows),
        'markdown': ap_table(rows, 'md'),
        'losses': [round(loss, 4) for loss in hook.losses],
    }


def write_page(out: Path) -> Path:
    """Write the report page of the run and return its path."""
    from eca_mmdet.reporting.run import read_run
    from eca_mmdet.reporting.writing import write_report

    page = out / 'report.html'
    with open(os.devnull, 'w') as nowhere, contextlib.redirect_stdout(nowhere):
        write_report(read_run(out, out.name), page)
    return page


def draw_first_predictions(runner: Any, path: Path) -> None:
    """Predict the first held-out images with the trained model and draw them."""
    import torch

    dataset = runner.val_dataloader.dataset
    items = [dataset[index] for index in range(min(PICTURES, len(dataset)))]
    batch = {
        'inputs': [item['inputs'] for item in items],
        'data_samples': [item['data_samples'] for item in items],
    }
    runner.model.eval()
    with torch.no_grad():
        results = runner.model.test_step(batch)
    images = [item['inputs'].permute(1, 2, 0).numpy()[..., ::-1] for item in items]
    draw_predictions(images, results, dataset.metainfo['classes'], path)


def write_results(record: dict[str, Any], out: Path) -> None:
    """Write ``ap_table.md`` and ``metrics.json`` (AP there is 0-1)."""
    title = f'{record["detector"]}, {record["attention"]}, ResNet-{record["depth"]}'
    heading = f'# {title}: COCO AP and AR on generated shapes, 0-100'
    with whole_file(out / 'ap_table.md') as partial:
        partial.write_text(f'{heading}\n\n{record["markdown"]}\n')
    kept = {k: v for k, v in record.items() if k not in ('table', 'markdown')}
    write_json(out / 'metrics.json', kept)
