"""Detections as columns, and the faults of result files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eca_mmdet.errors import UserError
from eca_mmdet.evaluation.ground_truth import (
    Floats,
    GroundTruth,
    Ints,
    normal_id,
    read_json,
)
from eca_mmdet.evaluation.masks import mask_api, to_rle

TASKS = ('bbox', 'segm')


@dataclass(frozen=True)
class Detections:
    """N detections of one task, in the order in which ties of the score count.

    Attributes:
        image: (N,) positions in the ground truth's ``image_ids``.
        category: (N,) positions in its ``category_ids``.
        scores: (N,) float64.
        boxes: (N, 4) x, y, width, height in pixels; for masks, None.
        masks: N compressed RLEs ``{'size': [h, w], 'counts': str or bytes}``; for
            boxes, None.
    """

    image: Ints
    category: Ints
    scores: Floats
    boxes: Floats | None = None
    masks: list[Any] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: Ints) -> Detections:
        """Return some detections, by their positions."""
        return Detections(
            image=self.image[rows],
            category=self.category[rows],
            scores=self.scores[rows],
            boxes=None if self.boxes is None else self.boxes[rows],
            masks=None if self.masks is None else [self.masks[row] for row in rows],
        )

    def areas(self) -> Floats:
        """Return N areas: of the masks, or of the boxes. They decide S, M and L."""
        if self.masks is not None:
            # One by one: pycocotools' area of a list fails from 256 masks on.
            area = mask_api().area
            return np.array([area(mask) for mask in self.masks], np.float64)
        assert self.boxes is not None
        return np.asarray(self.boxes[:, 2] * self.boxes[:, 3], np.float64)


def read_results(
    path: str | Path, truth: GroundTruth, tasks: Sequence[str] | None = None
) -> dict[str, Detections]:
    """Read a COCO result file: a JSON list of one object per detection.

    Args:
        path: the file.
        truth: what it is to be held against.
        tasks: of 'bbox' and 'segm'; None takes those whose field every entry has. A
            file of masks alone gives boxes too if 'bbox' is asked for.

    Raises:
        UserError: the file is of another kind, or has entries that cannot be right; the
            first of them and their number are named.
    """
    entries = read_json(path, 'result file')
    return detections_of(entries, truth, str(path), tasks)


def detections_of(
    entries: Any,
    truth: GroundTruth,
    source: str = 'results',
    tasks: Sequence[str] | None = None,
) -> dict[str, Detections]:
    """Turn the content of a result file into columns; as :func:`read_results`."""
    _require_results(entries, source)
    faults = _Faults(source, len(entries))
    image = _positions(entries, 'image_id', truth.image_ids, truth.source, faults)
    category = _positions(
        entries, 'category_id', truth.category_ids, truth.source, faults
    )
    scores = _scores(entries, faults)
    faults.check()
    found = {}
    for task in tasks or _tasks_in(entries):
        if task == 'bbox':
            boxes = _boxes(entries, faults)
            faults.check()
            found[task] = Detections(image, category, scores, boxes=boxes)
        else:
            masks = _masks(entries, truth.sizes[image], faults)
            faults.check()
            found[task] = Detections(image, category, scores, masks=masks)
    return found


def _require_results(entries: Any, source: str) -> None:
    expected = (
        'expected a JSON list of objects with image_id, category_id, score and bbox '
        'or segmentation'
    )
    if isinstance(entries, dict):
        kind = 'an annotation file' if 'annotations' in entries else 'another object'
        raise UserError(f'{source} is not a result file: {expected}; it is {kind}.')
    if not isinstance(entries, list):
        raise UserError(
            f'{source} is not a result file: {expected}; it is a '
            f'{type(entries).__name__}.'
        )
    keys = {'image_id', 'category_id', 'score'}
    wrong = [
        index
        for index, one in enumerate(entries)
        if not isinstance(one, dict) or not keys <= one.keys()
    ]
    if wrong:
        first = entries[wrong[0]]
        found = sorted(first) if isinstance(first, dict) else type(first).__name__
        raise UserError(
            f'{source} is not a result file: {expected}; {len(wrong)} of '
            f'{len(entries)} entries are not, number {wrong[0]} has {found}.'
        )


def _tasks_in(entries: list[Any]) -> list[str]:
    """Return the tasks whose field every entry has; no entry at all says boxes."""
    fields = {'bbox': 'bbox', 'segm': 'segmentation'}
    tasks = [t for t, key in fields.items() if all(one.get(key) for one in entries)]
    return tasks or ['bbox'] if entries else ['bbox']


class _Faults:
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


def _positions(
    entries: list[Any],
    key: str,
    ids: tuple[Any, ...],
    truth: str,
    faults: _Faults,
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


def _scores(entries: list[Any], faults: _Faults) -> Floats:
    scores = np.full(len(entries), np.nan)
    for index, one in enumerate(entries):
        if isinstance(one['score'], (int, float)):
            scores[index] = one['score']
    bad = np.flatnonzero(~np.isfinite(scores)).tolist()
    examples = [entries[i]['score'] for i in bad[:3]]
    faults.add('have a score that is no finite number', bad, examples)
    return scores


def _boxes(entries: list[Any], faults: _Faults) -> Floats:
    boxes = np.full((len(entries), 4), np.nan)
    for index, one in enumerate(entries):
        box = one.get('bbox')
        if not box and one.get('segmentation'):
            box = mask_api().toBbox(to_rle(one['segmentation'], 0, 0))
        try:
            boxes[index] = [float(value) for value in box]
        except (TypeError, ValueError):
            continue
    bad = np.flatnonzero(~np.isfinite(boxes).all(1)).tolist()
    faults.add(
        'have a bbox that is not four finite numbers x, y, width, height',
        bad,
        [entries[i].get('bbox') for i in bad[:3]],
    )
    negative = np.flatnonzero((boxes[:, 2:] < 0).any(1)).tolist()
    faults.add(
        'have a box of negative width or height (x1, y1, x2, y2 instead of x, y, '
        'width, height?)',
        negative,
        [entries[i].get('bbox') for i in negative[:3]],
    )
    return boxes


def _masks(entries: list[Any], sizes: Ints, faults: _Faults) -> list[dict[str, Any]]:
    masks: list[dict[str, Any]] = []
    unreadable: list[int] = []
    other_size: list[int] = []
    for index, (one, size) in enumerate(zip(entries, sizes.tolist(), strict=True)):
        try:
            rle = to_rle(one.get('segmentation'), *size)
        except (TypeError, ValueError, IndexError, AttributeError):
            unreadable.append(index)
            continue
        if all(size) and list(rle['size']) != size:
            other_size.append(index)
        masks.append(rle)
    faults.add(
        'have a segmentation that is neither RLE nor polygons',
        unreadable,
        [entries[i].get('segmentation') for i in unreadable[:3]],
    )
    faults.add(
        'have a mask of another size than their image',
        other_size,
        [entries[i]['segmentation'].get('size') for i in other_size[:3]],
    )
    return masks
