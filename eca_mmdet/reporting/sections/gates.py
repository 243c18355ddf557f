"""Gates: values by channel, kernels, dead channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eca_mmdet.registration import InstallError
from eca_mmdet.reporting.charts import Chart, line, line_chart
from eca_mmdet.reporting.run import Options, Run, reason
from eca_mmdet.reporting.sections.images import find_annotations, find_images
from eca_mmdet.utils.errors import UserError

ID = 'gates'
TITLE = 'Gates'
TEMPLATE = """
<h2>Gates</h2>
<p class="lead">What the attention layers multiply each channel by, in the last block of each stage; mean over images. Open: 1, closed: 0.</p>
{{ plots(charts) }}
{% for one in gates %}
{% if runs | length > 1 %}<h3>{{ swatch(one.colour) }}{{ one.label }}</h3>{% endif %}
<div class="scroll">
<table class="numbers gates" data-run="{{ one.label }}">
<caption>{{ one.caption }}</caption>
<thead><tr>{% for head in one.header %}<th>{{ head }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in one.rows %}<tr>{% for cell in row %}{% if loop.first %}<th scope="row">{{ cell }}</th>{% else %}<td>{{ cell }}</td>{% endif %}{% endfor %}</tr>
{% endfor %}</tbody>
</table>
{% if one.kernels %}
<table class="facts kernels" data-run="{{ one.label }}">
<caption>Weights of the kernels</caption>
<tbody>{% for name, weights in one.kernels %}<tr><th scope="row">{{ name }}</th><td>{{ weights }}</td></tr>
{% endfor %}</tbody>
</table>
{% endif %}
</div>
{% endfor %}
"""  # noqa: E501


def context(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return a table of each run's gates, recorded or measured now, and charts."""
    limit = options.gate_images if options.model else 0
    gates = []
    for at, run in enumerate(runs):
        if run.gates is None and run.checkpoint is not None and limit:
            try:
                run.gates = _measure(run, limit, options.images, options.annotations)
            except (UserError, InstallError) as error:
                run.missing.append(f'gates: {reason(error)}')
        if run.gates is not None:
            gates.append(_section(run, at))
    return {'gates': gates, 'charts': _charts(runs)} if gates else None


def _measure(
    run: Run, limit: int, images: str | None, annotations: str | None
) -> dict[str, Any]:
    from eca_mmdet.analysis.gate_images import choose_images
    from eca_mmdet.analysis.gates import record_gates

    source = find_annotations(run, annotations)
    chosen = choose_images(source, str(find_images(run, images)), None, limit)
    return record_gates([str(run.checkpoint)], chosen)


def _section(run: Run, at: int) -> dict[str, Any]:
    from eca_mmdet.analysis.gate_plots import GATE_HEADER, gate_cells

    record = run.gates or {}
    gates = record['checkpoints'][0]['gates']
    limits = record['thresholds']
    caption = (
        f'{record["images"]} images. Channels, of the range: dead: below '
        f'{limits["dead"]:g} on all images; saturated: above {limits["saturated"]:g}; '
        f'constant: standard deviation below {limits["constant"]:g}'
    )
    return {
        'label': run.label,
        'colour': at,
        'caption': caption,
        'header': ['gate', *GATE_HEADER],
        'rows': [gate_cells(gate) for gate in gates],
        'kernels': [
            (gate['name'], ' '.join(f'{weight:.3f}' for weight in gate['kernel']))
            for gate in gates
            if gate['kernel']
        ],
    }


def _charts(runs: Sequence[Run]) -> list[Chart]:
    """Return a chart a stage, of its last gate: a line a class, or a run."""
    from eca_mmdet.analysis.gate_plots import drawn_classes, last_of_stages

    having = [(at, run) for at, run in enumerate(runs) if run.gates]
    by_stage: dict[Any, list[dict[str, Any]]] = {}
    titles: dict[Any, str] = {}
    for at, run in having:
        record = run.gates or {}
        gates = record['checkpoints'][0]['gates']
        for key, gate in last_of_stages(gates).items():
            titles.setdefault(key, gate['name'])
            lines = by_stage.setdefault(key, [])
            if len(having) > 1:
                lines.append(line(run.label, enumerate(gate['mean']), at))
                continue
            classes = drawn_classes(record)
            if not classes:
                lines.append(line('all images', enumerate(gate['mean']), 0))
            lines += [
                line(name, enumerate(gate['by_class'][name]), index)
                for index, name in enumerate(classes)
            ]
    return [
        line_chart(f'gates-{index}', titles[key], 'channel', 'gate', by_stage[key])
        for index, key in enumerate(by_stage)
    ]
