"""Comparison of values with the recorded ones, with every difference listed."""

import json
import math
import os
from pathlib import Path

FOLDER = Path(__file__).parent / 'recorded'


def check(name, value, rtol=1e-6, atol=1e-9, additions=False):
    """Compare a value with ``recorded/NAME``, or record it (see ``record.py``).

    Args:
        name: file name below ``recorded/``; a ``.txt`` file has a string, one part per
            line, and a ``.json`` file any JSON value.
        value: to compare.
        rtol: relative tolerance of floats.
        atol: absolute tolerance of floats.
        additions: allow entries of objects that are not recorded.
    """
    path = FOLDER / name
    is_json = path.suffix == '.json'
    text = json.dumps(value, indent=1, ensure_ascii=False) if is_json else value
    read = json.loads if is_json else str.split
    record = bool(os.environ.get('ECA_MMDET_RECORD'))
    found = ['no such file']
    if path.is_file():
        sides = read(text), read(path.read_text(encoding='utf-8'))
        found = differences(*sides, rtol, atol, additions and not record)
    if record and found:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.rstrip('\n') + '\n', encoding='utf-8')
        return
    assert not found, '\n'.join(
        [
            f'{len(found)} differences from tests/contract/recorded/{name}:',
            *found[:20],
            'If this is intended: python -m tests.contract.record -k WORDS, as for '
            'pytest; then review git diff.',
        ]
    )


def differences(value, expected, rtol=1e-6, atol=1e-9, additions=False, at='$'):
    """Return a line for each place where a JSON value differs from the expected one."""
    if isinstance(value, dict) and isinstance(expected, dict):
        lines = [f'{at}.{key}: missing' for key in expected if key not in value]
        if not additions:
            lines += [f'{at}.{key}: not recorded' for key in value.keys() - expected]
        for key in expected:
            if key in value:
                place = f'{at}.{key}'
                lines += differences(
                    value[key], expected[key], rtol, atol, additions, place
                )
        return lines
    if isinstance(value, list) and isinstance(expected, list):
        lines = []
        if len(value) != len(expected):
            lines.append(f'{at}: {len(value)} items, {len(expected)} recorded')
        for index, pair in enumerate(zip(value, expected, strict=False)):
            lines += differences(*pair, rtol, atol, additions, f'{at}[{index}]')
        return lines
    if isinstance(expected, float) and isinstance(value, float):
        same = math.isclose(value, expected, rel_tol=rtol, abs_tol=atol)
        same = same or (math.isnan(value) and math.isnan(expected))
    else:
        same = type(value) is type(expected) and value == expected
    return [] if same else [f'{at}: {value!r}, recorded {expected!r}']


def key_paths(value, at=''):
    """Return the paths of all keys of a JSON value, with '[]' for items of a list."""
    if isinstance(value, dict):
        paths = {f'{at}.{key}' for key in value}
        for key, entry in value.items():
            paths |= set(key_paths(entry, f'{at}.{key}'))
    elif isinstance(value, list):
        paths = {path for entry in value for path in key_paths(entry, f'{at}[]')}
    else:
        return []
    return sorted(paths)


def hide(value, keys, kind=object):
    """Return a copy with '...' for the values of keys, where they are of a kind."""
    if isinstance(value, dict):
        return {
            key: '...'
            if key in keys and isinstance(entry, kind)
            else hide(entry, keys, kind)
            for key, entry in value.items()
        }
    if isinstance(value, list):
        return [hide(entry, keys, kind) for entry in value]
    return value
