"""COCO's numbers of each run beside the published ones, by class and by size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eca_mmdet.catalog.published import PublishedRow, published_rows
from eca_mmdet.evaluation.tables import format_ap, heading
from eca_mmdet.reporting.charts import Chart, bar_chart, bars, chart_section, percent
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
    files = [(run.record or {}).get('annotations') or {} for run in runs]
    return {
        'tables': tables,
        'other_data': len({file.get('sha256') for file in files} - {None}) > 1,
        'any_reported': any('reported' in table['kinds'] for table in tables),
    }


def _table(task: str, runs: Sequence[Run]) -> dict[str, Any]:
    found = list(measured(runs, task))
    names = list(dict.fromkeys(n for *_, one in found for n in one['metrics']))
    heads = [{'text': run.label, 'colour': at} for at, run, _ in found]
    columns = [
        [format_ap(one['metrics'].get(name)) for name in names] for *_, one in found
    ]
    kinds = ['measured'] * len(columns)
    rows = {row.row: row for _, run, _ in found if (row := _published(run))}
    for row in rows.values():
        numbers = row.numbers().get(title_of(task), {})
        cells = [numbers[name].shown(1) if name in numbers else '' for name in names]
        if any(cells):
            columns.append(cells)
            heads.append({'text': row.row, 'colour': None})
            kinds.append('reported')
    limits = sorted({tuple(one['max_dets']) for *_, one in found if 'max_dets' in one})
    return {
        'task': task,
        'title': title_of(task),
        'heading': '; '.join(heading(one) for one in limits if one) or heading(),
        'heads': heads,
        'kinds': kinds,
        'rows': [
            {'name': name, 'cells': [column[at] for column in columns]}
            for at, name in enumerate(names)
        ],
    }


def _published(run: Run) -> PublishedRow | None:
    """Return the published row that the run's config is made for.

    The published numbers are of COCO's val2017: a run that was measured on anything
    else has none.
    """
    results: list[dict[str, Any]] = list(run.results.values())
    counts = results[0].get('counts') or {} if results else {}
    if (counts.get('images'), counts.get('categories')) != _VAL2017:
        return None
    name = (run.record or {}).get('config')
    return next((row for row in published_rows() if row.config == name), None)


RESULTS = Section(
    'results',
    'Results',
    _results,
    """
<h2>Results</h2>
<p class="lead">{{ tables[0].heading }}. n/a: no object is of that kind.</p>
{% if other_data %}<p class="missing" id="other-data">The runs were measured on different annotations (sha256): their numbers do not compare.</p>{% endif %}
<div class="tables">
{% for table in tables %}
<div class="scroll">
<table class="numbers" data-task="{{ table.task }}">
<caption>{{ table.title }}</caption>
<thead>
<tr><th></th>{% for head in table.heads %}<th>{% if head.colour is not none %}{{ swatch(head.colour) }}{% endif %}{{ head.text }}</th>{% endfor %}</tr>
<tr class="kinds"><th></th>{% for kind in table.kinds %}<th>{{ kind }}</th>{% endfor %}</tr>
</thead>
<tbody>
{% for row in table.rows %}<tr><th scope="row">{{ row.name }}</th>{% for cell in row.cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
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
    classes = [chart for task in tasks if (chart := _class_chart(task, runs))]
    sizes = [_size_chart(task, runs) for task in tasks]
    return chart_section((*classes, *sizes)) if classes else None


def _class_chart(task: str, runs: Sequence[Run]) -> Chart | None:
    """Return AP by class, the first run's best first, with the numbers of objects."""
    found = [each for each in measured(runs, task) if each[2].get('classes')]
    if not found:
        return None
    by_run = [_by_name(results['classes']) for *_, results in found]
    names = list(dict.fromkeys(name for classes in by_run for name in classes))

    def ap(classes: dict[str, Any], name: str) -> float | None:
        value = classes.get(name, {}).get('metrics', {}).get('AP')
        return None if value is None else float(value)

    first = by_run[0]
    names.sort(key=lambda name: -1 if (v := ap(first, name)) is None else v)
    names.reverse()
    total = len(names)
    ends = max(_MOST_BARS // len(found) // 2, 1)
    if total > 2 * ends:
        names = names[:ends] + names[-ends:]
    series = [
        bars(run.label, [percent(ap(classes, name)) for name in names], at)
        for (at, run, _), classes in zip(found, by_run, strict=True)
    ]
    counts = [first.get(name, {}).get('objects') for name in names]
    labels = [
        name if count is None else f'{name} ({count})'
        for name, count in zip(names, counts, strict=True)
    ]
    title = f'AP by class, {title_of(task)} (objects)'
    if len(names) < total:
        title += f': the {ends} best and the {ends} worst of {total}'
    return bar_chart(f'classes-{task}', title, 'AP, 0-100', labels, series, top=100)


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
        bars(run.label, [percent(one['metrics'].get(key)) for key in columns], at)
        for at, run, one in measured(runs, task)
    ]
    title = f'AP and AR by size of the objects, {title_of(task)}'
    names = list(columns.values())
    return bar_chart(f'sizes-{task}', title, 'AP and AR, 0-100', names, series, top=100)


CLASSES = Section(
    'classes',
    'Classes',
    _classes,
    '<h2>Classes and sizes</h2>{{ plots(charts) }}',
)
