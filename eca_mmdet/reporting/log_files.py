"""Log files of a training: the lines, and which files belong to one start.

In mmengine's JSON lines (``vis_data/*.json``), a training line has ``iter``, counted
over the whole run, and ``epoch`` where the run counts epochs. A validation line has
only a ``step``, which is an epoch or an iteration:

    {"lr": 0.02, "loss": 1.5, "time": 0.4, "epoch": 2, "iter": 80, "step": 80}
    {"coco/bbox_mAP": 0.1, "data_time": 0.01, "time": 0.2, "step": 2}

MMDetection 2.x (``*.log.json``) writes a mode, and counts iterations in each epoch:

    {"mode": "train", "epoch": 2, "iter": 30, "lr": 0.02, "loss": 1.5, "time": 0.4}
    {"mode": "val", "epoch": 2, "iter": 5000, "lr": 0.02, "bbox_mAP": 0.1}
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import require_regular
from eca_mmdet.utils.text import printable

LONGEST = 1 << 20  # characters of a line; longer lines are not mmengine's
_MOST_BYTES = 512 << 20  # size of a log; those of long trainings have some ten MB
STAMP = re.compile(r'\d{8}_\d{6}')  # name of a start: its date and time
_RESUMED = re.compile(r'resumed epoch:? (\d{1,12}), iter:? (\d{1,12})')
_EPOCH = re.compile(r'Epoch\(train\) +\[ *\d+\]\[ *\d+/ *(\d{1,12})\]')
_BEGUN = 'Checkpoints will be saved to'
_LOOP = re.compile(r'\b(Iter|Epoch)BasedTrainLoop\b')
_VAL_INTERVAL = re.compile(r'\bval_interval ?= ?(\d{1,12})')
_MAX_ITERS = re.compile(r'\bmax_iters ?= ?(\d{1,12})')
_HEAD = '{"env_info"'
"""Start of a log of MMDetection 2.x."""
_MOST_TEXT = 64 << 20


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

    def add(self, path: Path, number: int, reason: str) -> None:
        """Count a line."""
        self.first = self.first or f'{path.name} line {number}: {reason}'
        self.count += 1


def read_rows(path: Path, unread: Unread) -> list[Row]:
    """Read a log; lines that cannot be read are counted in ``unread``.

    One line is in memory at a time.
    """
    require_regular(path, 'log', _MOST_BYTES)
    rows = []
    with open(path, encoding='utf-8-sig', errors='replace') as file:
        read = functools.partial(file.readline, LONGEST)
        for number, line in enumerate(iter(read, ''), 1):
            whole, text = line.endswith('\n'), line.strip(' \t\r\n\0')
            if len(line) == LONGEST and not whole:
                while (rest := read()) and not rest.endswith('\n'):
                    pass
                unread.add(path, number, f'it has more than {LONGEST} letters')
            elif text and not text.startswith(_HEAD):
                try:
                    rows.append(parse_line(text))
                except UnreadableLine as error:
                    cut = 'it was not written to its end'
                    unread.add(path, number, str(error) if whole else cut)
    return rows


def parse_line(text: str) -> Row:
    """Return the numbers of one of mmengine's lines; others are unreadable."""
    try:
        content = json.loads(text, parse_int=float)  # of any number of digits
    except (ValueError, RecursionError) as error:
        raise UnreadableLine('it is not JSON') from error
    if not isinstance(content, dict):
        raise UnreadableLine('it is not a JSON object')
    if content.get('mode') == 'val':
        return Row('val', None, _count(content, 'epoch'), _numbers(content, 'val/'))
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


@dataclass
class Start:
    """What was logged from one start of training to its end; None where unknown."""

    name: str  # date and time, e.g. '20230101_100000'
    rows: list[Row]
    configs: list[Path]
    begun: bool = False  # the text log says that training began
    resumed: tuple[int, int] | None = None  # from epoch and iteration, by the text log
    per_epoch: int | None = None  # iterations, by the text log
    by_epoch: bool = False  # whether the run counts epochs
    val_interval: int = 0  # iterations between validations; 0 if unknown
    max_iters: int = 0

    @property
    def train_rows(self) -> list[Row]:
        """Rows of training."""
        return [row for row in self.rows if row.kind == 'train']

    @property
    def is_training(self) -> bool:
        """Whether this was a training, not a test."""
        return bool(self.train_rows) or self.begun

    def interval(self) -> int:
        """Return the usual distance of two training lines, in iterations; 0: unknown.

        mmengine writes one more line at the end of a first epoch shorter than that.
        """
        rows = self.train_rows
        gaps = Counter(after.number - before.number for before, after in pairwise(rows))
        return max(((n, gap) for gap, n in gaps.items() if gap > 0), default=(0, 0))[1]


