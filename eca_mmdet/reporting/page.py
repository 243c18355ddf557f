"""One self-contained HTML page of runs: the browser loads nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError
from markupsafe import Markup

import eca_mmdet
from eca_mmdet.reporting import head
from eca_mmdet.reporting.run import Options, Run
from eca_mmdet.reporting.sections import SECTIONS, Section
from eca_mmdet.utils.text import clipped

ASSETS = Path(__file__).parent / 'assets'
GENERATOR = 'eca-mmdet report'
"""In the page's head: such a page may be replaced by a newer one."""

_MACROS = "{% from 'macros.html.j2' import swatch, plots %}"
_MALFORMED = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    TemplateError,
)
"""Raised on values of another form than a section expects."""


def render_page(runs: Sequence[Run], options: Options | None = None) -> str:
    """Return the page.

    Args:
        runs: from ``run.read_run``, in the order of their colours. What cannot be shown
            is added to their ``missing``.
        options: what to show beyond the files of their folders; None for nothing.
    """
    # What is filled into the templates is escaped.
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawn = [_draw(one, runs, options or Options(), environment) for one in SECTIONS]
    sections = [section for section in drawn if section]
    script = _asset('page.js')
    library = _asset('chart.umd.min.js').split('//# sourceMappingURL')[0]
    return environment.get_template('page.html.j2').render(
        generator=GENERATOR,
        version=eca_mmdet.__version__,
        created=datetime.now(timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
        policy=_policy(library, script),
        style=Markup(_asset('page.css')),
        library=Markup(library),
        script=Markup(script),
        runs=[_head(run) for run in runs],
        sections=sections,
        charts=[chart for section in sections for chart in section['charts']],
    )


def _draw(
    section: Section, runs: Sequence[Run], options: Options, environment: Environment
) -> dict[str, Any] | None:
    """Return a section with its HTML and charts; None if it has nothing to show.

    A run whose values have another form, e.g. of a file that was edited, is left out,
    and its ``missing`` says so.
    """

    def attempt(these: Sequence[Run]) -> dict[str, Any] | None:
        context = section.context(these, options)
        if context is None:
            return None
        template = environment.from_string(_MACROS + section.TEMPLATE)
        return {
            'id': section.ID,
            'title': section.TITLE,
            'body': Markup(template.render(runs=these, **context)),
            'charts': context.get('charts', []),
        }

    try:
        return attempt(runs)
    except _MALFORMED as error:
        if len(runs) == 1:
            runs[0].missing.append(_malformed(section.TITLE, runs[0], error))
            return None
    shown = []
    for run in runs:
        nothing = Run(run.path, run.label, missing=run.missing)
        shown.append(run if _draw(section, [run], options, environment) else nothing)
    return attempt(shown)


def _malformed(title: str, run: Run, error: Exception) -> str:
    what = f'{title.lower()}: {run.record_path or run.path} is of another form'
    return clipped(f'{what} than eca-mmdet writes: {error!r}', 300)


def _head(run: Run) -> dict[str, Any]:
    """Return what the top of the page says of a run."""
    facts: list[tuple[str, str]] = []
    try:
        facts = head.summary(run)
    except _MALFORMED as error:
        run.missing.append(_malformed('Summary', run, error))
    recorded = (run.record or {}).get('notes') or ()
    return {
        'label': run.label,
        'facts': facts + head.training_facts(run),
        'notes': [*(run.log.notes if run.log else ()), *recorded],
        'missing': list(dict.fromkeys(run.missing)),
    }


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
