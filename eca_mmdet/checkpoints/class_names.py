"""Class names of a detector checkpoint, and those that a model shares with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eca_mmdet.utils.errors import WeightsError
from eca_mmdet.utils.text import clipped

_SHOWN = 6


@dataclass(frozen=True)
class Match:
    """Which classes of a model have a class of the same name in a file.

    Attributes:
        kept: class of the model to class of the file.
        same: names of those.
        new: names without one.
        near: of those, names that differ from one of the file in case, spaces,
            hyphens or underscores only; each with that name.
    """

    kept: dict[int, int]
    same: tuple[str, ...]
    new: tuple[str, ...]
    near: tuple[tuple[str, str], ...]


def match(wanted: Sequence[str], names: Sequence[str]) -> Match:
    """Compare a model's class names with a file's, letter by letter.

    Args:
        wanted: of the model, in its order.
        names: of the file, each once.
    """
    at = {name: index for index, name in enumerate(names)}
    kept = {index: at[name] for index, name in enumerate(wanted) if name in at}
    same = tuple(name for name in wanted if name in at)
    new = tuple(name for name in wanted if name not in at)
    loose = {_loose(name): name for name in reversed(names)}
    near = [(name, loose[_loose(name)]) for name in new if _loose(name) in loose]
    return Match(kept, same, new, tuple(near))


def _loose(name: str) -> str:
    return ''.join(char for char in name.casefold() if char not in ' _-')


def require_names(names: Any, what: str) -> tuple[str, ...]:
    """Return class names as a tuple.

    Args:
        names: of a file or a config.
        what: for messages.

    Raises:
        WeightsError: no list of different names.
    """
    if not isinstance(names, (list, tuple)) or not names:
        found = clipped(repr(names)) if isinstance(names, str) else type(names).__name__
        raise WeightsError(
            f'{what} must be a list of class names; got {found}. {_ADVICE}',
            code='class-mismatch',
        )
    for name in names:
        if not isinstance(name, str):
            raise WeightsError(
                f'{what} must be a list of class names; one of them is '
                f'{clipped(repr(name))}. {_ADVICE}',
                code='class-mismatch',
            )
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise WeightsError(
            f'{what} has {clipped(name)} twice. {_ADVICE}', code='class-mismatch'
        )
    return tuple(names)


_ADVICE = (
    "Set the names of the file's classes, in its order, as source_classes of the "
    'FineTuneHook, or leave out keep_classes.'
)


def listed(names: Sequence[str]) -> str:
    """Return names for a line: printable, and not more than a few."""
    shown = ', '.join(clipped(name) for name in names[:_SHOWN])
    return f'{shown}, ...' if len(names) > _SHOWN else shown
