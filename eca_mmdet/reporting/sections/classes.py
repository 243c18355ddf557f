"""AP by class, and AP and AR by size of the objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eca_mmdet.reporting.charts import Chart, bar_chart, bars, percent
from eca_mmdet.reporting.run import Options, Run, measured, tasks_of, title_of

ID = 'classes'
TITLE = 'Classes'
TEMPLATE = '<h2>Classes and sizes</h2>{{ plots(charts) }}'

_SIZES = {
    'S': 'small, below 32² px',
    'M': 'medium, to 96² px',
    'L': 'large',
}
_MOST_BARS = 480
"""Of a chart; browsers draw nothing on a canvas of more than some 16,000 pixels."""


def context(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return charts of classes and of sizes; None where no classes are recorded."""
    tasks = tasks_of(runs)
    classes = [chart for task in tasks if (chart := _class_chart(task, runs))]
    sizes = [_size_chart(task, runs) for task in tasks]
    return {'charts': classes + sizes} if classes else None


def _class_chart(task: str, runs: Sequence[Run]) -> Chart | None:
    """Return AP by class, the first run's best first, with the numbers of objects."""
    found = [one for one in measured(runs, task) if one[2].get('classes')]
    if not found:
        return None
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
    return bar_chart(f'classes-{task}', title, 'AP, 0-100', labels, series, top=100)


def _by_name(classes: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return classes by name; of those that share one, the id is part of it."""
    names = [str(one['name']) for one in classes]
    return {
        name if names.count(name) == 1 else f'{name}, id {one.get("id")}': one
        for name, one in zip(names, classes, strict=True)
    }


def _size_chart(task: str, runs: Sequence[Run]) -> Chart:
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
