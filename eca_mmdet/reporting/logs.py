"""Read the log of a training, of mmengine or MMDetection 2.x, into curves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from eca_mmdet.reporting.log_axis import Placed
from eca_mmdet.reporting.log_files import Source, find_sources
from eca_mmdet.reporting.log_lines import MMENGINE
from eca_mmdet.reporting.log_parts import Part, Unread, read_parts
from eca_mmdet.reporting.log_runs import Run, join, split_runs, trained
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.text import printable

_MOST_PARTS = 1000


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        steps: iterations done, ascending.
        epochs: the epoch of each, from 1; None where the run counts iterations,
            or for a number of the user's own in an epoch of unknown length.
        values: as logged: infinite or not a number, too; -1 is COCO's "no object".
    """

    steps: tuple[int, ...]
    epochs: tuple[int | None, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class TrainingLog:
    """What a training logged.

    Attributes:
        source: what was read.
        framework: 'mmengine' or 'mmdet 2'.
        train: curves by name: 'loss', 'lr', 'grad_norm', 'time' (seconds of an
            iteration), 'memory' (MB), ...
        val: curves by name: 'coco/bbox_mAP' or 'bbox_mAP', ..., and losses if
            validation logged them.
        by_epoch: whether the run counts epochs.
        iterations_per_epoch: None if it does not, or it is not known.
        notes: what a reader should know.
        configs: what it ran with, newest last.
    """

    source: str
    framework: str
    train: dict[str, Series]
    val: dict[str, Series]
    by_epoch: bool
    iterations_per_epoch: int | None
    notes: tuple[str, ...]
    configs: tuple[Path, ...]


def read_logs(path: str | Path) -> TrainingLog:
    """Read the newest training at a path.

    Args:
        path: a work_dir; the folder of one start in it; a folder whose ``train`` is a
            work_dir; or a log: mmengine's .json or .log, MMDetection 2.x's .log.json or
            .log.

    Raises:
        UserError: there is no log, it cannot be read, or no training is in it.
    """
    unread = Unread()
    sources = find_sources(Path(path))
    parts = [part for source in sources for part in read_parts(source, unread)]
    if len(parts) > _MOST_PARTS:
        raise UserError(
            f'no training in {str(path)!r}: its steps begin again {len(parts):,} '
            f'times, and a training that was resumed does so up to {_MOST_PARTS} times.'
        )
    runs = split_runs(filter(trained, parts))
    if not runs:
        raise UserError(_no_training(path, sources, unread))
    chosen = _newest(runs)
    rows, by_epoch, per_epoch, notes = join(chosen)
    train, val = (_curves(rows, kind) for kind in ('train', 'val'))
    notes += _notes_of_parts(parts, runs, chosen) + _notes_of_curves(train, val)
    if unread.count:
        lines = 'line' if unread.count == 1 else 'lines'
        notes.append(
            f'{unread.count} {lines} could not be read (first: {unread.first})'
        )
    return TrainingLog(
        source=str(path),
        framework=next((r.framework for p in chosen for r in p.rows), MMENGINE),
        train=train,
        val=val,
        by_epoch=by_epoch,
        iterations_per_epoch=per_epoch,
        notes=tuple(map(printable, notes)),
        configs=_configs(chosen),
    )


def _no_training(path: str | Path, sources: list[Source], unread: Unread) -> str:
    many = f'{len(sources)} logs, the last of them ' if len(sources) > 1 else ''
    read = sources[-1].numbers or sources[-1].text
    strange = f' Of another kind is {unread.first}.' if unread.count else ''
    return (
        f'no training in {str(path)!r}: read {many}{str(read)!r}, and found nothing '
        f'that mmengine or MMDetection 2.x logs in training; a test is none.{strange} '
        'Name the work_dir of a training, or a log of it.'
    )


def _newest(runs: list[Run]) -> Run:
    """Return the newest run that logged an iteration, or else anything."""
    for wanted in ('train_rows', 'rows'):
        for run in reversed(runs):
            if any(getattr(part, wanted) for part in run):
                return run
    return runs[-1]


def _curves(rows: list[Placed], kind: str) -> dict[str, Series]:
    """Return the curves; of two values at a step, the later one."""
    points: dict[str, dict[int, tuple[int | None, float]]] = {}
    for row in rows:
        for name, value in row.values.items() if row.kind == kind else ():
            points.setdefault(name, {})[row.step] = (row.epoch, value)
    return {name: _series(one) for name, one in points.items()}


def _series(points: dict[int, tuple[int | None, float]]) -> Series:
    steps = sorted(points)
    return Series(
        tuple(steps),
        tuple(points[step][0] for step in steps),
        tuple(points[step][1] for step in steps),
    )


def _notes_of_parts(parts: list[Part], runs: list[Run], chosen: Run) -> list[str]:
    notes = []
    others = [run for run in runs if run is not chosen]
    if others:
        names = ', '.join(dict.fromkeys(run[0].source.name for run in others))
        plural = 's were' if len(others) > 1 else ' was'
        notes.append(
            f'{len(others)} other training{plural} left out ({names}): started from '
            'the first iteration, not resumed'
        )
    tests = [part.source.name for part in parts if not trained(part)]
    if tests:
        notes.append(f'no training in, left out: {", ".join(dict.fromkeys(tests))}')
    return notes


def _notes_of_curves(train: dict[str, Series], val: dict[str, Series]) -> list[str]:
    notes = []
    if not train:
        notes.append(
            'no iteration was logged: the training, or each epoch of it, had fewer '
            'iterations than lie between two lines of the log'
        )
    for name, curve in train.items():
        if 'loss' not in name:
            continue
        bad = [
            step
            for step, value in zip(curve.steps, curve.values, strict=True)
            if not math.isfinite(value)
        ]
        if bad:
            notes.append(
                f'{name} is infinite or not a number at {len(bad)} of '
                f'{len(curve.steps)} logged steps, first at iteration {bad[0]}'
            )
    return notes if val else [*notes, 'no validation was logged']


def _configs(run: Run) -> tuple[Path, ...]:
    found = [path for part in run for path in part.source.configs]
    return tuple(dict.fromkeys(found))
