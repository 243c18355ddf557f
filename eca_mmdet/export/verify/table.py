"""The table of a check: what was measured, and what would have passed."""

from __future__ import annotations

from eca_mmdet.export.verify.matching import BOX_PX, MASK, SCORE, TIES
from eca_mmdet.export.verify.parity import FEATURE, Report, Row

_OBJECTS = ('objects', 'only one', 'at a tie', 'box, px', 'score', 'mask pixels')


def table(report: Report) -> str:
    """Return a table: a line an input, and the tolerances."""
    if report.rows[0].objects is None:
        heads: tuple[str, ...] = ('features',)
        last = [f'{FEATURE:g}']
    else:
        heads = _OBJECTS
        last = ['', '0', f'{TIES:.0%}', f'{BOX_PX:g}', f'{SCORE:g}', f'{MASK:g}']
    lines = [['images', *heads], *map(_line, report.rows), ['may be', *last]]
    if report.rows[0].objects is not None and not report.masks:
        lines = [line[:-1] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return '\n'.join(
        '  '
        + '  '.join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def _line(row: Row) -> list[str]:
    count, height, width = row.shape
    line = [f'{count} of {height} x {width}']
    if row.objects is None:
        return [*line, f'{row.features:.1e}']
    found = row.objects
    values = (found.box_px, found.score, found.mask)
    counts = (found.objects, found.missing, found.ties)
    return [*line, *map(str, counts), *(f'{value:.1e}' for value in values)]
