"""Values that a training logged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eca_mmdet.reporting.charts import Chart, curve, line_chart
from eca_mmdet.reporting.run import Options, Run

ID = 'training'
TITLE = 'Training'
TEMPLATE = '<h2>Training</h2>{{ plots(charts, wide=false) }}'

_UNITS = {
    'lr': 'learning rate',
    'loss': 'loss',
    'time': 'seconds an iteration',
    'data_time': 'seconds waiting for data',
    'memory': 'GPU memory, MiB',
    'grad_norm': 'norm of the gradients',
    'acc': 'accuracy of the box head, %',
}


def context(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return a small chart for each logged value: the loss and the rate first."""
    names: dict[str, None] = {}
    for run in runs:
        if run.log:
            names |= dict.fromkeys((*run.log.train, *run.log.val))
    losses = [name for name in names if 'loss' in name and name != 'loss']
    others = [name for name in _UNITS if name not in ('loss', 'lr')]
    rates = [name for name in names if name.startswith('lr_')]  # of several groups
    order = ['loss', 'lr', *rates, *losses, *others]
    charts = [chart for name in order if (chart := _chart(name, runs))]
    return {'charts': charts} if charts else None


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
                lines.append(curve(run.label + part, series, at, dash))
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
