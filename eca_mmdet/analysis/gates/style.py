"""What the pictures of gates share: colours, titles, axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from eca_mmdet.utils.text import printable

COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000')
"""Okabe and Ito's, which the colour-blind tell apart; without their yellow."""

GREY = '#666666'
LEAST_SPAN = 2e-4
"""Of a y-axis: what lies closer is equal, and shall look so."""

_MOST = 24

Gate = Mapping[str, Any]


def label(name: str, most: int = _MOST) -> str:
    """Return a name as matplotlib shows it: short, and no mathematics."""
    name = printable(name)
    short = name if len(name) <= most else f'{name[: most - 1]}…'
    return short.replace('$', r'\$')


def checkpoint_title(one: Mapping[str, Any]) -> str:
    """Return what a checkpoint is called: its layers, and the end of its path."""
    layers = list(dict.fromkeys(gate['layer'] for gate in one['gates']))
    parts = PurePath(one.get('file') or one['detector']).parts[-3:]
    where = '/'.join(parts)
    where = where if len(where) <= 44 else f'…{where[-43:]}'
    return f'{label(", ".join(layers), 44)}\n{label(where, 44)}'


def place(gate: Gate) -> str:
    """Return where a gate is, in few letters: 3.5 is stage 3, block 5."""
    tail = gate['name'].rpartition('.')[2]
    if gate['stage'] is None:
        return label(tail, 12)
    if gate['block'] is None:
        return label(f'{gate["stage"]} {tail}', 12)
    return f'{gate["stage"]}.{gate["block"]}'


def as_array(grid: Any, rows: int, columns: int) -> Any:
    """Return axes as rows and columns, also where there is one."""
    return np.array(grid, dtype=object).reshape(rows, columns)


def tidy(axes: Any) -> None:
    """Take the frame off, and put a faint grid in."""
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.tick_params(labelsize=8)


def put_titles(line: Sequence[Any], record: Mapping[str, Any]) -> None:
    """Put the names of the checkpoints above the titles of the first panels."""
    for axes, one in zip(line, record['checkpoints'], strict=True):
        own = axes.get_title(loc='left')
        whole = f'{checkpoint_title(one)}\n\n{own}' if own else checkpoint_title(one)
        axes.set_title(whole, fontsize=9, loc='left')


def share_limits(line: Sequence[Any], gates: Sequence[Gate | None]) -> None:
    """Give the panels of gates of one range one y-axis.

    Args:
        line: axes.
        gates: of each; None for an empty panel.
    """
    for bounds in {tuple(gate['range']) for gate in gates if gate}:
        shared = [
            axes
            for axes, gate in zip(line, gates, strict=True)
            if gate and tuple(gate['range']) == bounds
        ]
        limits = [axes.get_ylim() for axes in shared]
        low, high = min(one[0] for one in limits), max(one[1] for one in limits)
        middle, half = (low + high) / 2, max(high - low, LEAST_SPAN) / 2
        for axes in shared:
            axes.set_ylim(middle - half, middle + half)
