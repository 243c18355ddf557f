"""What a process holds, and whether that grows from round to round (for soak.py)."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MEMORY = ('own_mib', 'rss_mib')
SHOWN = ('hwm_mib', 'seconds', 'round')
"""Columns that are printed and not judged; all others must stay constant."""

LEAST_ROUNDS = 8
"""A quarter of these is two rounds."""

STEP_MIB = 8.0
"""Growth that is none, however short the time: allocators take memory in steps."""

SLACK = {'objects': 0.001}
"""Of its number, what a count may grow by: Python's objects are never quite as many."""

Row = Mapping[str, float]


def measure(temporary: Path) -> dict[str, float]:
    """Return what this process holds now, after a collection of garbage.

    Args:
        temporary: its folder for temporary files, shared with no other process.

    Returns:
        Memory in MiB: ``own_mib`` is what the process wrote itself, ``rss_mib`` with
        the files that it maps (libraries), ``hwm_mib`` the highest of that so far. The
        others are counts.
    """
    gc.collect()
    status = _status_kib()
    return {
        'rss_mib': status['VmRSS'] / 1024,
        'hwm_mib': status['VmHWM'] / 1024,
        'own_mib': status['RssAnon'] / 1024,
        'descriptors': len(os.listdir('/proc/self/fd')),
        'threads': len(os.listdir('/proc/self/task')),
        'children': sum(1 for _ in descendants(os.getpid())),
        'temp_files': sum(len(files) for _, _, files in os.walk(temporary)),
        'shm_files': len(list(Path('/dev/shm').glob(f'torch_{os.getpid()}_*'))),
        'instances': sum(len(one._instance_dict) for one in managers()),
        'handlers': sum(len(one.handlers) for one in _loggers()),
        'figures': _figures(),
        'modules': len(sys.modules),
        'objects': len(gc.get_objects()),
    }


def _status_kib() -> dict[str, int]:
    """Return what the system says of this process's memory."""
    rows = map(str.split, Path('/proc/self/status').read_text().splitlines())
    return {row[0].rstrip(':'): int(row[1]) for row in rows if row[-1] == 'kB'}


def descendants(process: int) -> Iterator[int]:
    """Yield the ids of a process's children, theirs, and so on; zombies too."""
    for one in Path(f'/proc/{process}/task').glob('*/children'):
        try:
            children = one.read_text().split()
        except OSError:  # it ended meanwhile
            continue
        for child in map(int, children):
            yield child
            yield from descendants(child)


def managers() -> Iterator[type]:
    """Yield mmengine's classes that keep each instance by the name of its run."""
    if 'mmengine.utils' not in sys.modules:
        return
    from mmengine.utils import ManagerMixin

    waiting: list[type] = [ManagerMixin]
    while waiting:
        one = waiting.pop()
        yield one
        waiting += one.__subclasses__()


def _loggers() -> Iterator[logging.Logger]:
    yield logging.root
    for one in logging.root.manager.loggerDict.values():
        if isinstance(one, logging.Logger):
            yield one
    for kind in managers():  # mmengine's are none of Python's
        for one in kind._instance_dict.values():  # type: ignore[attr-defined]
            if isinstance(one, logging.Logger):
                yield one


def _figures() -> int:
    pyplot = sys.modules.get('matplotlib.pyplot')
    return len(pyplot.get_fignums()) if pyplot else 0


@dataclass(frozen=True)
class Verdict:
    """Whether one column grew.

    Attributes:
        name: of the column.
        grew: it did.
        text: the numbers behind that.
    """

    name: str
    grew: bool
    text: str


def judge(rows: Sequence[Row], limit_mib_per_hour: float) -> list[Verdict]:
    """Hold the end of a series against its part after the warm-up.

    The first quarter is the warm-up. Memory is judged by its slope after that (Theil
    and Sen's: the median of the slopes between all pairs of rounds, so that neither
    single peaks nor rounds of several kinds in turn count), counts by their highest in
    the last quarter and in the second.

    Args:
        rows: of :func:`measure`, with ``seconds`` since the start.
        limit_mib_per_hour: of memory, above which it grew, if that is more than
            ``STEP_MIB`` in all.

    Raises:
        ValueError: there are fewer than ``LEAST_ROUNDS`` rows.
    """
    if len(rows) < LEAST_ROUNDS:
        raise ValueError(f'expected {LEAST_ROUNDS} rounds or more, got {len(rows)}')
    quarter = len(rows) // 4
    second, last = rows[quarter : 2 * quarter], rows[-quarter:]
    found = []
    for name in rows[0]:
        if name in MEMORY:
            found.append(_judge_memory(name, rows[quarter:], limit_mib_per_hour))
        elif name not in SHOWN:
            before, after = (max(one[name] for one in part) for part in (second, last))
            text = (
                f'{before:.0f} at most in the second quarter, {after:.0f} in the last'
            )
            allowed = before * (1 + SLACK.get(name, 0))
            found.append(Verdict(name, after > allowed, text))
    return found


def _judge_memory(name: str, rows: Sequence[Row], limit: float) -> Verdict:
    values = [one[name] for one in rows]
    hours = [one['seconds'] / 3600 for one in rows]
    hourly = slope(hours, values)
    total = hourly * (hours[-1] - hours[0])
    by_round = slope(range(len(rows)), values)
    text = (
        f'{hourly:+.1f} MiB an hour ({by_round:+.3f} a round), limit {limit:g}; '
        f'{min(values):.0f} to {max(values):.0f} MiB after the warm-up'
    )
    return Verdict(name, hourly > limit and total > STEP_MIB, text)


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the median slope between pairs of points; x ascends."""
    at, values = np.asarray(x, float), np.asarray(y, float)
    first, second = np.triu_indices(len(at), 1)
    return float(np.median((values[second] - values[first]) / (at[second] - at[first])))