def find_starts(path: Path, unread: Unread) -> list[Start]:
    """Read the starts at a path, oldest first, as for ``logs.read_logs``."""
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
            if folder.is_dir() and (files := _files(folder)):
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


def _files(folder: Path) -> list[Path]:
    """Return the JSON of each start in a folder, oldest first."""
    if folder.name == 'vis_data':
        folder = folder.parent
    if (folder / 'vis_data').is_dir():
        starts = [folder]
    else:
        dated = (each for each in folder.iterdir() if STAMP.fullmatch(each.name))
        starts = sorted(each for each in dated if each.is_dir())
    found = [file for start in starts if (file := _file_of(start))]
    return found or sorted(folder.glob('*.log.json'))


def _file_of(start: Path) -> Path | None:
    """Return a start's JSON; the dated file has what mmengine itself logs.

    scalars.json also has the numbers of the user's hooks. An empty file is that of a
    start that was stopped early.
    """
    data = start / 'vis_data'
    dated = sorted(each for each in data.glob('*.json') if STAMP.fullmatch(each.stem))
    files = [each for each in (*dated, data / 'scalars.json') if each.is_file()]
    return max(files, key=lambda each: each.stat().st_size > 0, default=None)


def _read(path: Path, unread: Unread) -> Start:
    """Read a JSON file, and beside it the text log and the config."""
    folder = path.parent
    inside = folder.name == 'vis_data'
    configs = [own] if (own := folder / 'config.py').is_file() else []
    if inside and not configs:
        configs = [each for each in folder.parent.parent.glob('*.py') if each.is_file()]
        configs.sort(key=lambda config: (config.stat().st_mtime, config.name))
    name = folder.parent.name if inside else path.stem.removesuffix('.log')
    start = Start(name, read_rows(path, unread), configs)
    for text_log in sorted(folder.parent.glob('*.log')) if inside else ():
        # Not the logs of further processes, nor a pipe, which could be waited for.
        if '_rank' not in text_log.name and text_log.is_file():
            _read_text(start, _head_of(text_log))
    _count_over_epochs(start)
    _read_config(start, _head_of(configs[-1]) if configs else '')
    return start


def _head_of(path: Path) -> str:
    with open(path, 'rb') as file:
        return file.read(_MOST_TEXT).decode(errors='replace')


def _count_over_epochs(start: Start) -> None:
    """Number iterations over the run where MMDetection 2.x begins again in each epoch.

    An epoch is taken to be as long as the last line in it says.
    """
    rows = start.train_rows
    if any(
        after.number <= before.number and (after.epoch or 0) > (before.epoch or 0)
        for before, after in pairwise(rows)
    ):
        length = start.per_epoch = max(row.number for row in rows)
        start.rows = [
            replace(row, number=row.number + (row.epoch - 1) * length)
            if row.kind == 'train' and row.epoch
            else row
            for row in start.rows
        ]


def _read_text(start: Start, text: str) -> None:
    """Look in the text log: did training begin or resume, how long is an epoch?"""
    start.begun |= _BEGUN in text
    if resumed := _RESUMED.search(text):
        start.resumed = int(resumed[1]), int(resumed[2])
        start.begun = True
    if length := _EPOCH.search(text):
        start.per_epoch = int(length[1])


def _read_config(start: Start, text: str) -> None:
    """Take what the lines do not say from the config, which is searched, not run."""
    rows = start.train_rows or start.rows
    has_epochs = all(row.epoch is not None for row in rows)
    loop = _LOOP.search(text)
    # mmengine can log a run of epochs by iterations.
    start.by_epoch = has_epochs if loop is None else loop[1] == 'Epoch'
    if start.train_rows and not has_epochs:
        start.by_epoch = False
    if every := _VAL_INTERVAL.search(text):
        start.val_interval = int(every[1])
    if last := _MAX_ITERS.search(text):
        start.max_iters = int(last[1])
