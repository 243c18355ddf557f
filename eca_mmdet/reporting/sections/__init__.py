"""Sections of the report page, and their charts as plain values for ``page.js``.

A value of a chart that is not finite is None: the line has a gap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from eca_mmdet.reporting.logs import Series
from eca_mmdet.reporting.run import Options, Run


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Its template is ``assets/ID.html.j2``, or else ``charts.html.j2``; ``runs`` and the
    variables of ``context`` are escaped.

    Attributes:
        id: anchor.
        title: text of its link at the top of the page.
        context: returns the variables of the template, or None to leave the section
            out. ``'charts'`` lists the section's charts. What cannot be shown of a run
            is added to its ``missing``.
        heading: if it differs from the title.
    """

    id: str
    title: str
    context: Callable[[Sequence[Run], Options], dict[str, Any] | None]
    heading: str = ''


Chart = dict[str, Any]
UNIT_SQUARE: dict[str, Any] = {'top': 1, 'zero': True, 'right': 1}
"""Axes of a chart from 0 to 1, both ways."""
MOST_POINTS = 4000
"""Points of a line. Longer lines are thinned: each step of the axis keeps its lowest
and its highest value, so that no spike is lost."""


def number(value: Any, digits: int = 6) -> float | None:
    """Return a finite number with so many significant digits, or None."""
    finite = isinstance(value, (int, float)) and math.isfinite(value)
    return float(f'{value:.{digits}g}') if finite else None


def line(
    name: str,
    points: Iterable[tuple[float, Any]],
    colour: int,
    dash: int = 0,
    **more: Any,
) -> dict[str, Any]:
    """Return one line of a chart, named in the legend.

    ``points`` are (x, y) with x ascending; ``colour`` is an index in the page's
    palette; ``dash`` is 0 solid, 1 dashed, 2 dotted. ``more`` are further keys, e.g.
    ``notes``: a text for each point.
    """
    thinned = thin([[number(x, 9), number(y)] for x, y in points])
    return {'name': name, 'points': thinned, 'colour': colour, 'dash': dash, **more}


def style(runs: Sequence[Run], at: int, index: int, name: str) -> tuple[str, int, int]:
    """Return name, colour and dash of a line of the run at a position.

    The lines of a single run differ in colour, those of several runs in dash.
    """
    if len(runs) == 1:
        return name, index, 0
    return f'{runs[at].label}, {name}', at, index


def curve(name: str, series: Series, colour: int, dash: int = 0) -> dict[str, Any]:
    """Return the line of a logged series; hovering shows the epoch if it is known."""
    points = zip(series.steps, series.values, strict=True)
    notes = ['' if e is None else f'epoch {e}' for e in series.epochs]
    # A thinned line has other points than there are notes.
    known = any(notes) and len(notes) <= MOST_POINTS
    return line(name, points, colour, dash, **({'notes': notes} if known else {}))


def thin(pairs: list[list[float | None]]) -> list[list[float | None]]:
    """Keep lowest and highest of each step where there are too many points."""
    if len(pairs) <= MOST_POINTS:
        return pairs
    step = -(-len(pairs) // (MOST_POINTS // 2))
    kept = []
    for start in range(0, len(pairs), step):
        group = pairs[start : start + step]
        ends = [point for point in group if point[1] is not None] or group
        low = min(ends, key=lambda point: point[1] or 0)
        high = max(ends, key=lambda point: point[1] or 0)
        kept += sorted({id(low): low, id(high): high}.values(), key=lambda p: p[0] or 0)
    return kept


def chart(
    kind: str,
    name: str,
    title: str,
    y: str,
    drawn: Sequence[dict[str, Any]],
    **more: Any,
) -> Chart | None:
    """Return a chart, or None if there is nothing to draw.

    ``kind`` is 'line' or 'bar', ``drawn`` has lines from :func:`line` or an entry from
    :func:`bars` for each run, and ``y`` labels the axis of values, with the unit.
    ``more`` takes ``top`` (highest y); ``categories`` of bars; and of lines ``x`` (its
    label), ``zero`` (y starts there), ``marks`` (drawn points), ``right`` (highest x)
    and ``diagonal``.
    """
    if not drawn:
        return None
    described = {'id': name, 'kind': kind, 'title': title, 'y': y}
    return {**described, f'{kind}s': list(drawn), **more}


def bars(name: str, shares: Iterable[Any], colour: int) -> dict[str, Any]:
    """Return the bars of one run: 0-1 for each category, shown as 0-100."""
    values = [None if share is None else number(100 * share) for share in shares]
    return {'name': name, 'values': values, 'colour': colour}


def section(charts: Iterable[Chart | None]) -> dict[str, Any] | None:
    """Return the context of a section of charts only, or None if there are none."""
    drawn = [chart for chart in charts if chart]
    return {'charts': drawn} if drawn else None
