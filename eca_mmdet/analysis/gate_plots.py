"""Figures and tables of ``gates.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from eca_mmdet.analysis.gate_images import MOST_FREQUENT
from eca_mmdet.evaluation.tables import render
from eca_mmdet.utils.images import new_figure, save_figure
from eca_mmdet.utils.text import printable

COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000')
"""Okabe and Ito's palette for colour-blind readers, without its yellow."""

GATE_HEADER = (
    *('stage', 'block', 'layer', 'channels', 'kernel', 'mean', 'over images'),
    *('between classes', 'dead', 'saturated', 'constant'),
)

_GREY = '#666666'
_LEAST_SPAN = 2e-4
"""Smallest range of a y-axis: closer values count as equal, and look equal."""

_MOST_LINES = 256
"""Channels up to which a panel has lines; more of them would hide each other."""

Gate = Mapping[str, Any]
Key = tuple[Any, ...]


def draw_gates(record: Mapping[str, Any], folder: Path) -> Path:
    """Draw ``gates.png``: the last gate of every stage, checkpoints side by side."""
    path = folder / 'gates.png'
    save_figure(channels_figure(record), path, dpi=100)
    return path


def drawn_classes(record: Mapping[str, Any]) -> list[str]:
    """Return the classes to draw: up to seven, or the four on most images."""
    names = [entry['name'] for entry in record['classes']]
    return names if len(names) <= len(COLOURS) else names[:MOST_FREQUENT]


def last_of_stages(gates: Sequence[Gate]) -> dict[Key, Gate]:
    """Return a checkpoint's last gate of every stage, and every gate outside one."""
    last: dict[Key, Gate] = {}
    for index, gate in enumerate(gates):
        stage = gate['stage']
        last[('other', index) if stage is None else ('stage', stage)] = gate
    return last


