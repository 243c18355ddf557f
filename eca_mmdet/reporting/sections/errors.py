"""Costs of each kind of error (TIDE), and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eca_mmdet.reporting.charts import (
    UNIT_SQUARE,
    Chart,
    bar_chart,
    bars,
    line,
    line_chart,
    percent,
)
from eca_mmdet.reporting.run import Options, Run, measured, tasks_of, title_of

ID = 'errors'
TITLE = 'Errors'
TEMPLATE = """
<h2>Errors</h2>
<p class="lead">At IoU 0.5. What AP50 would gain if one kind of error were mended (TIDE, arXiv:2008.08115); and how often a detection of some score is right: below the diagonal, scores promise too much.</p>
{{ plots(charts) }}
"""  # noqa: E501

_KINDS = {
    'Cls': 'wrong class',
    'Loc': 'poor place',
    'Both': 'wrong class, poor place',
    'Dupe': 'found twice',
    'Bkg': 'nothing is there',
    'Miss': 'missed',
}


def context(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return charts of errors, then of calibration."""
    made = [
        chart(task, runs) for chart in (_cost, _calibration) for task in tasks_of(runs)
    ]
    charts = [chart for chart in made if chart]
    return {'charts': charts} if charts else None


def _cost(task: str, runs: Sequence[Run]) -> Chart | None:
    """Return what each kind of error costs, in AP50."""
    series = []
    for at, run, _ in measured(runs, task):
        errors = (run.analysis.get(task) or {}).get('errors') or {}
        delta = errors.get('delta_ap')
        if delta:
            values = [percent(delta.get(key)) for key in _KINDS]
            series.append(bars(run.label, values, at))
    if not series:
        return None
    title, value = f'What errors cost, {title_of(task)}', 'AP50 to be won without them'
    names = list(_KINDS.values())
    return bar_chart(f'errors-{task}', title, f'{value}, 0-100', names, series)


def _calibration(task: str, runs: Sequence[Run]) -> Chart | None:
    """Return how often detections of a score are right, at IoU 0.5."""
    lines = []
    for at, run, _ in measured(runs, task):
        found = (run.analysis.get(task) or {}).get('calibration') or {}
        used = [one for one in found.get('bins') or [] if one.get('count')]
        if used:
            points = [(one['avg_confidence'], one['avg_accuracy']) for one in used]
            notes = [f'{one["count"]} detections' for one in used]
            error = f'{run.label}: error {100 * found["ece"]:.1f} %'
            lines.append(line(error, points, at, notes=notes))
    if not lines:
        return None
    title, share = f'Calibration, {title_of(task)}', 'share of right detections'
    chart = line_chart(f'calibration-{task}', title, 'score', share, lines)
    return {**chart, **UNIT_SQUARE, 'marks': True, 'diagonal': True}
