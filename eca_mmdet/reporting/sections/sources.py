"""Sources of the numbers: configs, files with checksums, machine and versions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eca_mmdet.reporting.run import Options, Run
from eca_mmdet.reporting.sections import Section
from eca_mmdet.utils.io import describe_file, sha256_of


def _configs(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return every run's flat config, and with several what differs."""
    tables = [dict(flat(run.config)) if run.config else {} for run in runs]
    if not any(run.config_path for run in runs):
        return None
    known = [table for table in tables if table]
    return {
        'compared': len(known) > 1,
        'differing': [
            [name, *(table.get(name, '') for table in tables)]
            for name in dict.fromkeys(name for table in known for name in table)
            if len({table.get(name) for table in known}) > 1
        ],
        'configs': list(zip(runs, map(list, map(dict.items, tables)), strict=True)),
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
{% if compared %}
{% if differing %}
<div class="scroll">
<table class="facts" id="config-differences">
<caption>What differs</caption>
{{ heads(runs) }}
{{ body(differing) }}
</table>
</div>
{% else %}<p class="lead">The configs are equal.</p>{% endif %}
{% endif %}
{% for run, rows in configs if run.config_path %}
<details>
<summary>{{ run.label }}: {{ rows | length if rows else 'text' }}{{ ' values' if rows }}, {{ run.config_path }}</summary>
{% if rows %}
<div class="scroll"><table class="facts flat">
{{ body(rows) }}
</table></div>
{% else %}<pre>{{ run.config_text }}</pre>{% endif %}
</details>
{% endfor %}
""",  # noqa: E501
)


def _files(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return each run's files with their sums, its machine, and all versions."""
    tables = [(run.record or {}).get('versions') or {} for run in runs]
    names = dict.fromkeys(name for table in tables for name in table)
    return {
        'details': [(run, files_of(run)) for run in runs],
        'versions': [
            [name, *(table.get(name, '') for table in tables)] for name in names
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
            kept = (what == 'checkpoint' and run.checkpoint) or Path(file)
            if not kept.is_file():
                state = 'no longer there'
            elif not sha256:
                state = 'not summed'
            else:
                same = sha256_of(kept) == sha256
                state = 'unchanged since' if same else 'CHANGED since'
            rows.append({'what': what, 'file': file, 'sha256': sha256, 'state': state})
    for what, path in (('metrics', run.record_path), ('config', run.config_path)):
        if path is not None and path.is_file():
            rows.append({'what': what, **describe_file(path), 'state': 'summed now'})
    return rows


FILES = Section(
    'files',
    'Files',
    _files,
    """
{% for run, files in details %}
{% if runs | length > 1 %}<h3>{{ swatch(loop.index0) }}{{ run.label }}</h3>{% endif %}
{% if files %}
<div class="scroll"><table class="facts sums">
<thead><tr><th>File</th><th>sha256</th><th></th></tr></thead>
<tbody>{% for file in files %}<tr><th scope="row">{{ file.what }}<br><span class="muted">{{ file.file }}</span></th><td><code>{{ file.sha256 }}</code></td><td>{{ file.state }}</td></tr>
{% endfor %}</tbody>
</table></div>
{% endif %}
{% if run.environment %}
<details><summary>Machine, as mmengine logged it</summary><pre>{{ run.environment | join('\\n') }}</pre></details>
{% endif %}
{% endfor %}
{% if versions %}
<div class="scroll"><table class="facts versions">
<caption>Versions</caption>
{{ body(versions) }}
</table></div>
{% endif %}
""",  # noqa: E501
    heading='Files and environment',
)
