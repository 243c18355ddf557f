"""The demo's pictures: the loss curve and a page of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eca_mmdet.utils.io import whole_file

SCORE_THRESHOLD = 0.5
ENLARGED = 320
"""Longer side of an image in the page of predictions, in pixels."""


def new_figure(*args: Any, sharey: bool = False, **kwargs: Any) -> Any:
    """Return a figure and its axes; the user's backend of matplotlib stays."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(**kwargs)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(*args, sharey=sharey)


def _save(figure: Any, path: Path) -> None:
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=120, format='png')


def draw_loss_curve(losses: Sequence[float], path: Path) -> None:
    """Plot the loss of every iteration and its running mean.

    Args:
        losses: one value an iteration.
        path: PNG to write.
    """
    figure, axes = new_figure(figsize=(7, 4), layout='constrained')
    iterations = np.arange(1, len(losses) + 1)
    axes.plot(iterations, losses, color='#c0c8d8', linewidth=1, label='one iteration')
    window = max(1, min(20, len(losses) // 5))
    mean = np.convolve(losses, np.ones(window) / window, mode='valid')
    axes.plot(
        iterations[window - 1 :], mean, color='#20508c', label=f'mean of {window}'
    )
    axes.set(xlabel='iteration', ylabel='training loss', ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    _save(figure, path)


def draw_predictions(
    images: Sequence[np.ndarray[Any, Any]],
    results: Sequence[Any],
    classes: Sequence[str],
    path: Path,
) -> None:
    """Draw boxes, masks, classes and scores over images, six to a row.

    Args:
        images: HWC uint8, RGB.
        results: mmdet data samples with ``pred_instances``.
        classes: names by label.
        path: PNG to write.
    """
    columns = 6
    rows = -(-len(images) // columns)
    size = (columns * 2.2, rows * 2.2 + 0.4)
    figure, grid = new_figure(rows, columns, figsize=size, layout='constrained')
    figure.suptitle(
        f'held-out images, predictions with score >= {SCORE_THRESHOLD}', fontsize=10
    )
    for axes in np.ravel(grid):
        axes.axis('off')
    for axes, image, sample in zip(np.ravel(grid), images, results, strict=False):
        axes.imshow(_with_objects(image, sample.pred_instances.numpy(), classes))
    _save(figure, path)


def _with_objects(image: Any, instances: Any, classes: Sequence[str]) -> Any:
    """Return an image, enlarged so that names can be read, with its confident boxes."""
    import cv2

    from eca_mmdet.inference.drawing import draw_objects

    kept = np.flatnonzero(instances.scores >= SCORE_THRESHOLD)
    scale = ENLARGED / max(image.shape[:2])
    size = [round(scale * pixels) for pixels in image.shape[1::-1]]
    labels = instances.labels[kept]
    texts = [
        f'{classes[label]} {score:.2f}'
        for label, score in zip(labels, instances.scores[kept], strict=True)
    ]
    masks = None
    if 'masks' in instances and len(kept):
        masks = np.stack(
            [
                cv2.resize(mask.astype(np.uint8), size, interpolation=0) > 0
                for mask in instances.masks[kept]
            ]
        )
    enlarged = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    return draw_objects(enlarged, instances.bboxes[kept] * scale, labels, texts, masks)


def draw_comparison(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Plot box AP against parameters and against the time of a training step.

    Args:
        rows: of ``eca-mmdet compare-attention``.
        path: PNG to write.
    """
    rows = [row for row in rows if 'bbox' in row['ap']]
    costs = {
        'attention layers, parameters': 'gate_params',
        'training step of the backbone, ms': 'step_milliseconds',
    }
    figure, panels = new_figure(
        1, 2, figsize=(10, 4.5), layout='constrained', sharey=True
    )
    for axes, (label, key) in zip(panels, costs.items(), strict=True):
        for row in rows:
            _draw_mechanism(axes, row, row[key])
        axes.set(xlabel=label)
        axes.grid(alpha=0.3)
        axes.margins(x=0.12, y=0.12)
    if any(row['gate_params'] for row in rows):
        panels[0].set_xscale('symlog', linthresh=10)
        panels[0].set_xlim(left=-2)
    panels[0].set(ylabel='box AP on held-out shapes, 0-100')
    seeds = len(rows[0]['ap']['bbox']['by_seed']) if rows else 0
    figure.suptitle(
        f'large: mean of {seeds} seeds, bar: standard deviation, small: each seed',
        fontsize=9,
    )
    _save(figure, path)


def _draw_mechanism(axes: Any, row: dict[str, Any], cost: float) -> None:
    colour = {'eca': '#d55e00', 'none': '#000000'}.get(row['mechanism'], '#0072b2')
    ap = row['ap']['bbox']
    axes.plot([cost] * len(ap['by_seed']), ap['by_seed'], '.', color=colour, alpha=0.35)
    axes.errorbar(
        cost, ap['mean'], yerr=ap['deviation'], fmt='o', color=colour, capsize=3
    )
    axes.annotate(
        row['mechanism'],
        (cost, ap['mean']),
        xytext=(6, 4),
        textcoords='offset points',
        fontsize=8,
        color=colour,
    )
