"""Tables of COCO metrics: text, Markdown, CSV and LaTeX. No heavy import."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from eca_mmdet.datasets.detections import Detections
from eca_mmdet.datasets.ground_truth import GroundTruth
from eca_mmdet.evaluation.bootstrap import Difference
from eca_mmdet.evaluation.coco_eval import (
    MAX_DETS,
    ClassResult,
    Metrics,
    TaskResult,
    columns,
)
from eca_mmdet.utils.text import printable

FORMATS = ('table', 'md', 'csv', 'latex')
TITLES = {'bbox': 'box', 'segm': 'mask'}
CHANGE_HEADER = (
    *('class', 'id', 'objects', 'AP, first', 'AP, second'),
    *('difference', '95% CI low', '95% CI high'),
)
"""Columns of :func:`class_changes`; the last two only with a bootstrap."""


def format_ap(value: float | None, signed: bool = False) -> str:
    """Write 0-1 as 0-100 with one decimal, None as n/a."""
    if value is None:
        return 'n/a'
    rounded = round(value * 100, 1) + 0.0  # a difference of -0.0 is none
    return f'{rounded:+.1f}' if signed else f'{rounded:.1f}'


def rows_of(metrics: Mapping[str, float]) -> dict[str, Metrics]:
    """Collect COCO's columns from the numbers of ``CocoTableMetric``.

    They are 0-1, -1 for no object, with or without the ``coco/`` prefix. The result is
    ``{'box': {'AP': 0.39, ...}, 'mask': {...}}``, None for no object; a task that was
    not evaluated is absent.
    """
    plain = {key.removeprefix('coco/'): value for key, value in metrics.items()}
    rows = {}
    for task, title in TITLES.items():
        pattern = re.compile(rf'{task}_(A[PR](?:\d+|[SML])?)')
        found = {m[1]: v for key, v in plain.items() if (m := pattern.fullmatch(key))}
        if found:
            rows[title] = {k: None if v < 0 else float(v) for k, v in found.items()}
    return rows


def heading(max_dets: Sequence[int] = MAX_DETS) -> str:
    """Return the heading of a table."""
    line = 'COCO AP and AR, 0-100'
    if tuple(max_dets) == MAX_DETS:
        return line
    return (
        f'{line}; AP with at most {max_dets[-1]} detections an image and class '
        f"(max_dets {', '.join(map(str, max_dets))} instead of COCO's 1, 10, 100)"
    )


def ap_table(
    rows: Mapping[str, Metrics], style: str = 'table', signed: Container[str] = ()
) -> str:
    """Return a table with a line for each row, and the columns that the first has.

    The rows whose labels are in ``signed`` are differences.
    """
    if not rows:
        return ''
    names = list(next(iter(rows.values())))
    cells = [
        [label, *(format_ap(row[n], label in signed) for n in names)]
        for label, row in rows.items()
    ]
    return render(['', *names], cells, style)


def class_table(result: TaskResult, style: str = 'table') -> str:
    """Return a table with a line for each category: id, name, objects, numbers."""
    names = columns(result.max_dets)
    cells = [
        [each.name, str(each.id), str(each.objects)]
        + [format_ap(each.metrics[name]) for name in names]
        for each in result.classes
    ]
    return render(['category', 'id', 'objects', *names], cells, style)


def render(header: list[str], cells: list[list[str]], style: str) -> str:
    """Lay out a table whose first column is text and whose others are numbers.

    The style is one of ``FORMATS``; the last line has no newline.
    """
    header = list(map(printable, header))
    cells = [list(map(printable, row)) for row in cells]
    if style == 'csv':
        text = io.StringIO()
        csv.writer(text, lineterminator='\n').writerows([header, *cells])
        return text.getvalue().rstrip('\n')
    from tabulate import tabulate

    if style == 'md':
        cells = [[cell.replace('|', '\\|') for cell in row] for row in cells]
    layout = {'table': 'plain', 'md': 'pipe', 'latex': 'latex_booktabs'}[style]
    table: str = tabulate(
        cells,
        header,
        tablefmt=layout,
        disable_numparse=True,
        colalign=['left', *('right' for _ in header[1:])],
    )
    return table


@dataclass(frozen=True)
class Evaluated:
    """One result file: its label in tables, and by task its detections and numbers.

    ``minus_first`` are its differences to the first file.
    """

    path: str
    label: str
    sha256: str
    found: dict[str, Detections]
    results: dict[str, TaskResult]
    minus_first: dict[str, Difference] = field(default_factory=dict)

    @property
    def source(self) -> dict[str, str]:
        """The file and the sha256 of what was read."""
        return {'file': self.path, 'sha256': self.sha256}


def result_tables(
    truth: GroundTruth, files: Sequence[Evaluated], classwise: bool, style: str
) -> str:
    """Return the tables of result files and of their differences to the first.

    'table' has headings, 'md' and 'latex' have not, and 'csv' is one table.
    """
    limits = next(iter(files[0].results.values())).max_dets
    names = columns(limits)
    if style == 'csv':
        return _csv(files, classwise, names)
    parts = [render(['', *names], _cells(files, names), style)]
    if style == 'table':
        crowd = int(truth.crowd.sum())
        counts = (
            f'{len(truth.image_ids)} images, {len(truth.image) - crowd} objects and '
            f'{crowd} crowd regions of {len(truth.category_ids)} classes'
        )
        parts = [counts, f'{heading(limits)}:', *parts]
    for title, table in _class_tables(files, style) if classwise else ():
        title = printable(title)
        marks = {'table': title, 'md': f'**{title}**\n', 'latex': f'% {title}'}
        parts += ['', marks[style], table]
    if style == 'table' and (verdicts := list(_verdicts(files))):
        parts += ['', *map(printable, verdicts)]
    return '\n'.join(parts)


def _cells(files: Sequence[Evaluated], names: Sequence[str]) -> list[list[str]]:
    """Return the rows of the table of files and differences."""
    return [
        [
            {
                'value': f'{file.label}, {TITLES[task]}',
                'difference': f'difference ({file.label} - {files[0].label})',
            }.get(row, row),
            *(format_ap(numbers[name], row != 'value') for name in names),
        ]
        for file, task, part, rows in _rows(files)
        for row, numbers in rows.items()
        if part is None
    ]


def _class_tables(files: Sequence[Evaluated], style: str) -> Iterator[tuple[str, str]]:
    """Yield titles and tables: AP of the classes of both files, or of the only file."""
    first = files[0]
    for file in files[1:] or files:
        for task, result in file.results.items():
            if minus := file.minus_first.get(task):
                cells = class_changes(
                    *(map(asdict, f.results[task].classes) for f in (first, file)),
                    map(asdict, minus.classes),
                )
                title = f'{TITLES[task]} AP by class, the largest difference first:'
                header = [*CHANGE_HEADER[: len(cells[0])]] if cells else ['class']
                header[3:5] = f'AP {first.label}', f'AP {file.label}'
                yield title, render(header, cells, style)
            else:
                title = f'{file.label}, {TITLES[task]}, by class:'
                yield title, class_table(result, style)


def class_changes(
    first: Iterable[Mapping[str, Any]],
    second: Iterable[Mapping[str, Any]],
    minus: Iterable[Mapping[str, Any]] = (),
) -> list[list[str]]:
    """Return the cells of ``CHANGE_HEADER`` by class, the largest difference first.

    The arguments are lists of classes in ``metrics.json``: of two results, and of their
    difference, without which the interval is left out.
    """

    def by_class(
        classes: Iterable[Mapping[str, Any]], key: str
    ) -> dict[tuple[Any, str], float | None]:
        return {(c['id'], c['name']): c[key].get('AP') for c in classes if c[key]}

    minus = list(minus)
    others = by_class(second, 'metrics')
    ends = [by_class(minus, key) for key in ('low', 'high')]
    rows = []
    for each in first:
        key, ap = (each['id'], each['name']), each['metrics'].get('AP')
        other = others.get(key)
        change = None if ap is None or other is None else other - ap
        cells = [each['name'], str(each['id']), str(each['objects'])]
        cells += [format_ap(ap), format_ap(other), format_ap(change, True)]
        cells += [format_ap(end[key], True) for end in ends if key in end]
        rows.append((-1 if change is None else abs(change), cells))
    return [cells for _, cells in sorted(rows, key=lambda row: -row[0])]


def verdict(first: str, second: str, task: str, minus: Difference) -> str:
    """Return a sentence on the difference in AP of two detectors, '' without an AP.

    Args:
        first: name of the detector that was subtracted.
        second: name of the other one.
        task: 'bbox' or 'segm'.
        minus: second minus first.
    """
    change = minus.metrics.get('AP')
    if change is None:
        return ''
    where = 'below' if change < 0 else 'above'
    text = f'{second} is {format_ap(abs(change))} {TITLES[task]} AP {where} {first}'
    low, high = minus.low.get('AP'), minus.high.get('AP')
    if low is None or high is None:
        return text
    interval = f'95% interval {format_ap(low, True)} to {format_ap(high, True)}'
    chance = ': no clear difference' if low <= 0 <= high else ''
    return f'{text} ({interval}{chance})'


def _verdicts(files: Sequence[Evaluated]) -> Iterator[str]:
    for file in files:
        for task, minus in file.minus_first.items():
            if text := verdict(files[0].label, file.label, task, minus):
                yield text


def _rows(
    files: Sequence[Evaluated],
) -> Iterator[tuple[Evaluated, str, ClassResult | None, dict[str, Metrics]]]:
    """Yield (file, task, class, rows by name): numbers, and differences to the first.

    The class is None in the rows of all classes, which come before those of each.
    """
    for file in files:
        for task, result in file.results.items():
            minus = file.minus_first.get(task)
            parts = [(None, result.metrics, minus)]
            changes = minus.classes if minus else [None] * len(result.classes)
            for each, change in zip(result.classes, changes, strict=True):
                parts.append((each, each.metrics, change))
            for part, metrics, change in parts:
                rows = {'value': metrics}
                if change:
                    rows['difference'] = change.metrics
                    if change.low:
                        rows['95% CI low'], rows['95% CI high'] = (
                            change.low,
                            change.high,
                        )
                yield file, task, part, rows


def _csv(files: Sequence[Evaluated], classwise: bool, names: Sequence[str]) -> str:
    """Return one machine-readable table of files, differences and classes."""
    cells = []
    for file, task, part, rows in _rows(files):
        if part and not classwise:
            continue
        class_ = ('', '') if part is None else (part.name, str(part.id))
        objects = part.objects if part else file.results[task].counts['objects']
        for row, numbers in rows.items():
            label = (file.label, task, row, *class_, str(objects))
            cells.append([*label, *(format_ap(numbers[name]) for name in names)])
    header = ['results', 'type', 'row', 'class', 'class_id', 'objects', *names]
    return render(header, cells, 'csv')
