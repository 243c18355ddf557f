"""The curves of a training, from mmengine's log. Resumed starts are joined.

In the JSON lines of a start (``vis_data/*.json``), a training line has ``iter``,
counted over the whole run, and ``epoch`` where the run counts epochs. A validation line
has only a ``step``, which is an epoch or an iteration:

    {"lr": 0.02, "loss": 1.5, "time": 0.4, "epoch": 2, "iter": 80, "step": 80}
    {"coco/bbox_mAP": 0.1, "data_time": 0.01, "time": 0.2, "step": 2}
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import require_regular
from eca_mmdet.utils.text import plural, printable

LONGEST = 1 << 20  # characters of a line; longer lines are not mmengine's
STAMP = re.compile(r'\d{8}_\d{6}')  # name of a start: its date and time
_MOST_BYTES = 512 << 20  # size of a log; those of long trainings have some ten MB
_MOST_TEXT = 64 << 20
_BEGUN = 'Checkpoints will be saved to'
_RESUMED = re.compile(r'resumed epoch: \d+, iter: (\d{1,12})')
_EPOCH = re.compile(r'Epoch\(train\) +\[ *\d+\]\[ *\d+/ *(\d{1,12})\]')
_LOOP = re.compile(r'\b(Iter|Epoch)BasedTrainLoop\b')
_VAL_INTERVAL = re.compile(r'\bval_interval ?= ?(\d{1,12})')
_MAX_ITERS = re.compile(r'\bmax_iters ?= ?(\d{1,12})')


@dataclass(frozen=True)
class Series:
    """A curve."""

    steps: tuple[int, ...]  # iterations done, ascending
    epochs: tuple[int | None, ...]  # from 1; None where the run counts iterations
    values: tuple[float, ...]  # infinite or NaN, too; -1 is COCO's "no object"


@dataclass(frozen=True)
class TrainingLog:
    """Curves that a training logged, by name, and notes for the reader."""

    source: str
    train: dict[str, Series]  # 'loss', 'lr', 'time' (s/iteration), 'memory' (MB), ...
    val: dict[str, Series]  # 'coco/bbox_mAP', ..., and losses if they were logged
    by_epoch: bool
    iterations_per_epoch: int | None  # None if not known, or there are no epochs
    notes: tuple[str, ...]
    configs: tuple[Path, ...]  # that it ran with, newest last


class UnreadableLine(Exception):
    """A line that is not mmengine's; the message says why."""


@dataclass(frozen=True)
class Row:
    """One line of a log."""

    kind: str  # 'train', 'val', or 'extra' for a number logged by a user's hook
    epoch: int | None  # from 1; None if the line has none
    number: int  # the iteration; in a validation line, its step
    values: dict[str, float]


@dataclass
class Unread:
    """Number of lines that could not be read, and where and why the first could not."""

    count: int = 0
    first: str = ''


@dataclass
class _Start:
    """What was logged from one start of training to its end; None where unknown."""

    name: str  # date and time, e.g. '20230101_100000'
    rows: list[Row]
    configs: list[Path]
    begun: bool  # by the text log
    resumed: int | None  # iterations before a resumed start, by the text log
    per_epoch: int | None  # iterations, by the text log
    by_epoch: bool  # whether the run counts epochs
    val_interval: int | None  # by the config, as max_iters
    max_iters: int | None

    @functools.cached_property
    def train_rows(self) -> list[Row]:
        return [row for row in self.rows if row.kind == 'train']

    @property
    def is_training(self) -> bool:
        """Whether this was a training, not a test."""
        return bool(self.train_rows) or self.begun

    @functools.cached_property
    def interval(self) -> int:
        """The usual distance of two training lines, in iterations; 0 if unknown."""
        rows = self.train_rows
        gaps = Counter(after.number - before.number for before, after in pairwise(rows))
        return max(((n, gap) for gap, n in gaps.items() if gap > 0), default=(0, 0))[1]


_Run = list[_Start]  # a start from the first iteration, and the starts that resumed it


