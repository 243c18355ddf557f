"""Where a detector goes wrong: hotcoco's error analysis as data and as pictures."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eca_mmdet.evaluation.backends import hotcoco_evaluator
from eca_mmdet.evaluation.detections import Detections
from eca_mmdet.evaluation.ground_truth import GroundTruth
from eca_mmdet.evaluation.summary import MAX_DETS

EXTREME_IMAGES = 20
SCORE_THRESHOLD = 0.3
"""Detections below do not count in the confusion matrix and the worst and best images:
each image usually has a hundred."""


def analyze(
    truth: GroundTruth,
    found: Detections,
    task: str,
    score_threshold: float = SCORE_THRESHOLD,
    folder: Path | None = None,
    max_dets: Sequence[int] = MAX_DETS,
) -> dict[str, Any]:
    """Split a detector's errors by kind, class, score and image, at IoU 0.5.

    Args:
        truth: the objects.
        found: the detections.
        task: 'bbox' or 'segm'.
        score_threshold: for the confusion matrix and the worst and best images.
        folder: where to draw ``TASK_errors.png`` and so on; None draws nothing.
        max_dets: limits of detections an image and class.

    Returns:
        JSON-ready: ``errors`` (how much AP50 would rise without errors of a kind, after
        TIDE, arXiv:2008.08115), ``confusion``, ``pr_curves``, ``calibration``,
        ``worst_images`` (lowest F1 first) and ``best_images`` (highest F1 and most
        objects first), both with their detections from the threshold on, as entries of
        a COCO result file. None where there is nothing to say.
    """
    evaluator = hotcoco_evaluator(truth, found, task, max_dets)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        # That other limits of detections are not COCO's: the heading says so.
        warnings.filterwarnings('ignore', 'hotcoco: max_dets differ')
        evaluator.accumulate()
        evaluator.summarize()
    confident = found.take(np.flatnonzero(found.scores >= score_threshold))
    errors = evaluator.tide_errors()
    confusion = _confusion(truth, confident, task)
    calibration = evaluator.calibration()
    if folder is not None:
        _draw(evaluator, errors, confusion, calibration, folder, task)
    return {
        'score_threshold': score_threshold,
        'errors': errors,
        'confusion': {
            'classes': [*truth.category_names, 'background'],
            'matrix': np.asarray(confusion['matrix']).astype(int).tolist(),
            'rows': 'objects',
            'columns': 'detections',
        },
        'pr_curves': _curves(evaluator),
        'calibration': calibration,
        **_extreme_images(truth, confident, task, max_dets),
    }


def _confusion(truth: GroundTruth, confident: Detections, task: str) -> dict[str, Any]:
    """Return hotcoco's confusion matrix of all detections but those in crowds.

    It counts a detection in a crowd of its own class as one of the background, which AP
    does not, and takes 100 of an image unless it is told otherwise.
    """
    most = max(len(confident), 1)
    matched = hotcoco_evaluator(truth, confident, task, (most,))
    status = matched.image_diagnostics()['dt_status']
    # Of detections in crowds, which are neither right nor wrong, it has none.
    counted = [at for at in range(len(confident)) if at + 1 in status]
    evaluator = hotcoco_evaluator(truth, confident.take(np.array(counted, int)), task)
    return dict(evaluator.confusion_matrix(max_det=most))


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
    """Return the images of lowest and of highest F1; of equal ones, fuller first."""
    evaluator = hotcoco_evaluator(truth, confident, task, max_dets)
    found = evaluator.image_diagnostics()['img_summary']
    counted = [
        (at - 1, {key: one[key] for key in ('f1', 'tp', 'fp', 'fn')})
        for at, one in found.items()
        if one['tp'] + one['fp'] + one['fn']
    ]
    counted.sort(key=lambda one: one[0])  # images are in ascending order of the ids
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
            for at, numbers in sorted(counted, key=lambda one: order(one[1]))[
                :EXTREME_IMAGES
            ]
        ]
        for name, order in orders.items()
    }


def _entries(truth: GroundTruth, found: Detections, at: int) -> list[dict[str, Any]]:
    """Return the detections of one image, highest score first."""
    rows = np.flatnonzero(found.image == at)
    entries = []
    for row in rows[np.argsort(-found.scores[rows], kind='stable')]:
        entry: dict[str, Any] = {
            'category_id': truth.category_ids[found.category[row]],
            'score': float(found.scores[row]),
        }
        if found.boxes is not None:
            entry['bbox'] = found.boxes[row].tolist()
        if found.masks is not None:
            size, counts = found.masks[row]['size'], found.masks[row]['counts']
            text = counts.decode() if isinstance(counts, bytes) else counts
            entry['segmentation'] = {'size': [int(n) for n in size], 'counts': text}
        entries.append(entry)
    return entries


def _draw(
    evaluator: Any,
    errors: dict[str, Any],
    confusion: dict[str, Any],
    calibration: dict[str, Any],
    folder: Path,
    task: str,
) -> None:
    import logging

    import matplotlib

    matplotlib.use('Agg')
    # It lists the weights that hotcoco's font does not have.
    logging.getLogger('matplotlib.font_manager').setLevel(logging.ERROR)
    import matplotlib.pyplot as plt
    from hotcoco import plot

    drawings: dict[str, Callable[[Path], Any]] = {
        'errors': lambda file: plot.tide_errors(errors, save_path=file),
        'confusion': lambda file: plot.confusion_matrix(confusion, save_path=file),
        'pr_curves': lambda file: plot.pr_curve(
            evaluator, iou_thrs=[0.5, 0.75], save_path=file
        ),
        'calibration': lambda file: plot.reliability_diagram(
            calibration, save_path=file
        ),
    }
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Mean of empty slice')  # no object at all
        for name, draw in drawings.items():
            draw(folder / f'{task}_{name}.png')
            plt.close('all')
