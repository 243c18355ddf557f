"""Table, notes and plot of a comparison of attention mechanisms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eca_mmdet.demo.config import TASKS
from eca_mmdet.evaluation.tables import render
from eca_mmdet.utils.io import whole_file, write_json
from eca_mmdet.utils.plotting import new_figure, save_figure


def write_comparison(found: dict[str, Any], out: Path) -> None:
    """Write a comparison as JSON, Markdown and a plot."""
    write_json(out / 'comparison.json', found)
    with whole_file(out / 'comparison.md') as partial:
        partial.write_text(comparison_text(found, 'md') + '\n')
    draw_comparison(found['rows'], out / 'comparison.png')


def comparison_text(found: dict[str, Any], style: str = 'table') -> str:
    """Return the table with its legend and note.

    Args:
        found: of :func:`eca_mmdet.demo.comparison.compare`.
        style: of :func:`eca_mmdet.evaluation.tables.render`.
    """
    header = [
        *('mechanism', *(TASKS[task] for task in _tasks(found))),
        *('layers, params', 'params', 'GMACs', 'kept, MiB', 'step, ms', 'image, ms'),
    ]
    table = render(header, [_cells(row, found) for row in found['rows']], style)
    legend = (
        f'{found["detector"]}, ResNet-18 of a quarter of the width, seeds 0 to '
        f'{found["seeds"] - 1}; AP 0-100 on held-out shapes, mean ± standard '
        'deviation over seeds.\n'
        'kept: by a training step for backward. The backbone alone, in turns: step: '
        'forward and backward of a batch; image: one at inference.'
    )
    return f'{table}\n\n{legend}\n\n{found["note"]}'


def _tasks(found: dict[str, Any]) -> list[str]:
    return [task for task in TASKS if any(task in row['ap'] for row in found['rows'])]


def _cells(row: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return [
        row['mechanism'],
        *(_ap(row['ap'].get(task)) for task in _tasks(found)),
        f'{row["gate_params"]:,}',
        f'{row["params"]:,}',
        f'{row["gmacs"]:.3f}',
        f'{row["saved_mib"]:.1f}',
        f'{row["step_milliseconds"]:.0f}',
        f'{row["inference_milliseconds"]:.1f}',
    ]


def _ap(ap: dict[str, Any] | None) -> str:
    if ap is None:
        return 'n/a'
    spread = '' if ap['deviation'] is None else f' ± {ap["deviation"]:.1f}'
    return f'{ap["mean"]:.1f}{spread}'


def note(rows: list[dict[str, Any]], quick: bool) -> str:
    """Return what the numbers can show, given the spread over seeds."""
    if quick:
        return (
            'A quick run of a few steps shows that everything runs. Its AP says '
            'nothing about the mechanisms.'
        )
    lines = [
        'What this shows: each mechanism trains in a detector from random weights, and '
        'what it costs there.',
        'What it cannot show: which is best on photographs. Three classes of drawn '
        'shapes, 16 to 128 channels and one short schedule reward other things than '
        'COCO does.',
    ]
    boxes = [row['ap']['bbox'] for row in rows if 'bbox' in row['ap']]
    spreads = [box['deviation'] for box in boxes if box['deviation'] is not None]
    if not spreads:
        lines.append('One seed says nothing about the spread: use --seeds 3 or more.')
        return '\n'.join(lines)
    pooled = math.sqrt(sum(spread**2 for spread in spreads) / len(spreads))
    lines.append(f'Seeds differ by {pooled:.1f} box AP (pooled standard deviation).')
    if len(boxes) > 1:
        seeds = min(len(box['by_seed']) for box in boxes)
        error = pooled * math.sqrt(2 / seeds)
        means = [box['mean'] for box in boxes]
        lines.append(
            f'The difference of two means of {seeds} seeds has a standard error of '
            f'{error:.1f}; the means are {max(means) - min(means):.1f} apart at most.'
        )
    return '\n'.join(lines)


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
    save_figure(figure, path)


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
