"""Facts of each run at the top of the page."""

from __future__ import annotations

import math
import re
import statistics
from typing import Any

from eca_mmdet.reporting.charts import number
from eca_mmdet.reporting.logs import Series
from eca_mmdet.reporting.run import Run


def summary(run: Run) -> list[tuple[str, str]]:
    """Return (what, value) of what was measured."""
    record = run.record or {}
    facts = [('folder', str(run.path))]
    if {'detector', 'attention', 'depth'} <= record.keys():  # of the demo
        names = (str(record[key]) for key in ('detector', 'attention'))
        facts.append(('demo', f'{", ".join(names)}, ResNet-{record["depth"]}'))
    for what, key in (('config', 'config'), ('evaluated', 'date')):
        if record.get(key):
            facts.append((what, _plain_time(str(record[key]))))
    results: list[dict[str, Any]] = list(run.results.values())
    counts = results[0].get('counts') or {} if results else {}
    if counts:
        shown = (
            f'{value:,} {name.replace("_", " ")}'
            for name, value in counts.items()
            if value
        )
        facts.append(('data', ', '.join(shown)))
    at = next((key for key in ('epoch', 'iter') if key in record), None)
    if at:
        facts.append(('measured after', f'{at} {record[at]}'))
    if record.get('fast'):
        facts.append(('weights', 'folded and in lower precision (test --fast)'))
    return facts


def _plain_time(text: str) -> str:
    return re.sub(r'^(\d{4}-\d\d-\d\d)T([\d:]+)\+00:00$', r'\1 \2 UTC', text)


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