def channels_figure(record: Mapping[str, Any]) -> Any:
    """Draw the article's figure: gate by channel, a line for each class.

    With several classes, their differences from the mean follow below.
    """
    chosen = [last_of_stages(entry['gates']) for entry in record['checkpoints']]
    keys = sorted(set().union(*chosen), key=lambda key: (key[0] != 'stage', key[1]))
    classes = drawn_classes(record)
    kinds = [_draw_lines, _draw_differences][: max(1, min(2, len(classes)))]
    rows, columns = len(keys) * len(kinds), len(chosen)
    width = 9 if columns == 1 else 6.5 * columns
    size = width, 1.55 * rows + 0.45 * len(keys) + 0.7
    figure, grid = new_figure(rows, columns, figsize=size, layout='constrained')
    grid = np.array(grid, dtype=object).reshape(rows, columns)
    for index, line in enumerate(grid):
        draw = kinds[index % len(kinds)]
        gates = [last.get(keys[index // len(kinds)]) for last in chosen]
        for axes, gate in zip(line, gates, strict=True):
            if gate is None:
                axes.set_axis_off()
                continue
            draw(axes, gate, classes)
            axes.spines[['top', 'right']].set_visible(False)
            axes.grid(alpha=0.25, linewidth=0.5)
            axes.tick_params(labelsize=8)
        _share_limits(list(line), gates)
    for axes, entry in zip(grid[0], record['checkpoints'], strict=True):
        _put_title(axes, entry)
    for axes in grid[-1]:
        axes.set_xlabel('channel', fontsize=9)
    _class_legend(figure, record, classes)
    return figure


def _draw_lines(axes: Any, gate: Gate, classes: Sequence[str]) -> None:
    lines = [gate['by_class'][name] for name in classes] or [gate['mean']]
    _plot(axes, np.array(lines), COLOURS if classes else (_GREY,))
    where = '' if gate['stage'] is None else f'stage {gate["stage"]}, '
    name = gate['name'].rpartition('.')[2] if where else gate['name']
    where += _label(name, 40) if gate['block'] is None else f'block {gate["block"]}'
    axes.set_title(f'{where}: {gate["channels"]} channels', fontsize=9, loc='left')
    axes.set_ylabel('gate', fontsize=9)


def _draw_differences(axes: Any, gate: Gate, classes: Sequence[str]) -> None:
    lines = np.array([gate['by_class'][name] for name in classes])
    _plot(axes, lines - lines.mean(0), COLOURS)
    axes.set_ylabel('class - mean\nof classes', fontsize=8)


def _plot(axes: Any, lines: npt.NDArray[Any], colours: Sequence[str]) -> None:
    channels = np.arange(lines.shape[1])
    style: dict[str, Any] = dict(linewidth=1.2 if len(channels) <= 128 else 0.6)
    if len(channels) > _MOST_LINES:
        style.update(linestyle='none', marker='.', markersize=3, markeredgewidth=0)
    for colour, values in zip(colours, lines, strict=False):
        axes.plot(channels, values, color=colour, alpha=0.85, **style)
    axes.set_xlim(-0.5, len(channels) - 0.5)


def _share_limits(line: Sequence[Any], gates: Sequence[Gate | None]) -> None:
    """Give panels of gates with the same range the same y-axis."""
    by_range: dict[tuple[float, ...], list[Any]] = {}
    for axes, gate in zip(line, gates, strict=True):
        if gate is not None:
            by_range.setdefault(tuple(gate['range']), []).append(axes)
    for shared in by_range.values():
        lows, highs = zip(*(axes.get_ylim() for axes in shared), strict=True)
        middle = (min(lows) + max(highs)) / 2
        half = max(max(highs) - min(lows), _LEAST_SPAN) / 2
        for axes in shared:
            axes.set_ylim(middle - half, middle + half)


def _class_legend(
    figure: Any, record: Mapping[str, Any], classes: Sequence[str]
) -> None:
    from matplotlib.lines import Line2D

    if not classes:
        figure.suptitle(f'mean over images ({record["images"]}); no classes')
        return
    known = {entry['name']: entry['images'] for entry in record['classes']}
    heading = 'mean over the images of each class'
    if len(classes) < len(known):
        heading = f'{len(classes)} of {len(known)} classes, those on most images'
    colours = COLOURS[: len(classes)]
    legend = figure.legend(
        [Line2D([], [], color=colour, linewidth=2) for colour in colours],
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
        text.set_text(f'{_label(name)} ({known[name]} images)')


def _put_title(axes: Any, entry: Mapping[str, Any]) -> None:
    """Put a checkpoint's layers and the end of its path above a panel."""
    layers = ', '.join(dict.fromkeys(gate['layer'] for gate in entry['gates']))
    path = '/'.join(PurePath(entry.get('file') or entry['detector']).parts[-3:])
    title = f'{_label(layers, 44)}\n{_label(path, 44)}'
    own = axes.get_title(loc='left')
    axes.set_title(f'{title}\n\n{own}' if own else title, fontsize=9, loc='left')


def _label(name: str, most: int = 24) -> str:
    """Return a name for matplotlib: short, and not read as mathematics."""
    name = printable(name)
    short = name if len(name) <= most else f'{name[: most - 1]}…'
    return short.replace('$', r'\$')


def gate_tables(record: Mapping[str, Any], style: str = 'table') -> str:
    """Return a table of each checkpoint's gates, and what its columns mean.

    ``style`` is that of :func:`eca_mmdet.evaluation.tables.render`.
    """
    parts = []
    for entry in record['checkpoints']:
        cells = [gate_cells(gate) for gate in entry['gates']]
        title = printable(f'{entry.get("file", "")} ({entry["detector"]})'.strip())
        parts.append(f'{title}\n\n{render(["gate", *GATE_HEADER], cells, style)}')
    return '\n\n'.join([*parts, _legend(record)])


def gate_cells(gate: Mapping[str, Any]) -> list[str]:
    """Return a gate's row of the table: its name and ``GATE_HEADER``."""
    kernel = gate['kernel']
    return [
        gate['name'],
        *map(_or_dash, (gate['stage'], gate['block'])),
        gate['layer'],
        str(gate['channels']),
        _or_dash(kernel and len(kernel)),
        f'{sum(gate["mean"]) / gate["channels"]:.3f}',
        f'{sum(gate["deviation"]) / gate["channels"]:.4f}',
        '-' if gate['class_spread'] is None else f'{gate["class_spread"]:.4f}',
        *map(_or_dash, (gate['dead'], gate['saturated'], gate['constant'])),
    ]


def _or_dash(value: int | None) -> str:
    return '-' if value is None else str(value)


def _legend(record: Mapping[str, Any]) -> str:
    at = record['thresholds']
    classes = ', '.join(
        f'{printable(entry["name"])} ({entry["images"]})' for entry in record['classes']
    )
    counts = f'of each class: {classes}' if classes else 'no classes'
    lines = [
        f'{record["images"]} images of {printable(record["image_source"])}; {counts}',
        'mean: of the gate over images and channels. over images, between classes: '
        "standard deviation over the images, and over the classes' means; averaged "
        'over channels.',
        f"Channels, as shares of the gate's range: dead: below {at['dead']:g} on all "
        f'images; saturated: above {at["saturated"]:g}; constant: standard deviation '
        f'over images below {at["constant"]:g}.',
    ]
    return '\n'.join(lines)
