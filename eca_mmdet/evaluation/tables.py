"""AP tables from the metrics that mmdet's CocoMetric returns. No heavy import."""

from __future__ import annotations

from collections.abc import Mapping

COLUMNS = ('AP', 'AP50', 'AP75', 'APS', 'APM', 'APL')
_SUFFIX = dict(zip(COLUMNS, ('', '_50', '_75', '_s', '_m', '_l'), strict=True))
_TASKS = {'bbox': 'box', 'segm': 'mask'}


def ap_rows(metrics: Mapping[str, float]) -> dict[str, dict[str, float | None]]:
    """Collect the AP columns of each task.

    Args:
        metrics: from CocoMetric, with or without the ``coco/`` prefix; 0-1, -1 where
            an area range has no object.

    Returns:
        ``{'box': {'AP': 0.39, ...}, 'mask': {...}}``, 0-1, None for no object; a task
        that was not evaluated is absent.
    """
    plain = {key.removeprefix('coco/'): value for key, value in metrics.items()}
    rows = {}
    for task, title in _TASKS.items():
        if f'{task}_mAP' in plain:
            values = {c: plain[f'{task}_mAP{_SUFFIX[c]}'] for c in COLUMNS}
            rows[title] = {c: None if v < 0 else float(v) for c, v in values.items()}
    return rows


def format_ap(value: float | None) -> str:
    """Write an AP of 0-1 as 0-100 with one decimal, None as n/a."""
    return 'n/a' if value is None else f'{value * 100:.1f}'


def ap_table(metrics: Mapping[str, float], markdown: bool = False) -> str:
    """Return the AP table of box and mask, as text or Markdown.

    Args:
        metrics: as for :func:`ap_rows`.
        markdown: with pipes and a rule under the header.

    Returns:
        Lines without a trailing newline; empty if nothing was evaluated.
    """
    rows = ap_rows(metrics)
    if not rows:
        return ''
    cells = [['', *COLUMNS]]
    cells += [
        [task, *(format_ap(row[c]) for c in COLUMNS)] for task, row in rows.items()
    ]
    if not markdown:
        return '\n'.join(
            f'{line[0]:<5}' + ''.join(f'{cell:>7}' for cell in line[1:])
            for line in cells
        )
    rule = ['---', *('--:' for _ in COLUMNS)]
    return '\n'.join('| ' + ' | '.join(c) + ' |' for c in (cells[0], rule, *cells[1:]))
