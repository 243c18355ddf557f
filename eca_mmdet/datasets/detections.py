"""Detections as columns, and the faults of result files."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from eca_mmdet.datasets.detection_columns import (
    Faults,
    positions,
    read_boxes,
    read_masks,
    read_scores,
)
from eca_mmdet.datasets.ground_truth import Floats, GroundTruth, Ints, read_json
from eca_mmdet.datasets.masks import mask_api
from eca_mmdet.datasets.streaming import NotSoundError, Stretches
from eca_mmdet.utils.errors import UserError

TASKS = ('bbox', 'segm')
_FIELDS = {'bbox': 'bbox', 'segm': 'segmentation'}


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

    def part(self, start: int, stop: int) -> Detections:
        """Return those of some images, by the images' positions."""
        found = self.take(np.flatnonzero((self.image >= start) & (self.image < stop)))
        return replace(found, image=found.image - start)

    def count_pairs(self) -> int:
        """Return how many pairs of an image and a class have detections."""
        kinds = int(self.category.max(initial=0)) + 1
        return len(np.unique(self.image.astype(np.int64) * kinds + self.category))

    def areas(self) -> Floats:
        """Return N areas: of the masks, or of the boxes. They decide S, M and L."""
        if self.masks is not None:
            # One by one: pycocotools' area of a list fails from 256 masks on.
            area = mask_api().area
            return np.array([area(mask) for mask in self.masks], np.float64)
        assert self.boxes is not None
        return np.asarray(self.boxes[:, 2] * self.boxes[:, 3], np.float64)


@dataclass(frozen=True)
class Results:
    """A result file.

    Attributes:
        found: its detections by task.
        sha256: of the bytes that were read.
        notes: a line for each thing that a user should know.
    """

    found: dict[str, Detections]
    sha256: str
    notes: tuple[str, ...]


def read_results(
    path: str | Path, truth: GroundTruth, tasks: Sequence[str] | None = None
) -> Results:
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
    try:
        return _read_stretches(Path(path), truth, tasks)
    except (NotSoundError, UserError):  # said below, of the whole file
        entries, sha256 = read_json(path, 'result file')
    found = detections_of(entries, truth, str(path), tasks)
    having = {task: _having(entries, task) for task in TASKS}
    return Results(found, sha256, _notes(path, having, len(entries), tasks))


def _read_stretches(
    path: Path, truth: GroundTruth, tasks: Sequence[str] | None
) -> Results:
    """Read a file of which nothing is wrong.

    Raises:
        NotSoundError: it is no such list.
        UserError: an entry cannot be right.
    """
    parts, total = [], 0
    wanted, having = list(tasks or TASKS), dict.fromkeys(TASKS, 0)
    stretches = Stretches(path)
    for entries in stretches:
        total += len(entries)
        for task in TASKS:
            having[task] += _having(entries, task)
        wanted = [task for task in wanted if tasks or having[task] == total]
        if not wanted:
            raise NotSoundError
        parts.append(detections_of(entries, truth, str(path), wanted))
    found = {task: _join([part[task] for part in parts]) for task in wanted}
    notes = _notes(path, having, total, tasks)
    return Results(found, stretches.sha256, notes)


def _join(parts: Sequence[Detections]) -> Detections:
    """Put detections of one task behind each other."""
    boxes = [part.boxes for part in parts if part.boxes is not None]
    masks = [part.masks for part in parts if part.masks is not None]
    return Detections(
        image=np.concatenate([part.image for part in parts]),
        category=np.concatenate([part.category for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        boxes=np.concatenate(boxes) if boxes else None,
        masks=list(itertools.chain.from_iterable(masks)) if masks else None,
    )


def _having(entries: list[Any], task: str) -> int:
    """Count the entries with a task's field."""
    if not all(isinstance(one, dict) for one in entries):
        return 0  # it is refused
    return sum(bool(one.get(_FIELDS[task])) for one in entries)


def _notes(
    path: str | Path, having: dict[str, int], total: int, tasks: Sequence[str] | None
) -> tuple[str, ...]:
    return tuple(
        f'{path}: {total - having[task]} of {total} detections have no '
        f'{_FIELDS[task]}, so that {task} is not evaluated'
        for task in TASKS
        if not tasks and 0 < having[task] < total
    )


def detections_of(
    entries: Any,
    truth: GroundTruth,
    source: str = 'results',
    tasks: Sequence[str] | None = None,
) -> dict[str, Detections]:
    """Turn the content of a result file into columns; as :func:`read_results`."""
    _require_results(entries, source)
    faults = Faults(source, len(entries))
    image = positions(entries, 'image_id', truth.image_ids, truth.source, faults)
    category = positions(
        entries, 'category_id', truth.category_ids, truth.source, faults
    )
    scores = read_scores(entries, faults)
    faults.check()
    found = {}
    for task in tasks or _tasks_in(entries):
        if task == 'bbox':
            boxes = read_boxes(entries, truth.sizes[image], faults)
            faults.check()
            found[task] = Detections(image, category, scores, boxes=boxes)
        else:
            masks = read_masks(entries, truth.sizes[image], faults)
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
    tasks = [t for t, key in _FIELDS.items() if all(one.get(key) for one in entries)]
    return tasks if tasks and entries else ['bbox']
