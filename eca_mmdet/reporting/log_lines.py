"""The lines of training logs: what mmengine and MMDetection 2.x write, as numbers.

mmengine, JSON (``vis_data/*.json``). A training line has ``iter``, counted over the
whole run, and ``epoch`` where the run counts epochs; a validation line has a ``step``
only, which is an epoch or an iteration:

    {"lr": 0.02, "loss": 1.5, "time": 0.4, "epoch": 2, "iter": 80, "step": 80}
    {"coco/bbox_mAP": 0.1, "data_time": 0.01, "time": 0.2, "step": 2}

mmengine, text (``*.log``), two spaces between the items:

    2023/01/01 10:00:00 - mmengine - INFO - Epoch(train)  [2][20/60]  lr: 2.0000e-02 ...
    2023/01/01 10:00:00 - mmengine - INFO - Epoch(val) [2][5/5]    coco/bbox_mAP: 0.1000

MMDetection 2.x, JSON (``*.log.json``). ``iter`` is counted within the epoch if the run
counts epochs; in a validation line it may also be the number of validation images:

    {"mode": "train", "epoch": 2, "iter": 20, "lr": 0.02, "loss": 1.5, "time": 0.4}
    {"mode": "val", "epoch": 2, "iter": 5, "lr": 0.02, "bbox_mAP": 0.1}

MMDetection 2.x, text (``*.log``), a tab and then commas:

    2021-01-01 10:00:00,123 - mmdet - INFO - Epoch [2][20/60]⇥lr: 2.000e-02, eta: ...
    2021-01-01 10:00:00,123 - mmdet - INFO - Epoch(val) [2][5]⇥bbox_mAP: 0.1000
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import require_regular
from eca_mmdet.utils.text import printable

MMENGINE, MMDET_2 = 'mmengine', 'mmdet 2'

LONGEST = 1 << 20
"""Letters of a line. Longer ones are not of a log: the longest there is carries the
config, about 30 thousand."""

MOST_BYTES = 512 << 20
"""Of a log; those of long trainings have some ten MB."""

_MOST = 10**12
_COLOUR = re.compile(r'\x1b\[[0-9;?]*[ -/]*[@-~]')
_HEADER = re.compile(
    r'(?:^| - )(?P<loop>Epoch|Iter) ?(?:\((?P<mode>train|val|test)\))?\s*'
    r'(?:\[\s*(?P<epoch>\d{1,12})\])?'
    r'\[\s*(?P<now>\d{1,12})(?:/\s*(?P<whole>\d{1,12}))?\](?P<body>\s.*|$)'
)
_ITEM = re.compile(r'(?P<name>.+?): (?P<value>\S+)(?: +|$)')
_NOT_CURVES = frozenset({'mode', 'epoch', 'iter', 'step', 'Epoch', 'eta'})


class UnreadableLine(Exception):
    """A line that is none of a log; the message says why."""


@dataclass(frozen=True)
class Row:
    """What one line says.

    Attributes:
        kind: 'train', 'val', or 'extra' for a number that a hook of the user's logged.
        framework: which wrote it.
        epoch: from 1; None if the line does not say.
        number: the iteration; of a validation line its step, or a number that need not
            be a step; None if there is none.
        inner: the number counts within the epoch; None if the line does not say.
        whole: of what number is a part: the epoch's iterations, or the run's.
        values: by name.
    """

    kind: str
    framework: str
    epoch: int | None
    number: int | None
    inner: bool | None
    whole: int | None
    values: dict[str, float]


def read_lines(path: Path) -> Iterator[tuple[int, str | None, bool]]:
    """Yield number, text, and whether the line is whole; None as text is too long.

    Colours, line ends and byte-order marks are removed. One line is in memory at a
    time.

    Raises:
        UserError: the file cannot be read, or is too large for a log.
    """
    require_regular(path, 'log', MOST_BYTES)
    try:
        with open(path, 'rb') as file:
            utf_16 = file.read(2) in (b'\xff\xfe', b'\xfe\xff')  # a Windows console's
        encoding = 'utf-16' if utf_16 else 'utf-8-sig'
        with open(path, encoding=encoding, errors='replace') as file:
            number = 0
            while text := file.readline(LONGEST):
                number += 1
                whole = text.endswith('\n')
                if not whole and len(text) == LONGEST:
                    while (rest := file.readline(LONGEST)) and rest[-1] != '\n':
                        pass
                    yield number, None, True
                else:
                    yield number, _COLOUR.sub('', text).strip(' \t\r\n\0'), whole
    except OSError as error:
        raise UserError(
            f'the log {str(path)!r} cannot be read: {error.strerror}.'
        ) from error


def parse_json(text: str) -> Row | dict[str, Any]:
    """Return what a line of JSON says; of MMDetection 2.x's first line, its content.

    Raises:
        UnreadableLine: it is no such line.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableLine('it is not JSON') from error
    if not isinstance(content, dict):
        raise UnreadableLine('it is not a JSON object')
    if 'mode' in content:
        return _mmdet_2_row(content)
    if 'step' in content or 'iter' in content:
        return _mmengine_row(content)
    if 'env_info' in content or ('config' in content and 'metric' not in content):
        return content
    raise UnreadableLine('it has no step')


