"""COCO's numbers of each run beside the published ones, and the errors behind them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from eca_mmdet.catalog.published import published_rows
from eca_mmdet.evaluation.bootstrap import Difference, subtract
from eca_mmdet.evaluation.error_analysis import TIDE_ERRORS
from eca_mmdet.evaluation.tables import (
    class_changes,
    difference_rows,
    format_ap,
    heading,
    verdict,
)
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
    """Return a table a task: a row for each run, difference and published row."""
    tables = [_table(task, runs) for task in tasks_of(runs)]
    if not tables:
        return None
    sums = {run.recorded('annotations', 'sha256') for run in runs}
    return {
        'tables': tables,
        'verdicts': [
            verdict(first.label, run.label, task, minus)
            for task in tasks_of(runs)
            for first, run, minus, _ in compared(runs, task)
        ],
        'other_data': len(sums - {None}) > 1,
    }


def compared(
    runs: Sequence[Run], task: str
) -> Iterator[tuple[Run, Run, Difference, Sequence[Any]]]:
    """Yield (first run, other run, other minus first, its classes in metrics.json).

    The runs are of the same objects. Result files of one evaluation have intervals and
    classes, if it drew samples.
    """
    found = list(measured(runs, task))
    for _, run, other in found[1:]:
        _, first, one = found[0]
        sums = [each.recorded('annotations', 'sha256') for each in (first, run)]
        if sums[0] != sums[1] or one['metrics'].keys() != other['metrics'].keys():
            continue
        minus: dict[str, Any] = {}
        if run.record_path == first.record_path:
            minus = ((run.record or {}).get('minus_first') or {}).get(task) or {}
        low, high = (minus.get(end) or {} for end in ('low', 'high'))
        change = Difference(subtract(one['metrics'], other['metrics']), low, high)
        yield first, run, change, minus.get('classes') or ()


def _table(task: str, runs: Sequence[Run]) -> dict[str, Any]:
    found = list(measured(runs, task))
    names = list(dict.fromkeys(n for *_, one in found for n in one['metrics']))
    changes = {run.label: minus for _, run, minus, _ in compared(runs, task)}
    rows: list[tuple[str, int | None, list[str]]] = []
    for at, run, one in found:
        cells = [format_ap(one['metrics'].get(name)) for name in names]
        rows.append((run.label, at, cells))
        title = f'difference ({run.label} - {found[0][1].label})'
        for label, ends in difference_rows(changes.get(run.label), title).items():
            cells = [format_ap(ends.get(name), True) for name in names]
            rows.append((label, None, cells))
    published = {row.config: row for row in published_rows()}
    configs = [
        (run.record or {}).get('config')
        for _, run, _ in found  # published numbers are of COCO's val2017
        if (run.counts.get('images'), run.counts.get('categories')) == _VAL2017
    ]
    reported = [published[c] for c in dict.fromkeys(configs) if c in published]
    for row in reported:
        numbers = row.numbers().get(title_of(task), {})
        cells = [numbers[name].shown(1) if name in numbers else '' for name in names]
        if any(cells):
            rows.append((f'{row.row}, reported', None, cells))
    limits = sorted({tuple(one['max_dets']) for *_, one in found if 'max_dets' in one})
    return {
        'task': task,
        'title': title_of(task),
        'heading': '; '.join(heading(one) for one in limits if one) or heading(),
        'names': names,
        'rows': rows,
        'reported': bool(reported),
        'tiles': [
            (run.label, at, name, format_ap(one['metrics'][name]))
            for at, run, one in found
            for name in ('AP', 'AP50')
            if name in one['metrics']
        ],
    }


RESULTS = Section('results', 'Results', _results)


def _classes(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return charts of classes and of sizes, and tables of what differs by class."""
    tasks = tasks_of(runs)
    classes = [_class_chart(task, runs) for task in tasks]
    if not any(classes):
        return None
    changes = []
    for task in tasks:
        for first, run, _, minus in compared(runs, task):
            parts = (first.results[task], run.results[task], {'classes': minus})
            by_class = (part.get('classes') or () for part in parts)
            header, rows = class_changes((first.label, run.label), *by_class)
            table = {'task': task, 'title': title_of(task), 'run': run.label}
            changes.append(table | {'header': header, 'rows': rows})
    sizes = [_size_chart(task, runs) for task in tasks]
    return {**(section(classes + sizes) or {}), 'changes': changes}


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


