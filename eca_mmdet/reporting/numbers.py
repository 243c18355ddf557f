"""Sections of the page that show metrics.json."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from eca_mmdet.catalog.published import PublishedRow, published_rows
from eca_mmdet.evaluation.tables import TITLES, format_ap
from eca_mmdet.reporting.charts import Chart, bar_chart, bars, line, line_chart, percent
from eca_mmdet.reporting.run import Run

SIZES = {
    'S': 'small, below 32² px',
    'M': 'medium, to 96² px',
    'L': 'large',
}
ERRORS = {
    'Cls': 'wrong class',
    'Loc': 'poor place',
    'Both': 'wrong class, poor place',
    'Dupe': 'found twice',
    'Bkg': 'nothing is there',
    'Miss': 'missed',
}
_VAL2017 = (5000, 80)
_MOST_BARS = 480
"""Of a chart; browsers draw nothing on a canvas of more than some 16,000 pixels."""
_UNIT_SQUARE = {'top': 1, 'zero': True, 'right': 1}
_TABLED_CLASSES = 40
"""Confusion matrices of up to so many classes have their numbers in the cells."""
_MATRIX_CLASSES = 120
"""Larger ones are shown by their most frequent confusions alone."""
_PAIRS = 12


def tasks_of(runs: Sequence[Run]) -> list[str]:
    """Return the tasks that some run was measured on, boxes first."""
    return sorted({task for run in runs for task in run.results})


def title_of(task: str) -> str:
    """Return 'box' or 'mask'."""
    return TITLES.get(task, task)


def having(runs: Sequence[Run], task: str) -> Iterator[tuple[int, Run, Any]]:
    """Yield (colour, run, results) of the runs measured on a task."""
    for index, run in enumerate(runs):
        if task in run.results:
            yield index, run, run.results[task]


def data_differ(runs: Sequence[Run]) -> bool:
    """Tell whether runs were measured on annotation files of different content."""
    files = [(run.record or {}).get('annotations') for run in runs]
    sums = {one.get('sha256') for one in files if isinstance(one, dict)}
    return len(sums - {None}) > 1


def reported(run: Run) -> PublishedRow | None:
    """Return the published row that the run's config is made for.

    The published numbers are of COCO's val2017: a run that was measured on anything
    else has none.
    """
    results: list[dict[str, Any]] = list(run.results.values())
    counts = results[0].get('counts') or {} if results else {}
    if (counts.get('images'), counts.get('categories')) != _VAL2017:
        return None
    name = (run.record or {}).get('config')
    return next((one for one in published_rows() if one.config == name), None)


def result_tables(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return a table a task: COCO's columns downwards, each source in its column."""
    tables = []
    for task in tasks_of(runs):
        found = list(having(runs, task))
        names = list(dict.fromkeys(n for *_, one in found for n in one['metrics']))
        heads = [{'text': run.label, 'colour': at} for at, run, _ in found]
        columns = [
            [format_ap(one['metrics'].get(name)) for name in names]
            for _, _, one in found
        ]
        kinds = ['measured'] * len(columns)
        rows = {one.row: one for _, run, _ in found if (one := reported(run))}
        for row in rows.values():
            numbers = row.numbers().get(title_of(task), {})
            cells = [
                numbers[name].shown(1) if name in numbers else '' for name in names
            ]
            if any(cells):
                columns.append(cells)
                heads.append({'text': row.row, 'colour': None})
                kinds.append('reported')
        tables.append(
            {
                'task': task,
                'title': title_of(task),
                'heads': heads,
                'kinds': kinds,
                'rows': [
                    {'name': name, 'cells': [column[at] for column in columns]}
                    for at, name in enumerate(names)
                ],
                'limits': sorted({tuple(one.get('max_dets', ())) for *_, one in found}),
            }
        )
    return tables


def precision_charts(runs: Sequence[Run]) -> list[Chart]:
    """Return precision over recall: a colour a run, a dash an IoU."""
    charts = []
    for task in tasks_of(runs):
        lines = []
        for at, run, _ in having(runs, task):
            curves = (run.analysis.get(task) or {}).get('pr_curves') or {}
            for dash, key in enumerate(('0.50:0.95', '0.50', '0.75')):
                if curves.get(key):
                    name = f'IoU {key}'
                    many = len(runs) > 1
                    pairs = zip(curves['recall'], curves[key], strict=False)
                    lines.append(
                        line(
                            f'{run.label}, {name}' if many else name,
                            pairs,
                            at if many else dash,
                            dash if many else 0,
                        )
                    )
        if lines:
            title = f'Precision and recall, {title_of(task)}'
            chart = line_chart(f'pr-{task}', title, 'recall', 'precision', lines)
            charts.append({**chart, **_UNIT_SQUARE})
    return charts


