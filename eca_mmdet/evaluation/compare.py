"""Differences between detectors on the same images, with bootstrap intervals.

hotcoco's own ``compare`` is not used for the interval: it counts an image once however
often it was drawn, so that a sample is 63 % of the images and the interval is about a
quarter too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from eca_mmdet.evaluation.backends import hotcoco_evaluator
from eca_mmdet.evaluation.detections import Detections
from eca_mmdet.evaluation.ground_truth import GroundTruth, Ints
from eca_mmdet.evaluation.summary import MAX_DETS, Metrics, TaskResult

CONFIDENCE = 0.95
COPIES = 6
"""How often a sample may hold one image. More is drawn once in 12,000 times and then
counts as 6."""
_AT_ONCE = 20


@dataclass(frozen=True)
class Difference:
    """Second minus first, 0-1; None where no object is counted.

    Attributes:
        metrics: the differences.
        low: lower ends of the 95 % bootstrap intervals; empty without a bootstrap.
        high: upper ends.
    """

    metrics: Metrics
    low: Metrics
    high: Metrics


def subtract(first: Metrics, second: Metrics) -> Metrics:
    """Return second minus first, column by column."""
    pairs = ((name, first[name], second[name]) for name in first)
    return {k: None if a is None or b is None else b - a for k, a, b in pairs}


def difference(
    truth: GroundTruth,
    first: tuple[TaskResult, Detections],
    second: tuple[TaskResult, Detections],
    bootstrap: int = 300,
    seed: int = 0,
    max_dets: Sequence[int] = MAX_DETS,
    progress: Callable[[int], None] = lambda done: None,
) -> Difference:
    """Compare two detectors, drawing images with replacement for the interval.

    A sample holds as many images as the data; both detectors are evaluated on it. The
    interval goes from the 2.5th to the 97.5th percentile of the differences.

    Args:
        truth: of both.
        first: result and detections of the one that is subtracted.
        second: of the other, for the same task.
        bootstrap: samples; 0 leaves the interval out.
        seed: of the samples.
        max_dets: limits of detections.
        progress: called with the number of samples done.
    """
    delta = subtract(first[0].metrics, second[0].metrics)
    if not bootstrap:
        return Difference(delta, {}, {})
    task, names = first[0].task, list(delta)
    evaluators = [
        hotcoco_evaluator(*copies(truth, found), task, max_dets)
        for _, found in (first, second)
    ]
    draw = np.random.default_rng(seed)
    rows: list[list[float]] = []
    while len(rows) < bootstrap:
        count = min(_AT_ONCE, bootstrap - len(rows))
        samples = [sample_copies(len(truth.image_ids), draw) for _ in range(count)]
        before, after = (_metrics(one, samples, names) for one in evaluators)
        rows += (np.array(after) - np.array(before)).tolist()
        progress(len(rows))
    tail = (1 - CONFIDENCE) / 2
    low, high = (_ends(rows, delta, quantile) for quantile in (tail, 1 - tail))
    return Difference(delta, low, high)


def copies(truth: GroundTruth, found: Detections) -> tuple[GroundTruth, Detections]:
    """Return data with each image ``COPIES`` times, one copy behind the other."""

    def spread(image: Ints) -> Ints:
        return np.concatenate([image * COPIES + copy for copy in range(COPIES)])

    def repeat(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.concatenate([column] * COPIES)

    many = replace(
        truth,
        image_ids=tuple(range(len(truth.image_ids) * COPIES)),
        sizes=np.repeat(truth.sizes, COPIES, axis=0),
        image=spread(truth.image),
        category=repeat(truth.category),
        boxes=repeat(truth.boxes),
        areas=repeat(truth.areas),
        crowd=repeat(truth.crowd),
        segmentations=truth.segmentations * COPIES,
    )
    detections = Detections(
        image=spread(found.image),
        category=repeat(found.category),
        scores=repeat(found.scores),
        boxes=None if found.boxes is None else repeat(found.boxes),
        masks=None if found.masks is None else found.masks * COPIES,
    )
    return many, detections


def sample_copies(images: int, draw: np.random.Generator) -> list[int]:
    """Draw images with replacement; return which copies that takes, as hotcoco's ids.

    An image that was drawn three times is there as its copies 1, 2 and 3.
    """
    times = np.bincount(draw.integers(0, images, images), minlength=images)
    chosen = times[:, None] > np.arange(COPIES)
    ids: list[int] = (np.flatnonzero(chosen) + 1).tolist()
    return ids


def _metrics(
    evaluator: Any, samples: list[list[int]], names: list[str]
) -> list[list[float]]:
    """Return the columns of each sample; NaN where no object is counted."""
    found = evaluator.slice_by({str(at): ids for at, ids in enumerate(samples)})
    rows = []
    for at in range(len(samples)):
        # hotcoco writes APs where we write APS.
        one = {
            key.upper(): value
            for key, value in found[str(at)].items()
            if key != 'delta'
        }
        values = (one[name.upper()] for name in names)
        rows.append([value if value > -1 else np.nan for value in values])
    return rows


def _ends(rows: list[list[float]], delta: Metrics, quantile: float) -> Metrics:
    ends: Metrics = {}
    for name, column in zip(delta, np.array(rows).T, strict=True):
        counted = column[~np.isnan(column)]
        known = delta[name] is not None and counted.size
        ends[name] = float(np.quantile(counted, quantile)) if known else None
    return ends
