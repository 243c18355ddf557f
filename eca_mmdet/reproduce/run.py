"""Measurement of the rows, a record each, and the published tables beside them."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eca_mmdet.catalog.published import AP_COLUMNS, MARK, PublishedRow, cells_of
from eca_mmdet.evaluation.tables import TITLES, format_ap, render
from eca_mmdet.reproduce.plan import CocoFolder, Job
from eca_mmdet.utils.errors import CommandError
from eca_mmdet.utils.io import (
    read_record,
    run_logged,
    sha256_of,
    take_own_folder,
    write_json,
    write_texts,
)

WITHIN, OUTSIDE = 'within', 'outside'
NO_WEIGHTS, FAILED = 'no weights', 'failed'

Ap = dict[str, float | None]  # 0-100 by column; None where no object is counted


@dataclass(frozen=True)
class Comparison:
    """Comparison of one task of a row."""

    measured: Ap
    difference: Ap  # measured minus published, in the columns that both have
    verdict: str  # whether AP is 'within' or 'outside' the tolerance


@dataclass(frozen=True)
class RowOutcome:
    """Outcome of one row: 'within', 'outside', 'no weights' or 'failed'."""

    row: PublishedRow
    verdict: str
    detail: str  # why nothing was measured, or what was assumed
    cost: dict[str, float]  # ``params_m`` and ``gflops``, counted here
    measured: dict[str, Comparison]  # by task; empty if nothing was measured
    tolerance: float | None = None  # of AP, 0-100
    released: bool = False  # a published detector, not one trained again


def compare(
    row: PublishedRow, measured: Mapping[str, Ap], tolerance: float
) -> dict[str, Comparison]:
    """Compare a row with ``measured``: 0-1 by task ('box', 'mask') and column.

    A task that was not measured is outside the tolerance, which is for AP, 0-100.
    """
    compared, limit = {}, tolerance + 1e-9
    for task, published in row.numbers().items():
        columns = measured.get(task, {}).items()
        percent = {name: None if ap is None else ap * 100 for name, ap in columns}
        delta = {
            name: None if (value := percent.get(name)) is None else value - number.value
            for name, number in published.items()
        }
        ap, verdict = percent.get('AP'), OUTSIDE
        # Published numbers have one decimal.
        if ap is not None and abs(round(ap, 1) - published['AP'].value) <= limit:
            verdict = WITHIN
        compared[task] = Comparison(percent, delta, verdict)
    return compared


def overall(compared: Mapping[str, Comparison]) -> str:
    """Return 'within' if every task is."""
    within = {each.verdict for each in compared.values()} == {WITHIN}
    return WITHIN if within else OUTSIDE


def as_tables(
    outcomes: Sequence[RowOutcome],
    departure: str,
    style: str = 'table',
    options: Sequence[str] = (),
) -> str:
    """Return box and mask tables in the style 'table', 'md' or 'latex'.

    ``departure`` is how the data differ from val2017; it stands over the tables and in
    each measured row. ``options`` are config overrides that apply to every row.
    """
    header = ['', 'Params (M)', 'GFLOPs', *AP_COLUMNS, 'verdict']
    parts = []
    if departure:
        parts.append(_comment(f'NOT COMPARABLE: measured on {departure}.', style))
    if options:
        parts.append(_comment(f'measured with {" ".join(options)}', style))
    for task in TITLES.values():
        rows = [each for each in outcomes if task in each.row.numbers()]
        cells = [line for each in rows for line in _lines(each, task, departure)]
        if cells:
            title = f'{task} AP: reported (as published), measured here, difference'
            parts.append(_comment(title, style) + '\n' + render(header, cells, style))
    if any(MARK in cell for each in outcomes for cell in cells_of(each.row, 'box')):
        parts.append(_comment(f'{MARK} confirmed in no copy of the paper', style))
    assumed = [each for each in outcomes if each.measured and each.detail]
    parts += [_comment(f'{each.row.row}: {each.detail}', style) for each in assumed]
    return '\n\n'.join(parts)


def _comment(text: str, style: str) -> str:
    escaped = text.replace('%', '\\%').replace('_', '\\_').replace('&', '\\&')
    return {'md': f'**{text}**\n', 'latex': f'\\par {escaped}'}.get(style, text)


def _lines(outcome: RowOutcome, task: str, departure: str) -> list[list[str]]:
    row, counted = outcome.row, outcome.cost
    reported = [f'{row.row} reported', *cells_of(row, task), '']
    name = 'measured' + (' (not on val2017)' if departure else '')
    cost = [f'{counted["params_m"]:.2f}', f'{counted["gflops"]:.2f}']
    compared = outcome.measured.get(task)
    if compared is None:
        empty = [''] * len(AP_COLUMNS)
        detail = f'{outcome.verdict}: {outcome.detail}'
        return [reported, [name, *cost, *empty, detail]]
    pairs = ((counted['params_m'], row.params_m), (counted['gflops'], row.gflops))
    apart = [f'{round(own, 2) - their.value + 0.0:+.2f}' for own, their in pairs]
    values = [_percent(compared.measured.get(column)) for column in AP_COLUMNS]
    deltas = [_percent(compared.difference.get(column), True) for column in AP_COLUMNS]
    kind = 'released' if outcome.released else 'retrained'
    verdict = f'{compared.verdict} {outcome.tolerance:g} ({kind})'
    return [
        reported,
        [name, *cost, *values, verdict + (' (subset)' if departure else '')],
        ['difference', *apart, *deltas, ''],
    ]


def _percent(value: float | None, signed: bool = False) -> str:
    return format_ap(None if value is None else value / 100, signed)


def as_json(
    outcomes: Iterable[RowOutcome],
    coco: Mapping[str, Any],
    notes: Sequence[str],
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """Return everything, ready for JSON. AP is 0-100 here, as published."""
    return {
        'unit': 'AP is 0-100, Params in 10^6, GFLOPs in 10^9',
        'coco': dict(coco),
        'notes': list(notes),
        'options': list(options),
        'rows': [
            {**asdict(each), 'row': each.row.row, 'published': asdict(each.row)}
            for each in outcomes
        ],
    }


logger = logging.getLogger(__name__)

_OWN = ('rows', 'runs', 'tables.json', 'tables.md', 'tables.tex')


@dataclass(frozen=True)
class Settings:
    """Data, devices and tolerances of a reproduction."""

    coco: CocoFolder
    out: Path  # folder of records, logs and run folders
    devices: int = 1  # processes of each command
    launcher: str = 'none'  # mmengine's: 'none', 'pytorch', 'slurm' or 'mpi'
    prefix: tuple[str, ...] = ()  # words before each command, e.g. those of srun
    options: tuple[str, ...] = ()  # config overrides of every row
    tolerance: float = 0.1  # of AP, 0-100, for released detectors: resizing, rounding
    tolerance_retrained: float = 0.4


def reproduce(
    jobs: Sequence[Job], settings: Settings, notes: Sequence[str] = ()
) -> list[RowOutcome]:
    """Measure row by row and write the reports after each.

    ``notes`` are for the report, e.g. on files that were not used.
    """
    take_own_folder(settings.out, _OWN)
    departure, options = settings.coco.departure, settings.options
    outcomes: list[RowOutcome] = []
    for index, job in enumerate(jobs, 1):
        outcomes.append(_outcome(job, settings, f'[{index}/{len(jobs)}] {job.row.row}'))
        content = as_json(outcomes, asdict(settings.coco), notes, options)
        write_json(settings.out / 'tables.json', content)
        for suffix, style in (('md', 'md'), ('tex', 'latex')):
            text = as_tables(outcomes, departure, style, options) + '\n'
            write_texts({settings.out / f'tables.{suffix}': text})
    return outcomes


def _outcome(job: Job, settings: Settings, name: str) -> RowOutcome:
    """Measure a row, or take what an earlier call measured."""
    from eca_mmdet.analysis.complexity import paper_cost
    from eca_mmdet.engine.config import build_model, load_config

    cost = paper_cost(build_model(load_config(job.row.config), 'meta'))
    if job.note:
        logger.warning('%s: %s', name, job.note)
    if job.action == 'none':
        return RowOutcome(job.row, NO_WEIGHTS, job.note, cost, {})
    record = measured_before(job, settings)
    if record:
        logger.warning('%s: measured before, %.0f s', name, record['seconds'])
    try:
        record = record or _measure(job, settings, name)
    except CommandError as error:
        logger.warning('%s: failed, %s', name, error)
        return RowOutcome(job.row, FAILED, str(error), cost, {})
    except KeyboardInterrupt:
        logger.warning(
            'stopped in %s; the same command goes on from there', job.row.row
        )
        raise
    results = record['metrics']['results']
    measured = {TITLES[task]: result['metrics'] for task, result in results.items()}
    released = job.released
    tolerance = settings.tolerance if released else settings.tolerance_retrained
    compared = compare(job.row, measured, tolerance)
    verdict = overall(compared)
    return RowOutcome(job.row, verdict, job.note, cost, compared, tolerance, released)


def measured_before(job: Job, settings: Settings) -> dict[str, Any] | None:
    """Return the record of an earlier call, if it is whole and of the same inputs."""

    def is_sound(record: Any) -> bool:
        tasks = record['metrics']['results'].keys()
        whole = tasks and tasks <= TITLES.keys() and float(record['seconds']) >= 0
        return bool(whole and record['inputs'] == _inputs(job, settings))

    return read_record(_record_path(job, settings), is_sound)


def _record_path(job: Job, settings: Settings) -> Path:
    return settings.out / 'rows' / f'{job.row.row.replace(":", "_")}.json'


def _inputs(job: Job, settings: Settings) -> dict[str, Any]:
    """Return what the numbers of a row depend on."""
    from eca_mmdet.engine.config import load_config

    config = load_config(job.config).pretty_text
    return {
        'action': job.action,
        'config': job.config,
        'config_sha256': hashlib.sha256(config.encode()).hexdigest(),
        'options': [*job.options, *settings.options],
        'weights_sha256': sha256_of(job.weights),
        'annotations_sha256': settings.coco.sha256,
    }


def _measure(job: Job, settings: Settings, name: str) -> dict[str, Any]:
    """Convert, train and test as the job says; write and return its record."""
    start = time.monotonic()
    inputs, path = _inputs(job, settings), _record_path(job, settings)
    # Other weights are another training; an interrupted one goes on.
    folder = settings.out / 'runs' / f'{path.stem}-{inputs["weights_sha256"][:8]}'
    folder.mkdir(parents=True, exist_ok=True)
    weights = job.weights
    if job.action == 'train':
        weights = _train(job, settings, folder, inputs, name)
    elif job.convert:
        weights = folder / 'converted.pth'
        logger.warning('%s: converting from MMDetection v1', name)
        words = ['weights', 'convert', str(job.weights), str(weights), '--force']
        words += ['--v1-retinanet'] if job.row.detector == 'RetinaNet' else []
        alone = replace(settings, launcher='none', prefix=())
        run_logged(command_of(words, alone), folder / 'convert.log')
    logger.warning('%s: testing %s', name, weights)
    work = folder / 'test'
    before = set(work.glob('*/metrics.json'))
    # COCO's last: what is measured is the folder that the record names.
    options = [*inputs['options'], *settings.coco.options()]
    words = ['test', job.config, str(weights), '--work-dir', str(work)]
    words += ['--cfg-options', *options]
    run_logged(command_of(words, settings), folder / 'test.log')
    written = set(work.glob('*/metrics.json')) - before
    if len(written) != 1:
        raise CommandError(f'the test left no metrics.json in {work}')
    record = {
        'inputs': inputs,
        'seconds': round(time.monotonic() - start, 1),
        'weights': str(job.weights),
        'released': job.released,
        'note': job.note,
        'devices': settings.devices,
        'coco': asdict(settings.coco),
        'metrics': json.loads(written.pop().read_text()),
    }
    write_json(path, record)
    return record


def _train(
    job: Job, settings: Settings, folder: Path, inputs: dict[str, Any], name: str
) -> Path:
    """Train, or go on training; return the last checkpoint."""
    work, begun = folder / 'train', folder / 'inputs.json'
    last = work / 'last_checkpoint'
    if begun.exists() and json.loads(begun.read_text()) != inputs:
        raise CommandError(
            f'{work} was begun with other options or annotations; remove it'
        )
    write_json(begun, inputs)
    logger.warning('%s: %s', name, 'training goes on' if last.is_file() else 'training')
    options = [
        f'model.backbone.init_cfg.checkpoint={job.weights}',
        *inputs['options'],
        *settings.coco.options('train'),
        *settings.coco.options('val'),
    ]
    words = ['train', job.config, '--work-dir', str(work), '--resume']
    words += ['--cfg-options', *options]
    run_logged(command_of(words, settings), folder / 'train.log')
    if not last.is_file():
        raise CommandError(f'training left no checkpoint in {work}')
    return Path(last.read_text().strip())


def command_of(words: Sequence[str], settings: Settings) -> list[str]:
    """Return the command that runs an ``eca-mmdet`` command on the devices."""
    start = [sys.executable]
    if settings.launcher == 'pytorch':
        start += ['-m', 'torch.distributed.run', '--nproc_per_node']
        start += [str(settings.devices), '--standalone']
    launch = [] if settings.launcher == 'none' else ['--launcher', settings.launcher]
    start += ['-m', 'eca_mmdet.cli']
    return [*settings.prefix, *start, *words[:1], *launch, *words[1:]]
