"""Measurement of the rows, each command in a process of its own, with a record each."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eca_mmdet.evaluation.tables import TITLES
from eca_mmdet.reproduce import tables
from eca_mmdet.reproduce.plan import CocoFolder, Job
from eca_mmdet.reproduce.tables import RowOutcome
from eca_mmdet.utils.errors import CommandError
from eca_mmdet.utils.io import (
    read_record,
    run_logged,
    sha256_of,
    take_own_folder,
    write_json,
    write_texts,
)

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
        content = tables.as_json(outcomes, asdict(settings.coco), notes, options)
        write_json(settings.out / 'tables.json', content)
        for suffix, style in (('md', 'md'), ('tex', 'latex')):
            text = tables.as_tables(outcomes, departure, style, options) + '\n'
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
        return RowOutcome(job.row, tables.NO_WEIGHTS, job.note, cost, {})
    record = measured_before(job, settings)
    if record:
        logger.warning('%s: measured before, %.0f s', name, record['seconds'])
    try:
        record = record or _measure(job, settings, name)
    except CommandError as error:
        logger.warning('%s: failed, %s', name, error)
        return RowOutcome(job.row, tables.FAILED, str(error), cost, {})
    except KeyboardInterrupt:
        logger.warning(
            'stopped in %s; the same command goes on from there', job.row.row
        )
        raise
    results = record['metrics']['results']
    measured = {TITLES[task]: result['metrics'] for task, result in results.items()}
    released = job.released
    tolerance = settings.tolerance if released else settings.tolerance_retrained
    compared = tables.compare(job.row, measured, tolerance)
    verdict = tables.overall(compared)
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
