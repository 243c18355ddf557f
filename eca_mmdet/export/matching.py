"""Differences between two predictions of one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eca_mmdet.inference.prediction import Prediction

Array = npt.NDArray[Any]

BOX_PX = 0.05
"""Largest difference of a coordinate that passes."""
SCORE = 1e-3
"""Largest difference of a score that passes."""
MASK = 0.01
"""Largest share of a mask's pixels that may differ; one pixel always may."""
IOU = 0.01
"""Within this distance of the threshold, two boxes may or may not suppress."""

TIES = 0.05
"""Largest share of ties; two always may be. With more of them, boxes that are all a
little off would pass for boxes that suppress each other."""

_SAME = 0.9  # IoU from which two boxes are one object


@dataclass
class Distance:
    """Counts of objects, and the largest differences of those that both lists have.

    A tie is an object of one list whose score or overlap is at a threshold; ``missing``
    counts the others. ``mask`` is a share of pixels.
    """

    objects: int = 0
    ties: int = 0
    missing: int = 0
    box_px: float = 0.0
    score: float = 0.0
    mask: float = 0.0

    def add(self, other: Distance) -> None:
        """Include another image."""
        for name in ('objects', 'ties', 'missing'):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ('box_px', 'score', 'mask'):
            # np.maximum keeps a NaN, which ``max`` may drop.
            worst = float(np.maximum(getattr(self, name), getattr(other, name)))
            setattr(self, name, worst)

    @property
    def passes(self) -> bool:
        """Whether nothing is further apart than it may be; a NaN is."""
        near = self.box_px <= BOX_PX and self.score <= SCORE and self.mask <= MASK
        few = self.ties <= max(2, TIES * self.objects)
        return near and few and not self.missing


@dataclass(frozen=True)
class Limits:
    """Score threshold, IoU threshold of suppression, and largest number per image."""

    score: float
    nms_iou: float
    count: int


def distance(reference: Prediction, exported: Prediction, limits: Limits) -> Distance:
    """Match mmdet's and the file's objects by label and overlap; measure the pairs.

    An object that only one list has is a tie where a difference within the tolerances
    decides whether it is there: its score is at the threshold, or at that of the last
    of a full list; or it overlaps another of the class just at the threshold of
    suppression, and that one both lists have; or the other list has one of an equal
    score in its place, which overlaps by more. In the file, no two objects of a class
    may overlap by more.
    """
    overlaps = _overlaps(reference, exported)
    pairs = _pairs(overlaps)
    left = [set(range(len(side.scores))) for side in (reference, exported)]
    for first, second in pairs:
        left[0].discard(first)
        left[1].discard(second)
    total = Distance(objects=len(pairs), missing=_doubles(exported, limits))
    for first, second in pairs:
        total.add(_between(reference, first, exported, second))
    for side, own, others in ((0, reference, exported), (1, exported, reference)):
        table = overlaps.T if side else overlaps
        single = np.isin(np.arange(len(others.scores)), list(left[1 - side]))
        for place in left[side]:
            score = own.scores[place]
            tied = _is_tie(score, table[place], others.scores, single, limits)
            total.ties += tied
            total.missing += not tied
    return total


def _overlaps(rows: Prediction, columns: Prediction) -> Array:
    """Return the (K, L) IoU of K and L objects, -1 between classes."""
    a, b = rows.boxes[:, None], columns.boxes[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    inter = np.prod(np.clip(sides, 0, None), 2)
    areas = [np.prod(boxes[..., 2:] - boxes[..., :2], 2) for boxes in (a, b)]
    iou: Array = inter / np.maximum(areas[0] + areas[1] - inter, 1e-9)
    iou[rows.labels[:, None] != columns.labels] = -1
    return iou


def _pairs(overlaps: Array) -> list[tuple[int, int]]:
    """Pair objects, largest overlap first."""
    pairs: list[tuple[int, int]] = []
    rows, columns = np.nonzero(overlaps >= _SAME)
    taken: tuple[set[int], set[int]] = (set(), set())
    for index in np.argsort(-overlaps[rows, columns], kind='stable'):
        pair = int(rows[index]), int(columns[index])
        if pair[0] not in taken[0] and pair[1] not in taken[1]:
            pairs.append(pair)
            taken[0].add(pair[0])
            taken[1].add(pair[1])
    return pairs


def _between(
    reference: Prediction, first: int, exported: Prediction, second: int
) -> Distance:
    mask = 0.0
    if reference.masks is not None and exported.masks is not None:
        a, b = reference.masks[first], exported.masks[second]
        differ = int((a ^ b).sum())
        mask = differ / int((a | b).sum()) if differ > 1 else 0.0
    return Distance(
        box_px=float(np.abs(reference.boxes[first] - exported.boxes[second]).max()),
        score=float(abs(reference.scores[first] - exported.scores[second])),
        mask=mask,
    )


def _doubles(objects: Prediction, limits: Limits) -> int:
    """Count the objects that another of their class should have suppressed."""
    over = np.triu(_overlaps(objects, objects) > limits.nms_iou + IOU, 1)
    return int(over.any(0).sum())


def _is_tie(
    score: float, overlaps: Array, scores: Array, single: Array, limits: Limits
) -> bool:
    """Tell whether an object that only one list has is a tie.

    ``overlaps`` and ``scores`` are those of the other list's objects, ``single`` marks
    the ones without a partner.
    """
    if score <= limits.score + SCORE:
        return True
    if len(scores) >= limits.count and score <= scores.min() + SCORE:
        return True
    at_limit = ~single & (np.abs(overlaps - limits.nms_iou) <= IOU)
    at_limit &= scores >= score - SCORE
    over = single & (overlaps >= limits.nms_iou) & (np.abs(scores - score) <= SCORE)
    return bool((at_limit | over).any())
