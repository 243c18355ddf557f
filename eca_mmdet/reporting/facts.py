"""Sections of the page that say what a run was: config, machine, files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eca_mmdet.reporting.run import Run
from eca_mmdet.utils.io import describe_file


def flat(value: Any, name: str = '') -> Iterator[tuple[str, str]]:
    """Yield (dotted key, value) of a config; lists of dicts are counted."""
    if isinstance(value, dict) and value:
        for key, one in value.items():
            yield from flat(one, f'{name}.{key}' if name else str(key))
    elif isinstance(value, (list, tuple)) and any(isinstance(v, dict) for v in value):
        for index, one in enumerate(value):
            yield from flat(one, f'{name}[{index}]')
    else:
        yield name, repr(value)


def configs(runs: Sequence[Run]) -> dict[str, Any]:
    """Return every run's flat config, and with several what differs."""
    tables = [dict(flat(run.config)) if run.config else {} for run in runs]
    known = [one for one in tables if one]
    names = list(dict.fromkeys(name for one in known for name in one))
    differing = []
    if len(known) > 1:
        differing = [
            {'name': name, 'cells': [one.get(name, '') for one in tables]}
            for name in names
            if len({one.get(name) for one in known}) > 1
        ]
    return {
        'compared': len(known) > 1,
        'differing': differing,
        'runs': [
            {
                'label': run.label,
                'path': str(run.config_path),
                'rows': list(one.items()),
                'text': '' if one else run.config_text,
            }
            for run, one in zip(runs, tables, strict=True)
            if run.config_path
        ],
    }


def versions(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return a row a package: its version in each run."""
    tables = [(run.record or {}).get('versions') or {} for run in runs]
    names = list(dict.fromkeys(name for one in tables for name in one))
    return [
        {'name': name, 'cells': [str(one.get(name, '')) for one in tables]}
        for name in names
    ]


def files(run: Run) -> list[dict[str, str]]:
    """Return what the numbers rest on: name, sha256, and whether that is still so.

    Sums in the record are of the time of the evaluation; the files of the page's own
    folder are summed now.
    """
    record = run.record or {}
    rows = []
    for what, key in (
        ('annotations', 'annotations'),
        ('checkpoint', 'checkpoint'),
        ('predictions', 'predictions'),
    ):
        one = record.get(key)
        if isinstance(one, dict) and one.get('file'):
            sha256 = str(one.get('sha256') or '')
            path = run.checkpoint if key == 'checkpoint' else None
            rows.append(
                {
                    'what': what,
                    'file': str(one['file']),
                    'sha256': sha256,
                    'state': _state(path or Path(str(one['file'])), sha256),
                }
            )
    for what, path in (('metrics', run.record_path), ('config', run.config_path)):
        if path is not None and path.is_file():
            one = describe_file(path)
            rows.append({'what': what, **one, 'state': 'summed now'})
    return rows


def _state(path: Path, sha256: str) -> str:
    if not path.is_file():
        return 'no longer there'
    if not sha256:
        return 'not summed'
    same = describe_file(path)['sha256'] == sha256
    return 'unchanged since' if same else 'CHANGED since'


def _plain_time(text: str) -> str:
    return re.sub(r'^(\d{4}-\d\d-\d\d)T([\d:]+)\+00:00$', r'\1 \2 UTC', text)


def summary(run: Run) -> list[tuple[str, str]]:
    """Return (what, value) of the head of the page."""
    record = run.record or {}
    facts = [('folder', str(run.path))]
    if {'detector', 'attention', 'depth'} <= record.keys():  # of the demo
        names = (str(record[key]) for key in ('detector', 'attention'))
        facts.append(('demo', f'{", ".join(names)}, ResNet-{record["depth"]}'))
    for what, key in (('config', 'config'), ('evaluated', 'date')):
        if record.get(key):
            facts.append((what, _plain_time(str(record[key]))))
    results: list[dict[str, Any]] = list(run.results.values())
    counts = results[0].get('counts') or {} if results else {}
    if counts:
        shown = (
            f'{value:,} {name.replace("_", " ")}'
            for name, value in counts.items()
            if value
        )
        facts.append(('data', ', '.join(shown)))
    at = next((key for key in ('epoch', 'iter') if key in record), None)
    if at:
        facts.append(('measured after', f'{at} {record[at]}'))
    if record.get('fast'):
        facts.append(('weights', 'folded and in lower precision (test --fast)'))
    return facts
