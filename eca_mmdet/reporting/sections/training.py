"""Curves of a training: logged values, and AP on held-out images."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from eca_mmdet.reporting.charts import Chart, chart_section, curve, line_chart
from eca_mmdet.reporting.logs import Series
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
_UNDRAWN = re.compile('base_lr|momentum')
_AP = re.compile(r'(?:(.+)/)?(?:(bbox|segm)_)?m?AP[_@]?(|50|75)')
"""Metric, task and IoU in the name of an AP: ours, and those of mmdet's metrics."""
_MOST_CHARTS = 24
"""Charts of values that only this run logs; the table has all validations."""


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
    trained = (name for run in runs if run.log for name in run.log.train)
    more = [n for n in dict.fromkeys(trained) if not (n in order or _UNDRAWN.match(n))]
    return chart_section(
        _value_chart(name, runs) for name in (*order, *more[:_MOST_CHARTS])
    )


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
    kinds = {'loss': 'loss', 'lr_': 'learning rate'}
    kind = next((unit for part, unit in kinds.items() if part in name), 'as logged')
    unit = _UNITS.get(name, kind)
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
        elif not re.search('(bbox|segm)_', name):  # AP by size, AR: in the table
            others.append(name)
    charts = [
        _metric_chart(
            '-'.join(filter(None, ('ap', metric, task))),
            ', '.join(filter(None, ('AP on held-out images', title_of(task), metric))),
            group,
            runs,
        )
        for (metric, task), group in sorted(groups.items())
    ]
    charts += [
        _metric_chart(f'val-{name}', f'{name} on held-out images', {name: [name]}, runs)
        for name in others[:_MOST_CHARTS]
    ]
    last = [{name: _last(log[name]) for name in names if name in log} for log in logs]
    rows = [(name, [values.get(name, '') for values in last]) for name in names]
    return {'charts': [chart for chart in charts if chart], 'rows': rows}


def _last(series: Series) -> str:
    value = series.values[-1]
    return 'n/a' if value == -1 else f'{value:.4g}'  # COCO's for no object


def _metric_chart(
    id_: str, title: str, names: dict[str, list[str]], runs: Sequence[Run]
) -> Chart | None:
    """Return a chart with a line for each run and each of the metric's names."""
    several, ap = len(runs) > 1, id_.startswith('ap')
    lines = []
    for at, run in enumerate(runs):
        curves = run.log.val if run.log else {}
        for index, (shown, keys) in enumerate(sorted(names.items())):
            series = next((curves[key] for key in keys if key in curves), None)
            if series is None:
                continue
            label = f'{run.label}, {shown}' if several else shown
            values = list(series.values)
            if ap:  # some metrics have percent already
                factor = 1 if any(v > 1 for v in values) else 100
                values = [factor * v if v >= 0 else math.nan for v in values]
            colour, dash = (at, index) if several else (index, 0)
            lines.append(curve(label, series, colour, dash, values))
    # The table has the number of a single validation.
    if not any(len(line['points']) > 1 for line in lines):
        return None
    style = {'marks': True, **({'top': 100, 'zero': True} if ap else {})}
    unit = 'AP, 0-100' if ap else 'as logged'
    return line_chart(id_, title, 'iteration', unit, lines, **style)


VALIDATION = Section(
    'validation',
    'Validation',
    _validation,
    """
<h2>Validation</h2>{{ plots(charts) }}
<details{% if not charts %} open{% endif %}><summary>Last validation, as logged</summary>
<div class="scroll"><table class="numbers" id="last-validation">
<thead><tr><th></th>{% for run in runs %}<th>{{ swatch(loop.index0) }}{{ run.label }}</th>{% endfor %}</tr></thead>
<tbody>
{% for name, cells in rows %}<tr><th scope="row">{{ name }}</th>{% for cell in cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div></details>
""",  # noqa: E501
)