def read_logs(path: str | Path) -> TrainingLog:
    """Read the newest training at a path.

    The path is a work_dir, the folder of one start in it, a folder whose ``train`` is a
    work_dir, or mmengine's JSON (``vis_data/*.json``).
    """
    unread = Unread()
    starts = _read_starts(Path(path), unread)
    runs = _runs([start for start in starts if start.is_training])
    if not runs:
        strange = f' First line that is not: {unread.first}.' if unread.count else ''
        raise UserError(
            f'no training in {str(path)!r}: found nothing that mmengine logs in '
            f'training; a test is none.{strange} Name the work_dir of a training, or '
            'a log of it.',
            code='no-log',
        )
    run = max(  # the newest that logged an iteration, or otherwise anything
        reversed(runs),
        key=lambda run: [any(s.train_rows for s in run), any(s.rows for s in run)],
    )
    by_epoch = all(s.by_epoch for s in run if s.train_rows or len(run) == 1)
    lengths = [start.per_epoch for start in reversed(run) if start.per_epoch]
    per_epoch = lengths[0] if by_epoch and lengths else None
    rows, notes = _join(run, by_epoch, per_epoch)
    train, val = _curves(rows, ('train', 'extra')), _curves(rows, ('val',))
    if others := [other for other in runs if other is not run]:
        names = ', '.join(dict.fromkeys(other[0].name for other in others))
        were = 'were' if len(others) > 1 else 'was'
        notes.append(
            f'{plural(len(others), "other training")} {were} left out ({names}): '
            'started from the first iteration, not resumed'
        )
    if tests := [start.name for start in starts if not start.is_training]:
        notes.append(f'no training in, left out: {", ".join(dict.fromkeys(tests))}')
    notes += _notes_of_curves(train, val)
    if unread.count:
        lines = plural(unread.count, 'line')
        notes.append(f'{lines} could not be read (first: {unread.first})')
    return TrainingLog(
        source=str(path),
        train=train,
        val=val,
        by_epoch=by_epoch,
        iterations_per_epoch=per_epoch,
        notes=tuple(map(printable, notes)),
        configs=tuple(dict.fromkeys(path for start in run for path in start.configs)),
    )


def _read_starts(path: Path, unread: Unread) -> list[_Start]:
    """Read the starts at a path, oldest first."""
    try:
        if path.is_file():
            return [_read(path, unread)]
        if not path.is_dir():
            raise UserError(
                f'no training log at {str(path)!r}: it is neither a file nor a folder. '
                'Name the work_dir of a training, or a log of it.',
                code='file-not-found',
            )
        for folder in (path, path / 'train'):
            if folder.is_dir() and (files := _find_files(folder)):
                return [_read(file, unread) for file in files]
    except OSError as error:
        raise UserError(
            f'{str(path)!r} cannot be read: {error.strerror}.',
            code='file-unreadable',
        ) from error
    raise UserError(
        f'no training log in {str(path)!r}: looked for folders named by date and time '
        '(20230101_100000) with vis_data/*.json in them, which mmengine makes, here '
        'and in its train folder. Name the work_dir of a training, or a log of it.',
        code='no-log',
    )


def _find_files(folder: Path) -> list[Path]:
    """Return the JSON of each start in a folder, oldest first.

    The dated file of a start has what mmengine itself logs, scalars.json also the
    numbers of the user's hooks. A start that was stopped early leaves it empty.
    """
    if folder.name == 'vis_data':
        folder = folder.parent
    starts = [folder]
    if not (folder / 'vis_data').is_dir():
        starts = sorted(p for p in folder.iterdir() if STAMP.fullmatch(p.name))
    found = []
    for data in (start / 'vis_data' for start in starts):
        dated = sorted(p for p in data.glob('*.json') if STAMP.fullmatch(p.stem))
        if files := [p for p in (*dated, data / 'scalars.json') if p.is_file()]:
            found.append(max(files, key=lambda each: each.stat().st_size > 0))
    return found


