"""The numbers of the ECA-Net tables as published, each with where it was read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import read_json

MARK = '†'  # behind a number that was confirmed in no copy
AP_COLUMNS = ('AP', 'AP50', 'AP75', 'APS', 'APM', 'APL')
"""COCO's average precisions, in the order of tables."""

PUBLISHED = Path(__file__).with_name('published.json')
DETECTORS = {'faster': 'Faster R-CNN', 'mask': 'Mask R-CNN', 'retinanet': 'RetinaNet'}


@dataclass(frozen=True)
class Number:
    """A published number, as printed: AP 0-100, Params in 10^6, GFLOPs in 10^9."""

    value: float
    confirmed_by: tuple[str, ...]  # keys of ``sources``; empty if no copy confirmed it

    def shown(self, digits: int) -> str:
        """Return it as in tables, marked if nothing confirmed it."""
        return f'{self.value:.{digits}f}' + ('' if self.confirmed_by else f' {MARK}')


@dataclass(frozen=True)
class PublishedRow:
    """A detector of the tables."""

    row: str  # its short name, e.g. 'faster:r50:eca'
    detector: str  # 'Faster R-CNN', 'Mask R-CNN' or 'RetinaNet'
    depth: int  # of the ResNet
    attention: str  # 'none', 'SE', 'ECA', '1 NL' or 'GC'
    config: str  # that trains it
    params_m: Number  # trained parameters in 10^6
    gflops: Number  # in 10^9 at 3x1280x800
    box: dict[str, Number]  # AP, AP50, AP75, APS, APM, APL
    mask: dict[str, Number]  # the same; empty without masks

    def numbers(self) -> dict[str, dict[str, Number]]:
        """Return the AP numbers by task, 'box' and where there is one 'mask'."""
        return {'box': self.box} | ({'mask': self.mask} if self.mask else {})


def published(path: Path = PUBLISHED) -> dict[str, Any]:
    """Return the whole file."""
    content = read_json(path, 'file of published numbers').content
    if not isinstance(content, dict) or not {'detectors', 'sources'} <= content.keys():
        raise UserError(
            f'{path} has no published numbers: no detectors and sources in it.',
            code='not-published-numbers',
        )
    return content


def published_rows(
    names: Iterable[str] = (), detector: str | None = None, path: Path = PUBLISHED
) -> list[PublishedRow]:
    """Return rows of the detection tables, in the paper's order.

    ``names`` are short names or patterns, e.g. 'faster:r50:eca' or 'mask:*'; none means
    all. ``detector`` is a key of ``DETECTORS``.
    """
    from fnmatch import fnmatchcase

    rows = _rows(path)
    if detector:
        rows = [row for row in rows if row.detector == DETECTORS[detector]]
    found = {name: [r for r in rows if fnmatchcase(r.row, name)] for name in names}
    for name, matching in found.items():
        if not matching:
            raise UserError(
                f'no published row is called {name!r}. There are: '
                f'{", ".join(row.row for row in rows)}.',
                code='unknown-row',
            )
    return [row for row in rows if not found or any(row in m for m in found.values())]


def _rows(path: Path) -> list[PublishedRow]:
    try:
        rows = [_row(entry) for entry in published(path)['detectors']]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f'{path}: a detector has no proper {error}. Compare {PUBLISHED}.',
            code='not-published-numbers',
        ) from error
    names = [row.row for row in rows]
    for row in rows:
        sound = row.row.replace(':', '').isalnum() and names.count(row.row) == 1
        if not sound or row.detector not in DETECTORS.values() or 'AP' not in row.box:
            raise UserError(
                f'{path}: row {row.row!r} must have a name of its own such as '
                f'faster:r50:eca, one of {", ".join(DETECTORS.values())} and a box AP.',
                code='not-published-numbers',
            )
    return rows


def _row(entry: Mapping[str, Any]) -> PublishedRow:
    names = ('row', 'detector', 'depth', 'attention', 'config')
    return PublishedRow(
        **{name: entry[name] for name in names},
        params_m=_number(entry['cost']['params_m']),
        gflops=_number(entry['cost']['gflops']),
        box={key: _number(value) for key, value in entry['box'].items()},
        mask={key: _number(value) for key, value in entry.get('mask', {}).items()},
    )


def _number(entry: Mapping[str, Any]) -> Number:
    value, sources = float(entry['value']), entry['confirmed_by']
    if not math.isfinite(value) or not isinstance(sources, list):
        raise ValueError(f'number {entry}')
    return Number(value, tuple(sources))


def cells_of(row: PublishedRow, task: str) -> list[str]:
    """Return Params, GFLOPs and the AP columns of a task as table cells."""
    numbers = row.numbers()[task]
    ap = [numbers[name].shown(1) if name in numbers else '' for name in AP_COLUMNS]
    return [row.params_m.shown(2), row.gflops.shown(2), *ap]
