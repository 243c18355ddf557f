"""Draw every gate of a network by its depth, and the kernels of gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eca_mmdet.analysis.gates.style import (
    COLOURS,
    LEAST_SPAN,
    Gate,
    as_array,
    place,
    put_titles,
    share_limits,
    tidy,
)
from eca_mmdet.utils.plotting import new_figure


def blocks_figure(record: Mapping[str, Any]) -> Any:
    """Draw every gate by depth: distribution, differences, channels that say little."""
    checkpoints = record['checkpoints']
    panels = [_draw_distribution, _draw_spreads, _draw_counts]
    rows, columns = len(panels), len(checkpoints)
    most = max(len(one['gates']) for one in checkpoints)
    width = min(20.0, max(6.0, 2 + 0.32 * most))
    size = (max(8.0, width * columns), 2.3 * rows + 0.8)
    figure, grid = new_figure(rows, columns, figsize=size, layout='constrained')
    grid = as_array(grid, rows, columns)
    for line, draw in zip(grid, panels, strict=True):
        for axes, one in zip(line, checkpoints, strict=True):
            draw(axes, one['gates'], record)
            tidy(axes)
            _label_blocks(axes, one['gates'])
        share_limits(line, [one['gates'][0] for one in checkpoints])
    put_titles(grid[0], record)
    for line in grid:
        line[0].legend(frameon=False, fontsize=8, ncols=3, loc='upper left')
    for axes in grid[-1]:
        axes.set_xlabel('stage.block', fontsize=9)
    return figure


def _label_blocks(axes: Any, gates: Sequence[Gate]) -> None:
    names = [place(gate) for gate in gates]
    step = -(-len(names) // 40)
    turned = len(names) > 20 or max(map(len, names)) > 4
    axes.set_xticks(
        range(0, len(names), step), names[::step], rotation=90 if turned else 0
    )
    axes.set_xlim(-0.6, len(names) - 0.4)


def _draw_distribution(
    axes: Any, gates: Sequence[Gate], record: Mapping[str, Any]
) -> None:
    at = np.arange(len(gates))
    shares = np.array([np.percentile(g['mean'], (5, 25, 50, 75, 95)) for g in gates])
    low, first, middle, third, high = shares.T
    axes.vlines(
        at, low, high, color=COLOURS[0], linewidth=1, label='5 to 95 % of channels'
    )
    axes.vlines(at, first, third, color=COLOURS[0], linewidth=5, label='25 to 75 %')
    axes.plot(
        at, middle, 'o', color='white', markersize=3.5, mec='black', label='median'
    )
    axes.set_ylabel("channels' mean gate", fontsize=9)
    span = max(high.max() - low.min(), LEAST_SPAN)
    axes.set_ylim(low.min() - 0.1 * span, high.max() + 0.35 * span)  # the legend's room


def _draw_spreads(axes: Any, gates: Sequence[Gate], record: Mapping[str, Any]) -> None:
    at = np.arange(len(gates))
    images = [float(np.mean(gate['deviation'])) for gate in gates]
    axes.plot(at, images, 's-', color=COLOURS[0], markersize=4, label='images')
    if len(record['classes']) > 1:
        classes = [gate['class_spread'] for gate in gates]
        axes.plot(at, classes, 'o-', color=COLOURS[1], markersize=4, label='classes')
        images += classes
    axes.set_ylabel('s.d. of the gate between', fontsize=9)
    axes.set_ylim(0, 1.35 * max([*images, LEAST_SPAN]))


def _draw_counts(axes: Any, gates: Sequence[Gate], record: Mapping[str, Any]) -> None:
    at = np.arange(len(gates))
    for offset, (name, colour) in enumerate(
        zip(('dead', 'saturated', 'constant'), (COLOURS[6], *COLOURS[1:3]), strict=True)
    ):
        counts = [100 * (gate[name] or 0) / gate['channels'] for gate in gates]
        axes.bar(at + 0.27 * (offset - 1), counts, 0.25, color=colour, label=name)
    axes.set_ylabel('channels, %', fontsize=9)
    axes.set_ylim(0, 130)
    axes.set_yticks(range(0, 101, 25))


def kernels_figure(record: Mapping[str, Any]) -> Any:
    """Draw a heat map for each stage: offset of the neighbour by block."""
    found = [
        (one, _by_stage([gate for gate in one['gates'] if gate['kernel']]))
        for one in record['checkpoints']
    ]
    found = [(one, stages) for one, stages in found if stages]
    if not found:
        return None
    columns = max(len(stages) for _, stages in found)
    blocks = max(len(gates) for _, stages in found for gates in stages)
    widths = [max(2.2, 0.62 * min(blocks, 12)) * columns, 2.5 * len(found) + 0.6]
    figure, grid = new_figure(
        len(found),
        columns,
        figsize=(min(24.0, widths[0] + 1), widths[1]),
        layout='constrained',
    )
    grid = as_array(grid, len(found), columns)
    every = [gate['kernel'] for _, stages in found for part in stages for gate in part]
    limit = max(abs(weight) for kernel in every for weight in kernel) or 1.0
    for line, (one, stages) in zip(grid, found, strict=True):
        for axes in line[len(stages) :]:
            axes.set_axis_off()
        for axes, gates in zip(line, stages, strict=False):
            image = _draw_heat(axes, gates, limit)
        line[0].set_ylabel('neighbour, channels', fontsize=9)
        put_titles(line[:1], {'checkpoints': [one]})
    figure.colorbar(image, ax=grid.ravel().tolist(), label='weight', shrink=0.8)
    return figure


def _by_stage(gates: Sequence[Gate]) -> list[list[Gate]]:
    stages: dict[Any, list[Gate]] = {}
    for gate in gates:
        stages.setdefault(gate['stage'], []).append(gate)
    return list(stages.values())


def _draw_heat(axes: Any, gates: Sequence[Gate], limit: float) -> Any:
    """Draw kernels as columns, the channel itself at 0."""
    margin = max(len(gate['kernel']) for gate in gates) // 2
    weights = np.full((2 * margin + 1, len(gates)), np.nan)
    for column, gate in enumerate(gates):
        half = len(gate['kernel']) // 2
        weights[margin - half : margin + half + 1, column] = gate['kernel']
    image = axes.imshow(
        weights,
        cmap='PuOr',
        vmin=-limit,
        vmax=limit,
        aspect='auto',
        extent=(-0.5, len(gates) - 0.5, margin + 0.5, -margin - 0.5),
    )
    axes.set_yticks(range(-margin, margin + 1))
    if len(gates) <= 8:
        for (row, column), value in np.ndenumerate(weights):
            if np.isfinite(value):
                dark = abs(value) > 0.6 * limit
                axes.text(
                    column,
                    row - margin,
                    f'{value:.2f}',
                    ha='center',
                    va='center',
                    fontsize=7,
                    color='white' if dark else 'black',
                )
    stage = gates[0]['stage']
    title = 'of no stage' if stage is None else f'stage {stage}'
    axes.set_title(title, fontsize=9, loc='left')
    axes.set_xlabel('gate' if stage is None else 'stage.block', fontsize=9)
    axes.tick_params(labelsize=8)
    _label_blocks(axes, gates)
    axes.set_xlim(-0.5, len(gates) - 0.5)
    return image
