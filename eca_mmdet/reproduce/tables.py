"""Verdicts, and the published tables with a measured row under each reported one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eca_mmdet.catalog.published import AP_COLUMNS, MARK, PublishedRow, cells_of
from eca_mmdet.evaluation.tables import TITLES, format_ap, render

WITHIN, OUTSIDE = 'within', 'outside'
NO_WEIGHTS, FAILED = 'no weights', 'failed'

Ap = dict[str, float | None]  # 0-100 by column; None where no object is counted


@dataclass(frozen=True)
class Comparison:
    """Comparison of one task of a row."""

    measured: Ap
    difference: Ap  # measured minus published, in the columns that both have
    verdict: str  # whether AP is 'within' or 'outside' the tolerance


@dataclass(frozen=True)
class RowOutcome:
    """Outcome of one row: 'within', 'outside', 'no weights' or 'failed'."""

    row: PublishedRow
    verdict: str
    detail: str  # why nothing was measured, or what was assumed
    cost: dict[str, float]  # ``params_m`` and ``gflops``, counted here
    measured: dict[str, Comparison]  # by task; empty if nothing was measured
    tolerance: float | None = None  # of AP, 0-100
    released: bool = False  # a published detector, not one trained again


def compare(
    row: PublishedRow, measured: Mapping[str, Ap], tolerance: float
) -> dict[str, Comparison]:
    """Compare a row with ``measured``: 0-1 by task ('box', 'mask') and column.

    A task that was not measured is outside the tolerance, which is for AP, 0-100.
    """
    compared, limit = {}, tolerance + 1e-9
    for task, published in row.numbers().items():
        columns = measured.get(task, {}).items()
        percent = {name: None if ap is None else ap * 100 for name, ap in columns}
        delta = {
            name: None if (value := percent.get(name)) is None else value - number.value
            for name, number in published.items()
        }
        ap, verdict = percent.get('AP'), OUTSIDE
        # Published numbers have one decimal.
        if ap is not None and abs(round(ap, 1) - published['AP'].value) <= limit:
            verdict = WITHIN
        compared[task] = Comparison(percent, delta, verdict)
    return compared


def overall(compared: Mapping[str, Comparison]) -> str:
    """Return 'within' if every task is."""
    within = {each.verdict for each in compared.values()} == {WITHIN}
    return WITHIN if within else OUTSIDE


def as_tables(
    outcomes: Sequence[RowOutcome],
    departure: str,
    style: str = 'table',
    options: Sequence[str] = (),
) -> str:
    """Return box and mask tables in the style 'table', 'md' or 'latex'.

    ``departure`` is how the data differ from val2017; it stands over the tables and in
    each measured row. ``options`` are config overrides that apply to every row.
    """
    header = ['', 'Params (M)', 'GFLOPs', *AP_COLUMNS, 'verdict']
    parts = []
    if departure:
        parts.append(_comment(f'NOT COMPARABLE: measured on {departure}.', style))
    if options:
        parts.append(_comment(f'measured with {" ".join(options)}', style))
    for task in TITLES.values():
        rows = [each for each in outcomes if task in each.row.numbers()]
        cells = [line for each in rows for line in _lines(each, task, departure)]
        if cells:
            title = f'{task} AP: reported (as published), measured here, difference'
            parts.append(_comment(title, style) + '\n' + render(header, cells, style))
    if any(MARK in cell for each in outcomes for cell in cells_of(each.row, 'box')):
        parts.append(_comment(f'{MARK} confirmed in no copy of the paper', style))
    assumed = [each for each in outcomes if each.measured and each.detail]
    parts += [_comment(f'{each.row.row}: {each.detail}', style) for each in assumed]
    return '\n\n'.join(parts)


def _comment(text: str, style: str) -> str:
    escaped = text.replace('%', '\\%').replace('_', '\\_').replace('&', '\\&')
    return {'md': f'**{text}**\n', 'latex': f'\\par {escaped}'}.get(style, text)


def _lines(outcome: RowOutcome, task: str, departure: str) -> list[list[str]]:
    row, counted = outcome.row, outcome.cost
    reported = [f'{row.row} reported', *cells_of(row, task), '']
    name = 'measured' + (' (not on val2017)' if departure else '')
    cost = [f'{counted["params_m"]:.2f}', f'{counted["gflops"]:.2f}']
    compared = outcome.measured.get(task)
    if compared is None:
        empty = [''] * len(AP_COLUMNS)
        detail = f'{outcome.verdict}: {outcome.detail}'
        return [reported, [name, *cost, *empty, detail]]
    pairs = ((counted['params_m'], row.params_m), (counted['gflops'], row.gflops))
    apart = [f'{round(own, 2) - their.value + 0.0:+.2f}' for own, their in pairs]
    values = [_percent(compared.measured.get(column)) for column in AP_COLUMNS]
    deltas = [_percent(compared.difference.get(column), True) for column in AP_COLUMNS]
    kind = 'released' if outcome.released else 'retrained'
    verdict = f'{compared.verdict} {outcome.tolerance:g} ({kind})'
    return [
        reported,
        [name, *cost, *values, verdict + (' (subset)' if departure else '')],
        ['difference', *apart, *deltas, ''],
    ]


def _percent(value: float | None, signed: bool = False) -> str:
    return format_ap(None if value is None else value / 100, signed)


def as_json(
    outcomes: Iterable[RowOutcome],
    coco: Mapping[str, Any],
    notes: Sequence[str],
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """Return everything, ready for JSON. AP is 0-100 here, as published."""
    return {
        'unit': 'AP is 0-100, Params in 10^6, GFLOPs in 10^9',
        'coco': dict(coco),
        'notes': list(notes),
        'options': list(options),
        'rows': [
            {**asdict(each), 'row': each.row.row, 'published': asdict(each.row)}
            for each in outcomes
        ],
    }
