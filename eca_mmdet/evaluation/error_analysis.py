"""Error analysis of a detector by hotcoco, as data and as pictures."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eca_mmdet.datasets.detections import Detections, result_entry
from eca_mmdet.datasets.ground_truth import GroundTruth
from eca_mmdet.evaluation.coco_eval import MAX_DETS, hotcoco_evaluator

EXTREME_IMAGES = 20
SCORE_THRESHOLD = 0.3
"""Lowest score in the confusion matrix and the worst and best images, since each image
usually has a hundred detections."""

MAX_PAIRS = 2_000_000
"""Most pairs of an image and a class with detections that a training analyses: the
split by kind takes about 0.7 kB for each, and more for detections."""

IMAGES_AT_ONCE = 5000
"""Images of a part where hotcoco returns a word for each detection."""


def analyze(
    truth: GroundTruth,
    found: Detections,
    task: str,
    score_threshold: float = SCORE_THRESHOLD,
    folder: Path | None = None,
    max_dets: Sequence[int] = MAX_DETS,
) -> dict[str, Any]:
    """Split a detector's errors by kind, class, score and image, at IoU 0.5.

    Draws ``TASK_errors.png`` and so on into ``folder``, if one is given.

    Returns:
        JSON-ready: ``errors`` (how much AP50 would rise without errors of a kind, after
        TIDE, arXiv:2008.08115), ``confusion``, ``pr_curves``, ``calibration``,
        ``worst_images`` (lowest F1 first) and ``best_images`` (highest F1 and most
        objects first), both with their detections from the threshold on, as entries of
        a COCO result file. None where nothing is counted.
    """
    draw = partial(_draw, folder, task)
    curves, calibration = _by_score(truth, found, task, max_dets, draw)
    confident = found.take(np.flatnonzero(found.scores >= score_threshold))
    confusion = _confusion(truth, confident, task)
    extremes = _extreme_images(truth, confident, task, max_dets)
    del confident
    # At IoU 0.5 only, and after freeing the rest: it takes the most memory of all.
    errors = hotcoco_evaluator(truth, found, task, max_dets, loose=True).tide_errors()
    draw('errors', 'tide_errors', errors)
    draw('confusion', 'confusion_matrix', confusion)
    return {
        'score_threshold': score_threshold,
        'errors': errors,
        'confusion': {
            'classes': [*truth.category_names, 'background'],
            'matrix': confusion['matrix'].astype(int).tolist(),
            'rows': 'objects',
            'columns': 'detections',
        },
        'pr_curves': curves,
        'calibration': calibration,
        **extremes,
    }


def _by_score(
    truth: GroundTruth,
    found: Detections,
    task: str,
    max_dets: Sequence[int],
    draw: Callable[..., None],
) -> tuple[dict[str, list[float] | None], dict[str, Any]]:
    """Return and draw the curves of precision and recall, and the calibration."""
    evaluator = hotcoco_evaluator(truth, found, task, max_dets)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        # The heading says already that other limits of detections are not COCO's.
        warnings.filterwarnings('ignore', 'hotcoco: max_dets differ')
        evaluator.accumulate()
        evaluator.summarize()
    calibration = evaluator.calibration()
    draw('pr_curves', 'pr_curve', evaluator, iou_thrs=[0.5, 0.75])
    draw('calibration', 'reliability_diagram', calibration)
    return _curves(evaluator), calibration


def _parts(
    truth: GroundTruth, found: Detections
) -> Iterator[tuple[int, GroundTruth, Detections]]:
    """Yield the data of ``IMAGES_AT_ONCE`` images each, with the first position."""
    for start in range(0, max(len(truth.image_ids), 1), IMAGES_AT_ONCE):
        stop = start + IMAGES_AT_ONCE
        yield start, truth.part(start, stop), found.part(start, stop)


def _confusion(truth: GroundTruth, confident: Detections, task: str) -> dict[str, Any]:
    """Return hotcoco's confusion matrix of all detections but those in crowds.

    It counts a detection in a crowd of its own class as one of the background, which AP
    does not, and takes 100 of an image unless ``max_det`` is given.
    """
    total: dict[str, Any] = {}
    for _, some, detections in _parts(truth, confident):
        most = max(len(detections), 1)
        matched = hotcoco_evaluator(some, detections, task, (most,))
        status = matched.image_diagnostics()['dt_status']
        # Detections in crowds, which are neither right nor wrong, have no status.
        counted = [at for at in range(len(detections)) if at + 1 in status]
        evaluator = hotcoco_evaluator(
            some, detections.take(np.array(counted, int)), task
        )
        part = dict(evaluator.confusion_matrix(max_det=most))
        total = part | {'matrix': total.get('matrix', 0) + part['matrix']}
    rows = total['matrix'].sum(1, keepdims=True)
    return total | {'normalized': total['matrix'] / np.maximum(rows, 1)}


def _curves(evaluator: Any) -> dict[str, list[float] | None]:
    """Return precision at 101 recalls, the mean of the classes that have objects."""
    precision = evaluator.eval['precision'][..., 0, -1]
    curves: dict[str, list[float] | None] = {
        'recall': np.linspace(0, 1, precision.shape[1]).round(2).tolist()
    }
    counted = precision[:, :, (precision > -1).all((0, 1))]
    for name, chosen in (
        ('0.50', slice(1)),
        ('0.75', slice(5, 6)),
        ('0.50:0.95', slice(None)),
    ):
        part = counted[chosen]
        curves[name] = part.mean((0, 2)).tolist() if part.size else None
    return curves


def _extreme_images(
    truth: GroundTruth, confident: Detections, task: str, max_dets: Sequence[int]
) -> dict[str, list[dict[str, Any]]]:
    """Return the images of lowest and of highest F1; those with more objects first."""
    counted = []
    for start, some, detections in _parts(truth, confident):
        evaluator = hotcoco_evaluator(some, detections, task, max_dets)
        summary = evaluator.image_diagnostics()['img_summary']
        counted += [
            (start + at - 1, {key: numbers[key] for key in ('f1', 'tp', 'fp', 'fn')})
            for at, numbers in sorted(summary.items())
            if numbers['tp'] + numbers['fp'] + numbers['fn']
        ]
    orders: dict[str, Callable[[dict[str, float]], tuple[float, float]]] = {
        'worst_images': lambda n: (n['f1'], -n['fp'] - n['fn']),
        'best_images': lambda n: (-n['f1'], -n['tp']),
    }
    return {
        name: [
            {
                'image_id': truth.image_ids[at],
                'file_name': truth.file_names[at],
                **numbers,
                'detections': _entries(truth, confident, at),
            }
            for at, numbers in sorted(counted, key=lambda pair: order(pair[1]))[
                :EXTREME_IMAGES
            ]
        ]
        for name, order in orders.items()
    }


def _entries(truth: GroundTruth, found: Detections, at: int) -> list[dict[str, Any]]:
    """Return the detections of one image, highest score first."""
    rows = np.flatnonzero(found.image == at)
    rows = rows[np.argsort(-found.scores[rows], kind='stable')]
    entries = [result_entry(found, truth, row) for row in rows]
    return [{k: v for k, v in e.items() if k != 'image_id'} for e in entries]


def _draw(
    folder: Path | None, task: str, name: str, plot: str, content: Any, **settings: Any
) -> None:
    """Write ``TASK_NAME.png`` into a folder with one of hotcoco's plots."""
    if folder is None:
        return
    import logging

    import matplotlib

    matplotlib.use('Agg')
    # It lists the weights that hotcoco's font does not have.
    logging.getLogger('matplotlib.font_manager').setLevel(logging.ERROR)
    import hotcoco.plot
    import matplotlib.pyplot as plt

    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Mean of empty slice')  # no object at all
        file = folder / f'{task}_{name}.png'
        getattr(hotcoco.plot, plot)(content, save_path=file, **settings)
        plt.close('all')
