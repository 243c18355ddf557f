"""Compare a measured row with the published one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from eca_mmdet.catalog.published import PublishedRow

RELEASED_TOLERANCE = 0.1
"""AP, 0-100: the same weights give the same AP but for resizing and rounding."""

RETRAINED_TOLERANCE = 0.4
"""AP, 0-100: what two trainings of one recipe may differ by."""

WITHIN, OUTSIDE = 'within', 'outside'
NO_WEIGHTS, FAILED = 'no weights', 'failed'

Ap = dict[str, float | None]
"""0-100 by column; None where no object is counted."""


@dataclass(frozen=True)
class Comparison:
    """A task of one row.

    Attributes:
        measured: 0-100.
        difference: measured minus published, of the columns that both have.
        verdict: 'within' or 'outside' the tolerance, of AP.
    """

    measured: Ap
    difference: Ap
    verdict: str


def compare(
    row: PublishedRow, measured: Mapping[str, Ap], tolerance: float
) -> dict[str, Comparison]:
    """Hold measured numbers against a row.

    Args:
        row: published.
        measured: 0-1 by column, by task 'box' and 'mask'.
        tolerance: of AP, 0-100.

    Returns:
        For each task of the row; one that was not measured is outside.
    """
    compared = {}
    for task, published in row.numbers().items():
        found = measured.get(task, {})
        percent = {k: None if v is None else v * 100 for k, v in found.items()}
        delta: Ap = {}
        for name, number in published.items():
            value = percent.get(name)
            delta[name] = None if value is None else value - number.value
        # As printed: published numbers have one decimal and no more.
        ap = percent.get('AP')
        apart = None if ap is None else abs(round(ap, 1) - published['AP'].value)
        close = apart is not None and apart <= tolerance + 1e-9
        compared[task] = Comparison(percent, delta, WITHIN if close else OUTSIDE)
    return compared


def overall(compared: Mapping[str, Comparison]) -> str:
    """Return 'within' if every task is."""
    verdicts = {one.verdict for one in compared.values()}
    return WITHIN if verdicts == {WITHIN} else OUTSIDE
