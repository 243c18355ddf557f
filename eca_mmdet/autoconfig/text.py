"""Config text: short, with a comment where each value came from."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eca_mmdet.utils.text import printable

_WIDTH = 88


@dataclass(frozen=True)
class Commented:
    """A value with the reason for it, which is written as a comment above it."""

    value: Any
    why: str


class Name(str):
    """A variable of the config."""


def assignment(name: str, value: Any) -> str:
    """Return ``name = value`` as Python.

    Values are dicts, lists, tuples, text and numbers. A :class:`Name` is written as it
    is; a :class:`Commented` anywhere becomes a comment and its value.
    """
    lead = ''
    if isinstance(value, Commented):
        lead, value = comment(value.why), value.value
    return f'{lead}{name} = {_code(value, 0, len(name) + 3)}\n'


def comment(text: str, indent: int = 0) -> str:
    """Wrap a comment; text from files in it adds no lines of its own."""
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
        for key, entry in value.items():
            if isinstance(entry, Commented):
                lines.append(comment(entry.why, inner))
                entry = entry.value
            lines.append(f'{pad}{key}={_code(entry, inner, len(key) + 2)},\n')
        return f'dict(\n{"".join(lines)}{" " * indent})'
    if isinstance(value, (list, tuple)):
        opening, closing = '[]' if isinstance(value, list) else '()'
        lines = [f'{pad}{_code(entry, inner, 1)},\n' for entry in value]
        return f'{opening}\n{"".join(lines)}{" " * indent}{closing}'
    return str(flat)


def _flat(value: Any) -> str | None:
    """Return a value on one line; None where a comment is in it."""
    if isinstance(value, Name):
        return str(value)
    if isinstance(value, Commented):
        return None
    if not isinstance(value, (Mapping, list, tuple)):
        # mmengine replaces {{ ... }} in a config's text, wherever it stands.
        return repr(value).replace('{{', '{\\x7b')
    entries = value.values() if isinstance(value, Mapping) else value
    parts = [_flat(entry) for entry in entries]
    if None in parts:
        return None
    if isinstance(value, Mapping):
        pairs = zip(value, parts, strict=True)
        return f'dict({", ".join(f"{key}={text}" for key, text in pairs)})'
    inside = ', '.join(map(str, parts))
    if isinstance(value, list):
        return f'[{inside}]'
    return f'({inside},)' if len(parts) == 1 else f'({inside})'
