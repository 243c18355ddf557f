"""One self-contained HTML page from runs: nothing is loaded from anywhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

import eca_mmdet
from eca_mmdet.evaluation.tables import heading
from eca_mmdet.reporting import curves, facts, numbers
from eca_mmdet.reporting.charts import Chart
from eca_mmdet.reporting.run import Run

ASSETS = Path(__file__).parent / 'assets'
GENERATOR = 'eca-mmdet report'
"""In the page's head: such a page may be replaced by a newer one."""


def render_page(
    runs: Sequence[Run],
    galleries: Sequence[dict[str, Any]] = (),
    costs: Sequence[dict[str, Any]] = (),
    gates: Sequence[dict[str, Any]] = (),
) -> str:
    """Return the page.

    Args:
        runs: from ``run.read_run``, in the order of their colours.
        galleries: of :func:`~eca_mmdet.reporting.pictures.galleries`.
        costs: of :func:`~eca_mmdet.reporting.model_parts.costs`.
        gates: of :func:`~eca_mmdet.reporting.gate_charts.gate_sections`.
    """
    tables = _tables(runs)
    charts = _charts(runs, gates)
    script = _asset('page.js')
    library = _asset('chart.umd.min.js').split('//# sourceMappingURL')[0]
    return _template().render(
        generator=GENERATOR,
        version=eca_mmdet.__version__,
        created=datetime.now(timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
        policy=_policy(library, script),
        style=Markup(_asset('page.css')),
        library=Markup(library),
        script=Markup(script),
        charts=charts,
        specs=[chart for group in charts.values() for chart in group],
        runs=_heads(runs),
        tables=tables,
        other_data=numbers.data_differ(runs),
        any_reported=any('reported' in one['kinds'] for one in tables),
        confusions=numbers.confusions(runs),
        galleries=galleries,
        costs=costs,
        gates=gates,
        config=facts.configs(runs),
        versions=facts.versions(runs),
        details=_details(runs),
    )


def _template() -> Template:
    """Return the page's template; what it is filled with is escaped."""
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template('page.html.j2')


def _charts(
    runs: Sequence[Run], gates: Sequence[dict[str, Any]]
) -> dict[str, list[Chart]]:
    """Return the charts of each section."""
    return {
        'training': curves.training_charts(runs),
        'validation': curves.ap_charts(runs),
        'precision': numbers.precision_charts(runs),
        'classes': numbers.class_charts(runs),
        'sizes': numbers.size_charts(runs),
        'errors': numbers.error_charts(runs),
        'calibration': numbers.calibration_charts(runs),
        'gates': [chart for one in gates for chart in one['charts']],
    }


def _details(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return each run's files with their sums, and its machine."""
    return [
        {
            'label': run.label,
            'files': facts.files(run),
            'environment': run.environment,
        }
        for run in runs
    ]


def _heads(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return what the top of the page says of each run."""
    return [
        {
            'label': run.label,
            'facts': facts.summary(run) + curves.training_facts(run),
            'notes': [
                *(run.log.notes if run.log else ()),
                *map(str, (run.record or {}).get('notes') or ()),
            ],
            'missing': list(dict.fromkeys(run.missing)),
        }
        for run in runs
    ]


def _tables(runs: Sequence[Run]) -> list[dict[str, Any]]:
    tables = numbers.result_tables(runs)
    for table in tables:
        limits = [one for one in table.pop('limits') if one]
        table['heading'] = '; '.join(map(heading, limits)) or heading()
    return tables


def _policy(*scripts: str) -> str:
    """Return a content policy: the page's own scripts run, and nothing is fetched."""
    sums = (hashlib.sha256(one.encode()).digest() for one in scripts)
    allowed = ' '.join(f"'sha256-{base64.b64encode(one).decode()}'" for one in sums)
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f'script-src {allowed}'
    )


def _asset(name: str) -> str:
    return (ASSETS / name).read_text('utf-8')
