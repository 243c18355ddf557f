"""Sections of the page that show training logs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from eca_mmdet.reporting.charts import Chart, line, line_chart, number
from eca_mmdet.reporting.logs import Series, TrainingLog
from eca_mmdet.reporting.run import Run

_UNITS = {
    'lr': 'learning rate',
    'loss': 'loss',
    'time': 'seconds an iteration',
    'data_time': 'seconds waiting for data',
    'memory': 'GPU memory, MiB',
    'grad_norm': 'norm of the gradients',
    'acc': 'accuracy of the box head, %',
}
_AP = {
    'AP': ('AP', 'mAP'),
    'AP50': ('AP50', 'mAP_50'),
    'AP75': ('AP75', 'mAP_75'),
}
"""Names of a number in our log lines and in mmdet's; both are 0-1."""


def training_charts(runs: Sequence[Run]) -> list[Chart]:
    """Return a small chart for each logged value: the loss and the rate first."""
    names: dict[str, None] = {}
    for run in runs:
        if run.log:
            names |= dict.fromkeys((*run.log.train, *run.log.val))
    losses = [name for name in names if 'loss' in name and name != 'loss']
    others = [name for name in _UNITS if name not in ('loss', 'lr')]
    rates = [name for name in names if name.startswith('lr_')]  # of several groups
    order = ['loss', 'lr', *rates, *losses, *others]
    charts = []
    for name in order:
        chart = _chart(name, runs)
        if chart is not None:
            charts.append(chart)
    return charts


def _chart(name: str, runs: Sequence[Run]) -> Chart | None:
    lines = []
    for at, run in enumerate(runs):
        if run.log is None:
            continue
        for dash, (part, series) in enumerate(
            (('', run.log.train.get(name)), (', validation', run.log.val.get(name)))
        ):
            # How long validation took an image is no curve of training.
            if series and (not dash or 'loss' in name):
                lines.append(
                    line(run.label + part, _points(series), at, dash, **_epochs(series))
                )
    if not lines:
        return None
    known = 'loss' if 'loss' in name else 'learning rate'
    unit = _UNITS.get(name, known)
    few = all(len(one['points']) < 3 for one in lines)
    return {
        **line_chart(f'train-{name}', name, 'iteration', unit, lines),
        'zero': name != 'grad_norm',
        'marks': few,
    }


def _points(series: Series) -> list[tuple[float, float]]:
    return list(zip(series.steps, series.values, strict=True))


def _epochs(series: Series) -> dict[str, Any]:
    """Return the epoch of each point for hovering, where the line is not thinned."""
    known = any(one is not None for one in series.epochs)
    if not known or len(series.steps) > 4000:
        return {}
    return {'notes': ['' if e is None else f'epoch {e}' for e in series.epochs]}


def ap_charts(runs: Sequence[Run]) -> list[Chart]:
    """Return AP, AP50 and AP75 of the validations, a chart a task."""
    charts = []
    for task, title in (('bbox', 'box'), ('segm', 'mask')):
        lines = []
        for at, run in enumerate(runs):
            for dash, (shown, names) in enumerate(_AP.items()):
                series = _validated(run.log, task, names)
                if series is None:
                    continue
                label = f'{run.label}, {shown}' if len(runs) > 1 else shown
                points = [
                    (step, 100 * value if value >= 0 else math.nan)
                    for step, value in zip(series.steps, series.values, strict=True)
                ]
                many = len(runs) > 1
                colour, stroke = (at, dash) if many else (dash, 0)
                lines.append(line(label, points, colour, stroke, **_epochs(series)))
        # One validation has its numbers in the table.
        if any(len(one['points']) > 1 for one in lines):
            name = f'AP on held-out images, {title}'
            chart = line_chart(f'ap-{task}', name, 'iteration', 'AP, 0-100', lines)
            charts.append({**chart, 'marks': True, 'top': 100, 'zero': True})
    return charts


def _validated(
    log: TrainingLog | None, task: str, names: tuple[str, ...]
) -> Series | None:
    for name in names if log else ():
        for prefix in ('coco/', ''):
            series = log.val.get(f'{prefix}{task}_{name}') if log else None
            if series:
                return series
    return None


def training_facts(run: Run) -> list[tuple[str, str]]:
    """Return (what, value) of one training: steps, time, memory, last loss."""
    log = run.log
    if log is None or not log.train:
        return []
    facts = []
    longest = max(log.train.values(), key=lambda one: one.steps[-1])
    steps = longest.steps[-1]
    facts.append(('iterations', f'{steps:,}'))
    if log.iterations_per_epoch:
        facts.append(('epochs', f'{steps / log.iterations_per_epoch:.4g}'))
    seconds = _finite(log.train.get('time'))
    if seconds:
        typical = statistics.median(seconds)
        facts.append(('an iteration, median', f'{typical:.3g} s'))
        facts.append(('training, median x iterations', _duration(typical * steps)))
    memory = _finite(log.train.get('memory'))
    if memory:
        facts.append(('highest GPU memory', f'{max(memory):,.0f} MiB'))
    loss = log.train.get('loss')
    if loss:
        last = loss.values[-1]
        shown = f'{number(last, 4):g}' if math.isfinite(last) else str(last)
        facts.append(('last loss', shown))
    return facts


def _finite(series: Series | None) -> list[float]:
    return [one for one in series.values if math.isfinite(one)] if series else []


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 1.5:
        return f'{hours:.1f} h'
    return f'{minutes:.1f} min' if minutes >= 1.5 else f'{seconds:.0f} s'
