"""Differences between detectors on the same images, with bootstrap intervals.

hotcoco's own ``compare`` is not used for the interval: it counts an image once however
often it was drawn, so that a sample is 63 % of the images and the interval is about a
quarter too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from eca_mmdet.catalog.published import AP_COLUMNS
from eca_mmdet.datasets.detections import Detections
from eca_mmdet.datasets.ground_truth import Floats, GroundTruth, Ints
from eca_mmdet.evaluation.coco_eval import (
    AREAS,
    MAX_DETS,
    ClassResult,
    Metrics,
    TaskResult,
    columns,
    hotcoco_evaluator,
)
from eca_mmdet.utils.text import progress

QUANTILES = 0.025, 0.975  # ends of the 95 % intervals
COPIES = 6
"""Most copies of an image in a sample; more are drawn once in 12,000 times."""
_AT_ONCE = 20


@dataclass(frozen=True)
class ClassDifference(ClassResult):
    """Second minus first of one category, as in :class:`Difference`."""

    low: Metrics
    high: Metrics


@dataclass(frozen=True)
class Difference:
    """Second minus first, 0-1; None where no object is counted.

    ``low`` and ``high`` are the ends of the 95 % intervals; empty without a bootstrap.
    ``classes`` are in the order of ``TaskResult.classes``.
    """

    metrics: Metrics
    low: Metrics
    high: Metrics
    classes: tuple[ClassDifference, ...] = ()


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
    title: str = 'bootstrap',
) -> Difference:
    """Compare two detectors, drawing images with replacement for the interval.

    A sample holds as many images as the data; both detectors are evaluated on it. The
    interval goes from the 2.5th to the 97.5th percentile of the differences. A class
    whose objects are all on one image has none: no sample could tell anything else.

    ``bootstrap`` is the number of samples; 0 leaves the interval out. ``title`` is the
    name of the progress bar, which counts classes.
    """
    delta = subtract(first[0].metrics, second[0].metrics)
    times = draw_samples(len(truth.image_ids), bootstrap, seed)
    changes = np.full((bootstrap, len(truth.category_ids), len(delta)), np.nan)
    with progress(title, len(truth.category_ids)) as advance:
        for at in range(len(truth.category_ids) if bootstrap else 0):
            before, after = (
                sample_class(truth, found, at, result.task, times, max_dets)
                for result, found in (first, second)
            )
            changes[:, at] = after - before
            advance()
    # AP and AR are means over the classes that have objects.
    with np.errstate(invalid='ignore'):
        means = np.nansum(changes, 1) / (~np.isnan(changes)).sum(1)
    classes = []
    for at, (one, other) in enumerate(
        zip(first[0].classes, second[0].classes, strict=True)
    ):
        minus = subtract(one.metrics, other.metrics)
        if len(np.unique(truth.image[(truth.category == at) & ~truth.crowd])) < 2:
            changes[:, at] = np.nan
        ends = _ends(changes[:, at], minus)
        classes.append(ClassDifference(one.id, one.name, one.objects, minus, *ends))
    return Difference(delta, *_ends(means, delta), tuple(classes))


def draw_samples(images: int, samples: int, seed: int) -> npt.NDArray[np.uint8]:
    """Draw images with replacement, as many as there are.

    Returns:
        (samples, images): how often an image was drawn, at most ``COPIES``.
    """
    draw = np.random.default_rng(seed)
    times = np.zeros((samples, images), np.uint8)
    for row in times:
        drawn = np.bincount(draw.integers(0, images, images), minlength=images)
        row[:] = np.minimum(drawn, COPIES)
    return times


def sample_class(
    truth: GroundTruth,
    found: Detections,
    category: int,
    task: str,
    times: npt.NDArray[np.uint8],
    max_dets: Sequence[int] = MAX_DETS,
) -> Floats:
    """Evaluate a category on samples, after matching all copies of its images once.

    An image that was drawn three times is represented by its copies 1, 2 and 3.

    Args:
        truth: objects of all categories.
        found: detections of all categories.
        category: its position.
        task: 'bbox' or 'segm'.
        times: (S, M) from :func:`draw_samples`.
        max_dets: limits of detections.

    Returns:
        (S, N): columns of ``coco_eval.columns``, NaN where no object is counted.
    """
    names = columns(max_dets)
    values = np.full((len(times), len(names)), np.nan)
    rows = [np.flatnonzero(each.category == category) for each in (truth, found)]
    images = np.union1d(truth.image[rows[0]], found.image[rows[1]])
    if not len(rows[0]):
        return values
    copied = _copies(truth, found, images, rows)
    # hotcoco's slices have columns for three limits, whatever those are; another
    # number of limits is evaluated one by one.
    groups = [tuple(max_dets)] if len(max_dets) == 3 else [(n,) for n in max_dets]
    for group in groups:
        evaluator = hotcoco_evaluator(*copied, task, group)
        recalls = ('AR1', 'AR10', 'AR100') if len(group) == 3 else ('AR100',)
        pairs = zip(group, recalls, strict=True)
        theirs = _LAST | {f'AR{limit}': name for limit, name in pairs}
        chosen = [names.index(name) for name in theirs]
        for start in range(0, len(times), _AT_ONCE):
            drawn = times[start : start + _AT_ONCE, images, None] > np.arange(COPIES)
            ids = {
                str(at): (np.flatnonzero(sample) + 1).tolist()
                for at, sample in enumerate(drawn, start)
            }
            for at, row in evaluator.slice_by(ids).items():
                if at in ids:  # it adds one of all images
                    values[int(at), chosen] = [row[each] for each in theirs.values()]
    return np.where(values > -1, values, np.nan)


def _copies(
    truth: GroundTruth, found: Detections, images: Ints, rows: Sequence[Ints]
) -> tuple[GroundTruth, Detections]:
    """Return some rows of both, with ``COPIES`` consecutive copies of each image.

    They are of one category, and positions count the copies of ``images``.
    """

    def positions(image: Ints) -> Ints:
        copy = np.repeat(np.arange(COPIES), len(image) // COPIES)
        return np.searchsorted(images, image) * COPIES + copy

    def copied(part: Any) -> Any:
        first = np.zeros_like(part.category)
        return replace(part, image=positions(part.image), category=first)

    objects, detections = (np.tile(each, COPIES) for each in rows)
    many = replace(
        copied(truth.take(objects)),
        sizes=np.repeat(truth.sizes[images], COPIES, axis=0),
        category_names=('class',),  # hotcoco warns of an empty one
    )
    return many, copied(found.take(detections))


_LAST = {
    name: name[:-1] + name[-1].lower() if name[-1] in AREAS else name
    for name in (*AP_COLUMNS, *(f'AR{area}' for area in AREAS))
}
"""Columns at the last limit of detections to hotcoco's spelling (APs for APS)."""


def _ends(changes: Floats, delta: Metrics) -> tuple[Metrics, Metrics]:
    """Return the ends of the intervals of (samples, columns); empty of no sample."""
    low: Metrics = {}
    high: Metrics = {}
    for name, column in zip(delta, changes.T, strict=True) if len(changes) else ():
        counted, ends = column[~np.isnan(column)], [None, None]
        if delta[name] is not None and counted.size:
            ends = np.quantile(counted, QUANTILES).tolist()
        low[name], high[name] = ends
    return low, high
