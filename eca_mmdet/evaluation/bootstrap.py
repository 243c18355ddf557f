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

from eca_mmdet.catalog.published import AP_COLUMNS
from eca_mmdet.datasets.detections import Detections
from eca_mmdet.datasets.ground_truth import GroundTruth, Ints
from eca_mmdet.evaluation.coco_eval import (
    AREAS,
    MAX_DETS,
    Metrics,
    TaskResult,
    hotcoco_evaluator,
)

CONFIDENCE = 0.95
COPIES = 6
"""Most copies of an image in a sample; more are drawn once in 12,000 times."""
_AT_ONCE = 20


@dataclass(frozen=True)
class Difference:
    """Second minus first, 0-1; None where no object is counted.

    ``low`` and ``high`` are the ends of the 95 % intervals; empty without a bootstrap.
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
        truth: objects of both.
        first: result and detections that are subtracted.
        second: result and detections for the same task.
        bootstrap: number of samples; 0 leaves the interval out.
        seed: random seed of the samples.
        max_dets: limits of detections.
        progress: called with the number of samples done.
    """
    delta = subtract(first[0].metrics, second[0].metrics)
    if not bootstrap:
        return Difference(delta, {}, {})
    samplers = [
        Sampler(truth, found, result.task, max_dets)
        for result, found in (first, second)
    ]
    draw = np.random.default_rng(seed)
    rows: list[list[float]] = []
    while len(rows) < bootstrap:
        count = min(_AT_ONCE, bootstrap - len(rows))
        samples = [sample_copies(len(truth.image_ids), draw) for _ in range(count)]
        before, after = (s.metrics(samples, list(delta)) for s in samplers)
        rows += (np.array(after) - np.array(before)).tolist()
        progress(len(rows))
    tail = (1 - CONFIDENCE) / 2
    low, high = (_ends(rows, delta, quantile) for quantile in (tail, 1 - tail))
    return Difference(delta, low, high)


def _copies(truth: GroundTruth, found: Detections) -> tuple[GroundTruth, Detections]:
    """Return data with ``COPIES`` consecutive copies of each image."""

    def spread(image: Ints) -> Ints:
        return np.concatenate([image * COPIES + copy for copy in range(COPIES)])

    def repeat(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.concatenate([column] * COPIES)

    many = replace(
        truth,
        image_ids=tuple(range(len(truth.image_ids) * COPIES)),
        file_names=tuple(np.repeat(truth.file_names, COPIES).tolist()),
        sizes=np.repeat(truth.sizes, COPIES, axis=0),
        image=spread(truth.image),
        category=repeat(truth.category),
        boxes=repeat(truth.boxes),
        areas=repeat(truth.areas),
        crowd=repeat(truth.crowd),
        segmentations=list(truth.segmentations) * COPIES,
        sound_masks=repeat(truth.sound_masks),
    )
    copied = found.take(np.tile(np.arange(len(found)), COPIES))
    return many, replace(copied, image=spread(found.image))


def sample_copies(images: int, draw: np.random.Generator) -> list[int]:
    """Draw images with replacement; return hotcoco's ids of the copies to evaluate.

    An image that was drawn three times is represented by its copies 1, 2 and 3.
    """
    times = np.bincount(draw.integers(0, images, images), minlength=images)
    chosen = times[:, None] > np.arange(COPIES)
    ids: list[int] = (np.flatnonzero(chosen) + 1).tolist()
    return ids


class Sampler:
    """Evaluate samples of images, after matching all copies of all images once."""

    def __init__(
        self, truth: GroundTruth, found: Detections, task: str, max_dets: Sequence[int]
    ) -> None:
        many = _copies(truth, found)
        # hotcoco's slices have columns for three limits, whatever those are; another
        # number of limits is evaluated one by one.
        groups = [tuple(max_dets)] if len(max_dets) == 3 else [(n,) for n in max_dets]
        self._evaluators = [
            (group, hotcoco_evaluator(*many, task, group)) for group in groups
        ]

    def metrics(self, samples: list[list[int]], names: list[str]) -> list[list[float]]:
        """Return some columns (e.g. AR10) of each sample of :func:`sample_copies`.

        A value is NaN where no object is counted.
        """
        slices = {str(at): ids for at, ids in enumerate(samples)}
        rows: list[dict[str, float]] = [{} for _ in samples]
        for group, evaluator in self._evaluators:
            found = evaluator.slice_by(slices)
            recalls = ('AR1', 'AR10', 'AR100') if len(group) == 3 else ('AR100',)
            for at, row in enumerate(rows):
                values = found[str(at)]
                row |= {name: values[theirs] for name, theirs in _LAST.items()}
                pairs = zip(group, recalls, strict=True)
                row |= {f'AR{limit}': values[column] for limit, column in pairs}
        table = [[row[name] for name in names] for row in rows]
        return [[v if v > -1 else np.nan for v in row] for row in table]


_LAST = {
    name: name[:-1] + name[-1].lower() if name[-1] in AREAS else name
    for name in (*AP_COLUMNS, *(f'AR{area}' for area in AREAS))
}
"""Columns at the last limit of detections to hotcoco's spelling (APs for APS)."""


def _ends(rows: list[list[float]], delta: Metrics, quantile: float) -> Metrics:
    ends: Metrics = {}
    for name, column in zip(delta, np.array(rows).T, strict=True):
        counted = column[~np.isnan(column)]
        known = delta[name] is not None and counted.size
        ends[name] = float(np.quantile(counted, quantile)) if known else None
    return ends
