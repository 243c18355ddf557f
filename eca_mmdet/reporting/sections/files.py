"""Files that the numbers rest on, with checksums; machine and versions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eca_mmdet.reporting.run import Options, Run
from eca_mmdet.utils.io import describe_file

ID = 'files'
TITLE = 'Files'
TEMPLATE = """
<h2>Files and environment</h2>
{% for one in details %}
{% if runs | length > 1 %}<h3>{{ swatch(loop.index0) }}{{ one.label }}</h3>{% endif %}
{% if one.files %}
<div class="scroll"><table class="facts sums">
<thead><tr><th>File</th><th>sha256</th><th></th></tr></thead>
<tbody>{% for file in one.files %}<tr><th scope="row">{{ file.what }}<br><span class="muted">{{ file.file }}</span></th><td><code>{{ file.sha256 }}</code></td><td>{{ file.state }}</td></tr>
{% endfor %}</tbody>
</table></div>
{% endif %}
{% if one.environment %}
<details><summary>Machine, as mmengine logged it</summary><pre>{{ one.environment | join('\\n') }}</pre></details>
{% endif %}
{% endfor %}
{% if versions %}
<div class="scroll"><table class="facts versions">
<caption>Versions</caption>
<tbody>{% for row in versions %}<tr><th scope="row">{{ row.name }}</th>{% for cell in row.cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table></div>
{% endif %}
"""  # noqa: E501


def context(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return each run's files with their sums, its machine, and all versions."""
    tables = [(run.record or {}).get('versions') or {} for run in runs]
    names = list(dict.fromkeys(name for one in tables for name in one))
    return {
        'details': [
            {
                'label': run.label,
                'files': files(run),
                'environment': run.environment,
            }
            for run in runs
        ],
        'versions': [
            {'name': name, 'cells': [str(one.get(name, '')) for one in tables]}
            for name in names
        ],
    }


def files(run: Run) -> list[dict[str, str]]:
    """Return what the numbers rest on: name, sha256, and whether that is still so.

    Sums in the record are of the time of the evaluation; the files of the page's own
    folder are summed now.
    """
    record = run.record or {}
    rows = []
    for what in ('annotations', 'checkpoint', 'predictions'):
        one = record.get(what) or {}
        if one.get('file'):
            sha256 = one.get('sha256') or ''
            path = run.checkpoint if what == 'checkpoint' else None
            state = _state(path or Path(one['file']), sha256)
            rows.append(
                {'what': what, 'file': one['file'], 'sha256': sha256, 'state': state}
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
