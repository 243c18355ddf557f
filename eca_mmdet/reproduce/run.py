"""Do the jobs of a plan, one process group each, and keep a record of every row."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eca_mmdet.errors import UserError, WeightsError
from eca_mmdet.evaluation.record import describe_file, versions, write_json
from eca_mmdet.evaluation.tables import TITLES
from eca_mmdet.reproduce.coco_folder import CocoFolder
from eca_mmdet.reproduce.plan import Job
from eca_mmdet.weights.conversion import convert
from eca_mmdet.weights.files import read_weights, write_weights

Say = Callable[[str], None]


@dataclass(frozen=True)
class Setting:
    """Where and how rows are measured.

    Attributes:
        coco: the data.
        out: folder of records, logs and run folders.
        devices: processes a job.
        launcher: of mmengine: 'none', 'pytorch', 'slurm' or 'mpi'.
        prefix: words before a job's command, as those of srun.
        options: config overrides of every job.
    """

    coco: CocoFolder
    out: Path
    devices: int = 1
    launcher: str = 'none'
    prefix: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class RowFailed(Exception):
    """A job ended with an error: the message says where its output is."""


def record_path(out: Path, row: str) -> Path:
    """Return the file of a row's record."""
    return out / 'rows' / f'{row.replace(":", "_")}.json'


def identity(job: Job, setting: Setting) -> dict[str, Any]:
    """Return what a record must agree in, to be that of this job."""
    assert job.weights is not None
    return {
        'row': job.row.row,
        'action': job.action,
        'config': job.config,
        'options': [*job.options, *setting.options],
        'weights_sha256': describe_file(job.weights)['sha256'],
        'annotations_sha256': setting.coco.sha256,
    }


def known_record(job: Job, setting: Setting) -> dict[str, Any] | None:
    """Return the record of an earlier call, if it is of this very job."""
    path = record_path(setting.out, job.row.row)
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text())
        if record['identity'] == identity(job, setting):
            return dict(record)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path} is no record of this command: {error!r}.') from error
    return None


def run_job(job: Job, setting: Setting, say: Say) -> dict[str, Any]:
    """Convert, train and test as the job says; write and return its record.

    Raises:
        RowFailed: a step failed.
    """
    start = time.monotonic()
    folder = setting.out / 'runs' / job.row.row.replace(':', '_')
    folder.mkdir(parents=True, exist_ok=True)
    assert job.weights is not None
    weights = job.weights
    if job.action == 'train':
        weights = _train(job, setting, folder, say)
    elif job.convert:
        weights = _convert(job, folder, say)
    metrics = _test(job, setting, weights, folder, say)
    record = {
        'identity': identity(job, setting),
        'seconds': round(time.monotonic() - start, 1),
        'weights': str(job.weights),
        'released': job.released,
        'note': job.note,
        'devices': setting.devices,
        'coco': setting.coco.to_dict(),
        'versions': versions(),
        'measured': {
            TITLES[task]: one['metrics'] for task, one in metrics['results'].items()
        },
        'metrics': metrics,
    }
    write_json(record, record_path(setting.out, job.row.row))
    return record


def _convert(job: Job, folder: Path, say: Say) -> Path:
    assert job.weights is not None
    target = folder / 'converted.pth'
    say('converting from MMDetection v1')
    try:
        file = read_weights(job.weights)
        retina = job.row.detector == 'RetinaNet'
        state, report = convert(file.state, 'mmdet', retina, file.extras)
        metadata = {'layout': report.target, 'source': str(job.weights)}
        write_weights(target, state, metadata, force=True)
    except WeightsError as error:
        raise RowFailed(f'{job.weights} cannot be converted: {error}') from error
    return target


def _train(job: Job, setting: Setting, folder: Path, say: Say) -> Path:
    """Train, or go on training; return the last checkpoint."""
    work = folder / 'train'
    last = work / 'last_checkpoint'
    words = ['train', job.config, '--work-dir', str(work)]
    if last.is_file():
        words.append('--resume')
        say('training goes on')
    else:
        say('training')
    options = [
        f'model.backbone.init_cfg.checkpoint={job.weights}',
        *setting.coco.options('train'),
        *setting.coco.options('val'),
        *job.options,
        *setting.options,
    ]
    _run([*words, '--cfg-options', *options], setting, folder / 'train.log')
    if not last.is_file():
        raise RowFailed(f'training left no checkpoint in {work}')
    return Path(last.read_text().strip())


def _test(
    job: Job, setting: Setting, weights: Path, folder: Path, say: Say
) -> dict[str, Any]:
    say(f'testing {weights}')
    work = folder / 'test'
    before = set(work.glob('*/metrics.json'))
    words = ['test', job.config, str(weights), '--work-dir', str(work)]
    options = [*setting.coco.options(), *job.options, *setting.options]
    _run([*words, '--cfg-options', *options], setting, folder / 'test.log')
    written = set(work.glob('*/metrics.json')) - before
    if len(written) != 1:
        raise RowFailed(f'the test left no metrics.json in {work}')
    found: dict[str, Any] = json.loads(written.pop().read_text())
    return found


def command_of(words: Sequence[str], setting: Setting) -> list[str]:
    """Return the command that runs an ``eca-mmdet`` command on the devices."""
    start = [sys.executable]
    if setting.launcher == 'pytorch':
        start += ['-m', 'torch.distributed.run', '--nproc_per_node']
        start += [str(setting.devices), '--standalone']
    launch = [] if setting.launcher == 'none' else ['--launcher', setting.launcher]
    start += ['-m', 'eca_mmdet.cli']
    return [*setting.prefix, *start, *words[:1], *launch, *words[1:]]


def _run(words: Sequence[str], setting: Setting, log: Path) -> None:
    """Run a command with its output in a file.

    Raises:
        RowFailed: it fails; with its last line.
    """
    command = command_of(words, setting)
    with open(log, 'a') as file:
        file.write(f'$ {shlex.join(command)}\n')
        file.flush()
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if code:
        lines = [line for line in log.read_text(errors='replace').splitlines() if line]
        raise RowFailed(f'exit code {code}: {lines[-1][:300]} (all of it: {log})')
