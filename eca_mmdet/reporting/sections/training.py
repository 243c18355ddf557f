"""Curves of a training: logged values, and AP on held-out images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from eca_mmdet.reporting.charts import Chart, chart_section, curve, line_chart
from eca_mmdet.reporting.run import Options, Run, title_of
from eca_mmdet.reporting.sections import Section

_UNITS = {
    'lr': 'learning rate',
    'loss': 'loss',
    'time': 'seconds an iteration',
    'data_time': 'seconds waiting for data',
    'memory': 'GPU memory, MiB',
    'grad_norm': 'norm of the gradients',
    'acc': 'accuracy of the box head, %',
}
_AP = {'AP': 'mAP', 'AP50': 'mAP_50', 'AP75': 'mAP_75'}
"""Names of a number in our log lines and in mmdet's; both are 0-1."""


def _training(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return a small chart for each logged value: the loss and the rate first."""
    names: dict[str, None] = {}
    for run in runs:
        if run.log:
            names |= dict.fromkeys((*run.log.train, *run.log.val))
    losses = [name for name in names if 'loss' in name and name != 'loss']
    others = [name for name in _UNITS if name not in ('loss', 'lr')]
    rates = [name for name in names if name.startswith('lr_')]  # of several groups
    order = ['loss', 'lr', *rates, *losses, *others]
    return chart_section(_value_chart(name, runs) for name in order)


def _value_chart(name: str, runs: Sequence[Run]) -> Chart | None:
    lines = []
    for at, run in enumerate(runs):
        if run.log is None:
            continue
        if series := run.log.train.get(name):
            lines.append(curve(run.label, series, at))
        # How long validation took an image is no curve of training.
        if 'loss' in name and (series := run.log.val.get(name)):
            lines.append(curve(f'{run.label}, validation', series, at, 1))
    unit = _UNITS.get(name, 'loss' if 'loss' in name else 'learning rate')
    few = all(len(line['points']) < 3 for line in lines)
    zero = name != 'grad_norm'
    title = (f'train-{name}', name, 'iteration', unit)
    return line_chart(*title, lines, zero=zero, marks=few)


TRAINING = Section(
    'training',
    'Training',
    _training,
    '<h2>Training</h2>{{ plots(charts, wide=false) }}',
)


def _validation(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return AP, AP50 and AP75 of the validations, a chart a task."""
    return chart_section(_ap_chart(task, runs) for task in ('bbox', 'segm'))


def _ap_chart(task: str, runs: Sequence[Run]) -> Chart | None:
    several = len(runs) > 1
    lines = []
    for at, run in enumerate(runs):
        curves = run.log.val if run.log else {}
        for index, (shown, mmdet) in enumerate(_AP.items()):
            keys = [f'{p}{task}_{n}' for n in (shown, mmdet) for p in ('coco/', '')]
            series = next((curves[key] for key in keys if key in curves), None)
            if series is None:
                continue
            label = f'{run.label}, {shown}' if several else shown
            values = [100 * v if v >= 0 else math.nan for v in series.values]
            colour, dash = (at, index) if several else (index, 0)
            lines.append(curve(label, series, colour, dash, values))
    # One validation has its numbers in the table.
    if not any(len(line['points']) > 1 for line in lines):
        return None
    title = (f'ap-{task}', f'AP on held-out images, {title_of(task)}')
    style = {'marks': True, 'top': 100, 'zero': True}
    return line_chart(*title, 'iteration', 'AP, 0-100', lines, **style)


VALIDATION = Section(
    'validation',
    'Validation',
    _validation,
    '<h2>Validation</h2>{{ plots(charts) }}',
)
