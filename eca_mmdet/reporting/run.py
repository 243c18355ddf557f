"""What one run left behind, gathered from its folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eca_mmdet.checkpoints.embedded_config import ADVICE, parse_config
from eca_mmdet.evaluation.tables import TITLES
from eca_mmdet.reporting.logs import STAMP, TrainingLog, read_logs
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import read_file, read_json, sha256_of

_MOST_BYTES = 200 * 2**20
_MOST_TEXT = 100_000  # start of a log, which names the machine
_MOST_CONFIG = 4 << 20


@dataclass(frozen=True)
class Options:
    """What a page shows beyond the files of the run folders: by default nothing.

    The attributes are arguments of :func:`eca_mmdet.report`.
    """

    examples: int = 0
    images: str | None = None
    annotations: str | None = None
    gate_images: int = 0
    model: bool = False


@dataclass
class Run:
    """A run, as far as it is known. ``label`` is its name on the page."""

    path: Path
    label: str
    log: TrainingLog | None = None
    record: dict[str, Any] | None = None  # the newest metrics.json
    record_path: Path | None = None
    config_path: Path | None = None
    config_text: str = ''
    config: dict[str, Any] | None = None  # its values; None if they cannot be read
    checkpoint: Path | None = None  # that was measured, or the last one
    gates: dict[str, Any] | None = None  # gates.json, if the folder has it
    environment: list[str] = field(default_factory=list)  # mmengine's log of it
    missing: list[str] = field(default_factory=list)  # what the page cannot show

    @property
    def results(self) -> dict[str, Any]:
        """The numbers by task; empty where nothing was evaluated."""
        return (self.record or {}).get('results') or {}

    @property
    def analysis(self) -> dict[str, Any]:
        """The errors by task; empty where they were not split."""
        analyses = (self.record or {}).get('analysis')
        first = analyses[0] if analyses and isinstance(analyses, list) else {}
        return first if isinstance(first, dict) else {}

    @property
    def counts(self) -> dict[str, Any]:
        """The numbers of images, categories, ... that were evaluated."""
        first: Any = next(iter(self.results.values()), {})
        return first.get('counts') or {}

    def recorded(self, what: str, key: str) -> Any:
        """Return the 'file' or 'sha256' of an evaluated file; None if not recorded."""
        return ((self.record or {}).get(what) or {}).get(key)


def tasks_of(runs: Sequence[Run]) -> list[str]:
    """Return the tasks that some run was measured on, boxes first."""
    return sorted({task for run in runs for task in run.results})


def title_of(task: str) -> str:
    """Return 'box' or 'mask'."""
    return TITLES.get(task, task)


def measured(runs: Sequence[Run], task: str) -> Iterator[tuple[int, Run, Any]]:
    """Yield (colour, run, results) of the runs measured on a task."""
    for index, run in enumerate(runs):
        if task in run.results:
            yield index, run, run.results[task]


def analysed(
    runs: Sequence[Run], task: str, part: str
) -> Iterator[tuple[int, Run, Any]]:
    """Yield (colour, run, part) of the runs that have a part of a task's analysis."""
    for index, run, _ in measured(runs, task):
        if found := (run.analysis.get(task) or {}).get(part):
            yield index, run, found


def check_record(record: Any) -> None:
    """Check the parts of a metrics.json that are used beyond a single section."""
    files = ('annotations', 'checkpoint', 'predictions')
    kinds: dict[str, type] = dict.fromkeys(('others', 'notes'), list)
    kinds |= dict.fromkeys(('versions', *files), dict)
    try:
        tasks = record['results'].values()
        shares = [share for task in tasks for share in task['metrics'].values()]
        described = [record.get(key) or {} for key in files]
        texts = [file.get(k) or '' for file in described for k in ('file', 'sha256')]
        texts += [*(record.get('notes') or ()), record.get('config') or '']
        if (
            shares
            and all(share is None or 0 <= share <= 1 for share in shares)
            and all(isinstance(record.get(k) or v(), v) for k, v in kinds.items())
            and all(isinstance(text, str) for text in texts)
        ):
            return
    except (AttributeError, LookupError, TypeError):
        pass
    raise UserError('it is not of the form that eca-mmdet writes', code='not-results')


def read_run(path: Path, label: str) -> list[Run]:
    """Gather a run folder of mmengine or one of our commands, or a log file.

    Return one run, or one for each result file of an evaluation.
    """
    if not path.exists():
        raise UserError(
            f'{path} does not exist. Name the work_dir of a training, the folder of '
            'eca-mmdet demo or eval, or a log file.',
            code='file-not-found',
        )
    if path.name == 'metrics.json':
        raise UserError(
            f'{path} is a part of a run; name its folder, {path.parent}.',
            code='option-invalid',
        )
    run = Run(path, label)
    try:
        run.log = read_logs(path)
    except UserError as error:
        none = 'no training log' if str(error).startswith('no training log') else error
        run.missing.append(f'curves of training: {none}')
    if path.is_dir():
        _read_record(run)
        _read_config(run)
        _find_checkpoint(run)
        _read_gates(run)
        run.environment = _environment(path)
    else:
        run.missing.append('numbers, config and pictures: a log file has none')
    if run.log is None and run.recorded('predictions', 'file'):  # of eca-mmdet eval
        absent = ('curves of training', 'the config', 'gates')
        run.missing = [line for line in run.missing if not line.startswith(absent)]
    if run.log is None and run.record is None:
        raise UserError(
            f'{path} has neither a training log nor a metrics.json. Name the work_dir '
            'of a training, the folder of eca-mmdet demo or eval, or a log file.',
            code='not-results',
        )
    return [run, *_others(run)]


