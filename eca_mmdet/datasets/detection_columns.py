"""The entries of a result file, a column at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eca_mmdet.datasets.annotation_columns import normal_id
from eca_mmdet.datasets.entries import is_box, is_finite_number
from eca_mmdet.datasets.ground_truth import Floats, Ints
from eca_mmdet.datasets.masks import mask_api, mask_faults, to_rle
from eca_mmdet.utils.errors import UserError


class Faults:
    """Collects faulty entries of one file, and raises them in one message."""

    def __init__(self, source: str, total: int) -> None:
        self._source = source
        self._total = total
        self._lines: list[str] = []

    def add(self, what: str, indices: Sequence[int], examples: Sequence[Any]) -> None:
        """Note entries of one kind; none is no fault."""
        if len(indices):
            shown = ', '.join(repr(one)[:60] for one in list(examples)[:3])
            self._lines.append(
                f'{len(indices)} of {self._total} detections {what}; the first is '
                f'number {indices[0]} ({shown})'
            )

    def check(self) -> None:
        """Raise UserError if anything was noted."""
        if self._lines:
            raise UserError(f'{self._source}: {"; ".join(self._lines)}.')


def positions(
    entries: list[Any],
    key: str,
    ids: tuple[Any, ...],
    truth: str,
    faults: Faults,
) -> Ints:
    """Return the position of each entry's id among the annotation file's."""
    at = {one: index for index, one in enumerate(ids)}
    found = np.full(len(entries), -1, np.int64)
    for index, one in enumerate(entries):
        try:
            found[index] = at.get(normal_id(one[key]), -1)
        except ValueError:
            continue
    unknown = np.flatnonzero(found < 0)
    examples = list(dict.fromkeys(repr(entries[i][key]) for i in unknown))
    more = f', {len(examples)} such in all' if len(examples) > 3 else ''
    what = f'have an unknown {key}, one that is not in {truth}{more}'
    faults.add(what, unknown.tolist(), examples)
    return found


def read_scores(entries: list[Any], faults: Faults) -> Floats:
    """Return the scores."""
    bad = [i for i, one in enumerate(entries) if not is_finite_number(one['score'])]
    examples = [entries[i]['score'] for i in bad[:3]]
    faults.add('have a score that is no finite number', bad, examples)
    if bad:
        return np.zeros(len(entries))
    return np.array([one['score'] for one in entries], np.float64)


def read_boxes(entries: list[Any], sizes: Ints, faults: Faults) -> Floats:
    """Return boxes (N, 4) x, y, width, height; those of masks where there are none."""
    boxes = [one.get('bbox') for one in entries]
    masked = [i for i, box in enumerate(boxes) if not box]
    masked = [i for i in masked if entries[i].get('segmentation')]
    if masked:  # a file of masks alone
        chosen = [entries[i] for i in masked]
        rles = read_masks(chosen, sizes[masked], faults)
        faults.check()
        for index, rle in zip(masked, rles, strict=True):
            boxes[index] = mask_api().toBbox(rle).tolist()
    bad = [i for i, box in enumerate(boxes) if not is_box(box)]
    faults.add(
        'have a bbox that is not four finite numbers x, y, width, height',
        bad,
        [boxes[i] for i in bad[:3]],
    )
    if bad:
        return np.zeros((len(entries), 4))
    found = np.array(boxes, np.float64).reshape(-1, 4)
    negative = np.flatnonzero((found[:, 2:] < 0).any(1)).tolist()
    faults.add(
        'have a box of negative width or height (x1, y1, x2, y2 instead of x, y, '
        'width, height?)',
        negative,
        [boxes[i] for i in negative[:3]],
    )
    return found


def read_masks(entries: list[Any], sizes: Ints, faults: Faults) -> list[dict[str, Any]]:
    """Return compressed RLEs."""
    found = [one.get('segmentation') for one in entries]
    extents = sizes.tolist()
    wrong = mask_faults(found, extents)
    by_reason: dict[str, list[int]] = {}
    for index, reason in wrong.items():
        # The sizes differ from entry to entry; the kind of fault does not.
        other_size = reason.startswith('has an RLE of size')
        kind = 'has a mask of another size than its image' if other_size else reason
        by_reason.setdefault(kind, []).append(index)
    for reason, indices in by_reason.items():
        faults.add(
            f'cannot be used: each {reason}', indices, [found[i] for i in indices[:3]]
        )
    if wrong:
        return []
    return [to_rle(one, *size) for one, size in zip(found, extents, strict=True)]
