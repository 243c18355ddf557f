"""COCO's numbers of each run beside the published ones, and the errors behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eca_mmdet.catalog.published import published_rows
from eca_mmdet.evaluation.tables import format_ap, heading
from eca_mmdet.reporting.run import Options, Run, analysed, measured, tasks_of, title_of
from eca_mmdet.reporting.sections import (
    UNIT_SQUARE,
    Chart,
    Section,
    bars,
    chart,
    line,
    section,
    style,
)

_VAL2017 = (5000, 80)  # images and categories
_SIZES = {'S': 'small, below 32² px', 'M': 'medium, to 96² px', 'L': 'large'}
_MOST_BARS = 480
"""Bars of a chart; browsers draw nothing on a canvas of more than some 16,000 px."""


def _results(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return a table a task: COCO's columns downwards, each source in its column."""
    tables = [_table(task, runs) for task in tasks_of(runs)]
    if not tables:
        return None
    sums = {run.recorded('annotations', 'sha256') for run in runs}
    return {
        'tables': tables,
        'other_data': len(sums - {None}) > 1,
        'any_reported': any(c is None for t in tables for _, c, _ in t['columns']),
    }


def _table(task: str, runs: Sequence[Run]) -> dict[str, Any]:
    found = list(measured(runs, task))
    names = list(dict.fromkeys(n for *_, one in found for n in one['metrics']))
    columns: list[tuple[str, int | None, list[str]]] = [
        (run.label, at, [format_ap(one['metrics'].get(name)) for name in names])
        for at, run, one in found
    ]
    published = {row.config: row for row in published_rows()}
    configs = [
        (run.record or {}).get('config')
        for _, run, _ in found  # published numbers are of COCO's val2017
        if (run.counts.get('images'), run.counts.get('categories')) == _VAL2017
    ]
    for row in (
        published[name] for name in dict.fromkeys(configs) if name in published
    ):
        numbers = row.numbers().get(title_of(task), {})
        cells = [numbers[name].shown(1) if name in numbers else '' for name in names]
        if any(cells):
            columns.append((row.row, None, cells))
    limits = sorted({tuple(one['max_dets']) for *_, one in found if 'max_dets' in one})
    return {
        'task': task,
        'title': title_of(task),
        'heading': '; '.join(heading(one) for one in limits if one) or heading(),
        'columns': columns,
        'rows': list(zip(names, *(cells for *_, cells in columns), strict=True)),
    }


RESULTS = Section(
    'results',
    'Results',
    _results,
    """
<p class="lead">{{ tables[0].heading }}. n/a: no object is of that kind.</p>
{% if other_data %}<p class="missing" id="other-data">The runs were measured on different annotations (sha256): their numbers do not compare.</p>{% endif %}
<div class="tables">
{% for table in tables %}
<div class="scroll">
<table class="numbers" data-task="{{ table.task }}">
<caption>{{ table.title }}</caption>
<thead>
<tr><th></th>{% for label, colour, _ in table.columns %}<th>{% if colour is not none %}{{ swatch(colour) }}{% endif %}{{ label }}</th>{% endfor %}</tr>
<tr class="kinds"><th></th>{% for _, colour, _ in table.columns %}<th>{{ 'reported' if colour is none else 'measured' }}</th>{% endfor %}</tr>
</thead>
{{ body(table.rows) }}
</table>
</div>
{% endfor %}
</div>
{% if any_reported %}
<p class="lead">reported: by the paper, its authors or a reprint (eca-mmdet tables has the sources); † marks numbers that no copy confirmed.</p>
{% endif %}
""",  # noqa: E501
)


def _classes(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return charts of classes and of sizes; None where no classes are recorded."""
    tasks = tasks_of(runs)
    classes = [_class_chart(task, runs) for task in tasks]
    sizes = [_size_chart(task, runs) for task in tasks]
    return section(classes + sizes) if any(classes) else None


def _class_chart(task: str, runs: Sequence[Run]) -> Chart | None:
    """Return AP by class, the first run's best first, with the numbers of objects."""
    found = [
        (at, run, _by_name(result['classes']))
        for at, run, result in measured(runs, task)
        if result.get('classes')
    ]
    if not found:
        return None

    def ap(classes: dict[str, Any], name: str) -> float | None:
        value = classes.get(name, {}).get('metrics', {}).get('AP')
        return None if value is None else float(value)

    first = found[0][2]
    names = list(dict.fromkeys(name for *_, classes in found for name in classes))
    names.sort(key=lambda name: -1 if (v := ap(first, name)) is None else v)
    names.reverse()
    total = len(names)
    ends = max(_MOST_BARS // len(found) // 2, 1)
    if total > 2 * ends:
        names = names[:ends] + names[-ends:]
    series = [
        bars(run.label, [ap(classes, name) for name in names], at)
        for at, run, classes in found
    ]
    counts = {name: first.get(name, {}).get('objects') for name in names}
    labels = [n if count is None else f'{n} ({count})' for n, count in counts.items()]
    title = f'AP by class, {title_of(task)} (objects)'
    if len(names) < total:
        title += f': the {ends} best and the {ends} worst of {total}'
    what = ('bar', f'classes-{task}', title, 'AP, 0-100')
    return chart(*what, series, categories=labels, top=100)


def _by_name(classes: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return classes by name; of those that share one, the id is part of it."""
    names = [str(one['name']) for one in classes]
    return {
        name if names.count(name) == 1 else f'{name}, id {one.get("id")}': one
        for name, one in zip(names, classes, strict=True)
    }


def _size_chart(task: str, runs: Sequence[Run]) -> Chart | None:
    """Return AP and AR of small, medium and large objects."""
    columns = {
        f'{kind}{size}': f'{kind}, {name}'
        for kind in ('AP', 'AR')
        for size, name in _SIZES.items()
    }
    series = [
        bars(run.label, [one['metrics'].get(key) for key in columns], at)
        for at, run, one in measured(runs, task)
    ]
    title = f'AP and AR by size of the objects, {title_of(task)}'
    what = ('bar', f'sizes-{task}', title, 'AP and AR, 0-100')
    return chart(*what, series, categories=list(columns.values()), top=100)


CLASSES = Section('classes', 'Classes', _classes, heading='Classes and sizes')


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
    return section(_precision_chart(task, runs) for task in tasks_of(runs))


def _precision_chart(task: str, runs: Sequence[Run]) -> Chart | None:
    lines = []
    for at, _, curves in analysed(runs, task, 'pr_curves'):
        for index, key in enumerate(('0.50:0.95', '0.50', '0.75')):
            if curves.get(key):
                points = zip(curves['recall'], curves[key], strict=True)
                name, colour, dash = style(runs, at, index, f'IoU {key}')
                lines.append(line(name, points, colour, dash))
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
    return section(draw(task, runs) for draw in kinds for task in tasks_of(runs))


def _error_chart(task: str, runs: Sequence[Run]) -> Chart | None:
    """Return what each kind of error costs, in AP50."""
    series = []
    for at, run, errors in analysed(runs, task, 'errors'):
        if delta := errors.get('delta_ap'):
            values = [delta.get(key) for key in _KINDS]
            series.append(bars(run.label, values, at))
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
            lines.append(line(error, points, at, notes=notes))
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
