"""Tables of COCO's numbers: text, Markdown, CSV and LaTeX. No heavy import."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Container, Mapping, Sequence

from eca_mmdet.evaluation.coco_eval import MAX_DETS, Metrics, TaskResult, columns
from eca_mmdet.utils.text import printable

FORMATS = ('table', 'md', 'csv', 'latex')
TITLES = {'bbox': 'box', 'segm': 'mask'}

Row = tuple[str, Metrics]
"""A label, and 0-1 by column."""


def format_ap(value: float | None, signed: bool = False) -> str:
    """Write 0-1 as 0-100 with one decimal, None as n/a."""
    if value is None:
        return 'n/a'
    rounded = round(value * 100, 1) + 0.0  # a difference of -0.0 is none
    return f'{rounded:+.1f}' if signed else f'{rounded:.1f}'


def rows_of(metrics: Mapping[str, float]) -> dict[str, Metrics]:
    """Collect COCO's columns from what ``CocoTableMetric`` returns.

    Args:
        metrics: with or without the ``coco/`` prefix; 0-1, -1 for no object.

    Returns:
        ``{'box': {'AP': 0.39, ...}, 'mask': {...}}``, None for no object; a task that
        was not evaluated is absent.
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
    """Say what the numbers of a table are."""
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

    Args:
        rows: label to numbers.
        style: of :func:`render`.
        signed: labels of the rows that are differences.
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
        [one.name, str(one.id), str(one.objects)]
        + [format_ap(one.metrics[name]) for name in names]
        for one in result.classes
    ]
    return render(['category', 'id', 'objects', *names], cells, style)


def render(header: list[str], cells: list[list[str]], style: str) -> str:
    """Lay out a table whose first column is text and whose others are numbers.

    Args:
        header: one name a column.
        cells: rows as strings.
        style: one of ``FORMATS``.

    Returns:
        Lines without a trailing newline.
    """
    header = [printable(one) for one in header]
    cells = [[printable(cell) for cell in row] for row in cells]
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
