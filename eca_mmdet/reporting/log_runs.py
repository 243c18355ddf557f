"""Tell resumed trainings from new ones, and join the parts of a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from eca_mmdet.reporting.log_axis import (
    Axis,
    Placed,
    compare_first_lines,
    counts_epochs,
    find_per_epoch,
    typical_gap,
)
from eca_mmdet.reporting.log_lines import MMDET_2
from eca_mmdet.reporting.log_parts import Part

Run = list[Part]


def trained(part: Part) -> bool:
    """Tell whether a part is of a training, and not of a test."""
    # MMDetection 2.x logs training alone, and of short epochs the validation only.
    old = any(row.framework == MMDET_2 for row in part.rows)
    return bool(part.train_rows) or part.facts.trained or old


def split_runs(parts: Iterable[Part]) -> list[Run]:
    """Return the runs: each a start from the first iteration, and what resumed it.

    The last one is that of the newest part.
    """
    runs: list[Run] = []
    for part in parts:
        run: Run = []
        if runs and is_resumed(part, runs):
            reached = (one for one in reversed(runs) if _reaches(one, part))
            run = next(reached, runs[-1])
            runs.remove(run)
        run.append(part)
        runs.append(run)
    return runs


def is_resumed(part: Part, runs: list[Run]) -> bool:
    """Tell whether a part went on from a checkpoint.

    A text log says so. Without one, a part that begins later than its first line would
    be due did.
    """
    if part.facts.resumed:
        return True
    rows = part.train_rows
    if part.explicit or not rows:
        return False
    if counts_epochs(part):
        return (rows[0].epoch or 1) > 1
    earlier = [row for run in runs[-1:] for one in run for row in one.train_rows]
    gap = typical_gap(part) or next(
        (gap for run in runs[::-1] for one in run if (gap := typical_gap(one))), 0
    )
    due = gap or (earlier[0].number if earlier else None)
    return due is not None and (rows[0].number or 0) > due


def _reaches(run: Run, part: Part) -> bool:
    """Tell whether a run came as far as where a part goes on."""
    rows = [row for one in run for row in one.train_rows]
    epoch, iteration = _origin(part)
    if epoch is not None:
        return max((row.epoch or 0 for row in rows), default=0) >= epoch
    gap = max((typical_gap(one) for one in run), default=0)
    return max((row.number or 0 for row in rows), default=0) + gap >= iteration


def _origin(part: Part) -> tuple[int | None, int]:
    """Return epochs and iterations done before a resumed part.

    Without a text log, the iteration before the first line is the latest it can be.
    """
    epoch, iteration = part.facts.resumed or (None, None)
    rows = part.train_rows
    if rows and iteration is None:
        epoch, iteration = (rows[0].epoch or 1) - 1, (rows[0].number or 1) - 1
    return (epoch if counts_epochs(part) else None), iteration or 0


def join(run: Run) -> tuple[list[Placed], bool, int | None, list[str]]:
    """Return a run's rows on one axis, where later parts replace what they repeat.

    Returns:
        The rows; whether the run counts epochs; the iterations of an epoch if known;
        and notes.
    """
    by_epoch = all(map(counts_epochs, [one for one in run if one.train_rows] or run))
    lengths, exact = _lengths(run) if by_epoch else ([None] * len(run), True)
    newest = lengths[-1]
    rows: list[Placed] = []
    notes: list[str] = []
    for index, (part, length) in enumerate(zip(run, lengths, strict=True)):
        placed = _scaled(Axis(part, by_epoch, length).place(), length, newest)
        if index or is_resumed(part, []):
            done = _steps_done(part, newest)
            notes.append(_resume_note(part, done, index))
            rows = [row for row in rows if row.step <= done] if placed else rows
        rows += placed
    if newest and not exact:
        notes.append(
            f'an epoch is taken to have {newest} iterations, the last that were logged '
            'of one: the log does not say'
        )
    if len(set(lengths)) > 1:
        each = ', '.join(map(str, lengths))
        notes.append(
            f'the epochs of its parts differ in length ({each} iterations): all steps '
            f'are counted in epochs of {newest}'
        )
    return rows, by_epoch, newest, notes


def _lengths(run: Run) -> tuple[list[int | None], bool]:
    """Return the iterations of an epoch in each part, and whether they are exact.

    What a part does not say is taken from one that does.
    """
    found = [find_per_epoch(part) for part in run]
    known = [length for length, exact in found if length and exact]
    if not known:
        rows = [row for part in run for row in part.train_rows if row.inner is False]
        known = [length for length in [compare_first_lines(rows)] if length]
    if known:
        return [one if one and exact else known[-1] for one, exact in found], True
    longest = max((length for length, _ in found if length), default=None)
    return [longest] * len(run), False


def _steps_done(part: Part, per_epoch: int | None) -> int:
    epoch, iteration = _origin(part)
    return iteration if epoch is None or per_epoch is None else epoch * per_epoch


def _resume_note(part: Part, done: int, index: int) -> str:
    exact = part.facts.resumed or counts_epochs(part)
    where = f'after iteration {done}' if exact else f'before iteration {done + 1}'
    note = f'resumed {where} ({part.source.name})'
    return note if index else f'{note}; what was logged until then is not here'


def _scaled(rows: list[Placed], length: int | None, newest: int | None) -> list[Placed]:
    """Count in the newest part's epochs: another batch size makes others."""
    if not length or not newest or length == newest:
        return rows
    return [replace(row, step=round(row.step * newest / length)) for row in rows]
