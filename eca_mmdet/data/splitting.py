"""Divide units of images into parts, with every class in each part where possible."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from eca_mmdet.data.units import Unit
from eca_mmdet.errors import UserError

_STEPS = 2000
"""Moves that are tried, and as many more as there are classes."""

_NOISE = 0.15
"""Share of moves at random, which lead out of a dead end."""


def divide(
    units: Sequence[Unit], shares: Sequence[float], seed: int, stratify: bool
) -> list[int]:
    """Return the part of each unit.

    Args:
        units: all of a file.
        shares: of the images, for each part but the first, which gets the rest.
        seed: of the order in which units are taken.
        stratify: give each part nearly the same share of every class, by iterative
            stratification.

    Raises:
        UserError: there are fewer units than parts.

    Source:
        Sechidis, Tsoumakas, Vlahavas: On the Stratification of Multi-Label Data,
        ECML PKDD 2011.
    """
    if len(units) <= len(shares):
        raise UserError(
            f'{len(units)} images or groups cannot be split into {len(shares) + 1} '
            'parts. Give more images, or smaller groups.'
        )
    ordered = sorted(units, key=lambda one: one.order(seed))
    total = sum(one.size for one in units)
    targets = [max(1.0, share * total) for share in shares]
    targets.insert(0, total - sum(targets))
    parts = _stratified(ordered, targets) if stratify else _filled(ordered, targets)
    _fill_empty(ordered, parts, len(targets))
    search = _Search(ordered, parts, targets, seed)
    search.run(balance=not stratify)
    found = {one.images: part for one, part in zip(ordered, search.parts, strict=True)}
    return [found[one.images] for one in units]


def wanted_parts(unit_count: int, part_count: int) -> range:
    """Return the parts that a class should be in: training first, then validation."""
    return range(min(unit_count, part_count))


def _filled(ordered: Sequence[Unit], targets: Sequence[float]) -> list[int]:
    """Fill the parts but the first one after another, each to the nearest size."""
    parts = [0] * len(ordered)
    left = list(targets)
    for at, unit in enumerate(ordered):
        for part in range(1, len(targets)):
            if unit.size < 2 * left[part]:
                parts[at] = part
                left[part] -= unit.size
                break
    return parts


def _stratified(ordered: Sequence[Unit], targets: Sequence[float]) -> list[int]:
    """Hand out the rarest class first, to the part that lacks most of it."""
    total = sum(targets)
    count: Counter[Any] = Counter()
    holders = defaultdict[Any, list[int]](list)
    for at, unit in enumerate(ordered):
        count.update(unit.classes)
        for name in unit.classes:
            holders[name].append(at)
    lacking = {
        name: [number * target / total for target in targets]
        for name, number in count.items()
    }
    left = list(targets)
    parts = [-1] * len(ordered)

    def give(at: int, name: Any) -> None:
        need = lacking[name] if name is not None else left
        part = max(range(len(left)), key=lambda p: (round(need[p], 9), left[p], -p))
        parts[at] = part
        left[part] -= ordered[at].size
        for other, number in ordered[at].classes.items():
            lacking[other][part] -= number
            count[other] -= number

    # Larger groups first: the smaller ones even out what these leave.
    while +count:
        name = min((one for one in count if count[one] > 0), key=_rarest(count))
        rest = [at for at in holders[name] if parts[at] < 0]
        for at in sorted(rest, key=lambda at: -ordered[at].size):
            give(at, name)
    bare = [at for at, part in enumerate(parts) if part < 0]
    for at in sorted(bare, key=lambda at: -ordered[at].size):
        give(at, None)
    return parts


def _rarest(count: Counter[Any]) -> Any:
    return lambda name: (count[name], str(name), type(name).__name__)


def _fill_empty(ordered: Sequence[Unit], parts: list[int], part_count: int) -> None:
    """Give each part without a unit the smallest of the part with the most."""
    for part in range(part_count):
        if part in parts:
            continue
        most = Counter(parts).most_common()
        donor = min(one for one, number in most if number == most[0][1])
        own = [at for at, one in enumerate(parts) if one == donor]
        parts[min(own, key=lambda at: ordered[at].size)] = part


class _Search:
    """Moves units until every class is in the parts where it should be.

    Whether that can be reached at all is a hard question (the splitting of sets), so
    this is a local search with a bound, whose best state is kept.

    Attributes:
        parts: of the units.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        parts: Sequence[int],
        targets: Sequence[float],
        seed: int,
    ) -> None:
        self._units = units
        self._targets = targets
        self._random = random.Random(seed)
        self.parts = list(parts)
        self._holders = defaultdict[Any, list[int]](list)
        self._have: list[Counter[Any]] = [Counter() for _ in targets]
        self._sizes = [0] * len(targets)
        for at, unit in enumerate(units):
            self._sizes[parts[at]] += unit.size
            for name in unit.classes:
                self._holders[name].append(at)
                self._have[parts[at]][name] += 1
        self._count = Counter(parts)
        self._names = sorted(self._holders, key=lambda one: (str(one), repr(one)))

    def run(self, balance: bool) -> None:
        """Move units; then, if asked or any was moved, even out the sizes."""
        moved = self._mend()
        if balance or moved:
            self._balance()

    def _mend(self) -> bool:
        missing = self._missing()
        best, least = list(self.parts), len(missing)
        last = -1
        for _ in range(_STEPS + len(self._holders) if missing else 0):
            part, name = missing[self._pick(len(missing))]
            tries = [at for at in self._holders[name] if self._may_leave(at, last)]
            if not tries:
                last = -1
                continue
            if self._random.random() < _NOISE:
                last = tries[self._pick(len(tries))]
            else:
                last = min(tries, key=lambda at: self._cost(at, part))  # noqa: B023
            self._move(last, part)
            missing = self._missing()
            if len(missing) < least:
                best, least = list(self.parts), len(missing)
            if not missing:
                break
        changed = [at for at, part in enumerate(best) if part != self.parts[at]]
        for at in changed:
            self._move(at, best[at])
        return last >= 0

    def _pick(self, count: int) -> int:
        # random() alone is promised to be the same in every version of Python.
        return int(self._random.random() * count)

    def _missing(self) -> list[tuple[int, Any]]:
        """Return the parts and classes that should meet, in a fixed order."""
        return [
            (part, name)
            for name in self._names
            for part in self._wanted(name)
            if not self._have[part][name]
        ]

    def _wanted(self, name: Any) -> range:
        return wanted_parts(len(self._holders[name]), len(self._targets))

    def _may_leave(self, at: int, last: int) -> bool:
        return at != last and self._count[self.parts[at]] > 1

    def _cost(self, at: int, part: int) -> tuple[int, float]:
        """Return what a move adds to the missing ones, and to the error of sizes."""
        own, missing = self.parts[at], 0
        for name in self._units[at].classes:
            wanted = self._wanted(name)
            missing += own in wanted and self._have[own][name] == 1
            missing -= part in wanted and not self._have[part][name]
        size = self._units[at].size
        error = 0.0
        for one, step in ((own, -size), (part, size)):
            error += abs(self._sizes[one] + step - self._targets[one])
            error -= abs(self._sizes[one] - self._targets[one])
        return missing, error

    def _move(self, at: int, part: int) -> None:
        own = self.parts[at]
        for name in self._units[at].classes:
            self._have[own][name] -= 1
            self._have[part][name] += 1
        for one, sign in ((own, -1), (part, 1)):
            self._sizes[one] += sign * self._units[at].size
            self._count[one] += sign
        self.parts[at] = part

    def _balance(self) -> None:
        """Move units that nothing depends on, to come nearer to the sizes."""
        for at in range(len(self._units)):
            for part in range(len(self._targets)):
                if part == self.parts[at] or self._count[self.parts[at]] == 1:
                    continue
                missing, error = self._cost(at, part)
                if missing <= 0 and error < -1e-9:
                    self._move(at, part)