def _mmdet_2_row(content: dict[str, Any]) -> Row:
    mode = content['mode']
    if mode not in ('train', 'val'):
        raise UnreadableLine('its mode is neither train nor val')
    values = _numbers(content)
    if mode == 'val':
        values = {key: one for key, one in values.items() if not _is_rate(key)}
    epoch, number = _count(content, 'epoch'), _count(content, 'iter')
    return Row(mode, MMDET_2, epoch, number, None, None, values)


def _mmengine_row(content: dict[str, Any]) -> Row:
    if 'iter' in content:
        epoch = _count(content, 'epoch') if 'epoch' in content else None
        number, values = _count(content, 'iter'), _numbers(content, 'train/')
        return Row('train', MMENGINE, epoch, number, False, None, values)
    number, values = _count(content, 'step'), _numbers(content, 'val/')
    # mmengine's own validation line has its times; a hook's single number does not.
    alone = len(content) == 2 and not any('/' in key for key in content)
    kind = 'extra' if alone else 'val'
    return Row(kind, MMENGINE, None, number, False, None, values)


def _count(content: dict[str, Any], key: str) -> int:
    value = content.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        raise UnreadableLine(f'its {key} is no count')
    return value


def _numbers(content: dict[str, Any], prefix: str = '') -> dict[str, float]:
    """Return the numbers by name; rates of several optimizers have each their own."""
    found = {}
    for key, value in content.items():
        if key in _NOT_CURVES:
            continue
        several = isinstance(value, dict) and _is_rate(key)
        parts = value.items() if several else [('', value)]
        for name, one in parts:
            if isinstance(one, (int, float)) and not isinstance(one, bool):
                full = f'{key}_{name}' if several else key.removeprefix(prefix)
                found[printable(full)] = _float(one)
    return found


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of more than 308 digits
        return float('inf') if value > 0 else float('-inf')


def _is_rate(key: str) -> bool:
    return key in ('lr', 'momentum') or key.startswith(('lr_', 'momentum_'))


def parse_text(text: str) -> Row | None:
    """Return what a line of a text log says, or None if it reports no numbers.

    Progress within a validation or a test is none.
    """
    header = _HEADER.search(text)
    if header is None or header['mode'] == 'test':
        return None
    mode, body = header['mode'] or 'train', header['body']
    # Only MMDetection 2.x leaves out "(train)", and "/5000" in validation.
    old = body.startswith('\t') or not header['mode'] or not header['whole']
    in_epochs = header['loop'] == 'Epoch'
    values = _items(body, ', ' if old else '  ')
    now = int(header['now'])
    whole = int(header['whole']) if header['whole'] else None
    epoch = int(header['epoch']) if in_epochs and header['epoch'] else None
    framework = MMDET_2 if old else MMENGINE
    if mode == 'train':
        return Row(mode, framework, epoch, now, in_epochs, whole, values)
    if (whole is not None and (now != whole or ' eta: ' in body)) or not values:
        return None
    number = now if old else epoch
    return Row(mode, framework, epoch, number, in_epochs, None, values)


def _items(body: str, gap: str) -> dict[str, float]:
    """Return ``name: number`` items; names of classes in them may have spaces."""
    found: dict[str, float] = {}
    for part in body.strip().split(gap):
        found |= _items_of_part(part.strip())
    return {key: one for key, one in found.items() if key not in _NOT_CURVES}


def _items_of_part(part: str) -> dict[str, float]:
    """Return a part's items: mostly one, several rates stand together."""
    found, position = {}, 0
    while position < len(part):
        item = _ITEM.match(part, position)
        value = None if item is None else _number(item['value'])
        if item is None or value is None:
            return {}  # "bbox_mAP_copypaste: 0.1 0.2", "eta: 1 day" and the like
        name = item['name'].removeprefix('val/').removeprefix('train/')
        found[printable(name)] = value
        position = item.end()
    return found


def _number(text: str) -> float | None:
    try:
        return None if '_' in text else float(text)
    except ValueError:
        return None
