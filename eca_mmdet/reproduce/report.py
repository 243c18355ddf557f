"""The published tables with a measured row under each reported one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eca_mmdet.catalog.published import AP_COLUMNS, MARK, PublishedRow, cells_of
from eca_mmdet.evaluation.tables import format_ap, render
from eca_mmdet.reproduce.verdict import Comparison

TASKS = ('box', 'mask')


@dataclass(frozen=True)
class RowOutcome:
    """What became of one row.

    Attributes:
        row: published.
        verdict: 'within', 'outside', 'no weights' or 'failed'.
        detail: why there is nothing measured, or what was assumed.
        cost: ``params_m`` and ``gflops`` counted here; empty if they were not.
        compared: by task; empty if nothing was measured.
        tolerance: of AP, 0-100.
        released: a published detector, not one trained again.
    """

    row: PublishedRow
    verdict: str
    detail: str
    cost: Mapping[str, float]
    compared: Mapping[str, Comparison]
    tolerance: float | None = None
    released: bool = False


def as_tables(
    outcomes: Sequence[RowOutcome],
    departure: str,
    style: str = 'table',
    options: Sequence[str] = (),
) -> str:
    """Return box and mask tables.

    Args:
        outcomes: one a row.
        departure: how the data differ from val2017; stands over the tables and in each
            measured row.
        style: 'table', 'md' or 'latex'.
        options: config overrides that every row was measured with.
    """
    header = ['', 'Params (M)', 'GFLOPs', *AP_COLUMNS, 'verdict']
    parts = []
    if departure:
        parts.append(_comment(f'NOT COMPARABLE: measured on {departure}.', style))
    if options:
        parts.append(_comment(f'measured with {" ".join(options)}', style))
    for task in TASKS:
        rows = [one for one in outcomes if task in one.row.numbers()]
        cells = [line for one in rows for line in _lines(one, task, departure)]
        if cells:
            title = f'{task} AP: reported (as published), measured here, difference'
            parts.append(_comment(title, style) + '\n' + render(header, cells, style))
    if any(MARK in cell for one in outcomes for cell in cells_of(one.row, 'box')):
        parts.append(_comment(f'{MARK} confirmed in no copy of the paper', style))
    assumed = [one for one in outcomes if one.compared and one.detail]
    parts += [_comment(f'{one.row.row}: {one.detail}', style) for one in assumed]
    return '\n\n'.join(parts)


def _comment(text: str, style: str) -> str:
    escaped = text.replace('%', '\\%').replace('_', '\\_').replace('&', '\\&')
    return {'md': f'**{text}**\n', 'latex': f'\\par {escaped}'}.get(style, text)


def _lines(one: RowOutcome, task: str, departure: str) -> list[list[str]]:
    cost = [f'{one.cost[k]:.2f}' if one.cost else '' for k in ('params_m', 'gflops')]
    lines = [[f'{one.row.row} reported', *cells_of(one.row, task), '']]
    name = 'measured' + (' (not on val2017)' if departure else '')
    found = one.compared.get(task)
    if found is None:
        empty = [''] * len(AP_COLUMNS)
        return [*lines, [name, *cost, *empty, f'{one.verdict}: {one.detail}']]
    values = [_percent(found.measured.get(column)) for column in AP_COLUMNS]
    deltas = [_percent(found.difference.get(column), True) for column in AP_COLUMNS]
    kind = 'released' if one.released else 'retrained'
    verdict = f'{found.verdict} {one.tolerance:g} ({kind})'
    return [
        *lines,
        [name, *cost, *values, verdict + (' (subset)' if departure else '')],
        ['difference', *_cost_difference(one), *deltas, ''],
    ]


def _cost_difference(one: RowOutcome) -> list[str]:
    if not one.cost:
        return ['', '']
    pairs = (
        (one.cost['params_m'], one.row.params_m.value),
        (one.cost['gflops'], one.row.gflops.value),
    )
    return [f'{round(a, 2) - b + 0.0:+.2f}' for a, b in pairs]


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
            {
                'row': one.row.row,
                'verdict': one.verdict,
                'detail': one.detail,
                'tolerance': one.tolerance,
                'released': one.released,
                'published': asdict(one.row),
                'cost': dict(one.cost),
                'measured': {t: asdict(c) for t, c in one.compared.items()},
            }
            for one in outcomes
        ],
    }
