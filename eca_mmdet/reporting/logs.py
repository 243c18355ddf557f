"""The curves of a training, from mmengine's log. Resumed starts are joined."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from eca_mmdet.reporting.log_files import Row, Start, Unread, find_starts
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.text import plural, printable


@dataclass(frozen=True)
class Series:
    """A curve."""

    steps: tuple[int, ...]  # iterations done, ascending
    epochs: tuple[int | None, ...]  # from 1; None where the run counts iterations
    values: tuple[float, ...]  # infinite or NaN, too; -1 is COCO's "no object"


@dataclass(frozen=True)
class TrainingLog:
    """Curves that a training logged, by name, and notes for the reader."""

    source: str
    train: dict[str, Series]  # 'loss', 'lr', 'time' (s/iteration), 'memory' (MB), ...
    val: dict[str, Series]  # 'coco/bbox_mAP', ..., and losses if they were logged
    by_epoch: bool
    iterations_per_epoch: int | None  # None if not known, or there are no epochs
    notes: tuple[str, ...]
    configs: tuple[Path, ...]  # that it ran with, newest last


def read_logs(path: str | Path) -> TrainingLog:
    """Read the newest training at a path.

    The path is a work_dir, the folder of one start in it, a folder whose ``train`` is a
    work_dir, or mmengine's JSON (``vis_data/*.json``).
    """
    starts = find_starts(Path(path), unread := Unread())
    runs = _runs([start for start in starts if start.is_training])
    if not runs:
        strange = f' First line that is not: {unread.first}.' if unread.count else ''
        raise UserError(
            f'no training in {str(path)!r}: found nothing that mmengine logs in '
            f'training; a test is none.{strange} Name the work_dir of a training, or '
            'a log of it.',
            code='no-log',
        )
    run = max(  # the newest that logged an iteration, or otherwise anything
        reversed(runs),
        key=lambda run: [any(s.train_rows for s in run), any(s.rows for s in run)],
    )
    rows, per_epoch, notes = _join(run)
    train, val = (_curves(rows, kind) for kind in ('train', 'val'))
    if others := [other for other in runs if other is not run]:
        names = ', '.join(dict.fromkeys(other[0].name for other in others))
        were = 'were' if len(others) > 1 else 'was'
        notes.append(
            f'{plural(len(others), "other training")} {were} left out ({names}): '
            'started from the first iteration, not resumed'
        )
    if tests := [start.name for start in starts if not start.is_training]:
        notes.append(f'no training in, left out: {", ".join(dict.fromkeys(tests))}')
    notes += _notes_of_curves(train, val)
    if unread.count:
        lines = plural(unread.count, 'line')
        notes.append(f'{lines} could not be read (first: {unread.first})')
    return TrainingLog(
        source=str(path),
        train=train,
        val=val,
        by_epoch=_by_epoch(run),
        iterations_per_epoch=per_epoch,
        notes=tuple(map(printable, notes)),
        configs=tuple(dict.fromkeys(path for start in run for path in start.configs)),
    )


Run = list[Start]  # a start from the first iteration, and the starts that resumed it


def _runs(starts: list[Start]) -> list[Run]:
    """Return the runs; the last one is that of the newest start."""
    runs: list[Run] = []
    for start in starts:
        run: Run = []
        if runs and _is_resumed(start, runs[-1]):
            reached = (run for run in reversed(runs) if _reaches(run, start))
            run = next(reached, runs[-1])
            runs.remove(run)
        runs.append([*run, start])
    return runs


def _is_resumed(start: Start, before: Run) -> bool:
    """Tell whether a start went on from a checkpoint.

    The text log says so. Without one, a start did whose first line comes later than
    the first line of a new training.
    """
    rows = start.train_rows
    if start.resumed or start.begun or not rows:
        return bool(start.resumed)
    if start.by_epoch:
        return (rows[0].epoch or 1) > 1
    due = start.interval() or max((each.interval() for each in before), default=0)
    return 0 < due < rows[0].number


def _origin(start: Start) -> tuple[int | None, int]:
    """Return epochs (None: a run of iterations) and iterations before a resumed start.

    Without a text log, the iteration before the first line is the latest it can be.
    """
    if start.resumed:
        epoch, iteration = start.resumed
    else:
        first = start.train_rows[0]
        epoch, iteration = (first.epoch or 1) - 1, first.number - 1
    return (epoch if start.by_epoch else None), iteration


def _reaches(run: Run, start: Start) -> bool:
    """Tell whether a run came as far as where a start went on."""
    epoch, iteration = _origin(start)
    rows = [row for each in run for row in each.train_rows]
    if epoch is not None:
        return max((row.epoch or 0 for row in rows), default=0) >= epoch
    gap = max((each.interval() for each in run), default=0)
    return max((row.number for row in rows), default=0) + gap >= iteration


def _by_epoch(run: Run) -> bool:
    return all(start.by_epoch for start in run if start.train_rows or len(run) == 1)


def _per_epoch(rows: list[Row]) -> int | None:
    """Return the iterations of an epoch: its first line is as far into each.

    The last lines are not: the rest of an epoch, less than the interval, has none.
    """
    firsts: dict[int, int] = {}
    for row in rows:
        firsts.setdefault(row.epoch or 0, row.number)
    tries = Counter(
        (number - before) // (epoch - last)
        for (last, before), (epoch, number) in pairwise(sorted(firsts.items()))
        if (number - before) % (epoch - last) == 0
    )
    for length, _ in tries.most_common():
        ends = ((row.number, (row.epoch or 1) * length) for row in rows)
        if length > 0 and all(end - length < number <= end for number, end in ends):
            return length
    return None


def _join(run: Run) -> tuple[list[Row], int | None, list[str]]:
    """Return a run's lines on one axis, iterations per epoch, and notes.

    A later start replaces what it repeats.
    """
    by_epoch = _by_epoch(run)
    lengths = [
        start.per_epoch or _per_epoch(start.train_rows) if by_epoch else None
        for start in run
    ]
    newest = next(filter(None, reversed(lengths)), None)
    if by_epoch and newest is None:
        newest = _per_epoch([row for start in run for row in start.train_rows])
    rows: list[Row] = []
    notes = []
    for index, (start, own) in enumerate(zip(run, lengths, strict=True)):
        length = own or newest
        placed = _place(start, by_epoch, length)
        if length and newest and length != newest:  # another batch size
            placed = [
                replace(row, number=round(row.number * newest / length))
                for row in placed
            ]
        if index or _is_resumed(start, []):
            epoch, iteration = _origin(start)
            done = epoch * newest if epoch is not None and newest else iteration
            where = f'after iteration {done}'
            if not (start.resumed or by_epoch):
                where = f'before iteration {done + 1}'
            lost = '' if index else '; what was logged until then is not here'
            notes.append(f'resumed {where} ({start.name}){lost}')
            rows = [row for row in rows if row.number <= done] if placed else rows
        rows += placed
    if len(set(filter(None, lengths))) > 1:
        notes.append(
            f'the epochs of its starts differ in length ({", ".join(map(str, lengths))}'
            f' iterations): all steps are counted in epochs of {newest}'
        )
    return rows, newest, notes


def _place(start: Start, by_epoch: bool, per_epoch: int | None) -> list[Row]:
    """Return the lines of a start with ``number`` as iterations done, in file order."""
    placed: list[Row] = []
    before: Row | None = None
    validated = 0
    for index, row in enumerate(start.rows):
        step, epoch = row.number, row.epoch
        if row.kind == 'val':
            if by_epoch:
                step, epoch = _after_epoch(row, before, per_epoch)
            else:
                later = (r for r in start.rows[index:] if r.kind == 'train')
                after = next(later, None)
                step = _after_iteration(start, row, before, after, validated)
            validated = step
        elif epoch is None and per_epoch:
            epoch = -(-step // per_epoch)
        kind = 'val' if row.kind == 'val' else 'train'
        placed.append(Row(kind, epoch if by_epoch else None, step, row.values))
        if row.kind == 'train':
            before = placed[-1]
    return placed


def _after_epoch(
    row: Row, before: Row | None, per_epoch: int | None
) -> tuple[int, int | None]:
    """Return step and epoch of a validation in a run that counts epochs.

    mmengine's step is the epoch, or the iteration if so configured.
    """
    done = before.number if before else 0
    if per_epoch is None:
        epoch = row.number if before is None or row.number < done else before.epoch
        return max(row.number, done), epoch
    end = row.number * per_epoch
    if before is None or abs(end - done) <= abs(row.number - done):
        return end, row.number
    return row.number, -(-row.number // per_epoch)


def _after_iteration(
    start: Start, row: Row, before: Row | None, after: Row | None, validated: int
) -> int:
    """Return the step of a validation in a run that counts iterations.

    The line's own step is the iteration, or mmengine's count of epochs.
    """
    rows, gap = start.train_rows, start.interval()
    begin = max(rows[0].number - gap, 0) if rows and gap else 0
    begin = start.resumed[1] if start.resumed else begin
    done = before.number if before else begin
    end = start.max_iters or math.inf
    limit = min(after.number if after else done + gap, end)
    if row.number and done <= row.number <= limit:
        return row.number
    if every := start.val_interval:
        due = -(-max(done, validated + 1, begin + 1) // every) * every
        due = int(min(due, end))
        if after is None or due <= limit:
            return due
    return done


def _curves(rows: list[Row], kind: str) -> dict[str, Series]:
    """Return the curves; of two values at a step, the later one."""
    points: dict[str, dict[int, tuple[int | None, float]]] = {}
    for row in rows:
        for name, value in row.values.items() if row.kind == kind else ():
            points.setdefault(name, {})[row.number] = (row.epoch, value)
    curves = {}
    for name, by_step in points.items():
        steps = sorted(by_step)
        epochs, values = zip(*(by_step[step] for step in steps), strict=True)
        curves[name] = Series(tuple(steps), epochs, values)
    return curves


def _notes_of_curves(train: dict[str, Series], val: dict[str, Series]) -> list[str]:
    notes = []
    if not train:
        notes.append(
            'no iteration was logged: the training, or each epoch of it, had fewer '
            'iterations than lie between two lines of the log'
        )
    for name, curve in train.items():
        points = zip(curve.steps, curve.values, strict=True)
        bad = [step for step, value in points if not math.isfinite(value)]
        if 'loss' in name and bad:
            notes.append(
                f'{name} is infinite or not a number at {len(bad)} of '
                f'{len(curve.steps)} logged steps, first at iteration {bad[0]}'
            )
    return notes if val else [*notes, 'no validation was logged']