def class_charts(runs: Sequence[Run]) -> list[Chart]:
    """Return AP by class, the first run's best first, with the numbers of objects."""
    charts = []
    for task in tasks_of(runs):
        found = [one for one in having(runs, task) if one[2].get('classes')]
        if not found:
            continue
        by_run = [_by_name(results['classes']) for *_, results in found]
        names = list(dict.fromkeys(name for one in by_run for name in one))

        def ap(one: dict[str, Any], name: str) -> float | None:
            value = one.get(name, {}).get('metrics', {}).get('AP')
            return None if value is None else float(value)

        first = by_run[0]
        names.sort(key=lambda name: -1 if (v := ap(first, name)) is None else v)
        names.reverse()
        total = len(names)
        ends = max(_MOST_BARS // len(found) // 2, 1)
        if total > 2 * ends:
            names = names[:ends] + names[-ends:]
        series = [
            bars(run.label, [percent(ap(one, name)) for name in names], at)
            for (at, run, _), one in zip(found, by_run, strict=True)
        ]
        counts = [first.get(name, {}).get('objects') for name in names]
        labels = [
            name if count is None else f'{name} ({count})'
            for name, count in zip(names, counts, strict=True)
        ]
        title = f'AP by class, {title_of(task)} (objects)'
        if len(names) < total:
            title += f': the {ends} best and the {ends} worst of {total}'
        charts.append(
            bar_chart(f'classes-{task}', title, 'AP, 0-100', labels, series, top=100)
        )
    return charts


def _by_name(classes: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return classes by name; of those that share one, the id is part of it."""
    names = [str(one['name']) for one in classes]
    return {
        name if names.count(name) == 1 else f'{name}, id {one.get("id")}': one
        for name, one in zip(names, classes, strict=True)
    }


def size_charts(runs: Sequence[Run]) -> list[Chart]:
    """Return AP and AR of small, medium and large objects."""
    columns = {
        f'{kind}{size}': f'{kind}, {name}'
        for kind in ('AP', 'AR')
        for size, name in SIZES.items()
    }
    charts = []
    for task in tasks_of(runs):
        series = [
            bars(run.label, [percent(one['metrics'].get(key)) for key in columns], at)
            for at, run, one in having(runs, task)
        ]
        title = f'AP and AR by size of the objects, {title_of(task)}'
        names = list(columns.values())
        charts.append(
            bar_chart(
                f'sizes-{task}', title, 'AP and AR, 0-100', names, series, top=100
            )
        )
    return charts


def error_charts(runs: Sequence[Run]) -> list[Chart]:
    """Return what each kind of error costs, in AP50."""
    charts = []
    for task in tasks_of(runs):
        series = []
        for at, run, _ in having(runs, task):
            errors = (run.analysis.get(task) or {}).get('errors') or {}
            delta = errors.get('delta_ap')
            if delta:
                values = [percent(delta.get(key)) for key in ERRORS]
                series.append(bars(run.label, values, at))
        if series:
            charts.append(
                bar_chart(
                    f'errors-{task}',
                    f'What errors cost, {title_of(task)}',
                    'AP50 to be won without them, 0-100',
                    list(ERRORS.values()),
                    series,
                )
            )
    return charts


def calibration_charts(runs: Sequence[Run]) -> list[Chart]:
    """Return how often detections of a score are right, at IoU 0.5."""
    charts = []
    for task in tasks_of(runs):
        lines = []
        for at, run, _ in having(runs, task):
            found = (run.analysis.get(task) or {}).get('calibration') or {}
            used = [one for one in found.get('bins') or [] if one.get('count')]
            if used:
                points = [(one['avg_confidence'], one['avg_accuracy']) for one in used]
                notes = [f'{one["count"]} detections' for one in used]
                error = f'{run.label}: error {100 * found["ece"]:.1f} %'
                lines.append(line(error, points, at, notes=notes))
        if lines:
            chart = line_chart(
                f'calibration-{task}',
                f'Calibration, {title_of(task)}',
                'score',
                'share of right detections',
                lines,
            )
            charts.append({**chart, **_UNIT_SQUARE, 'marks': True, 'diagonal': True})
    return charts


def confusions(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return a matrix a run and task: rows are objects, columns detections."""
    found = []
    for task in tasks_of(runs):
        for at, run, _ in having(runs, task):
            one = (run.analysis.get(task) or {}).get('confusion')
            if one and one.get('matrix'):
                found.append(_confusion(one, task, run, at))
    return found


def _confusion(one: dict[str, Any], task: str, run: Run, at: int) -> dict[str, Any]:
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
