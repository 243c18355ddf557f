"""COCO's numbers of each run beside the published ones, by class and by size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eca_mmdet.catalog.published import published_rows
from eca_mmdet.evaluation.tables import format_ap, heading
from eca_mmdet.reporting import charts
from eca_mmdet.reporting.charts import Chart, chart, percent
from eca_mmdet.reporting.run import Options, Run, measured, tasks_of, title_of
from eca_mmdet.reporting.sections import Section

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
    return charts.section(classes + sizes) if any(classes) else None


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
        charts.bars(run.label, [percent(ap(classes, name)) for name in names], at)
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
        charts.bars(
            run.label, [percent(one['metrics'].get(key)) for key in columns], at
        )
        for at, run, one in measured(runs, task)
    ]
    title = f'AP and AR by size of the objects, {title_of(task)}'
    what = ('bar', f'sizes-{task}', title, 'AP and AR, 0-100')
    return chart(*what, series, categories=list(columns.values()), top=100)


CLASSES = Section('classes', 'Classes', _classes, heading='Classes and sizes')
