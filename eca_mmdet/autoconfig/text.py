"""Config text: short, with a comment where each value came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_WIDTH = 88


@dataclass(frozen=True)
class Commented:
    """A value with the reason for it, which is written as a comment above it."""

    value: Any
    why: str


def assignment(name: str, value: Any) -> str:
    """Return ``name = value`` as Python.

    Args:
        name: of the variable.
        value: dicts, lists, tuples, text and numbers; a :class:`Name` is written as it
            is. A :class:`Commented` anywhere becomes a comment and its value.
    """
    comment = ''
    if isinstance(value, Commented):
        comment, value = _comment(value.why, 0), value.value
    return f'{comment}{name} = {_code(value, 0, len(name) + 3)}\n'


class Name(str):
    """A variable of the config."""


def comment(text: str) -> str:
    """Return lines of a comment."""
    return _comment(text, 0)


def _comment(text: str, indent: int) -> str:
    """Wrap a comment; text of files in it makes no lines of its own."""
    import textwrap

    from eca_mmdet.utils.text import printable

    lead = f'{" " * indent}# '
    lines = textwrap.wrap(
        printable(text).replace('{{', '{ {'),  # mmengine replaces {{ ... }}
        _WIDTH - len(lead),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return ''.join(f'{lead}{line}\n' for line in lines)


def _code(value: Any, indent: int, used: int) -> str:
    """Return a value as code: on one line if it fits and nothing in it is commented."""
    flat = _flat(value)
    if flat is not None and indent + used + len(flat) < _WIDTH:
        return flat
    inner = indent + 4
    pad = ' ' * inner
    if isinstance(value, Mapping):
        lines = []
        for key, one in value.items():
            if isinstance(one, Commented):
                lines.append(_comment(one.why, inner))
                one = one.value
            lines.append(f'{pad}{key}={_code(one, inner, len(key) + 2)},\n')
        return f'dict(\n{"".join(lines)}{" " * indent})'
    if isinstance(value, (list, tuple)):
        opening, closing = '[]' if isinstance(value, list) else '()'
        lines = [f'{pad}{_code(one, inner, 1)},\n' for one in value]
        return f'{opening}\n{"".join(lines)}{" " * indent}{closing}'
    return str(flat)


def _flat(value: Any) -> str | None:
    """Return a value on one line; None where a comment is in it."""
    if isinstance(value, Name):
        return str(value)
    if isinstance(value, Commented):
        return None
    if isinstance(value, Mapping):
        parts = {key: _flat(one) for key, one in value.items()}
        if None in parts.values():
            return None
        return f'dict({", ".join(f"{key}={text}" for key, text in parts.items())})'
    if isinstance(value, (list, tuple)):
        return _flat_sequence(value)
    # mmengine replaces {{ ... }} in a config's text, wherever it stands.
    return repr(value).replace('{{', '{\\x7b')


def _flat_sequence(value: Sequence[Any]) -> str | None:
    parts = [_flat(one) for one in value]
    if None in parts:
        return None
    inside = ', '.join(map(str, parts))
    if isinstance(value, list):
        return f'[{inside}]'
    return f'({inside},)' if len(parts) == 1 else f'({inside})'
