"""From curves of precision and recall to COCO's twelve numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eca_mmdet.datasets.ground_truth import Floats, ImageId

AP_COLUMNS = ('AP', 'AP50', 'AP75', 'APS', 'APM', 'APL')
AREAS = {'S': 1, 'M': 2, 'L': 3}
MAX_DETS = (1, 10, 100)
"""COCO's own numbers of detections an image (and category)."""

Metrics = dict[str, float | None]
"""0-1; None where no object is counted."""


@dataclass(frozen=True)
class Curves:
    """What an evaluator computes.

    Attributes:
        precision: (T, R, K, A, M) for 10 IoU thresholds, 101 recalls, K categories, 4
            area ranges (all, S, M, L) and M limits of detections; -1 for no object.
        recall: (T, K, A, M).
        max_dets: the M limits, ascending.
    """

    precision: Floats
    recall: Floats
    max_dets: tuple[int, ...]


@dataclass(frozen=True)
class ClassResult:
    """The numbers of one category."""

    id: ImageId
    name: str
    objects: int
    metrics: Metrics


@dataclass(frozen=True)
class TaskResult:
    """The numbers of one task, 'bbox' or 'segm'.

    Attributes:
        task: the task.
        max_dets: limits of detections an image; AP is at the last.
        metrics: AP, AP50, AP75, APS, APM, APL, AR1, AR10, AR100, ARS, ARM, ARL (with
            other limits, AR has their numbers).
        classes: the same for each category, in ascending order of the ids.
        counts: images, objects, crowd regions and detections.
    """

    task: str
    max_dets: tuple[int, ...]
    metrics: Metrics
    classes: tuple[ClassResult, ...]
    counts: dict[str, int]


def columns(max_dets: Sequence[int] = MAX_DETS) -> tuple[str, ...]:
    """Return the names of COCO's columns for some limits of detections."""
    recalls = tuple(f'AR{limit}' for limit in max_dets)
    return (*AP_COLUMNS, *recalls, *(f'AR{area}' for area in AREAS))


def summarize(curves: Curves, category: int | None = None) -> Metrics:
    """Return COCO's columns, of all categories or of one.

    AP is the mean of precision over IoU 0.50 to 0.95, recalls and categories that have
    objects; every AP is at the largest number of detections.
    """
    chosen = slice(None) if category is None else slice(category, category + 1)
    precision = curves.precision[:, :, chosen]
    recall = curves.recall[:, chosen]
    last = {name: _mean(precision[..., at, -1]) for name, at in AREAS.items()}
    recalls = {name: _mean(recall[..., at, -1]) for name, at in AREAS.items()}
    return {
        'AP': _mean(precision[..., 0, -1]),
        'AP50': _mean(precision[0, ..., 0, -1]),
        'AP75': _mean(precision[5, ..., 0, -1]),
        **{f'AP{name}': value for name, value in last.items()},
        **{
            f'AR{limit}': _mean(recall[..., 0, index])
            for index, limit in enumerate(curves.max_dets)
        },
        **{f'AR{name}': value for name, value in recalls.items()},
    }


def _mean(values: Floats) -> float | None:
    counted = values[values > -1]
    return float(np.mean(counted)) if counted.size else None
