"""Draw what ``gates.json`` holds: gates by channel and class, all blocks, kernels."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eca_mmdet.analysis.gates.depth_plots import blocks_figure, kernels_figure
from eca_mmdet.analysis.gates.style import (
    COLOURS,
    GREY,
    Gate,
    as_array,
    label,
    put_titles,
    share_limits,
    tidy,
)
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import whole_file
from eca_mmdet.utils.plotting import new_figure

_ARTICLE = 4
_LINES = 256
_DPI = 100

Floats = npt.NDArray[np.float64]
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
        'gates.png': channels_figure(record),
        'blocks.png': blocks_figure(record),
        'kernels.png': kernels_figure(record),
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


def drawn_classes(record: Mapping[str, Any]) -> list[str]:
    """Return the classes to draw: all, or of more than seven the four on most images.

    Args:
        record: content of ``gates.json``, whose classes are in that order.
    """
    names = [one['name'] for one in record['classes']]
    return names if len(names) <= len(COLOURS) else names[:_ARTICLE]


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


def channels_figure(record: Mapping[str, Any]) -> Any:
    """Draw the article's figure: gate by channel, a line for each class.

    Where there are classes to compare, what each differs by is under it.
    """
    chosen = [last_of_stages(one['gates']) for one in record['checkpoints']]
    keys = list(dict.fromkeys(key for one in chosen for key in one))
    keys.sort(key=lambda key: (key[0] != 'stage', key[1]))
    classes = drawn_classes(record)
    parts = [_draw_lines, _draw_differences][: max(1, min(2, len(classes)))]
    columns = len(chosen)
    rows = len(keys) * len(parts)
    figure, grid = new_figure(
        rows,
        columns,
        figsize=(
            9 if columns == 1 else 6.5 * columns,
            1.55 * rows + 0.45 * len(keys) + 0.7,
        ),
        layout='constrained',
    )
    grid = as_array(grid, rows, columns)
    for index, line in enumerate(grid):
        key, draw = keys[index // len(parts)], parts[index % len(parts)]
        gates = [one.get(key) for one in chosen]
        for axes, gate in zip(line, gates, strict=True):
            if gate is not None:
                draw(axes, gate, classes)
                tidy(axes)
            else:
                _say_none(axes, record)
        share_limits(line, gates)
    put_titles(grid[0], record)
    for axes in grid[-1]:
        axes.set_xlabel('channel', fontsize=9)
    _class_legend(figure, record, classes)
    return figure


def _say_none(axes: Any, record: Mapping[str, Any]) -> None:
    axes.set_axis_off()
    if axes.get_subplotspec().rowspan.start % 2 == 0 or not record['classes']:
        axes.text(0.5, 0.5, 'no gate here', ha='center', va='center', color=GREY)


def _draw_lines(axes: Any, gate: Gate, classes: Sequence[str]) -> None:
    lines = [gate['by_class'][name] for name in classes] or [gate['mean']]
    _plot(axes, np.array(lines), COLOURS if classes else (GREY,))
    where = '' if gate['stage'] is None else f'stage {gate["stage"]}, '
    tail = gate['name'].rpartition('.')[2]
    name = gate['name'] if not where else tail
    where += label(name, 40) if gate['block'] is None else f'block {gate["block"]}'
    axes.set_title(f'{where}: {gate["channels"]} channels', fontsize=9, loc='left')
    axes.set_ylabel('gate', fontsize=9)


def _draw_differences(axes: Any, gate: Gate, classes: Sequence[str]) -> None:
    lines = np.array([gate['by_class'][name] for name in classes])
    _plot(axes, lines - lines.mean(0), COLOURS)
    axes.set_ylabel('class - mean\nof classes', fontsize=8)


def _plot(axes: Any, lines: Floats, colours: Sequence[str]) -> None:
    channels = np.arange(lines.shape[1])
    style: dict[str, Any] = dict(linewidth=1.2 if len(channels) <= 128 else 0.6)
    if len(channels) <= 64:
        style.update(marker='.', markersize=4)
    elif len(channels) > _LINES:  # lines would cover all that is behind them
        style.update(linestyle='none', marker='.', markersize=3, markeredgewidth=0)
    for colour, values in zip(colours, lines, strict=False):
        axes.plot(channels, values, color=colour, alpha=0.85, **style)
    axes.set_xlim(-0.5, len(channels) - 0.5)


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
        text.set_text(f'{label(name)} ({known[name]} images)')
