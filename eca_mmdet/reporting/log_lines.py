"""The JSON lines that mmengine logs (``vis_data/*.json``), as numbers.

A training line has ``iter``, counted over the whole run, and ``epoch`` where the run
counts epochs. A validation line has only a ``step``, which is an epoch or an iteration:

    {"lr": 0.02, "loss": 1.5, "time": 0.4, "epoch": 2, "iter": 80, "step": 80}
    {"coco/bbox_mAP": 0.1, "data_time": 0.01, "time": 0.2, "step": 2}
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import require_regular
from eca_mmdet.utils.text import printable

LONGEST = 1 << 20
"""Characters of a line; longer ones are not mmengine's."""

MOST_BYTES = 512 << 20
"""Size of a log; those of long trainings have some ten MB."""

_MOST = 10**12
_NOT_CURVES = frozenset({'epoch', 'iter', 'step'})


class UnreadableLine(Exception):
    """A line that is not mmengine's; the message says why."""


@dataclass(frozen=True)
class Row:
    """One line of a log.

    Attributes:
        kind: 'train', 'val', or 'extra' for a number logged by a user's hook.
        epoch: from 1; None if the line has none.
        number: the iteration; in a validation line, its step.
        values: by name.
    """

    kind: str
    epoch: int | None
    number: int
    values: dict[str, float]


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
        """Count a line."""
        self.first = self.first or f'{path.name} line {number}: {reason}'
        self.count += 1


def read_rows(path: Path, unread: Unread) -> list[Row]:
    """Read a log; lines that cannot be read are counted in ``unread``.

    Raises:
        UserError: the file cannot be read, or is too large for a log.
    """
    rows = []
    for number, text, whole in _lines(path):
        if text is None:
            unread.add(path, number, f'it has more than {LONGEST} letters')
        elif text:
            try:
                rows.append(parse_line(text))
            except UnreadableLine as error:
                cut = 'it was not written to its end'
                unread.add(path, number, str(error) if whole else cut)
    return rows


def _lines(path: Path) -> Iterator[tuple[int, str | None, bool]]:
    """Yield number, text, and whether the line is whole; None for text too long.

    One line is in memory at a time.
    """
    require_regular(path, 'log', MOST_BYTES)
    try:
        with open(path, encoding='utf-8-sig', errors='replace') as file:
            number = 0
            while text := file.readline(LONGEST):
                number += 1
                whole = text.endswith('\n')
                if not whole and len(text) == LONGEST:
                    while (rest := file.readline(LONGEST)) and rest[-1] != '\n':
                        pass
                    yield number, None, True
                else:
                    yield number, text.strip(' \t\r\n\0'), whole
    except OSError as error:
        raise UserError(
            f'the log {str(path)!r} cannot be read: {error.strerror}.',
            code='file-unreadable',
        ) from error


def parse_line(text: str) -> Row:
    """Return the numbers of a line.

    Raises:
        UnreadableLine: it is not one of mmengine's.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableLine('it is not JSON') from error
    if not isinstance(content, dict):
        raise UnreadableLine('it is not a JSON object')
    if 'iter' in content:
        epoch = _count(content, 'epoch') if 'epoch' in content else None
        return Row('train', epoch, _count(content, 'iter'), _numbers(content, 'train/'))
    if 'step' not in content:
        raise UnreadableLine('it has no step')
    # mmengine's own validation line has its times; a hook's single number does not.
    hook = len(content) == 2 and not any('/' in key for key in content)
    kind = 'extra' if hook else 'val'
    return Row(kind, None, _count(content, 'step'), _numbers(content, 'val/'))


def _count(content: dict[str, Any], key: str) -> int:
    value = content.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        raise UnreadableLine(f'its {key} is no count')
    return value


def _numbers(content: dict[str, Any], prefix: str) -> dict[str, float]:
    """Return the numbers by name; rates of several optimizers have a name each."""
    found = {}
    for key, value in content.items():
        if key in _NOT_CURVES:
            continue
        several = isinstance(value, dict) and key in ('lr', 'momentum')
        for name, number in value.items() if several else [('', value)]:
            if isinstance(number, (int, float)) and not isinstance(number, bool):
                full = f'{key}_{name}' if several else key.removeprefix(prefix)
                found[printable(full)] = _float(number)
    return found


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of more than 308 digits
        return float('inf') if value > 0 else float('-inf')
