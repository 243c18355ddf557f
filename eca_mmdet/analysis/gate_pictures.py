"""Draw what ``gates.json`` holds: gates by channel and class, all blocks, kernels."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from eca_mmdet.atomic import whole_file
from eca_mmdet.demo.pictures import new_figure
from eca_mmdet.errors import UserError, printable

COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000')
"""Okabe and Ito's, which the colour-blind tell apart; without their yellow."""

_GREY = '#666666'
_ARTICLE = 4
_LEAST_SPAN = 0.02
_NAME = 24
_DPI = 120

Gate = Mapping[str, Any]
Key = tuple[Any, ...]


def draw_gates(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw the pictures of a record; checkpoints stand side by side.

    Args:
        record: content of ``gates.json``.
        folder: to write into.

    Returns:
        ``gates.png`` (the last gate of every stage, a line for each class),
        ``blocks.png`` (every gate by depth) and, if a gate has one, ``kernels.png``.

    Raises:
        UserError: a file cannot be written.
    """
    pictures = {
        'gates.png': _draw_channels(record),
        'blocks.png': _draw_blocks(record),
        'kernels.png': _draw_kernels(record),
    }
    written = []
    for name, figure in pictures.items():
        if figure is not None:
            _save(figure, folder / name)
            written.append(folder / name)
    return written


def _save(figure: Any, path: Path) -> None:
    try:
        with whole_file(path) as partial, warnings.catch_warnings():
            # Class names in scripts that the font lacks are drawn as empty boxes.
            warnings.filterwarnings('ignore', 'Glyph .* missing from')
            figure.savefig(partial, dpi=_DPI, format='png')
    except OSError as error:
        raise UserError(f'{path} cannot be written: {error}') from error


def _text(name: str, most: int = _NAME) -> str:
    """Return a name as matplotlib shows it: short, and no mathematics."""
    name = printable(name)
    short = name if len(name) <= most else f'{name[: most - 1]}…'
    return short.replace('$', r'\$')


def drawn_classes(record: Mapping[str, Any]) -> list[str]:
    """Return the classes to draw: all, or of more than seven the four on most images.

    Args:
        record: content of ``gates.json``, whose classes are in that order.
    """
    names = [one['name'] for one in record['classes']]
    return names if len(names) <= len(COLOURS) else names[:_ARTICLE]


def _title(one: Mapping[str, Any]) -> str:
    """Return what a checkpoint is called: its layers, and the end of its path."""
    layers = list(dict.fromkeys(gate['layer'] for gate in one['gates']))
    parts = PurePath(one.get('file') or one['detector']).parts[-3:]
    where = '/'.join(parts)
    where = where if len(where) <= 44 else f'…{where[-43:]}'
    return f'{_text(", ".join(layers), 44)}\n{_text(where, 44)}'


def place(gate: Gate) -> str:
    """Return where a gate is, in few letters: 3.5 is stage 3, block 5."""
    tail = gate['name'].rpartition('.')[2]
    if gate['stage'] is None:
        return _text(tail, 12)
    if gate['block'] is None:
        return _text(f'{gate["stage"]} {tail}', 12)
    return f'{gate["stage"]}.{gate["block"]}'


def last_of_stages(gates: Sequence[Gate]) -> dict[Key, Gate]:
    """Return the last gate of every stage, and every gate that is in none.

    Args:
        gates: of one checkpoint, in the order in which they run.
    """
    last = {}
    others = 0
    for gate in gates:
        if gate['stage'] is None:
            last['other', others] = gate
            others += 1
        else:
            last['stage', gate['stage']] = gate
    return last


def _axes(grid: Any, rows: int, columns: int) -> Any:
    return np.array(grid, dtype=object).reshape(rows, columns)


def _tidy(axes: Any) -> None:
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.tick_params(labelsize=8)


def _draw_channels(record: Mapping[str, Any]) -> Any:
    """Draw the article's figure: gate by channel, a line for each class."""
    chosen = [last_of_stages(one['gates']) for one in record['checkpoints']]
    keys = sorted({key for one in chosen for key in one}, key=str, reverse=False)
    keys.sort(key=lambda key: key[0] != 'stage')
    classes = drawn_classes(record)
    rows, columns = len(keys), len(chosen)
    size = (9 if columns == 1 else 6.5 * columns, 2 * rows + 1)
    figure, grid = new_figure(rows, columns, figsize=size, layout='constrained')
    grid = _axes(grid, rows, columns)
    for key, line in zip(keys, grid, strict=True):
        gates = [one.get(key) for one in chosen]
        for axes, gate in zip(line, gates, strict=True):
            _draw_lines(axes, gate, classes)
        _share_limits(line, [gate for gate in gates if gate])
        line[0].set_ylabel('gate', fontsize=9)
    for axes, one in zip(grid[0], record['checkpoints'], strict=True):
        own = axes.get_title(loc='left')
        axes.set_title(f'{_title(one)}\n{own}', fontsize=9, loc='left')
    for axes in grid[-1]:
        axes.set_xlabel('channel', fontsize=9)
    _class_legend(figure, record, classes)
    return figure


def _draw_lines(axes: Any, gate: Gate | None, classes: Sequence[str]) -> None:
    if gate is None:
        axes.set_axis_off()
        axes.text(0.5, 0.5, 'no gate here', ha='center', va='center', color=_GREY)
        return
    channels = np.arange(gate['channels'])
    width = 1.3 if len(channels) <= 128 else 0.7
    style = dict(linewidth=width, alpha=0.85)
    if len(channels) <= 64:
        style.update(marker='.', markersize=4)
    lines = [gate['by_class'][name] for name in classes] or [gate['mean']]
    for colour, values in zip(COLOURS if classes else (_GREY,), lines, strict=False):
        axes.plot(channels, values, color=colour, **style)
    where = f'stage {gate["stage"]}, ' if gate['stage'] is not None else ''
    where += '' if gate['block'] is None else f'block {gate["block"]}, '
    name = '' if where.count(',') == 2 else f'{_text(gate["name"], 40)}, '
    axes.set_title(f'{where}{name}{len(channels)} channels', fontsize=9, loc='left')
    axes.set_xlim(-0.5, len(channels) - 0.5)
    _tidy(axes)


def _share_limits(line: Sequence[Any], gates: Sequence[Gate]) -> None:
    """Give panels of one stage one y-axis, wide enough that noise does not fill it."""
    values = [
        v for gate in gates for one in _drawn_values(gate) for v in (min(one), max(one))
    ]
    low, high = min(values), max(values)
    middle, half = (low + high) / 2, max(high - low, _LEAST_SPAN) * 0.55
    for axes in line:
        axes.set_ylim(middle - half, middle + half)


def _drawn_values(gate: Gate) -> list[Sequence[float]]:
    return [*gate['by_class'].values()] or [gate['mean']]


def _class_legend(
    figure: Any, record: Mapping[str, Any], classes: Sequence[str]
) -> None:
    from matplotlib.lines import Line2D

    images = record['images']
    heading = f'mean over {images} image{"s" if images != 1 else ""}'
    if not classes:
        figure.suptitle(f'{heading}; no classes', fontsize=10)
        return
    known = {one['name']: one['images'] for one in record['classes']}
    if len(classes) < len(known):
        heading = f'{len(classes)} of {len(known)} classes, those on most images'
    else:
        heading = 'mean over the images of each class'
    handles = [
        Line2D([], [], color=colour, linewidth=2)
        for colour, _ in zip(COLOURS, classes, strict=False)
    ]
    legend = figure.legend(
        handles,
        [str(index) for index in range(len(classes))],
        loc='outside upper center',
        ncols=min(4, len(classes)),
        frameon=False,
        fontsize=9,
        title=heading,
        title_fontsize=9,
    )
    # Set afterwards: matplotlib hides labels that begin with an underscore.
    for text, name in zip(legend.get_texts(), classes, strict=True):
        text.set_text(f'{_text(name)} ({known[name]} images)')


def _draw_blocks(record: Mapping[str, Any]) -> Any:
    """Draw every gate by depth: distribution, differences, channels that say little."""
    checkpoints = record['checkpoints']
    panels = [_draw_distribution, _draw_spreads, _draw_counts]
    rows, columns = len(panels), len(checkpoints)
    most = max(len(one['gates']) for one in checkpoints)
    width = min(20.0, max(6.0, 2 + 0.32 * most))
    size = (max(8.0, width * columns), 2.3 * rows + 0.8)
    figure, grid = new_figure(rows, columns, figsize=size, layout='constrained')
    grid = _axes(grid, rows, columns)
    for line, draw in zip(grid, panels, strict=True):
        for axes, one in zip(line, checkpoints, strict=True):
            draw(axes, one['gates'], record)
            _tidy(axes)
            _label_blocks(axes, one['gates'])
        low = min(axes.get_ylim()[0] for axes in line)
        high = max(axes.get_ylim()[1] for axes in line)
        for axes in line:
            axes.set_ylim(low, high)
    for axes, one in zip(grid[0], checkpoints, strict=True):
        axes.set_title(_title(one), fontsize=9, loc='left')
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
    axes.vlines(at, low, high, color=COLOURS[0], linewidth=1, label='5 to 95 %')
    axes.vlines(at, first, third, color=COLOURS[0], linewidth=5, label='25 to 75 %')
    axes.plot(at, middle, 'o', color='white', markersize=3.5, mec='black', label='half')
    axes.set_ylabel("channels' mean gate", fontsize=9)
    axes.margins(y=0.25)


def _draw_spreads(axes: Any, gates: Sequence[Gate], record: Mapping[str, Any]) -> None:
    at = np.arange(len(gates))
    images = [np.mean(gate['deviation']) for gate in gates]
    axes.plot(at, images, 's-', color=COLOURS[0], markersize=4, label='images')
    if len(record['classes']) > 1:
        classes = [gate['class_spread'] for gate in gates]
        axes.plot(at, classes, 'o-', color=COLOURS[1], markersize=4, label='classes')
    axes.set_ylabel('s.d. of the gate between', fontsize=9)
    axes.set_ylim(bottom=0)
    axes.margins(y=0.25)
    axes.autoscale(axis='y')
    axes.set_ylim(bottom=0)


def _draw_counts(axes: Any, gates: Sequence[Gate], record: Mapping[str, Any]) -> None:
    at = np.arange(len(gates))
    for offset, (name, colour) in enumerate(
        zip(('dead', 'saturated', 'constant'), (COLOURS[6], *COLOURS[1:3]), strict=True)
    ):
        counts = [100 * (gate[name] or 0) / gate['channels'] for gate in gates]
        axes.bar(at + 0.27 * (offset - 1), counts, 0.25, color=colour, label=name)
    axes.set_ylabel('channels, %', fontsize=9)
    axes.set_ylim(0, 105)


def _draw_kernels(record: Mapping[str, Any]) -> Any:
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
    grid = _axes(grid, len(found), columns)
    every = [gate['kernel'] for _, stages in found for part in stages for gate in part]
    limit = max(abs(weight) for kernel in every for weight in kernel) or 1.0
    for line, (one, stages) in zip(grid, found, strict=True):
        for axes in line[len(stages) :]:
            axes.set_axis_off()
        for axes, gates in zip(line, stages, strict=False):
            image = _draw_heat(axes, gates, limit)
        line[0].set_ylabel('neighbour, channels', fontsize=9)
        own = line[0].get_title(loc='left')
        line[0].set_title(f'{_title(one)}\n{own}', fontsize=9, loc='left')
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
    axes.set_title('' if stage is None else f'stage {stage}', fontsize=9, loc='left')
    axes.set_xlabel('stage.block', fontsize=9)
    axes.tick_params(labelsize=8)
    _label_blocks(axes, gates)
    return image
