"""Tables of COCO metrics: text, Markdown, CSV and LaTeX. No heavy import."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eca_mmdet.datasets.detections import Detections
from eca_mmdet.datasets.ground_truth import GroundTruth
from eca_mmdet.evaluation.bootstrap import Difference
from eca_mmdet.evaluation.coco_eval import MAX_DETS, Metrics, TaskResult, columns
from eca_mmdet.utils.text import printable

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
    labels = {
        'minus first': f'minus {files[0].label}',
        'minus first, low': '95 % from',
        'minus first, high': 'to',
    }
    cells = [
        [
            labels.get(row, f'{file.label}, {TITLES[task]}'),
            *(format_ap(numbers[name], row in labels) for name in names),
        ]
        for file, task, rows in _rows(files)
        for row, numbers in rows.items()
    ]
    parts = [render(['', *names], cells, style)]
    if style == 'table':
        crowd = int(truth.crowd.sum())
        counts = (
            f'{len(truth.image_ids)} images, {len(truth.image) - crowd} objects and '
            f'{crowd} crowd regions of {len(truth.category_ids)} classes'
        )
        parts = [counts, f'{heading(limits)}:', *parts]
    for file in files if classwise else ():
        for task, result in file.results.items():
            title = f'{printable(file.label)}, {TITLES[task]}, by class:'
            marks = {'table': title, 'md': f'**{title}**\n', 'latex': f'% {title}'}
            parts += ['', marks[style], class_table(result, style)]
    return '\n'.join(parts)


def _rows(
    files: Sequence[Evaluated],
) -> Iterator[tuple[Evaluated, str, dict[str, Metrics]]]:
    """Yield (file, task, rows by name): its numbers and its difference to the first."""
    for file in files:
        for task, result in file.results.items():
            rows = {'value': result.metrics}
            if minus := file.minus_first.get(task):
                rows['minus first'] = minus.metrics
                if minus.low:
                    rows['minus first, low'] = minus.low
                    rows['minus first, high'] = minus.high
            yield file, task, rows


def flat_rows(files: Sequence[Evaluated], classwise: bool) -> list[dict[str, Any]]:
    """Return files, differences and classes as rows of one table.

    They have ``LABELS`` and COCO's columns, 0-1; None where there is no value.
    """
    table: list[tuple[Any, ...]] = []  # the numbers last
    for file, task, rows in _rows(files):
        result = file.results[task]
        for row, numbers in rows.items():
            objects = result.counts['objects'] if row == 'value' else None
            table.append((file.label, task, row, None, None, objects, numbers))
        for each in result.classes if classwise else ():
            label = (file.label, task, 'value', each.name, each.id, each.objects)
            table.append((*label, each.metrics))
    return [
        dict(zip(LABELS, label, strict=True)) | numbers for *label, numbers in table
    ]


def _csv(files: Sequence[Evaluated], classwise: bool, names: Sequence[str]) -> str:
    cells = [
        ['' if row[label] is None else str(row[label]) for label in LABELS]
        + [format_ap(row[name]) for name in names]
        for row in flat_rows(files, classwise)
    ]
    return render([*LABELS, *names], cells, 'csv')
