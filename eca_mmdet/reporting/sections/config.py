"""Every value of the configs, and what differs between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from eca_mmdet.reporting.run import Options, Run

ID = 'config'
TITLE = 'Config'
TEMPLATE = """
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
"""  # noqa: E501


def context(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
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
        for key, one in value.items():
            yield from flat(one, f'{name}.{key}' if name else str(key))
    elif isinstance(value, (list, tuple)) and any(isinstance(v, dict) for v in value):
        for index, one in enumerate(value):
            yield from flat(one, f'{name}[{index}]')
    else:
        yield name, repr(value)
