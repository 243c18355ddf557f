"""Tables of COCO metrics: text, Markdown, CSV and LaTeX. No heavy import."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from eca_mmdet.datasets.detections import Detections
from eca_mmdet.datasets.ground_truth import GroundTruth
from eca_mmdet.evaluation.bootstrap import ClassDifference, Difference
from eca_mmdet.evaluation.coco_eval import MAX_DETS, Metrics, TaskResult, columns
from eca_mmdet.utils.text import first, printable

LABELS = ('results', 'type', 'row', 'class', 'class_id', 'objects')
"""Columns before the numbers in a table for programs."""

FORMATS = ('table', 'md', 'csv', 'latex')
TITLES = {'bbox': 'box', 'segm': 'mask'}


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
    return render(['', *names], _ap_cells(rows, names, signed), style)


def _ap_cells(
    rows: Mapping[str, Metrics], names: Iterable[str], signed: Container[str]
) -> list[list[str]]:
    return [
        [label, *(format_ap(row[name], label in signed) for name in names)]
        for label, row in rows.items()
    ]


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
    first, *others = files
    limits = next(iter(first.results.values())).max_dets
    names = columns(limits)
    if style == 'csv':
        return _csv(files, classwise, names)
    cells = []
    for file, task, result, minus in _results(files):
        value = {f'{file.label}, {TITLES[task]}': result.metrics}
        changes = difference_rows(minus, f'difference ({file.label} - {first.label})')
        cells += _ap_cells(value | changes, names, changes)
    parts = [render(['', *names], cells, style)]
    if style == 'table':
        crowd = int(truth.crowd.sum())
        counts = (
            f'{len(truth.image_ids)} images, {len(truth.image) - crowd} objects and '
            f'{crowd} crowd regions of {len(truth.category_ids)} classes'
        )
        parts = [counts, f'{heading(limits)}:', *parts]
    verdicts = []
    for file, task, result, minus in _results(others or files):
        title = f'{printable(file.label)}, {TITLES[task]}, by class:'
        if minus:
            title = f'{TITLES[task]} AP by class, the largest difference first:'
            verdicts.append(verdict(first.label, file.label, task, minus))
        if classwise:
            marks = {'table': title, 'md': f'**{title}**\n', 'latex': f'% {title}'}
            parts += ['', marks[style]]
            if minus:
                labels, each = (first.label, file.label), (first.results[task], result)
                classes = (map(asdict, part.classes) for part in (*each, minus))
                parts.append(render(*class_changes(labels, *classes), style))
                if style == 'table' and minus.low:
                    parts.append(_clear_changes(minus))
            else:
                parts.append(class_table(result, style))
    if style == 'table' and any(verdicts):
        parts += ['', *filter(None, map(printable, verdicts))]
    return '\n'.join(parts)


def _clear_changes(minus: Difference) -> str:
    """Return a line of the classes whose interval excludes 0, largest first."""
    clear = [
        (each.metrics['AP'], each.name)
        for each in minus.classes
        if each.low and each.low['AP'] is not None and each.high['AP'] is not None
        if each.low['AP'] > 0 or each.high['AP'] < 0
    ]
    clear.sort(key=lambda pair: -abs(pair[0] or 0))
    names = [f'{name} {format_ap(change, True)}' for change, name in clear]
    return (
        f'interval without 0: {first(names, 10) if names else "no class"}; '
        'n/a: all objects of the class are on one image'
    )


def _results(
    files: Iterable[Evaluated],
) -> Iterator[tuple[Evaluated, str, TaskResult, Difference | None]]:
    """Yield (file, task, numbers, difference to the first file)."""
    for file in files:
        for task, result in file.results.items():
            yield file, task, result, file.minus_first.get(task)


def difference_rows(
    minus: Difference | ClassDifference | None, title: str = 'difference'
) -> dict[str, Metrics]:
    """Return the rows of a difference by their labels, with those of its interval."""
    rows = {title: minus.metrics} if minus else {}
    if minus and minus.low:
        rows |= {'95% CI low': minus.low, '95% CI high': minus.high}
    return rows


def class_changes(
    labels: Sequence[str],
    first: Iterable[Mapping[str, Any]],
    second: Iterable[Mapping[str, Any]],
    minus: Iterable[Mapping[str, Any]] = (),
) -> tuple[list[str], list[list[str]]]:
    """Return header and cells of AP by class, the largest difference first.

    The classes of both results and of their difference are as in ``metrics.json``.
    """
    header = ['class', 'id', 'objects', *(f'AP {label}' for label in labels)]
    others = {(c['id'], c['name']): c['metrics'].get('AP') for c in second}
    ends = {
        (c['id'], c['name']): [format_ap(c[end]['AP'], True) for end in ('low', 'high')]
        for c in minus
        if c['low']
    }
    rows = []
    for each in first:
        key, ap = (each['id'], each['name']), each['metrics'].get('AP')
        other = others.get(key)
        change = None if ap is None or other is None else other - ap
        cells = [each['name'], str(each['id']), str(each['objects'])]
        cells += [format_ap(ap), format_ap(other), format_ap(change, True)]
        rows.append((-1 if change is None else abs(change), cells + ends.get(key, [])))
    rows.sort(key=lambda row: -row[0])
    interval = ['95% CI low', '95% CI high'] if ends else []
    return [*header, 'difference', *interval], [cells for _, cells in rows]


def verdict(first: str, second: str, task: str, minus: Difference) -> str:
    """Return a sentence on the difference in AP, second minus first; '' without an AP.

    ``first`` and ``second`` are names of detectors, ``task`` is 'bbox' or 'segm'.
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
    return f'{text} ({interval}{": no clear difference" * (low <= 0 <= high)})'


def flat_rows(files: Sequence[Evaluated], classwise: bool) -> list[dict[str, Any]]:
    """Return files, classes and their differences as rows of one table.

    They have ``LABELS`` and COCO's columns, 0-1; None where there is no value.
    """
    table = []
    for file, task, result, minus in _results(files):
        parts: list[tuple[Any, ...]] = [
            (None, None, result.counts['objects'], result.metrics, minus)
        ]
        for each, change in itertools.zip_longest(
            result.classes if classwise else (),
            minus.classes if classwise and minus else (),
        ):
            parts.append((each.name, each.id, each.objects, each.metrics, change))
        for *labels, metrics, change in parts:
            for row, numbers in ({'value': metrics} | difference_rows(change)).items():
                names = (file.label, task, row, *labels)
                table.append(dict(zip(LABELS, names, strict=True)) | numbers)
    return table


def _csv(files: Sequence[Evaluated], classwise: bool, names: Sequence[str]) -> str:
    cells = [
        ['' if row[label] is None else str(row[label]) for label in LABELS]
        + [format_ap(row[name]) for name in names]
        for row in flat_rows(files, classwise)
    ]
    return render([*LABELS, *names], cells, 'csv')
