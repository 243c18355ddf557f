"""Curves of a training: logged values, and AP on held-out images."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from eca_mmdet.reporting.logs import Series
from eca_mmdet.reporting.run import Options, Run, title_of
from eca_mmdet.reporting.sections import Chart, Section, chart, curve, section, style

_UNITS = {
    'lr': 'learning rate',
    'loss': 'loss',
    'time': 'seconds an iteration',
    'data_time': 'seconds waiting for data',
    'memory': 'GPU memory, MiB',
    'grad_norm': 'norm of the gradients',
    'acc': 'accuracy of the box head, %',
}
_UNDRAWN = re.compile('base_lr|momentum')
_AP = re.compile(r'(?:(.+)/)?(?:(bbox|segm)_)?m?AP[_@]?(|50|75)')
_IN_TABLE = re.compile('(bbox|segm)_(?!.+_AP$)')  # AP by size and AR, no class's AP
"""Metric, task and IoU in the name of an AP: ours, and those of mmdet's metrics."""
_MOST_CHARTS = 24
"""Charts of values that only this run logs; the table has all validations."""


def _training(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return a small chart for each logged value: the loss and the rate first."""
    logs = [run.log for run in runs if run.log]
    trained = dict.fromkeys(name for log in logs for name in log.train)
    names = dict.fromkeys(name for log in logs for name in (*log.train, *log.val))
    rates = [name for name in names if name.startswith('lr_')]  # of several groups
    losses = [name for name in names if 'loss' in name]
    order = dict.fromkeys(('loss', 'lr', *rates, *losses, *_UNITS))
    more = [name for name in trained if not (name in order or _UNDRAWN.match(name))]
    return section(_value_chart(name, runs) for name in (*order, *more[:_MOST_CHARTS]))


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
    kind = 'loss' if 'loss' in name else 'lr' if 'lr_' in name else name
    unit = _UNITS.get(kind, 'as logged')
    what = ('line', f'train-{name}', name, unit)
    few = all(len(line['points']) < 3 for line in lines)
    return chart(*what, lines, x='iteration', zero=name != 'grad_norm', marks=few)


TRAINING = Section('training', 'Training', _training)


def _validation(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return charts of AP and of other metrics, and a table of the last values."""
    logs = [run.log.val if run.log else {} for run in runs]
    names = [
        name
        for name in dict.fromkeys(name for log in logs for name in log)
        if name not in _UNITS and 'loss' not in name and not _UNDRAWN.match(name)
    ]
    if not names:
        return None
    groups: dict[tuple[str, str], dict[str, list[str]]] = {}
    others = []
    for name in names:
        if match := _AP.fullmatch(name):
            metric = '' if match[1] in (None, 'coco') else match[1]
            group = groups.setdefault((metric, match[2] or ''), {})
            group.setdefault(f'AP{match[3]}', []).append(name)
        elif not _IN_TABLE.search(name):
            others.append(name)
    drawn = [
        _metric_chart(
            '-'.join(filter(None, ('ap', metric, task))),
            ', '.join(filter(None, ('AP on held-out images', title_of(task), metric))),
            group,
            runs,
        )
        for (metric, task), group in sorted(groups.items())
    ]
    drawn += [
        _metric_chart(f'val-{name}', f'{name} on held-out images', {name: [name]}, runs)
        for name in others[:_MOST_CHARTS]
    ]
    rows = [[name, *(_last(log.get(name)) for log in logs)] for name in names]
    return {**(section(drawn) or {'charts': []}), 'rows': rows}


def _last(series: Series | None) -> str:
    if series is None:
        return ''
    value = series.values[-1]
    return 'n/a' if value == -1 else f'{value:.4g}'  # COCO's for no object


def _metric_chart(
    id_: str, title: str, names: dict[str, list[str]], runs: Sequence[Run]
) -> Chart | None:
    """Return a chart with a line for each run and each of the metric's names."""
    ap = id_.startswith('ap')
    lines = []
    for at, run in enumerate(runs):
        curves = run.log.val if run.log else {}
        for index, (shown, keys) in enumerate(sorted(names.items())):
            series = next((curves[key] for key in keys if key in curves), None)
            if series is None:
                continue
            if ap:  # some metrics have percent already
                factor = 1 if any(v > 1 for v in series.values) else 100
                scaled = (factor * v if v >= 0 else math.nan for v in series.values)
                series = replace(series, values=tuple(scaled))
            label, colour, dash = style(runs, at, index, shown)
            lines.append(curve(label, series, colour, dash))
    # The table has the number of a single validation.
    if not any(len(line['points']) > 1 for line in lines):
        return None
    what = ('line', id_, title, 'AP, 0-100' if ap else 'as logged')
    more: dict[str, Any] = {'top': 100, 'zero': True} if ap else {}
    return chart(*what, lines, x='iteration', marks=True, **more)


VALIDATION = Section('validation', 'Validation', _validation)
