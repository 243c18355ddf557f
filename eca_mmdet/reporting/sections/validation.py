"""AP on held-out images during training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from eca_mmdet.reporting.charts import Chart, curve, line_chart
from eca_mmdet.reporting.logs import Series, TrainingLog
from eca_mmdet.reporting.run import Options, Run, title_of

ID = 'validation'
TITLE = 'Validation'
TEMPLATE = '<h2>Validation</h2>{{ plots(charts) }}'

_AP = {
    'AP': ('AP', 'mAP'),
    'AP50': ('AP50', 'mAP_50'),
    'AP75': ('AP75', 'mAP_75'),
}
"""Names of a number in our log lines and in mmdet's; both are 0-1."""


def context(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return AP, AP50 and AP75 of the validations, a chart a task."""
    charts = [chart for task in ('bbox', 'segm') if (chart := _chart(task, runs))]
    return {'charts': charts} if charts else None


def _chart(task: str, runs: Sequence[Run]) -> Chart | None:
    several = len(runs) > 1
    lines = []
    for at, run in enumerate(runs):
        for index, (shown, names) in enumerate(_AP.items()):
            series = _validated(run.log, task, names)
            if series is None:
                continue
            label = f'{run.label}, {shown}' if several else shown
            values = [100 * v if v >= 0 else math.nan for v in series.values]
            colour, dash = (at, index) if several else (index, 0)
            lines.append(curve(label, series, colour, dash, values))
    # One validation has its numbers in the table.
    if not any(len(one['points']) > 1 for one in lines):
        return None
    name = f'AP on held-out images, {title_of(task)}'
    chart = line_chart(f'ap-{task}', name, 'iteration', 'AP, 0-100', lines)
    return {**chart, 'marks': True, 'top': 100, 'zero': True}


def _validated(
    log: TrainingLog | None, task: str, names: tuple[str, ...]
) -> Series | None:
    for name in names if log else ():
        for prefix in ('coco/', ''):
            series = log.val.get(f'{prefix}{task}_{name}') if log else None
            if series:
                return series
    return None
