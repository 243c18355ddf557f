"""One self-contained HTML page of runs: the browser loads nothing else."""

from __future__ import annotations

import base64
import hashlib
import math
import os
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError
from markupsafe import Markup

import eca_mmdet
from eca_mmdet.reporting.logs import Series
from eca_mmdet.reporting.run import Options, Run, read_run
from eca_mmdet.reporting.sections import Section
from eca_mmdet.reporting.sections.images import IMAGES
from eca_mmdet.reporting.sections.model import CONFIG, COSTS, FILES, GATES
from eca_mmdet.reporting.sections.results import (
    CLASSES,
    CONFUSION,
    ERRORS,
    PRECISION,
    RESULTS,
)
from eca_mmdet.reporting.sections.training import TRAINING, VALIDATION
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import write_texts
from eca_mmdet.utils.text import clipped

ASSETS = Path(__file__).parent / 'assets'
GENERATOR = 'eca-mmdet report'
"""In the page's head: such a page may be replaced by a newer one."""

SECTIONS = (
    *(RESULTS, IMAGES, CLASSES, PRECISION, ERRORS, CONFUSION),
    *(TRAINING, VALIDATION, GATES, COSTS, CONFIG, FILES),
)
"""In the order of the page."""

_MALFORMED = (
    *(LookupError, TypeError, ValueError, AttributeError, ArithmeticError),
    TemplateError,
)
"""Raised on values of another form than a section expects."""
_DATE = re.compile(r'^(\d{4}-\d\d-\d\d)T([\d:]+)\+00:00$')

MOST_RUNS = 8
_HEAD_BYTES = 2000


def render_page(runs: Sequence[Run], options: Options | None = None) -> str:
    """Return the page of runs from ``run.read_run``, in the order of their colours.

    ``options`` None shows nothing beyond the files of their folders. What cannot be
    shown is added to their ``missing``.
    """
    # What is filled into the templates is escaped.
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    options = options or Options()
    drawn = (_draw(section, runs, options, environment) for section in SECTIONS)
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
        own = f'{section.id}.html.j2'
        template = environment.select_template([own, 'charts.html.j2'])
        return {
            'section': section,
            'body': Markup(template.render(runs=these, **context)),
            'charts': context.get('charts', []),
        }

    try:
        return attempt(runs)
    except _MALFORMED as error:
        if len(runs) == 1:
            runs[0].missing.append(_malformed(section.title, runs[0], error))
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
    facts = _training_facts(run)
    try:
        facts = _summary(run) | facts
    except _MALFORMED as error:
        run.missing.append(_malformed('Summary', run, error))
    notes = (run.record or {}).get('notes') or ()
    return {
        'label': run.label,
        'facts': [(name, value) for name, value in facts.items() if value],
        'notes': [*(run.log.notes if run.log else ()), *notes],
        'missing': list(dict.fromkeys(run.missing)),
    }


def _summary(run: Run) -> dict[str, str]:
    """Return what was measured; '' for what is not known."""
    record = run.record or {}
    demo = ''
    if {'detector', 'attention', 'depth'} <= record.keys():
        demo = f'{record["detector"]}, {record["attention"]}, ResNet-{record["depth"]}'
    counts = [f'{n:,} {name.replace("_", " ")}' for name, n in run.counts.items() if n]
    unit = next((key for key in ('epoch', 'iter') if key in record), '')
    fast = 'folded and in lower precision (test --fast)'
    return {
        'folder': str(run.path),
        'demo': demo,
        'config': str(record.get('config') or ''),
        'evaluated': _DATE.sub(r'\1 \2 UTC', str(record.get('date') or '')),
        'data': ', '.join(counts),
        'measured after': f'{unit} {record[unit]}' if unit else '',
        'weights': fast if record.get('fast') else '',
    }


def _training_facts(run: Run) -> dict[str, str]:
    """Return steps, time, memory and last loss of a training; '' if not logged."""
    log = run.log
    if log is None or not log.train:
        return {}
    steps = max(series.steps[-1] for series in log.train.values())
    seconds, memory = (_finite(log.train.get(name)) for name in ('time', 'memory'))
    typical = statistics.median(seconds) if seconds else 0
    loss, length = log.train.get('loss'), log.iterations_per_epoch
    return {
        'iterations': f'{steps:,}',
        'epochs': f'{steps / length:.4g}' if length else '',
        'an iteration, median': f'{typical:.3g} s' if seconds else '',
        'training, median x iterations': _duration(typical * steps) if seconds else '',
        'highest GPU memory': f'{max(memory):,.0f} MiB' if memory else '',
        'last loss': f'{loss.values[-1]:.4g}' if loss else '',
    }


