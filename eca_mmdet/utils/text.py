"""Text for a terminal, made safe to print; progress bars; configs as Python."""

from __future__ import annotations

import contextlib
import difflib
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PATIENCE = 2.0
"""Seconds until a progress bar appears."""
LINE_AFTER = 10.0
"""Seconds until a line of progress appears where there is no terminal."""

_WIDTH = 88  # of a written config


def printable(text: str) -> str:
    """Return one line; control characters are shown as escapes."""
    return ''.join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def clipped(text: str, most: int = 60) -> str:
    """Return printable text of about ``most`` characters, its middle left out."""
    if len(text) > most:
        text = f'{text[: most * 2 // 3]} ... {text[-(most // 3 - 5) :]}'
    return printable(text)


def first_line(error: object, most: int = 200) -> str:
    """Return the first line of an error's message, or else its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return clipped(lines[0], most) if lines else type(error).__name__


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return 'Did you mean ...?' after a space, '' where no known name is similar.

    A mapping has the names to suggest as its values.
    """
    names = known if isinstance(known, Mapping) else {key: key for key in known}
    by_lower = {key.lower(): names[key] for key in sorted(names)}
    close = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)
    similar = ' or '.join(dict.fromkeys(by_lower[key] for key in close))
    return f' Did you mean {similar}?' if similar else ''


def first(names: Sequence[str], count: int = 3) -> str:
    """Return the first names, and '...' if there are more."""
    return ', '.join(names[:count]) + (', ...' if len(names) > count else '')


def plural(count: int, noun: str) -> str:
    """Return a number and a noun, e.g. '1 image', '2 images' and '2 classes'."""
    ending = 'es' if noun.endswith('s') else 's'
    return f'{count} {noun}' + (ending if count != 1 else '')


@contextlib.contextmanager
def progress(
    what: str, total: int | None = None, shown: bool = True
) -> Iterator[Callable[..., None]]:
    """Show progress on stderr if the work takes a while.

    On a terminal it is a bar, which only moves without ``total``. Elsewhere it is a
    line after ``LINE_AFTER`` seconds, and another each time that the time has doubled.
    Yields a function that counts one item, or so many.
    """
    if not shown:
        yield lambda count=1: None
        return
    if not sys.stderr.isatty():
        yield _lines(what, total)
        return
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=total)
    timer = threading.Timer(PATIENCE, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield lambda count=1: bar.advance(task, count)
    finally:
        timer.cancel()
        timer.join()  # it may be showing the bar just now
        if bar.live.is_started:  # stop() writes a line on a dumb terminal
            bar.stop()


def _lines(what: str, total: int | None) -> Callable[..., None]:
    start, done, due = time.monotonic(), 0, LINE_AFTER

    def advance(count: int = 1) -> None:
        nonlocal done, due
        done += count
        seconds = time.monotonic() - start
        if seconds < due:
            return
        due = 2 * seconds
        left = ''
        if total:
            rest = seconds / done * (total - done)
            left = f' of {total}, about {rest:.0f} s left'
        sys.stderr.write(f'{what}: {done}{left}\n')
        sys.stderr.flush()

    return advance


class Name(str):
    """A variable of a written config."""


@dataclass(frozen=True)
class Commented:
    """A value with the reason for it, which is written as a comment above it."""

    value: Any
    why: str


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
    if isinstance(value, Name):
        return str(value)
    if not isinstance(value, (Mapping, list, tuple)):
        # mmengine replaces {{ ... }} in a config's text, wherever it stands.
        return repr(value).replace('{{', '{\\x7b')
    opening, closing = '[]' if isinstance(value, list) else '()'
    entries: Any = [('', entry) for entry in value]
    if isinstance(value, Mapping):
        opening, entries = 'dict(', [(f'{key}=', value[key]) for key in value]
    parts, lines = [], ''
    for lead, entry in entries:
        if isinstance(entry, Commented):
            lines += comment(entry.why, indent + 4)
            entry = entry.value
        parts.append(lead + _code(entry, indent + 4, len(lead) + 1))
        lines += f'{" " * (indent + 4)}{parts[-1]},\n'
    comma = ',' if isinstance(value, tuple) and len(value) == 1 else ''
    flat = f'{opening}{", ".join(parts)}{comma}{closing}'
    plain = '\n' not in flat and lines.count('\n') == len(parts)
    if plain and indent + used + len(flat) < _WIDTH:
        return flat
    return f'{opening}\n{lines}{" " * indent}{closing}'
