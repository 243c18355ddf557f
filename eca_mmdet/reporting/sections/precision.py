"""Precision over recall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eca_mmdet.reporting.charts import UNIT_SQUARE, Chart, line, line_chart
from eca_mmdet.reporting.run import Options, Run, measured, tasks_of, title_of

ID = 'precision'
TITLE = 'Precision'
TEMPLATE = """
<h2>Precision and recall</h2>
<p class="lead">Mean over the classes that have objects.</p>{{ plots(charts) }}
"""


def context(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return a chart a task: a colour a run, a dash an IoU."""
    charts = [chart for task in tasks_of(runs) if (chart := _chart(task, runs))]
    return {'charts': charts} if charts else None


def _chart(task: str, runs: Sequence[Run]) -> Chart | None:
    several = len(runs) > 1
    lines = []
    for at, run, _ in measured(runs, task):
        curves = (run.analysis.get(task) or {}).get('pr_curves') or {}
        for index, key in enumerate(('0.50:0.95', '0.50', '0.75')):
            if curves.get(key):
                name = f'{run.label}, IoU {key}' if several else f'IoU {key}'
                points = zip(curves['recall'], curves[key], strict=True)
                colour, dash = (at, index) if several else (index, 0)
                lines.append(line(name, points, colour, dash))
    if not lines:
        return None
    title = f'Precision and recall, {title_of(task)}'
    chart = line_chart(f'pr-{task}', title, 'recall', 'precision', lines)
    return {**chart, **UNIT_SQUARE}
