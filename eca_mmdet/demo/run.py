"""The demo: draw a dataset, train a small detector on it, evaluate, and plot."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.hooks import Hook
from rich.console import Console

from eca_mmdet.catalog.architectures import RELEASED_KERNEL_SIZES
from eca_mmdet.catalog.mechanisms import find_mechanism
from eca_mmdet.datasets.shapes import SPLITS, write_shapes
from eca_mmdet.engine.config import load_config
from eca_mmdet.engine.display import Display
from eca_mmdet.engine.distributed import ending_workers
from eca_mmdet.engine.runner import build_runner
from eca_mmdet.evaluation.tables import ap_table, rows_of
from eca_mmdet.utils.images import new_figure, save_figure
from eca_mmdet.utils.io import write_json, write_texts

FAMILIES = {'faster': 'faster-rcnn', 'mask': 'mask-rcnn', 'retinanet': 'retinanet'}
TASKS = {'bbox': 'box AP', 'segm': 'mask AP'}
QUICK_ITERATIONS = 12
QUICK_SIZES = {'train': 32, 'val': 12}
PICTURES = 12
SCORE_THRESHOLD = 0.5
ENLARGED = 320  # longer side of an image in the page of predictions, in pixels


def compose(
    detector: str, attention: str, depth: int, data_root: Path, seed: int
) -> Any:
    """Return the config of one demo run on a folder made by ``write_shapes``.

    ``detector`` is a key of ``FAMILIES``; ``attention`` the key of a mechanism
    (:mod:`eca_mmdet.catalog.mechanisms`) or 'none'; ``depth`` 18 or 50; ``seed`` is for
    weights and sampling.
    """
    cfg = load_config(f'{FAMILIES[detector]}_eca-r18-w16_fpn_shapes')
    for split, loader in (('train', 'train'), ('val', 'val'), ('val', 'test')):
        cfg[f'{loader}_dataloader'].dataset.data_root = f'{data_root}/'
        if loader != 'train':
            path = str(data_root / 'annotations' / f'{split}.json')
            cfg[f'{loader}_evaluator'].ann_file = path
    cfg.randomness = dict(seed=seed)
    cfg.launcher = 'none'
    backbone = cfg.model.backbone
    backbone.depth = depth
    width = backbone.base_channels * (1 if depth == 18 else 4)
    cfg.model.neck.in_channels = [width * 2**stage for stage in range(4)]
    if attention == 'eca':
        backbone.kernel_sizes = RELEASED_KERNEL_SIZES[depth]
        return cfg
    backbone.type = 'PluginResNet'
    backbone.pop('kernel_sizes')
    if attention != 'none':
        backbone.plugins = [find_mechanism(attention).plugin(depth, narrow=True)]
    return cfg


def shorten(cfg: Any) -> None:
    """Cut the run to a few iterations (``--quick``)."""
    cfg.train_cfg.max_iters = cfg.train_cfg.val_interval = QUICK_ITERATIONS
    cfg.default_hooks.checkpoint.interval = QUICK_ITERATIONS
    cfg.param_scheduler = []
    for loader in ('train', 'val', 'test'):
        cfg[f'{loader}_dataloader'].num_workers = 0
        cfg[f'{loader}_dataloader'].persistent_workers = False


def run_demo(
    out: Path,
    console: Console,
    detector: str = 'mask',
    attention: str = 'eca',
    depth: int = 18,
    seed: int = 0,
    quick: bool = False,
) -> dict[str, Any]:
    """Write the data, train, evaluate and plot; return the record of the run.

    Everything goes to the existing folder ``out``; the parameters are the options of
    ``eca-mmdet demo``.
    """
    sizes = QUICK_SIZES if quick else SPLITS
    console.print(f'drawing {sizes["train"]} + {sizes["val"]} images of shapes ...')
    data = write_shapes(out / 'data', seed=seed, sizes=sizes)
    cfg = compose(detector, attention, depth, data.resolve(), seed)
    if quick:
        shorten(cfg)
    cfg.work_dir = str(out / 'train')
    hook = RecordHook()
    # mmengine's console output goes only to its log file (train/*/*.log): its stream
    # handler keeps the stdout of the moment at which the Runner is built.
    with open(os.devnull, 'w') as nowhere, contextlib.redirect_stdout(nowhere):
        runner = build_runner(cfg)
        runner.register_hook(hook)
        with Display(console, heading=False) as display, ending_workers(runner):
            runner.register_hook(display)
            runner.train()
        draw_loss_curve(hook.losses, out / 'loss_curve.png')
        draw_predictions(runner, out / 'predictions.png')
    rows = rows_of(hook.metrics)
    evaluated = json.loads((Path(runner.log_dir) / 'metrics.json').read_text())
    settings = {'detector': detector, 'attention': attention, 'depth': depth}
    return {
        **settings,
        'seed': seed,
        'quick': quick,
        'iterations': len(hook.losses),
        **evaluated,
        'table': ap_table(rows),
        'markdown': ap_table(rows, 'md'),
        'losses': [round(loss, 4) for loss in hook.losses],
    }


def write_results(record: dict[str, Any], out: Path) -> None:
    """Write ``ap_table.md`` and ``metrics.json`` (AP there is 0-1)."""
    title = f'{record["detector"]}, {record["attention"]}, ResNet-{record["depth"]}'
    heading = f'# {title}: COCO AP and AR on generated shapes, 0-100'
    write_texts({out / 'ap_table.md': f'{heading}\n\n{record["markdown"]}\n'})
    kept = {k: v for k, v in record.items() if k not in ('table', 'markdown')}
    write_json(out / 'metrics.json', kept)


class RecordHook(Hook):  # type: ignore[misc]
    """Keep the loss of each step, and the metrics of the last evaluation."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.metrics: dict[str, float] = {}

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Keep the loss."""
        self.losses.append((outputs or {})['loss'].item())

    def after_val_epoch(
        self, runner: Any, metrics: dict[str, float] | None = None
    ) -> None:
        """Keep the metrics."""
        self.metrics = dict(metrics or {})


def draw_loss_curve(losses: Sequence[float], path: Path) -> None:
    """Plot the loss of every iteration and its running mean."""
    figure, axes = new_figure(figsize=(7, 4), layout='constrained')
    iterations = np.arange(1, len(losses) + 1)
    axes.plot(iterations, losses, color='#c0c8d8', linewidth=1, label='one iteration')
    window = max(1, min(20, len(losses) // 5))
    mean = np.convolve(losses, np.ones(window) / window, mode='valid')
    label = f'mean of {window}'
    axes.plot(iterations[window - 1 :], mean, color='#20508c', label=label)
    axes.set(xlabel='iteration', ylabel='training loss', ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    save_figure(figure, path)


def draw_predictions(runner: Any, path: Path) -> None:
    """Draw what the trained model finds in the first held-out images, six to a row."""
    import torch

    dataset = runner.val_dataloader.dataset
    items = [dataset[index] for index in range(min(PICTURES, len(dataset)))]
    batch = {key: [i[key] for i in items] for key in ('inputs', 'data_samples')}
    runner.model.eval()
    with torch.no_grad():
        samples = runner.model.test_step(batch)
    columns = 6
    rows = -(-len(items) // columns)
    size = (columns * 2.2, rows * 2.2 + 0.4)
    figure, grid = new_figure(rows, columns, figsize=size, layout='constrained')
    title = f'held-out images, predictions with score >= {SCORE_THRESHOLD}'
    figure.suptitle(title, fontsize=10)
    for axes in np.ravel(grid):
        axes.axis('off')
    for axes, item, sample in zip(np.ravel(grid), items, samples, strict=False):
        image = item['inputs'].permute(1, 2, 0).numpy()[..., ::-1]  # BGR to RGB
        found = sample.pred_instances
        axes.imshow(_with_objects(image, found, dataset.metainfo['classes']))
    save_figure(figure, path)


def _with_objects(image: Any, instances: Any, classes: Sequence[str]) -> Any:
    """Return an image, enlarged so that names can be read, with its confident boxes."""
    import cv2

    from eca_mmdet.inference.prediction import Prediction

    scale = ENLARGED / max(image.shape[:2])
    size = [round(scale * pixels) for pixels in image.shape[1::-1]]
    found = Prediction.from_instances(instances, classes=tuple(classes))
    found = found.above(SCORE_THRESHOLD)
    small: Any = [] if found.masks is None else found.masks.astype(np.uint8)
    masks = [cv2.resize(mask, size, interpolation=0) > 0 for mask in small]
    enlarged = dataclasses.replace(
        found,
        boxes=found.boxes * scale,
        masks=np.stack(masks) if masks else None,
        image=cv2.resize(image, size, interpolation=cv2.INTER_CUBIC),
    )
    return enlarged.plot(SCORE_THRESHOLD)
