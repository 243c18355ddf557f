"""The class names beside the tensors of a detector, and which of them are wanted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
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
            hyphens or underscores alone; with that one.
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


def read_names(extras: Mapping[str, Any], path: str) -> tuple[str, ...] | None:
    """Return the class names that a checkpoint of mmdet 2.x or 3.x carries.

    Args:
        extras: what lies beside the tensors.
        path: for messages.

    Returns:
        The names; None if there are none.

    Raises:
        WeightsError: what stands there is no list of different names.
    """
    meta = extras.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    data = meta.get('dataset_meta')
    data = data if isinstance(data, Mapping) else {}
    for where, found in (
        ("meta['dataset_meta']['classes']", data.get('classes')),
        ("meta['dataset_meta']['CLASSES']", data.get('CLASSES')),  # mmdet 3.0.0rc
        ("meta['CLASSES']", meta.get('CLASSES')),  # mmdet 1.x and 2.x
    ):
        if found is not None:
            return require_names(found, f'{path}: {where}')
    return None


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
            f'{what} must be a list of class names; got {found}. {_ADVICE}'
        )
    for name in names:
        if not isinstance(name, str):
            raise WeightsError(
                f'{what} must be a list of class names; one of them is '
                f'{clipped(repr(name))}. {_ADVICE}'
            )
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise WeightsError(f'{what} has {clipped(name)} twice. {_ADVICE}')
    return tuple(names)


_ADVICE = (
    "Set the names of the file's classes, in its order, as source_classes of the "
    'FineTuneHook, or leave out keep_classes.'
)


def listed(names: Sequence[str]) -> str:
    """Return names for a line: printable, and not more than a few."""
    shown = ', '.join(clipped(name) for name in names[:_SHOWN])
    return f'{shown}, ...' if len(names) > _SHOWN else shown
