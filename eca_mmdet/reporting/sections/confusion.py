"""Confusion matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eca_mmdet.reporting.run import Options, Run, measured, tasks_of, title_of

ID = 'confusion'
TITLE = 'Confusion'
TEMPLATE = """
<h2>Confusion</h2>
<p class="lead">Rows are objects, columns detections, at IoU 0.5. In the last column are missed objects, in the last row detections where nothing is.</p>
{% for group in matrices | groupby('task') %}
<div class="tables">
{% for one in group.list %}
<div class="scroll">
<h3>{{ one.title }}{% if runs | length > 1 %}, {{ swatch(one.colour) }}{{ one.run }}{% endif %}, scores from {{ one.threshold }}</h3>
{% if one.rows %}
<table class="confusion{{ ' plain' if not one.numbered }}" data-task="{{ one.task }}" data-run="{{ one.run }}">
<thead><tr><th></th>{% for name in one.names %}<th><span>{{ name }}</span></th>{% endfor %}</tr></thead>
<tbody>
{% for row in one.rows %}{% set i = loop.index0 %}<tr><th scope="row">{{ row.name }}</th>{% for cell in row.cells %}<td{% if cell.count %}{{ ' class="hit"' | safe if loop.index0 == i }} style="--v:{{ '%.3f' % cell.share }}" title="{{ row.name }} → {{ one.names[loop.index0] }}: {{ cell.count }} ({{ '%.0f' % (100 * cell.share) }} %)"{% endif %}>{% if one.numbered and cell.count %}{{ cell.count }}{% endif %}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
{% endif %}
{% if one.pairs and one.names | length > 5 %}
<p class="pairs">Most frequent: {% for count, object, found in one.pairs %}{{ object }} → {{ found }} ({{ count }}){{ ', ' if not loop.last }}{% endfor %}</p>
{% endif %}
</div>
{% endfor %}
</div>
{% endfor %}
"""  # noqa: E501

_TABLED_CLASSES = 40
"""Confusion matrices of up to so many classes have their numbers in the cells."""
_MATRIX_CLASSES = 120
"""Larger ones are shown by their most frequent confusions only."""
_PAIRS = 12


def context(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return a matrix a run and task: rows are objects, columns detections."""
    matrices = []
    for task in tasks_of(runs):
        for at, run, _ in measured(runs, task):
            one = (run.analysis.get(task) or {}).get('confusion')
            if one and one.get('matrix'):
                matrices.append(_matrix(one, task, run, at))
    return {'matrices': matrices} if matrices else None


def _matrix(one: dict[str, Any], task: str, run: Run, at: int) -> dict[str, Any]:
    names, matrix = one['classes'], one['matrix']
    totals = [sum(row) for row in matrix]
    pairs = sorted(
        (
            (matrix[i][j], names[i], names[j])
            for i in range(len(names))
            for j in range(len(names))
            if i != j and matrix[i][j]
        ),
        key=lambda pair: -pair[0],
    )
    shown = len(names) - 1 <= _MATRIX_CLASSES
    rows = [
        {
            'name': names[i],
            'cells': [
                {'count': count, 'share': count / totals[i] if totals[i] else 0}
                for count in row
            ],
        }
        for i, row in enumerate(matrix if shown else [])
    ]
    return {
        'task': task,
        'title': title_of(task),
        'run': run.label,
        'colour': at,
        'names': names,
        'rows': rows,
        'numbered': len(names) - 1 <= _TABLED_CLASSES,
        'pairs': pairs[:_PAIRS],
        'threshold': run.analysis[task].get('score_threshold'),
    }