def _others(first: Run) -> list[Run]:
    """Return the further result files of one evaluation as runs of their own."""
    record, path, folder = first.record or {}, first.record_path, first.label
    analyses = record.get('analysis')
    analyses = analyses if isinstance(analyses, list) else []
    runs = []
    for index, other in enumerate(record.get('others') or (), 1):
        try:
            check_record(other)
        except UserError as error:
            first.missing.append(f'result file {index + 1} of {path}: {error}')
            continue
        own = {**record, 'predictions': None, **other}
        own |= {'others': None, 'analysis': analyses[index : index + 1]}
        runs.append(Run(first.path, folder, None, own, path))
    for run in (first, *runs) if record.get('others') else ():
        file = run.recorded('predictions', 'file') or 'results'
        run.label = f'{folder}: {Path(file).name.removesuffix(".json")}'
    return runs


def _files(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield files of a run folder, of the training and the tests below it."""
    for level in ('', '*/', 'test/*/', 'train/*/', 'train/test/*/'):
        yield from (path for path in folder.glob(level + pattern) if path.is_file())


def reason(error: Exception) -> str:
    """Return a message without the advice to name a config, which has no use here."""
    return str(error).replace(f' {ADVICE}', '').removeprefix('None: ')


def _modified(path: Path) -> float:
    return path.stat().st_mtime


def _read_record(run: Run) -> None:
    found = []
    for path in dict.fromkeys(_files(run.path, 'metrics.json')):
        try:
            record = read_json(path, 'metrics file', _MOST_BYTES).content
            check_record(record)
        except UserError as error:
            run.missing.append(f'numbers of an evaluation: {path}: {error}')
            continue
        # Of two of one moment, the one of the whole command: the demo's.
        found.append((str(record.get('date', '')), -len(path.parts), path, record))
    if found:
        *_, run.record_path, run.record = max(found, key=lambda each: each[:2])
        if not run.analysis:
            run.missing.append(
                'curves of precision, errors, confusion, calibration and images: '
                f'{run.record_path} has no analysis (eca-mmdet test, or eval '
                '--analysis, adds it)'
            )
        # Numbers may be older than the training that is drawn.
        stamp = run.record_path.parent.name
        configs = run.log.configs if run.log else ()
        starts = [p for path in configs for p in path.parts if STAMP.fullmatch(p)]
        if STAMP.fullmatch(stamp) and starts and stamp < min(starts):
            run.missing.append(
                f'numbers of the training that is drawn, which began at {max(starts)}: '
                f'those on this page are of {stamp}, before it'
            )
        if run.record.get('other_evaluators'):
            run.missing.append(f'numbers of further evaluators: see {run.record_path}')
    elif not any('metrics.json' in line for line in run.missing):
        run.missing.append(
            'numbers of an evaluation: no metrics.json (eca-mmdet test writes one if '
            'test_evaluator is a CocoTableMetric)'
        )


def _read_config(run: Run) -> None:
    dumped = _files(run.path, 'vis_data/config.py')
    plain = [*run.path.glob('*.py'), *run.path.glob('train/*.py')]
    paths = (
        list(run.log.configs if run.log else ())  # a test may have its own
        or sorted(dumped, key=lambda path: path.parent.parent.name)
        or sorted(plain, key=_modified)
    )
    if not paths:
        run.missing.append('the config: mmengine left none in the folder')
        return
    try:
        raw = read_file(paths[-1], 'config', _MOST_CONFIG)
        run.config_path = paths[-1]
        run.config_text = raw.decode('utf-8', 'replace')
        run.config = parse_config(run.config_text, str(run.config_path))
    except UserError as error:
        run.missing.append(f'values of the config: {reason(error)}')


def _find_checkpoint(run: Run) -> None:
    """Take what was measured, by its sha256; of a run without numbers, the last."""
    name, sha256 = (run.recorded('checkpoint', key) for key in ('file', 'sha256'))
    if name and sha256:
        places = [*_files(run.path, Path(name).name or '-'), Path(name)]
        there = [path for path in places if path.is_file()]
        run.checkpoint = next((p for p in there if sha256_of(p) == sha256), None)
        if run.checkpoint is None:
            why = 'it is gone'
            if there:
                why = f'{there[0]} is not what was measured (sha256)'
            run.missing.append(f'gates of the checkpoint {name}: {why}')
        return
    run.checkpoint = max(_files(run.path, '*.pth'), key=_modified, default=None)
    if run.checkpoint is None:
        run.missing.append('gates: no checkpoint is in the folder')


def _read_gates(run: Run) -> None:
    path = max(_files(run.path, 'gates.json'), key=_modified, default=None)
    if path is None:
        return
    try:
        gates = read_json(path, 'gates file', _MOST_BYTES).content
    except UserError as error:
        run.missing.append(f'gates: {error}')
        return
    if isinstance(gates, dict) and isinstance(gates.get('checkpoints'), list):
        run.gates = gates


def _environment(path: Path) -> list[str]:
    """Return the lines on the machine in mmengine's newest log."""
    logs = [log for log in _files(path, '*.log') if STAMP.search(log.name)]
    if not logs:
        return []
    newest = max(logs, key=lambda log: log.name)
    with open(newest, encoding='utf-8', errors='replace') as file:
        text = file.read(_MOST_TEXT).partition('System environment:')[2]
    text = text.partition('\n')[2].partition('Runtime environment:')[0]
    return [line.strip()[:300] for line in text.split('\n') if line.strip(' -')]
