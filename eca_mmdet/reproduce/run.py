"""Do the jobs of a plan, one process group each, and keep a record of every row."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eca_mmdet.checkpoints.archive import require_values
from eca_mmdet.checkpoints.conversion import convert
from eca_mmdet.checkpoints.io import read_weights, write_weights
from eca_mmdet.engine.config import load_config
from eca_mmdet.evaluation.metrics_json import versions
from eca_mmdet.evaluation.tables import TITLES
from eca_mmdet.reproduce.coco_folder import CocoFolder
from eca_mmdet.reproduce.plan import Job
from eca_mmdet.utils.errors import WeightsError
from eca_mmdet.utils.io import describe_file, write_json

Say = Callable[[str], None]
TASKS = ('box', 'mask')
_PATIENCE = 20.0  # seconds for a training to save its step


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


def identity(job: Job, setting: Setting) -> dict[str, Any]:
    """Return what a record must agree in, to be that of this job."""
    assert job.weights is not None
    config = load_config(job.config).pretty_text
    found = {
        'row': job.row.row,
        'action': job.action,
        'config': job.config,
        'config_sha256': hashlib.sha256(config.encode()).hexdigest(),
        'options': [*job.options, *setting.options],
        'weights_sha256': describe_file(job.weights)['sha256'],
        'annotations_sha256': setting.coco.sha256,
    }
    if job.action == 'train':
        train = Path(setting.coco.root) / 'annotations/instances_train2017.json'
        found['train_annotations_sha256'] = describe_file(train)['sha256']
    return found


def key_of(found: dict[str, Any]) -> str:
    """Return a short name of an identity; what differs in anything has another."""
    text = json.dumps(found, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def record_path(out: Path, found: dict[str, Any]) -> Path:
    """Return the file of a record, which no job of another identity shares."""
    name = found['row'].replace(':', '_')
    return out / 'rows' / f'{name}-{key_of(found)}.json'


def known_record(job: Job, setting: Setting) -> dict[str, Any] | None:
    """Return the record of an earlier call, if it is of this very job and whole."""
    found = identity(job, setting)
    try:
        record = json.loads(record_path(setting.out, found).read_text())
        whole = record['identity'] == found and set(record['measured']) <= set(TASKS)
        float(record['seconds'])
        return dict(record) if whole and record['measured'] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # none, or damaged: it is measured again


def run_job(job: Job, setting: Setting, say: Say) -> dict[str, Any]:
    """Convert, train and test as the job says; write and return its record.

    Raises:
        RowFailed: a step failed.
    """
    start = time.monotonic()
    own = identity(job, setting)
    folder = setting.out / 'runs' / record_path(setting.out, own).stem
    folder.mkdir(parents=True, exist_ok=True)
    assert job.weights is not None
    weights = job.weights
    if job.action == 'train':
        weights = _train(job, setting, folder, say)
    elif job.convert:
        weights = _convert(job, folder, say)
    metrics = _test(job, setting, weights, folder, say)
    _require_own(metrics, setting, weights)
    record = {
        'identity': own,
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
    write_json(record_path(setting.out, own), record)
    return record


def _require_own(metrics: dict[str, Any], setting: Setting, weights: Path) -> None:
    """Raise RowFailed if other data or weights were tested than was meant."""
    meant = (setting.coco.sha256, describe_file(weights)['sha256'])
    tested = metrics['annotations']['sha256'], metrics['checkpoint'].get('sha256')
    if meant != tested:
        raise RowFailed(
            f'the test used {metrics["annotations"]["file"]} and '
            f'{metrics["checkpoint"]["file"]}, which are not those of this row'
        )


def _convert(job: Job, folder: Path, say: Say) -> Path:
    assert job.weights is not None
    target = folder / 'converted.pth'
    say('converting from MMDetection v1')
    try:
        file = read_weights(job.weights)
        require_values(job.weights, file.state)
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
    words = ['train', job.config, '--work-dir', str(work), '--resume']
    say('training goes on' if last.is_file() else 'training')
    options = [
        f'model.backbone.init_cfg.checkpoint={job.weights}',
        *job.options,
        *setting.options,
        *setting.coco.options('train'),
        *setting.coco.options('val'),
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
    # COCO's last: what is measured is the folder that the record names.
    options = [*job.options, *setting.options, *setting.coco.options()]
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


def _end(process: subprocess.Popen[bytes], told: bool) -> None:
    """End a command. It saves what it has; a second signal would cut that off.

    Args:
        process: the command.
        told: a terminal has sent ctrl-C to it as well, most likely.
    """
    with contextlib.suppress(subprocess.TimeoutExpired):
        if told:
            process.wait(_PATIENCE)
            return
    process.terminate()
    process.wait()


def _run(words: Sequence[str], setting: Setting, log: Path) -> None:
    """Run a command with its output in a file.

    Raises:
        RowFailed: it fails; with its last line.
    """
    command = command_of(words, setting)
    with open(log, 'a') as file:
        file.write(f'$ {shlex.join(command)}\n')
        file.flush()
        try:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        except OSError as error:
            raise RowFailed(f'{command[0]} cannot be started: {error}') from error
        try:
            code = process.wait()
        except BaseException as error:
            _end(process, told=isinstance(error, KeyboardInterrupt))
            raise
    if code:
        lines = [line for line in log.read_text(errors='replace').splitlines() if line]
        raise RowFailed(f'exit code {code}: {lines[-1][:300]} (all of it: {log})')
