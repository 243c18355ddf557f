"""Values that nobody expects, put in the place of each part of a JSON file."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from tests.faults.corruption import draw

RAW = '@raw@'
"""Before a text that is to stand in the file as it is."""


def _raw(text: str) -> str:
    return f'{RAW}{text}{RAW}'


def deep(levels: int) -> str:
    """Return lists in lists, as JSON."""
    return _raw('[' * levels + ']' * levels)


VALUES: dict[str, Any] = {
    'null': None,
    'true': True,
    'minus-1': -1,
    'zero': 0,
    'half': 0.5,
    'two-to-31': 2**31,
    'two-to-63': 2**63,
    'minus-two-to-64': -(2**64),
    'ten-to-18': 10**18,
    'ten-to-400': 10**400,
    '5000-digits': _raw('9' * 5000),
    '1e308': 1e308,
    '1e999': _raw('1e999'),
    'minus-1e999': _raw('-1e999'),
    'nan': _raw('NaN'),
    'tiny': 5e-324,
    'empty-text': '',
    'text': 'x',
    'digits': '7',
    'long-text': 'x' * 200_000,
    'control': 'a\x1b[31m\n\x07',
    'nul': 'a\0b',
    'surrogate': 'a\ud800b',
    'leads-out': '../../../etc/passwd',
    'absolute': '/dev/zero',
    'markup': '</script><img src=x onerror=alert(1)>{{ 7*7 }}',
    'list': [],
    'object': {},
    'list-of-null': [None],
    'objects': {'id': {'id': {}}},
    'many': [0] * 100_000,
    'deep-900': deep(900),
    'deep-970': deep(970),
    'deep-100000': deep(100_000),
}


def paths_of(content: Any, most: int = 2) -> list[tuple[Any, ...]]:
    """Return the paths of all parts; of lists the first ``most`` entries."""
    found: list[tuple[Any, ...]] = []
    if isinstance(content, dict):
        parts = list(content.items())
    elif isinstance(content, list):
        parts = list(enumerate(content[:most]))
    else:
        return found
    for key, value in parts:
        found.append((key,))
        found += [(key, *more) for more in paths_of(value, most)]
    return found


def put(content: Any, path: tuple[Any, ...], value: Any) -> str:
    """Return the JSON of a copy with a value in another one's place."""
    changed = copy.deepcopy(content)
    node = changed
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    text = json.dumps(changed)
    return text.replace(f'"{RAW}', '').replace(f'{RAW}"', '')


def without(content: Any, path: tuple[Any, ...]) -> str:
    """Return the JSON of a copy without a part."""
    changed = copy.deepcopy(content)
    node = changed
    for part in path[:-1]:
        node = node[part]
    del node[path[-1]]
    return json.dumps(changed)


def sampled(content: Any, name: str, count: int) -> Iterator[tuple[str, str]]:
    """Yield what and JSON of ``count`` copies, each with one part changed.

    Each path has its turn, each with values of its own.
    """
    numbers = draw(f'hostile {name}')
    paths = paths_of(content)
    keys = [*VALUES, 'gone']
    for index in range(count):
        path = paths[index % len(paths)]
        key = numbers.choice(keys)
        text = (
            without(content, path) if key == 'gone' else put(content, path, VALUES[key])
        )
        yield f'{".".join(map(str, path))}-{key}', text


def whole_files() -> dict[str, bytes | str]:
    """Return JSON files of another kind, or of none."""
    return {
        'null': 'null',
        'number': '5',
        'nan': 'NaN',
        'text': '"x"',
        'list': '[]',
        'object': '{}',
        'nested-lists': '[' * 100_000,
        'nested-objects': '{"a":' * 100_000,
        'nested-and-closed': '[' * 100_000 + ']' * 100_000,
        'number-of-5000-digits': '{"images": ' + '1' * 5000 + '}',
        'python': "{'images': None}",
        'comments': '// comment\n{}',
        'two-values': '{}{}',
        'lines': '{}\n{}\n',
        'trailing-comma': '{"images": [],}',
        'open-text': '{"images": "',
        'html': '<!doctype html>',
        'png': b'\x89PNG\r\n\x1a\n' + bytes(200),
        'zip': b'PK\x03\x04' + bytes(200),
        'gzip': b'\x1f\x8b\x08\x00' + bytes(200),
        'spaces': b' \n\t' * 1000,
        'mark-alone': b'\xef\xbb\xbf',
        'utf-16-mark-alone': b'\xff\xfe',
        'control': b'\x1b[31m{}\x07',
    }