def _finite(series: Series | None) -> list[float]:
    return list(filter(math.isfinite, series.values)) if series else []


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 1.5:
        return f'{hours:.1f} h'
    return f'{minutes:.1f} min' if minutes >= 1.5 else f'{seconds:.0f} s'


def _policy(*scripts: str) -> str:
    """Return a content policy: the page's own scripts run, and nothing is fetched."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    allowed = ' '.join(f"'sha256-{base64.b64encode(d).decode()}'" for d in digests)
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f'script-src {allowed}'
    )


def _asset(name: str) -> str:
    return (ASSETS / name).read_text('utf-8')


@dataclass(frozen=True)
class Report(os.PathLike[str]):
    """A page that was written. Usable as a path."""

    path: Path
    missing: dict[str, list[str]]
    """What the page could not show, by the label of the run."""
    replaced: bool  # whether an older page was there

    def __fspath__(self) -> str:
        return str(self.path)


def report(
    run_folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] | None = None,
    labels: Sequence[str] | None = None,
    images: str | None = None,
    annotations: str | None = None,
    examples: int = 6,
    gate_images: int = 20,
    model: bool = True,
) -> Report:
    """Write one HTML page of a run, or of several beside each other.

    Args:
        run_folders: work_dirs of a training or test, folders of demo or eval, or logs.
        out: HTML file; None for ``report.html`` in the folder of a single run, or here.
        labels: names of the runs on the page.
        images: folder of the images; None for the one in the config.
        annotations: annotation file; None for the recorded one.
        examples: worst and best images of each run.
        gate_images: images to measure the gates on, where the folder has no gates.json.
        model: build the detector, for its costs and to measure gates.

    Example:
        >>> import eca_mmdet
        >>> page = eca_mmdet.report('runs/demo', model=False)  # doctest: +SKIP
        >>> page.missing  # doctest: +SKIP
        {'demo': []}
    """
    if isinstance(run_folders, (str, os.PathLike)):
        run_folders = [run_folders]
    if not all(map(str, run_folders)):
        raise UserError(
            'a run has an empty name; the folder here is called "."',
            code='option-invalid',
        )
    paths = list(map(Path, run_folders))
    folder = paths[0] if len(paths) == 1 and paths[0].is_dir() else Path()
    target = folder / 'report.html' if out is None else Path(out)
    _require_replaceable(target)
    runs = [
        run
        for path, label in zip(paths, _labels(paths, labels), strict=True)
        for run in read_run(path, label)
    ]
    if len(runs) > MOST_RUNS:
        raise UserError(
            f'a page shows up to {MOST_RUNS} runs, since more colours could not be '
            f'told apart; got {len(runs)}, each result file of an evaluation counted.',
            code='option-invalid',
        )
    names = Counter[str]()  # result files of several evaluations may share one
    for run in runs:
        names[run.label] += 1
        if (count := names[run.label]) > 1:
            run.label = f'{run.label} ({count})'
    replaced = target.exists()
    page = render_page(runs, Options(examples, images, annotations, gate_images, model))
    write_texts({target: page})
    missing = {run.label: list(dict.fromkeys(run.missing)) for run in runs}
    return Report(target, missing, replaced)


def _require_replaceable(target: Path) -> None:
    """Refuse a file that exists and is no page of this command."""
    head = b''
    if target.is_file():
        with open(target, 'rb') as file:
            head = file.read(_HEAD_BYTES)
    if target.exists() and f'content="{GENERATOR}"'.encode() not in head:
        raise UserError(
            f'{target} exists and is no page of this command, which replaces only '
            'those. Name another file with --out.',
            code='output-exists',
        )


def _labels(paths: Sequence[Path], labels: Sequence[str] | None) -> list[str]:
    """Return a name for each run: those given, or as much of the path as it takes."""
    if labels:
        if len(labels) != len(paths) or len(set(labels)) != len(labels):
            raise UserError(
                f'--labels takes a name for each of the {len(paths)} runs, no two '
                f'alike; got {" ".join(map(repr, labels))}.',
                code='option-invalid',
            )
        return list(labels)
    parts = [path.resolve().parts[1:] or ('/',) for path in paths]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ['/'.join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError('a run is named twice; name each once.', code='option-invalid')