def _read(path: Path, unread: Unread) -> _Start:
    """Read a JSON file, and beside it the text log and the config."""
    folder = path.parent
    inside = folder.name == 'vis_data'
    configs = [own] if (own := folder / 'config.py').is_file() else []
    config = _head_of(configs[-1]) if configs else ''
    # Not the logs of further processes, nor a pipe, which could be waited for.
    logs = sorted(folder.parent.glob('*.log')) if inside else []
    logs = [log for log in logs if '_rank' not in log.name and log.is_file()]
    text = '\n'.join(map(_head_of, logs))
    rows = _read_rows(path, unread)
    train = [row for row in rows if row.kind == 'train']
    loop = _LOOP.search(config)
    counts_epochs = bool(loop and loop[1] == 'Epoch')
    if train:  # iterations can be logged as those of one epoch
        is_iterations = loop is not None and not counts_epochs
        counts_epochs = all(row.epoch for row in train) and not is_iterations
    return _Start(
        name=folder.parent.name if inside else path.stem,
        rows=rows,
        configs=configs,
        begun=_BEGUN in text or _RESUMED.search(text) is not None,
        resumed=_number(_RESUMED, text),
        per_epoch=_number(_EPOCH, text),
        by_epoch=counts_epochs,
        val_interval=_number(_VAL_INTERVAL, config),
        max_iters=_number(_MAX_ITERS, config),
    )


def _number(pattern: re.Pattern[str], text: str) -> int | None:
    found = pattern.search(text)
    return int(found[1]) if found else None


def _head_of(path: Path) -> str:
    with open(path, 'rb') as file:
        return file.read(_MOST_TEXT).decode(errors='replace')


def _read_rows(path: Path, unread: Unread) -> list[Row]:
    """Read a log, one line in memory at a time; count the lines that are unreadable."""
    require_regular(path, 'log', _MOST_BYTES)
    rows = []
    with open(path, encoding='utf-8-sig', errors='replace') as file:
        read = functools.partial(file.readline, LONGEST)
        for number, line in enumerate(iter(read, ''), 1):
            whole, text = line.endswith('\n'), line.strip(' \t\r\n\0')
            problem = ''
            if len(line) == LONGEST and not whole:
                while (rest := read()) and not rest.endswith('\n'):
                    pass
                problem = f'it has more than {LONGEST} letters'
            elif text:
                try:
                    rows.append(parse_line(text))
                except UnreadableLine as error:
                    problem = str(error) if whole else 'it was not written to its end'
            if problem:
                place = f'{path.name} line {number}: {problem}'
                unread.first, unread.count = unread.first or place, unread.count + 1
    return rows


def parse_line(text: str) -> Row:
    """Return the numbers of one of mmengine's lines; others are unreadable."""
    try:
        content = json.loads(text, parse_int=float)  # of any number of digits
    except (ValueError, RecursionError) as error:
        raise UnreadableLine('it is not JSON') from error
    if not isinstance(content, dict):
        raise UnreadableLine('it is not a JSON object')
    if isinstance(content.get('mode'), str):  # else a number of a user's hook
        raise UnreadableLine('it is of MMDetection 2.x')
    if 'iter' in content:
        epoch = _count(content, 'epoch') if 'epoch' in content else None
        return Row('train', epoch, _count(content, 'iter'), _numbers(content, 'train/'))
    if 'step' not in content:
        raise UnreadableLine('it has no step')
    # mmengine's own validation line has its times; a hook's single number does not.
    hook = len(content) == 2 and not any('/' in key for key in content)
    kind = 'extra' if hook else 'val'
    return Row(kind, None, _count(content, 'step'), _numbers(content, 'val/'))


def _count(content: dict[str, Any], key: str) -> int:
    value: Any = content.get(key)
    whole = isinstance(value, float) and value.is_integer()
    if not whole or not 0 <= value <= 10**12:
        raise UnreadableLine(f'its {key} is no count')
    return int(value)


def _numbers(content: dict[str, Any], prefix: str) -> dict[str, float]:
    """Return the numbers by name; rates of several optimizers have a name each."""
    numbers = {}
    for key, value in content.items():
        if key in ('epoch', 'iter', 'step'):
            continue
        several = isinstance(value, dict) and key in ('lr', 'momentum')
        for name, number in value.items() if several else [('', value)]:
            if isinstance(number, float):
                full = f'{key}_{name}' if several else key.removeprefix(prefix)
                numbers[printable(full)] = number
    return numbers


