"""COCO's numbers of each run, beside the published ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eca_mmdet.catalog.published import PublishedRow, published_rows
from eca_mmdet.evaluation.tables import format_ap, heading
from eca_mmdet.reporting.run import Options, Run, measured, tasks_of, title_of

ID = 'results'
TITLE = 'Results'
TEMPLATE = """
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
"""  # noqa: E501

_VAL2017 = (5000, 80)


def context(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return a table a task: COCO's columns downwards, each source in its column."""
    tables = [_table(task, runs) for task in tasks_of(runs)]
    if not tables:
        return None
    return {
        'tables': tables,
        'other_data': _data_differ(runs),
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


def _data_differ(runs: Sequence[Run]) -> bool:
    """Tell whether runs were measured on annotation files of different content."""
    files = [(run.record or {}).get('annotations') or {} for run in runs]
    return len({file.get('sha256') for file in files} - {None}) > 1