_TABLED_CLASSES = 40
"""Confusion matrices of up to so many classes have their numbers in the cells."""
_MATRIX_CLASSES = 120  # larger ones are shown by their most frequent confusions only
_PAIRS = 12


def _precision(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return charts of precision over recall and of all over the score."""
    kinds = (_precision_chart, _score_chart)
    charts = section(draw(task, runs) for draw in kinds for task in tasks_of(runs))
    best = [
        {
            'task': task,
            'title': title_of(task),
            'run': run.label,
            'colour': at,
            'rows': [
                [each['name'], each['objects']]
                + [f'{each[k]:.2f}' for k in ('score', 'precision', 'recall', 'f1')]
                for each in curves['classes']
                if each['f1']
            ],
        }
        for task in tasks_of(runs)
        for at, run, curves in analysed(runs, task, 'score_curves')
    ]
    return charts and {**charts, 'best': best}


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


def _score_chart(task: str, runs: Sequence[Run]) -> Chart | None:
    """Return precision, recall and F1 over the score."""
    lines, best = [], []
    for at, run, curves in analysed(runs, task, 'score_curves'):
        for index, key in enumerate(('f1', 'precision', 'recall')):
            points = zip(curves['scores'], curves[key], strict=True)
            name, colour, dash = style(runs, at, index, key.replace('f1', 'F1'))
            lines.append(line(name, points, colour, dash))
        if curves['best']['f1']:
            where = f'{curves["best"]["f1"]:.2f} at score {curves["best"]["score"]:.2f}'
            best.append(f'{run.label}: {where}' if len(runs) > 1 else where)
    title = f'Precision, recall and F1 over score, {title_of(task)}'
    if best:
        title += f'; best F1 {", ".join(best)}'
    what = ('line', f'scores-{task}', title, 'precision, recall, F1')
    return chart(*what, lines, x='score', **UNIT_SQUARE)


PRECISION = Section(
    'precision', 'Precision', _precision, heading='Precision, recall and F1'
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
            values = [delta.get(key) for key in TIDE_ERRORS]
            series.append(bars(run.label, values, at))
    what = ('bar', f'errors-{task}', f'TIDE errors, {title_of(task)}')
    kinds: dict[str, Any] = {'categories': list(TIDE_ERRORS)}
    kinds['glosses'] = list(TIDE_ERRORS.values())
    return chart(*what, 'AP50 gain if fixed, 0-100', series, **kinds)


def _calibration_chart(task: str, runs: Sequence[Run]) -> Chart | None:
    """Return how often detections of a score are right, at IoU 0.5."""
    lines = []
    for at, run, calibration in analysed(runs, task, 'calibration'):
        used = [each for each in calibration.get('bins') or [] if each.get('count')]
        if used:
            points = [(each['avg_confidence'], each['avg_accuracy']) for each in used]
            notes = [f'{each["count"]} detections' for each in used]
            error = f'{run.label}: ECE {calibration["ece"]:.3f}'
            lines.append(line(error, points, at, notes=notes))
    what = ('line', f'calibration-{task}', f'Calibration, {title_of(task)}')
    more = dict(UNIT_SQUARE, x='confidence', marks=True, diagonal=True)
    return chart(*what, 'accuracy', lines, **more)


ERRORS = Section('errors', 'Errors', _errors)


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


CONFUSION = Section('confusion', 'Confusion', _confusion)
