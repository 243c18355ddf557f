"""Sources of the numbers: configs, files with checksums, machine and versions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eca_mmdet.reporting.run import Options, Run
from eca_mmdet.reporting.sections import Section
from eca_mmdet.utils.io import describe_file


def _configs(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return every run's flat config, and with several what differs."""
    tables = [dict(flat(run.config)) if run.config else {} for run in runs]
    if not any(run.config_path for run in runs):
        return None
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
        'configs': [
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


def flat(value: Any, name: str = '') -> Iterator[tuple[str, str]]:
    """Yield (dotted key, value) of a config; lists of dicts are counted."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from flat(item, f'{name}.{key}' if name else str(key))
    elif isinstance(value, (list, tuple)) and any(isinstance(v, dict) for v in value):
        for index, item in enumerate(value):
            yield from flat(item, f'{name}[{index}]')
    else:
        yield name, repr(value)


CONFIG = Section(
    'config',
    'Config',
    _configs,
    """
<h2>Config</h2>
{% if compared %}
{% if differing %}
<div class="scroll">
<table class="facts" id="config-differences">
<caption>What differs</caption>
<thead><tr><th></th>{% for run in runs %}<th>{{ swatch(loop.index0) }}{{ run.label }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in differing %}<tr><th scope="row">{{ row.name }}</th>{% for cell in row.cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table>
</div>
{% else %}<p class="lead">The configs are equal.</p>{% endif %}
{% endif %}
{% for one in configs %}
<details>
<summary>{{ one.label }}: {{ one.rows | length if one.rows else 'text' }}{{ ' values' if one.rows }}, {{ one.path }}</summary>
{% if one.rows %}
<div class="scroll"><table class="facts flat">
<tbody>{% for name, value in one.rows %}<tr><th scope="row">{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}</tbody>
</table></div>
{% else %}<pre>{{ one.text }}</pre>{% endif %}
</details>
{% endfor %}
""",  # noqa: E501
)


def _files(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return each run's files with their sums, its machine, and all versions."""
    tables = [(run.record or {}).get('versions') or {} for run in runs]
    names = list(dict.fromkeys(name for one in tables for name in one))
    return {
        'details': [{'run': run, 'files': files_of(run)} for run in runs],
        'versions': [
            {'name': name, 'cells': [str(one.get(name, '')) for one in tables]}
            for name in names
        ],
    }


def files_of(run: Run) -> list[dict[str, str]]:
    """Return what the numbers rest on: name, sha256, and whether that is still so.

    Sums in the record are of the time of the evaluation; the files of the page's own
    folder are summed now.
    """
    record = run.record or {}
    rows = []
    for what in ('annotations', 'checkpoint', 'predictions'):
        recorded = record.get(what) or {}
        if file := recorded.get('file'):
            sha256 = recorded.get('sha256') or ''
            path = run.checkpoint if what == 'checkpoint' else None
            state = _state(path or Path(file), sha256)
            rows.append({'what': what, 'file': file, 'sha256': sha256, 'state': state})
    for what, path in (('metrics', run.record_path), ('config', run.config_path)):
        if path is not None and path.is_file():
            rows.append({'what': what, **describe_file(path), 'state': 'summed now'})
    return rows


def _state(path: Path, sha256: str) -> str:
    if not path.is_file():
        return 'no longer there'
    if not sha256:
        return 'not summed'
    same = describe_file(path)['sha256'] == sha256
    return 'unchanged since' if same else 'CHANGED since'


FILES = Section(
    'files',
    'Files',
    _files,
    """
<h2>Files and environment</h2>
{% for one in details %}
{% if runs | length > 1 %}<h3>{{ swatch(loop.index0) }}{{ one.run.label }}</h3>{% endif %}
{% if one.files %}
<div class="scroll"><table class="facts sums">
<thead><tr><th>File</th><th>sha256</th><th></th></tr></thead>
<tbody>{% for file in one.files %}<tr><th scope="row">{{ file.what }}<br><span class="muted">{{ file.file }}</span></th><td><code>{{ file.sha256 }}</code></td><td>{{ file.state }}</td></tr>
{% endfor %}</tbody>
</table></div>
{% endif %}
{% if one.run.environment %}
<details><summary>Machine, as mmengine logged it</summary><pre>{{ one.run.environment | join('\\n') }}</pre></details>
{% endif %}
{% endfor %}
{% if versions %}
<div class="scroll"><table class="facts versions">
<caption>Versions</caption>
<tbody>{% for row in versions %}<tr><th scope="row">{{ row.name }}</th>{% for cell in row.cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table></div>
{% endif %}
""",  # noqa: E501
)
