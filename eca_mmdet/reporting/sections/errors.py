"""Kinds of errors: precision over recall, TIDE, calibration and confusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eca_mmdet.reporting import charts
from eca_mmdet.reporting.charts import UNIT_SQUARE, Chart, chart, percent
from eca_mmdet.reporting.run import Options, Run, analysed, tasks_of, title_of
from eca_mmdet.reporting.sections import Section

_KINDS = {
    'Cls': 'wrong class',
    'Loc': 'poor place',
    'Both': 'wrong class, poor place',
    'Dupe': 'found twice',
    'Bkg': 'nothing is there',
    'Miss': 'missed',
}
_TABLED_CLASSES = 40
"""Confusion matrices of up to so many classes have their numbers in the cells."""
_MATRIX_CLASSES = 120  # larger ones are shown by their most frequent confusions only
_PAIRS = 12


def _precision(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return a chart a task: a colour a run, a dash an IoU."""
    return charts.section(_precision_chart(task, runs) for task in tasks_of(runs))


def _precision_chart(task: str, runs: Sequence[Run]) -> Chart | None:
    lines = []
    for at, _, curves in analysed(runs, task, 'pr_curves'):
        for index, key in enumerate(('0.50:0.95', '0.50', '0.75')):
            if curves.get(key):
                points = zip(curves['recall'], curves[key], strict=True)
                name, colour, dash = charts.style(runs, at, index, f'IoU {key}')
                lines.append(charts.line(name, points, colour, dash))
    what = ('line', f'pr-{task}', f'Precision and recall, {title_of(task)}')
    return chart(*what, 'precision', lines, x='recall', **UNIT_SQUARE)


PRECISION = Section(
    'precision',
    'Precision',
    _precision,
    heading='Precision and recall',
    lead='Mean over the classes that have objects.',
)


def _errors(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return charts of errors, then of calibration."""
    kinds = (_error_chart, _calibration_chart)
    return charts.section(draw(task, runs) for draw in kinds for task in tasks_of(runs))


def _error_chart(task: str, runs: Sequence[Run]) -> Chart | None:
    """Return what each kind of error costs, in AP50."""
    series = []
    for at, run, errors in analysed(runs, task, 'errors'):
        if delta := errors.get('delta_ap'):
            values = [percent(delta.get(key)) for key in _KINDS]
            series.append(charts.bars(run.label, values, at))
    what = ('bar', f'errors-{task}', f'What errors cost, {title_of(task)}')
    value = 'AP50 to be won without them, 0-100'
    return chart(*what, value, series, categories=list(_KINDS.values()))


def _calibration_chart(task: str, runs: Sequence[Run]) -> Chart | None:
    """Return how often detections of a score are right, at IoU 0.5."""
    lines = []
    for at, run, calibration in analysed(runs, task, 'calibration'):
        used = [each for each in calibration.get('bins') or [] if each.get('count')]
        if used:
            points = [(each['avg_confidence'], each['avg_accuracy']) for each in used]
            notes = [f'{each["count"]} detections' for each in used]
            error = f'{run.label}: error {100 * calibration["ece"]:.1f} %'
            lines.append(charts.line(error, points, at, notes=notes))
    what = ('line', f'calibration-{task}', f'Calibration, {title_of(task)}')
    more = dict(UNIT_SQUARE, x='score', marks=True, diagonal=True)
    return chart(*what, 'share of right detections', lines, **more)


ERRORS = Section(
    'errors',
    'Errors',
    _errors,
    lead='At IoU 0.5. What AP50 would gain if one kind of error were mended (TIDE, '
    'arXiv:2008.08115); and how often a detection of some score is right: below the '
    'diagonal, scores promise too much.',
)


def _confusion(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return a matrix a run and task: rows are objects, columns detections."""
    matrices = [
        _matrix(confusion, task, run, at)
        for task in tasks_of(runs)
        for at, run, confusion in analysed(runs, task, 'confusion')
        if confusion.get('matrix')
    ]
    return {'matrices': matrices} if matrices else None


def _matrix(confusion: dict[str, Any], task: str, run: Run, at: int) -> dict[str, Any]:
    names, matrix = confusion['classes'], confusion['matrix']
    rows = list(zip(names, matrix, strict=True))
    pairs = [
        (count, name, names[j])
        for i, (name, row) in enumerate(rows)
        for j, count in enumerate(row)
        if i != j and count
    ]
    return {
        'task': task,
        'title': title_of(task),
        'run': run.label,
        'colour': at,
        'names': names,
        'rows': rows if len(names) - 1 <= _MATRIX_CLASSES else [],
        'numbered': len(names) - 1 <= _TABLED_CLASSES,
        'pairs': sorted(pairs, key=lambda pair: -pair[0])[:_PAIRS],
        'threshold': run.analysis[task].get('score_threshold'),
    }


CONFUSION = Section(
    'confusion',
    'Confusion',
    _confusion,
    """
{% for group in matrices | groupby('task') %}
<div class="tables">
{% for one in group.list %}
<div class="scroll">
<h3>{{ one.title }}{% if runs | length > 1 %}, {{ swatch(one.colour) }}{{ one.run }}{% endif %}, scores from {{ one.threshold }}</h3>
{% if one.rows %}
<table class="confusion{{ ' plain' if not one.numbered }}" data-task="{{ one.task }}" data-run="{{ one.run }}">
<thead><tr><th></th>{% for name in one.names %}<th><span>{{ name }}</span></th>{% endfor %}</tr></thead>
<tbody>
{% for name, counts in one.rows %}{% set i, total = loop.index0, counts | sum %}<tr><th scope="row">{{ name }}</th>{% for count in counts %}<td{% if count %}{{ ' class="hit"' | safe if loop.index0 == i }} style="--v:{{ '%.3f' % (count / total) }}" title="{{ name }} → {{ one.names[loop.index0] }}: {{ count }} ({{ '%.0f' % (100 * count / total) }} %)"{% endif %}>{% if one.numbered and count %}{{ count }}{% endif %}</td>{% endfor %}</tr>
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
""",  # noqa: E501
    lead='Rows are objects, columns detections, at IoU 0.5. In the last column are '
    'missed objects, in the last row detections where nothing is.',
)
