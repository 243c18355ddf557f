"""Read the lines of logs into parts: one for each time that training started."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eca_mmdet.reporting.log_files import Source
from eca_mmdet.reporting.log_lines import (
    LONGEST,
    Row,
    UnreadableLine,
    parse_json,
    parse_text,
    read_lines,
)

_RESUMED = re.compile(r'resumed (?:from )?epoch:? (\d{1,12}), iter:? (\d{1,12})')
_STARTED = ('Checkpoints will be saved to', 'Start running, host', 'workflow: [')
_BY_ITERATION = re.compile(r'\bIterBased(TrainLoop|Runner)\b')
_BY_EPOCH = re.compile(r'\bEpochBased(TrainLoop|Runner)\b')
_VAL_EVERY = re.compile(
    r'\bval_interval ?= ?(\d{1,12})|^evaluation ?= ?dict\([^)]*?\binterval=(\d{1,12})',
    re.MULTILINE,
)
_LAST = re.compile(r'\bmax_iters ?= ?(\d{1,12})')


@dataclass
class Facts:
    """What a log says beside its numbers; None is not said.

    Attributes:
        per_epoch: iterations of an epoch.
        last: the iteration to train to.
        val_every: how often is validated, in epochs or iterations as the run counts.
        by_epoch: whether the run counts epochs.
        resumed: epoch and iteration that it went on from.
        trained: that training was begun; a test does not say so.
    """

    per_epoch: int | None = None
    last: int | None = None
    val_every: int | None = None
    by_epoch: bool | None = None
    resumed: tuple[int, int] | None = None
    trained: bool = False


@dataclass(eq=False)
class Part:
    """What was logged from one start of training to its end.

    Attributes:
        source: its files.
        rows: in the order of the file.
        facts: what else was said.
        explicit: the text log was read, so that it would say of a resume.
    """

    source: Source
    rows: list[Row] = field(default_factory=list)
    facts: Facts = field(default_factory=Facts)
    explicit: bool = False

    @property
    def train_rows(self) -> list[Row]:
        """Rows of training."""
        return [row for row in self.rows if row.kind == 'train']


@dataclass
class Unread:
    """Lines that could not be read.

    Attributes:
        count: how many.
        first: where and why.
    """

    count: int = 0
    first: str = ''

    def add(self, path: Path, number: int, reason: str) -> None:
        """Count one."""
        self.first = self.first or f'{path.name} line {number}: {reason}'
        self.count += 1


def read_parts(source: Source, unread: Unread) -> list[Part]:
    """Read the files of one start; several starts may be in a file.

    The numbers are the JSON's, which has all digits; what it does not say, as how many
    iterations an epoch has, is taken from the text log and the config.

    Raises:
        UserError: a file cannot be read.
    """
    parts = _read(source, source.numbers, unread) if source.numbers else []
    told = _read(source, source.text, unread) if source.text else []
    if not parts or _richness(told) > _richness(parts):
        parts, told = told, []
    for part in parts:
        if told:
            _complete(part, told, len(parts))
        _read_config(part)
    return parts


def _richness(parts: list[Part]) -> tuple[bool, bool]:
    return any(one.train_rows for one in parts), any(one.rows for one in parts)


def _complete(part: Part, told: list[Part], count: int) -> None:
    """Add to a part of the JSON what the text log said."""
    one_each = count == len(told) == 1
    for name, value in vars(told[-1].facts).items():
        if getattr(part.facts, name) is None and (name != 'resumed' or one_each):
            setattr(part.facts, name, value)
    part.facts.trained |= any(one.facts.trained for one in told)
    part.explicit = one_each and told[0].facts.trained


def _read_config(part: Part) -> None:
    """Take from the config what is not known; it is searched, not run."""
    facts = part.facts
    if facts.by_epoch is not None and facts.val_every is not None:
        return
    for path in part.source.configs[-1:]:
        try:
            with open(path, encoding='utf-8', errors='replace') as file:
                _learn(part, file.read(LONGEST))
        except OSError:
            continue  # it is read for a detail alone


def _read(source: Source, path: Path, unread: Unread) -> list[Part]:
    parts = [Part(source)]
    for item in _items(path, unread):
        if isinstance(item, str):
            _listen(parts, item)
            continue
        if isinstance(item, dict):
            _begin(parts, item)
            continue
        if _goes_back(parts[-1], item):
            parts.append(Part(source, facts=_lasting(parts[-1].facts)))
        part = parts[-1]
        part.rows.append(item)
        if item.kind == 'train' and item.whole:
            if item.inner:
                part.facts.per_epoch = item.whole
            else:
                part.facts.last = item.whole
    return parts


def _items(path: Path, unread: Unread) -> Iterator[Row | str | dict[str, Any]]:
    """Yield rows, text that may tell something, and MMDetection 2.x's first lines."""
    is_json = None
    for number, text, whole in read_lines(path):
        if text is None:
            unread.add(path, number, f'it has more than {LONGEST} letters')
            continue
        if not text:
            continue
        if is_json is None:
            is_json = path.suffix == '.json' or text.startswith('{')
        cut_off = not whole
        try:
            found = parse_json(text) if is_json else parse_text(text) or text
            if cut_off and not is_json and isinstance(found, Row):
                raise UnreadableLine  # its last number may be a part of one
            yield found
        except UnreadableLine as error:
            why = 'it was not written to its end' if cut_off else str(error)
            unread.add(path, number, why)


def _goes_back(part: Part, row: Row) -> bool:
    """Tell whether a row of training is before the one that precedes it."""
    if row.kind != 'train':
        return False
    before = next((one for one in reversed(part.rows) if one.kind == 'train'), None)
    return before is not None and _order(row) < _order(before)


def _order(row: Row) -> tuple[int, int]:
    return row.epoch or 0, row.number or 0


def _begin(parts: list[Part], meta: dict[str, Any]) -> None:
    """Begin a part by the first line that MMDetection 2.x writes."""
    if parts[-1].rows:
        parts.append(Part(parts[-1].source, facts=_lasting(parts[-1].facts)))
    parts[-1].facts.trained = True
    if isinstance(meta.get('config'), str):
        _learn(parts[-1], meta['config'])


def _listen(parts: list[Part], text: str) -> None:
    """Take facts from a line of text; one that tells of a start begins a part."""
    resumed = _RESUMED.search(text)
    started = any(word in text for word in _STARTED)
    if (resumed or started) and parts[-1].rows:
        parts.append(Part(parts[-1].source, facts=_lasting(parts[-1].facts)))
    part = parts[-1]
    if resumed:
        part.facts.resumed = int(resumed[1]), int(resumed[2])
    part.facts.trained |= started
    part.explicit |= started
    _learn(part, text)


def _lasting(facts: Facts) -> Facts:
    """Return what holds for the next start as well."""
    return replace(facts, resumed=None)


def _learn(part: Part, text: str) -> None:
    """Take facts from the config's text."""
    facts = part.facts
    if facts.by_epoch is None and _BY_ITERATION.search(text):
        facts.by_epoch = False
    elif facts.by_epoch is None and _BY_EPOCH.search(text):
        facts.by_epoch = True
    if facts.val_every is None and (every := _VAL_EVERY.search(text)):
        facts.val_every = int(every[1] or every[2]) or None
    if facts.last is None and (last := _LAST.search(text)):
        facts.last = int(last[1]) or None
