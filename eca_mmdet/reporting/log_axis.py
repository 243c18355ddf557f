"""Put what was logged on one axis: iterations from the first one of the run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from eca_mmdet.reporting.log_lines import MMDET_2, Row
from eca_mmdet.reporting.log_parts import Part


@dataclass(frozen=True)
class Placed:
    """One line's numbers, placed.

    Attributes:
        kind: 'train', or 'val'.
        step: iterations done.
        epoch: the epoch, from 1; None if the run counts iterations, or not known.
        values: by name.
    """

    kind: str
    step: int
    epoch: int | None
    values: dict[str, float]


def counts_epochs(part: Part) -> bool:
    """Tell whether a run counts epochs, or iterations only."""
    rows = part.train_rows
    if part.facts.by_epoch is not None:
        # mmengine may log an epoch-based run by iterations.
        return part.facts.by_epoch and all(row.epoch is not None for row in rows)
    if not rows:
        return any(row.epoch is not None for row in part.rows)
    if any(row.epoch is None for row in rows):
        return False
    # MMDetection 2.x does not say; counted within epochs, a new one starts low.
    return not any(
        after.epoch != before.epoch and _number(after) > _number(before)
        for before, after in pairwise(rows)
        if after.inner is None
    )


def typical_gap(part: Part) -> int:
    """Return how many iterations mostly lie between lines of training; 0 if not known.

    mmengine writes one more line at the end of a first epoch that is shorter than that.
    """
    steps = Counter(
        _number(after) - _number(before)
        for before, after in pairwise(part.train_rows)
        if after.epoch == before.epoch or after.inner is False
    )
    ahead = [(count, step) for step, count in steps.items() if step > 0]
    return max(ahead)[1] if ahead else 0


def find_per_epoch(part: Part) -> tuple[int | None, bool]:
    """Return the iterations of an epoch, and whether the log says so exactly."""
    if part.facts.per_epoch:
        return part.facts.per_epoch, True
    rows = part.train_rows
    if not rows:
        return None, True
    if any(row.inner is False for row in rows):
        return compare_first_lines(rows), True
    return _from_last_lines(part)


def compare_first_lines(rows: list[Row]) -> int | None:
    """Return the iterations of an epoch: its first line is as far into each.

    The last lines are not: the rest of an epoch, less than the interval, has none.
    """
    firsts: dict[int, int] = {}
    for row in rows:
        firsts.setdefault(row.epoch or 0, _number(row))
    tries = Counter(
        (number - before) // (epoch - last)
        for (last, before), (epoch, number) in pairwise(sorted(firsts.items()))
        if (number - before) % (epoch - last) == 0
    )
    for per_epoch, _ in tries.most_common():
        if per_epoch > 0 and all(
            ((row.epoch or 1) - 1) * per_epoch
            < _number(row)
            <= (row.epoch or 1) * per_epoch
            for row in rows
        ):
            return per_epoch
    return None


def _from_last_lines(part: Part) -> tuple[int, bool]:
    """Take the largest iteration within an epoch, or validation's if that is it."""
    numbers = [_number(row) for row in part.train_rows]
    most, interval = max(numbers), min(numbers)
    ends = {_number(row) for row in part.rows if row.kind == 'val'}
    # Until 2021 a line of validation had the epoch's last iteration, since then the
    # number of validation images.
    if len(ends) == 1 and most <= (end := ends.pop()) < most + interval:
        return end, True
    return most, False


@dataclass
class Axis:
    """Places the rows of a part.

    Args:
        part: to place.
        by_epoch: the run counts epochs.
        per_epoch: iterations of an epoch, None if not known.
    """

    part: Part
    by_epoch: bool
    per_epoch: int | None

    def place(self) -> list[Placed]:
        """Return the rows, in the order of the file."""
        placed: list[Placed] = []
        before: Placed | None = None
        validated = 0
        afters = self._next_train_rows()
        for row, after in zip(self.part.rows, afters, strict=True):
            if row.kind == 'val' and self.by_epoch:
                step, epoch = self._after_epoch(row, before, after)
            elif row.kind == 'val':
                step, epoch = self._after_iteration(row, before, after, validated), None
            else:
                step, epoch = self._train_step(row), row.epoch
                if epoch is None and self.per_epoch:
                    epoch = -(-step // self.per_epoch)
            kind = 'val' if row.kind == 'val' else 'train'
            one = Placed(kind, step, epoch if self.by_epoch else None, row.values)
            placed.append(one)
            if row.kind == 'train':
                before = one
            elif row.kind == 'val':
                validated = step
        return placed

    def _next_train_rows(self) -> list[Row | None]:
        after: Row | None = None
        found: list[Row | None] = []
        for row in reversed(self.part.rows):
            found.append(after)
            after = row if row.kind == 'train' else after
        return found[::-1]

    def _train_step(self, row: Row) -> int:
        number = _number(row)
        if not self.by_epoch or row.inner is False or row.epoch is None:
            return number
        return max(row.epoch - 1, 0) * (self.per_epoch or 0) + number

    def _after_epoch(
        self, row: Row, before: Placed | None, after: Row | None
    ) -> tuple[int, int]:
        """Return the step and epoch of a validation in a run that counts epochs."""
        done = before.step if before else 0
        during = (before.epoch if before else None) or 0
        if row.epoch is not None:
            middle = after is not None and after.epoch == row.epoch
            if middle and row.framework == MMDET_2:
                return done, row.epoch  # validated every so many iterations
            end = row.epoch * (self.per_epoch or 0)
            return (max(end, done) or row.epoch), row.epoch
        step = _number(row)
        if self.per_epoch is None:
            end = max(step, done)
            return end, (step if before is None or step < done else during)
        # mmengine's step is the epoch, or the iteration if so configured.
        end = step * self.per_epoch
        if before is None or abs(end - done) <= abs(step - done):
            return end, step
        return step, -(-step // self.per_epoch)

    def _after_iteration(
        self, row: Row, before: Placed | None, after: Row | None, validated: int
    ) -> int:
        """Return the step of a validation in a run that counts iterations.

        The line's own number is it only sometimes: else it is mmengine's count of
        epochs, or the number of validation images.
        """
        facts = self.part.facts
        start = self._start()
        done = before.step if before else start
        limit = self._train_step(after) if after else done + typical_gap(self.part)
        if facts.last:
            limit = min(limit, facts.last)
        if row.number and done <= row.number <= limit:
            return row.number
        if every := facts.val_every:
            from_here = max(done, validated + 1, start + 1)
            due = -(-from_here // every) * every
            due = min(due, facts.last) if facts.last else due
            if after is None or due <= limit:
                return due
        return done

    def _start(self) -> int:
        """Return the iterations done before the part; estimated if not logged."""
        if self.part.facts.resumed:
            return self.part.facts.resumed[1]
        rows = self.part.train_rows
        gap = typical_gap(self.part)
        return max(_number(rows[0]) - gap, 0) if rows and gap else 0


def _number(row: Row) -> int:
    return row.number or 0
