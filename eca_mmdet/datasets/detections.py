"""Detections as columns, and the faults of the entries that they are read from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from eca_mmdet.datasets.entries import is_box, is_finite_number
from eca_mmdet.datasets.ground_truth import Floats, GroundTruth, Ints, normal_id
from eca_mmdet.datasets.masks import (
    Rles,
    as_bytes,
    count_pixels,
    mask_api,
    mask_faults,
    to_rle,
)
from eca_mmdet.utils.errors import UserError

TASKS = ('bbox', 'segm')
FIELDS = {'bbox': 'bbox', 'segm': 'segmentation'}

_LARGEST = 1e300
"""Four numbers below it have a finite sum."""


@dataclass(frozen=True)
class Detections:
    """N detections of one task, in the order in which ties of the score count.

    Attributes:
        image: (N,) positions in the ground truth's ``image_ids``.
        category: (N,) positions in its ``category_ids``.
        scores: (N,) float64.
        boxes: (N, 4) x, y, width, height in pixels; for masks, None.
        masks: N compressed RLEs; for boxes, None.
    """

    image: Ints
    category: Ints
    scores: Floats
    boxes: Floats | None = None
    masks: Rles | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: Ints) -> Detections:
        """Return some detections, by their positions."""
        return Detections(
            image=self.image[rows],
            category=self.category[rows],
            scores=self.scores[rows],
            boxes=None if self.boxes is None else self.boxes[rows],
            masks=None if self.masks is None else self.masks.take(rows),
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
            return self.masks.areas
        assert self.boxes is not None
        return np.asarray(self.boxes[:, 2] * self.boxes[:, 3], np.float64)


class PlainRle(msgspec.Struct, gc=False):
    """A compressed RLE of a result file."""

    size: tuple[int, int]
    counts: str


class PlainEntry(msgspec.Struct, gc=False):
    """An entry of a result file as most programs write them, decoded fast."""

    image_id: int
    category_id: int
    score: float
    bbox: tuple[float, float, float, float] | None = None
    segmentation: PlainRle | None = None


def plain_detections(
    entries: Sequence[PlainEntry], truth: GroundTruth, tasks: Sequence[str]
) -> dict[str, Detections] | None:
    """Return what :func:`detections_of` does; None if an entry may be faulty.

    Raises OverflowError for numbers beyond int64.
    """
    image = _find([one.image_id for one in entries], truth.id_columns[0])
    category = _find([one.category_id for one in entries], truth.id_columns[1])
    if image is None or category is None:
        return None
    scores = np.array([one.score for one in entries], np.float64)
    found = {}
    for task in tasks:
        boxes = masks = None
        if task == 'bbox':
            boxes = _plain_boxes([one.bbox for one in entries])
        else:
            rles = [one.segmentation for one in entries]
            masks = _plain_masks(rles, truth.sizes[image])
        if boxes is None and masks is None:
            return None
        found[task] = Detections(image, category, scores, boxes, masks)
    return found


def _find(values: list[int], ids: Ints) -> Ints | None:
    """Return the positions of all values in ascending ids."""
    wanted = np.array(values, np.int64)
    at = np.searchsorted(ids, wanted)
    return at if (ids.take(at, mode='clip') == wanted).all() else None


def _plain_boxes(boxes: list[Any]) -> Floats | None:
    if None in boxes:
        return None
    found = np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes))
    found = found.reshape(-1, 4)
    sound = np.abs(found).max() < _LARGEST and found[:, 2:].min() >= 0
    return found if sound else None


def _plain_masks(rles: list[Any], image_sizes: Ints) -> Rles | None:
    if None in rles:
        return None
    counts = [one.counts.encode() for one in rles]
    sides = chain.from_iterable([one.size for one in rles])
    sizes = np.fromiter(sides, np.int64, 2 * len(rles)).reshape(-1, 2)
    if not ((sizes > 0) & (sizes < 2**31)).all() or sizes.prod(1).max() >= 2**32:
        return None
    known = image_sizes.all(1)
    pixels, inside = count_pixels(counts)
    if (sizes != image_sizes)[known].any() or (pixels != sizes.prod(1)).any():
        return None
    return Rles(counts, sizes, inside.astype(np.float64))


def detections_of(
    entries: Any,
    truth: GroundTruth,
    source: str = 'results',
    tasks: Sequence[str] | None = None,
) -> dict[str, Detections]:
    """Turn the content of a result file into columns; see ``results.read_results``."""
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
        boxes, masks, sizes = None, None, truth.sizes[image]
        if task == 'bbox':
            boxes = _boxes(entries, sizes, faults)
        else:
            masks = _masks(entries, sizes, faults)
        faults.check()
        found[task] = Detections(image, category, scores, boxes, masks)
    return found


def _require_results(entries: Any, source: str) -> None:
    expected = (
        'expected a JSON list of objects with image_id, category_id, score and bbox '
        'or segmentation'
    )
    keys = {'image_id', 'category_id', 'score'}
    if isinstance(entries, dict):
        is_file = 'annotations' in entries
        reason = f'it is {"an annotation file" if is_file else "another object"}'
    elif not isinstance(entries, list):
        reason = f'it is a {type(entries).__name__}'
    else:
        wrong = [
            index
            for index, entry in enumerate(entries)
            if not isinstance(entry, dict) or not keys <= entry.keys()
        ]
        if not wrong:
            return
        first = entries[wrong[0]]
        found = sorted(first) if isinstance(first, dict) else type(first).__name__
        reason = (
            f'{len(wrong)} of {len(entries)} entries are not, number {wrong[0]} has '
            f'{found}'
        )
    raise UserError(
        f'{source} is not a result file: {expected}; {reason}.', code='not-results'
    )


def _tasks_in(entries: list[Any]) -> list[str]:
    """Return the tasks whose field every entry has; no entry at all says boxes."""
    tasks = [t for t, key in FIELDS.items() if all(one.get(key) for one in entries)]
    return tasks if tasks and entries else ['bbox']


class _Faults:
    """Collects faulty entries of one file, and raises them in one message."""

    def __init__(self, source: str, total: int) -> None:
        self._source = source
        self._total = total
        self._lines: list[str] = []

    def add(self, what: str, indices: Sequence[int], examples: Sequence[Any]) -> None:
        """Note entries of one kind, if there are any."""
        if len(indices):
            shown = ', '.join(repr(one)[:60] for one in list(examples)[:3])
            self._lines.append(
                f'{len(indices)} of {self._total} detections {what}; the first is '
                f'number {indices[0]} ({shown})'
            )

    def check(self) -> None:
        """Raise UserError if anything was noted."""
        if self._lines:
            raise UserError(
                f'{self._source}: {"; ".join(self._lines)}.', code='not-results'
            )


def _positions(
    entries: list[Any], key: str, ids: tuple[Any, ...], truth: str, faults: _Faults
) -> Ints:
    """Return the position of each entry's id among the annotation file's."""
    at = {key: index for index, key in enumerate(ids)}
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
    """Return the scores."""
    bad = [i for i, one in enumerate(entries) if not is_finite_number(one['score'])]
    examples = [entries[i]['score'] for i in bad[:3]]
    faults.add('have a score that is no finite number', bad, examples)
    if bad:
        return np.zeros(len(entries))
    return np.array([one['score'] for one in entries], np.float64)


def _boxes(entries: list[Any], sizes: Ints, faults: _Faults) -> Floats:
    """Return boxes (N, 4) x, y, width, height; those of masks where there are none."""
    boxes = [one.get('bbox') for one in entries]
    masked = [i for i, box in enumerate(boxes) if not box]
    masked = [i for i in masked if entries[i].get('segmentation')]
    if masked:  # a file of masks alone
        chosen = [entries[i] for i in masked]
        rles = _masks(chosen, sizes[masked], faults)
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


def _masks(entries: list[Any], sizes: Ints, faults: _Faults) -> Rles:
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
    pairs = [] if wrong else zip(found, extents, strict=True)
    rles = [to_rle(one, *size) for one, size in pairs]
    counts = [as_bytes(rle['counts']) for rle in rles]
    return Rles.of(counts, np.array([r['size'] for r in rles], np.int64).reshape(-1, 2))
