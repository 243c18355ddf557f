"""The starts of a training: their log files, and what these say beside the numbers."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from eca_mmdet.reporting.log_lines import Row, Unread, read_rows
from eca_mmdet.utils.errors import UserError

_STAMP = re.compile(r'\d{8}_\d{6}')
_RESUMED = re.compile(r'resumed epoch: (\d{1,12}), iter: (\d{1,12})')
_EPOCH = re.compile(r'Epoch\(train\) +\[ *\d+\]\[ *\d+/ *(\d{1,12})\]')
_BEGUN = 'Checkpoints will be saved to'
_LOOP = re.compile(r'\b(Iter|Epoch)BasedTrainLoop\b')
_VAL_INTERVAL = re.compile(r'\bval_interval ?= ?(\d{1,12})')
_MAX_ITERS = re.compile(r'\bmax_iters ?= ?(\d{1,12})')
_MOST_TEXT = 64 << 20


@dataclass
class Start:
    """What was logged from one start of training to its end.

    Attributes:
        name: date and time, e.g. '20230101_100000'.
        rows: lines of its JSON, in order.
        configs: what it ran with.
        begun: the text log says that training began.
        resumed: epoch and iteration that it continued from, by the text log.
        per_epoch: iterations of an epoch, by the text log.
        by_epoch: whether the run counts epochs.
        val_interval: validations are this far apart, in iterations; None if unknown.
        max_iters: the last iteration; None if unknown.
    """

    name: str
    rows: list[Row]
    configs: tuple[Path, ...]
    begun: bool = False
    resumed: tuple[int, int] | None = None
    per_epoch: int | None = None
    by_epoch: bool = False
    val_interval: int | None = None
    max_iters: int | None = None

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
    """Read the starts at a path, oldest first.

    Args:
        path: a work_dir, the folder of one start in it, a folder whose ``train`` is a
            work_dir, or mmengine's JSON.
        unread: counts lines that cannot be read.

    Raises:
        UserError: nothing is there, or it has no log.
    """
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
            f'the folder {str(path)!r} cannot be read: {error.strerror}.',
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
        starts = sorted(each for each in folder.iterdir() if each.is_dir())
        starts = [each for each in starts if _STAMP.fullmatch(each.name)]
    found = [_file_of(start) for start in starts]
    return [file for file in found if file]


def _file_of(start: Path) -> Path | None:
    """Return a start's JSON; the dated file has what mmengine itself logs.

    scalars.json also has the numbers of the user's hooks. An empty file is that of a
    start that was stopped early.
    """
    data = start / 'vis_data'
    dated = sorted(each for each in data.glob('*.json') if _STAMP.fullmatch(each.stem))
    files = [each for each in (*dated, data / 'scalars.json') if each.is_file()]
    full = (each for each in files if each.stat().st_size)
    return next(full, files[0] if files else None)


def _read(path: Path, unread: Unread) -> Start:
    """Read a JSON file, and beside it the text log and the config."""
    folder = path.parent
    inside = folder.name == 'vis_data'
    start = folder.parent if inside else folder
    own = folder / 'config.py'
    copied = [one for one in start.parent.glob('*.py') if one.is_file()]
    copied.sort(key=lambda one: (one.stat().st_mtime, one.name))
    configs = (own,) if own.is_file() else tuple(copied) if inside else ()
    name = start.name if inside else path.stem
    found = Start(name, read_rows(path, unread), configs)
    for text in sorted(start.glob('*.log')) if inside else ():
        if '_rank' not in text.name:  # the logs of further processes
            _read_text(found, text)
    _read_config(found)
    return found


def _read_text(start: Start, path: Path) -> None:
    """Look in the text log: did training begin or resume, how long is an epoch?"""
    with open(path, 'rb') as file:
        text = file.read(_MOST_TEXT).decode(errors='replace')
    start.begun |= _BEGUN in text
    if resumed := _RESUMED.search(text):
        start.resumed = int(resumed[1]), int(resumed[2])
        start.begun = True
    if length := _EPOCH.search(text):
        start.per_epoch = int(length[1])


def _read_config(start: Start) -> None:
    """Take what the lines do not say from the config, which is searched, not run."""
    text = ''
    for path in start.configs[-1:]:
        with open(path, encoding='utf-8', errors='replace') as file:
            text = file.read(1 << 20)
    rows = start.train_rows or start.rows
    has_epochs = all(row.epoch is not None for row in rows)
    loop = _LOOP.search(text)
    # mmengine can log a run of epochs by iterations.
    start.by_epoch = has_epochs if loop is None else loop[1] == 'Epoch'
    if start.train_rows and not has_epochs:
        start.by_epoch = False
    every, last = _VAL_INTERVAL.search(text), _MAX_ITERS.search(text)
    start.val_interval = int(every[1]) or None if every else None
    start.max_iters = int(last[1]) or None if last else None