def _runs(starts: list[_Start]) -> list[_Run]:
    """Return the runs; a resumed start belongs to the newest that came as far."""
    runs: list[_Run] = []
    for start in starts:
        run: _Run = []
        if runs and start.resumed is not None:
            reached = (run for run in reversed(runs) if _reaches(run, start.resumed))
            run = next(reached, runs[-1])
            runs.remove(run)
        runs.append([*run, start])
    return runs


def _reaches(run: _Run, iteration: int) -> bool:
    rows = ((row.number, start.interval) for start in run for row in start.train_rows)
    return any(number + interval >= iteration for number, interval in rows)


def _join(
    run: _Run, by_epoch: bool, per_epoch: int | None
) -> tuple[list[Row], list[str]]:
    """Return a run's lines on one axis, and notes; a start replaces what it repeats."""
    rows: list[Row] = []
    notes = []
    for index, start in enumerate(run):
        placed = _place(start, by_epoch, per_epoch)
        if (begin := start.resumed) is not None:
            lost = '' if index else '; what was logged until then is not here'
            notes.append(f'resumed after iteration {begin} ({start.name}){lost}')
            rows = [row for row in rows if row.number <= begin] if placed else rows
        rows += placed
    return rows, notes


def _place(start: _Start, by_epoch: bool, per_epoch: int | None) -> list[Row]:
    """Return the lines of a start with ``number`` as iterations done, in file order."""
    placed: list[Row] = []
    done = validated = start.resumed or 0
    last_epoch = None
    for row in start.rows:
        step, epoch = row.number, row.epoch
        if row.kind == 'train':
            done, last_epoch = step, epoch
        elif row.kind == 'val' and by_epoch:  # the line has the epoch or the iteration
            ends = (step * per_epoch, step) if per_epoch else (step,)
            most = done + (per_epoch or math.inf)
            step = next((end for end in ends if done <= end <= most), done)
        elif row.kind == 'val':
            step = validated = _validated_after(start, step, done, validated)
        if by_epoch and epoch is None:
            epoch = -(-step // per_epoch) if per_epoch else last_epoch or row.number
        placed.append(Row(row.kind, epoch if by_epoch else None, step, row.values))
    return placed


def _validated_after(start: _Start, step: int, done: int, validated: int) -> int:
    """Return the iterations before a validation, in a run that counts iterations.

    The line's own step is the iteration, or mmengine's count of epochs: then the
    interval of the config decides. ``done`` is the iteration of the training line
    before, ``validated`` that of the validation before.
    """
    gap, every = start.interval, start.val_interval
    if step and done <= step <= done + gap:
        return step
    if every:
        due = -(-max(done, validated + 1) // every) * every
        due = min(due, start.max_iters or due)
        if due <= done + gap or not gap:
            return due
    return done


def _curves(rows: list[Row], kinds: tuple[str, ...]) -> dict[str, Series]:
    """Return the curves; of two values at a step, the later one."""
    points: dict[str, dict[int, tuple[int | None, float]]] = {}
    for row in rows:
        for name, value in row.values.items() if row.kind in kinds else ():
            points.setdefault(name, {})[row.number] = (row.epoch, value)
    curves = {}
    for name, by_step in points.items():
        steps = sorted(by_step)
        epochs, values = zip(*(by_step[step] for step in steps), strict=True)
        curves[name] = Series(tuple(steps), epochs, values)
    return curves


def _notes_of_curves(train: dict[str, Series], val: dict[str, Series]) -> list[str]:
    notes = []
    if not train:
        notes.append(
            'no iteration was logged: the training, or each epoch of it, had fewer '
            'iterations than lie between two lines of the log'
        )
    for name, curve in train.items():
        points = zip(curve.steps, curve.values, strict=True)
        bad = [step for step, value in points if not math.isfinite(value)]
        if 'loss' in name and bad:
            notes.append(
                f'{name} is infinite or not a number at {len(bad)} of '
                f'{len(curve.steps)} logged steps, first at iteration {bad[0]}'
            )
    return notes if val else [*notes, 'no validation was logged']
