"""Divide units of images into parts, with every class in each part where possible."""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from eca_mmdet.utils.errors import UserError

T = TypeVar('T')

_STEPS = 2000
"""Moves that are tried, and as many more as there are classes."""

_PASSES = 5
"""Over all units, to even out sizes and shares."""

_NOISE = 0.15
"""Share of moves at random, which lead out of a dead end."""


@dataclass(frozen=True)
class Unit:
    """Images that are split as one.

    Attributes:
        images: their positions in the file.
        names: their file names, sorted: the same in a file of another order.
        classes: category ids, and how many of the images have an object of it.
    """

    images: tuple[int, ...]
    names: tuple[str, ...]
    classes: Mapping[Any, int]

    @property
    def size(self) -> int:
        """The number of images."""
        return len(self.images)

    def order(self, seed: int) -> bytes:
        """Return what to sort by for a random order, the same on every machine."""
        text = '\0'.join([str(seed), *self.names])
        return hashlib.sha256(text.encode('utf-8', 'surrogatepass')).digest()


def divide(
    units: Sequence[Unit], shares: Sequence[float], seed: int, stratify: bool
) -> list[int]:
    """Return the part of each unit.

    ``shares`` of the images are for each part but the first, which gets the rest. With
    ``stratify`` each part gets nearly the same share of every class, by iterative
    stratification.

    Raises:
        UserError: there are fewer units than parts.

    Source:
        Sechidis, Tsoumakas, Vlahavas: On the Stratification of Multi-Label Data,
        ECML PKDD 2011. It looks at one class at a time, so that images of several
        classes leave the shares uneven; single moves even them out afterwards.
    """
    if len(units) <= len(shares):
        raise UserError(
            f'{len(units)} images or groups cannot be split into {len(shares) + 1} '
            'parts. Give more images, or smaller groups.',
            code='no-images',
        )
    ordered = sorted(units, key=lambda unit: unit.order(seed))
    total = sum(unit.size for unit in units)
    targets = [max(1.0, share * total) for share in shares]
    targets.insert(0, total - sum(targets))
    parts = _stratified(ordered, targets) if stratify else _filled(ordered, targets)
    _fill_empty(ordered, parts, len(targets))
    search = _Search(ordered, parts, targets, seed)
    search.cover_classes()
    search.balance(stratify)
    part_of = dict(zip((unit.images for unit in ordered), search.parts, strict=True))
    return [part_of[unit.images] for unit in units]


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
        present = (name for name in count if count[name] > 0)
        name = min(present, key=lambda n: (count[n], str(n), type(n).__name__))
        rest = [at for at in holders[name] if parts[at] < 0]
        for at in sorted(rest, key=lambda at: -ordered[at].size):
            give(at, name)
    for at in sorted(range(len(parts)), key=lambda at: -ordered[at].size):
        if parts[at] < 0:
            give(at, None)
    return parts


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
    this is a local search with a bound. ``parts`` has the best state.
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
        self._seen = defaultdict[Any, Counter[int]](Counter)
        self._sizes = [0] * len(targets)
        for at, unit in enumerate(units):
            self._sizes[parts[at]] += unit.size
            for name, number in unit.classes.items():
                self._holders[name].append(at)
                self._have[parts[at]][name] += 1
                self._seen[name][parts[at]] += number
        self._count = Counter(parts)
        self._images = {name: seen.total() for name, seen in self._seen.items()}
        self._names = sorted(self._holders, key=lambda one: (str(one), repr(one)))

    def cover_classes(self) -> None:
        """Move units until every class is in its parts, or the tries are used up."""
        missing = self._missing()
        best, least = list(self.parts), len(missing)
        last = -1
        for _ in range(_STEPS + len(self._holders) if missing else 0):
            part, name = self._pick(missing)
            tries = [at for at in self._holders[name] if at != last]
            tries = tries or self._holders[name]
            if self._random.random() < _NOISE:
                last = self._pick(tries)
            else:
                last = min(tries, key=lambda at: self._cost(at, part))  # noqa: B023
            self._change(last, part)
            missing = self._missing()
            if len(missing) < least:
                best, least = list(self.parts), len(missing)
            if not missing:
                break
        for at, part in enumerate(best):
            if part != self.parts[at]:
                self._move(at, part)

    def _pick(self, items: Sequence[T]) -> T:
        # random() alone is promised to be the same in every version of Python.
        return items[int(self._random.random() * len(items))]

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

    def _change(self, at: int, part: int) -> None:
        """Move a unit; if that empties its part, move the best one back."""
        own = self.parts[at]
        self._move(at, part)
        if not self._count[own]:
            back = [k for k, one in enumerate(self.parts) if one == part and k != at]
            self._move(min(back, key=lambda k: self._cost(k, own)), own)

    def _cost(self, at: int, part: int) -> tuple[int, float]:
        """Return what a move adds to the missing ones, and to the error of sizes."""
        return self._loss(at, part), self._misfit(at, part)

    def _loss(self, at: int, part: int) -> int:
        own, missing = self.parts[at], 0
        for name in self._units[at].classes:
            wanted = self._wanted(name)
            missing += own in wanted and self._have[own][name] == 1
            missing -= part in wanted and not self._have[part][name]
        return missing

    def _misfit(self, at: int, part: int) -> float:
        """Return what a move adds to the squared errors of sizes."""
        size = self._units[at].size
        own = self._sizes[self.parts[at]] - self._targets[self.parts[at]]
        other = self._sizes[part] - self._targets[part]
        return 2.0 * size * (size + other - own)

    def _unevenness(self, at: int, part: int) -> float:
        """Return the same with the errors of each class, each by what there is of it.

        The size weighs as much as all classes.
        """
        own, total = self.parts[at], sum(self._targets)
        shares = self._targets[own] / total, self._targets[part] / total
        added = len(self._images) * self._misfit(at, part) / total
        for name, number in self._units[at].classes.items():
            seen, whole = self._seen[name], self._images[name]
            over = seen[own] - shares[0] * whole
            under = seen[part] - shares[1] * whole
            added += 2.0 * number * (number + under - over) / whole
        return added

    def _move(self, at: int, part: int) -> None:
        own = self.parts[at]
        for name in self._units[at].classes:
            self._have[own][name] -= 1
            self._have[part][name] += 1
            self._seen[name][own] -= self._units[at].classes[name]
            self._seen[name][part] += self._units[at].classes[name]
        for index, sign in ((own, -1), (part, 1)):
            self._sizes[index] += sign * self._units[at].size
            self._count[index] += sign
        self.parts[at] = part

    def balance(self, stratify: bool) -> None:
        """Even out the sizes, or the shares too, by units that no class depends on."""
        error = self._unevenness if stratify else self._misfit
        for _ in range(_PASSES):
            before = list(self.parts)
            for at in range(len(self._units)):
                for part in range(len(self._targets)):
                    if part == self.parts[at] or self._count[self.parts[at]] == 1:
                        continue
                    if error(at, part) < -1e-9 and self._loss(at, part) <= 0:
                        self._move(at, part)
            if self.parts == before:
                break
