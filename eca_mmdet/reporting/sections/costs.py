"""Parameters, multiply-adds and memory of the detectors, by part."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from eca_mmdet.registration import InstallError
from eca_mmdet.reporting.run import Options, Run, reason
from eca_mmdet.utils.errors import UserError

ID = 'costs'
TITLE = 'Costs'
TEMPLATE = """
<h2>Costs</h2>
<div class="tables">
{% for one in costs %}
<div class="scroll">
<table class="numbers" data-run="{{ one.label }}">
<caption>{% if runs | length > 1 %}{{ swatch(one.colour) }}{{ one.label }}, {% endif %}input {{ one.shape[0] }} x {{ one.shape[1] }}</caption>
<thead><tr><th>Part</th><th>Params</th><th>trained</th><th>GMACs</th><th>MiB for backward</th></tr></thead>
<tbody>{% for name, part in one.parts.items() %}<tr><th scope="row">{{ name }}</th><td>{{ '{:,}'.format(part.params) }}</td><td>{{ '{:,}'.format(part.trained) }}</td><td>{{ '%.3f' % part.gmacs }}</td><td>{{ '%.1f' % part.saved_mib }}</td></tr>
{% endfor %}</tbody>
</table>
<p class="lead">GMACs of one image at inference; memory kept for backward by a step of {{ one.images }} images, counted. Highest activations at inference: {{ '%.0f' % one.peak_mib }} MiB.{% if one.not_run %} Not counted: {{ one.not_run | join(', ') }}.{% endif %}</p>
</div>
{% endfor %}
</div>
"""  # noqa: E501

_MIB = 2**20


def context(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return the costs of each run's detector, counted from its config."""
    found = []
    for at, run in enumerate(runs):
        if run.config is None or not options.model:
            continue
        try:
            cost = _cost(copy.deepcopy(run.config), str(run.config_path))
        except Exception as error:  # parts may raise anything on wrong arguments
            known = isinstance(error, (UserError, InstallError))
            run.missing.append(f'costs: {reason(error) if known else repr(error)}')
            continue
        found.append({'label': run.label, 'colour': at, **cost})
    return {'costs': found} if found else None


def _cost(values: dict[str, Any], path: str) -> dict[str, Any]:
    from eca_mmdet import registration

    registration.register()
    from eca_mmdet.analysis.exact_cost import exact_cost
    from eca_mmdet.engine.config import build_model
    from eca_mmdet.inference.detector import plain_config

    shape = input_shape(values)
    values['default_scope'] = 'mmdet'
    cfg = plain_config(values, path)
    if not cfg.get('model'):
        raise UserError('the config has no model', code='config-invalid')
    cost = exact_cost(build_model(cfg, 'meta'), cfg, shape)
    parts = {**cost.parts, 'total': cost.total, 'of it the gates': cost.gates}
    return {
        'shape': shape,
        'images': cost.images,
        'peak_mib': cost.peak_bytes / _MIB,
        'not_run': list(cost.not_run),
        'parts': {
            name: {
                **asdict(one),
                'gmacs': one.macs / 1e9,
                'saved_mib': one.saved_bytes / _MIB,
            }
            for name, one in parts.items()
        },
    }


def input_shape(values: dict[str, Any]) -> tuple[int, int]:
    """Return height and width of the test input, in pixels, each a multiple of 32.

    mmdet's scales are (longer, shorter) where the ratio is kept: a wide image is
    assumed. Without one, 800 x 1344.
    """
    loader = values.get('test_dataloader')
    dataset = loader.get('dataset') if isinstance(loader, dict) else None
    pipeline = dataset.get('pipeline') if isinstance(dataset, dict) else None
    for step in pipeline if isinstance(pipeline, (list, tuple)) else ():
        scale = step.get('scale') if isinstance(step, dict) else None
        if (
            isinstance(scale, (list, tuple))
            and len(scale) == 2
            and all(isinstance(one, int) and 0 < one < 10_000 for one in scale)
        ):
            shorter, longer = sorted(scale)
            return -(-shorter // 32) * 32, -(-longer // 32) * 32
    return 800, 1344
