"""Error analysis of a detector by hotcoco, as data and as pictures."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eca_mmdet.datasets.detections import Detections, result_entry
from eca_mmdet.datasets.ground_truth import Floats, GroundTruth
from eca_mmdet.evaluation.coco_eval import MAX_DETS, hotcoco_evaluator

EXTREME_IMAGES = 20
TIDE_ERRORS = {
    'Cls': 'wrong class',
    'Loc': 'right class, poorly localized',
    'Both': 'wrong class and poorly localized',
    'Dupe': 'duplicate of a correct detection',
    'Bkg': 'background detected as an object',
    'Miss': 'object not detected',
}
"""Kinds of errors, as TIDE (arXiv:2008.08115) names them, and what they are."""
SCORE_THRESHOLD = 0.3
"""Lowest score in the confusion matrix and the worst and best images, since each image
usually has a hundred detections."""

MAX_PAIRS = 2_000_000
"""Most pairs of an image and a class with detections that a training analyses: the
split by kind takes about 0.7 kB for each, and more for detections."""

IMAGES_AT_ONCE = 1000
"""Images of a part where hotcoco returns a word for each detection."""

DRAWN_CLASSES = 25
"""Classes in the picture of a confusion matrix; more could not be read."""


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
        TIDE, arXiv:2008.08115), ``confusion``, ``pr_curves``, ``score_curves``
        (precision, recall and F1 of the detections from each score on, over all classes
        together, and the score of the best F1, also by class), ``calibration``,
        ``worst_images`` (lowest F1 first) and ``best_images`` (highest F1 and most
        objects first), both with their detections from the threshold on, as entries of
        a COCO result file. None where nothing is counted, and for ``score_curves`` and
        ``calibration`` if scores are not 0-1.
    """
    draw = partial(_draw, folder, task)
    curves, calibration = _by_score(truth, found, task, max_dets, draw)
    status = _statuses(truth, found, task, max_dets)
    extremes = _extreme_images(truth, found, status, score_threshold)
    in_range = _in_unit_range(found.scores)
    scores = _score_curves(truth, found, status) if in_range else None
    confident = found.take(np.flatnonzero(found.scores >= score_threshold))
    confusion = _confusion(truth, confident, task)
    del confident
    # At IoU 0.5 only, and after freeing the rest: it takes the most memory of all.
    errors = hotcoco_evaluator(truth, found, task, max_dets, loose=True).tide_errors()
    percent = {kind: 100 * gain for kind, gain in errors['delta_ap'].items()}
    scaled = {'delta_ap': percent, 'ap_base': 100 * errors['ap_base']}
    draw('errors', 'tide_errors', scaled, _label_errors)
    kept = _most_confused(confusion['matrix'])
    drawn = {'cat_names': [truth.category_names[at] for at in kept[:-1]]}
    for key in ('matrix', 'normalized'):
        drawn[key] = confusion[key][np.ix_(kept, kept)]
    title = f'Confusion matrix: IoU 0.5, score >= {score_threshold:g}'
    if left_out := len(confusion['matrix']) - len(kept):
        title += (
            f'\nthe {len(kept) - 1} classes most often confused with another class; '
            f'{left_out} more are left out'
        )
    draw('confusion', 'confusion_matrix', drawn, partial(_label_cells, drawn, title))
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
        'score_curves': scores,
        'calibration': calibration,
        **extremes,
    }


def _by_score(
    truth: GroundTruth,
    found: Detections,
    task: str,
    max_dets: Sequence[int],
    draw: Callable[..., None],
) -> tuple[dict[str, list[float] | None], dict[str, Any] | None]:
    """Return and draw the curves of precision and recall, and the calibration."""
    evaluator = hotcoco_evaluator(truth, found, task, max_dets)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        # The heading says already that other limits of detections are not COCO's.
        warnings.filterwarnings('ignore', 'hotcoco: max_dets differ')
        evaluator.accumulate()
        evaluator.summarize()
    draw('pr_curves', 'pr_curve', evaluator, iou_thrs=[0.5, 0.75])
    calibration = evaluator.calibration() if _in_unit_range(found.scores) else None
    if calibration:
        draw('calibration', 'reliability_diagram', calibration)
    return _curves(evaluator), calibration


def _in_unit_range(scores: Floats) -> bool:
    return bool(((scores >= 0) & (scores <= 1)).all())


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


def _statuses(
    truth: GroundTruth, found: Detections, task: str, max_dets: Sequence[int]
) -> npt.NDArray[np.int8]:
    """Return 1 for each true and 0 for each false positive at IoU 0.5.

    It is -1 for what COCO does not count: in crowds, and beyond the limit. Detections
    are matched by descending score, so that those of lower scores change nothing.
    """
    status = np.full(len(found), -1, np.int8)
    for start, some, detections in _parts(truth, found):
        stop = start + len(some.image_ids)
        rows = np.flatnonzero((found.image >= start) & (found.image < stop))
        matched = hotcoco_evaluator(some, detections, task, max_dets, loose=True)
        words = matched.image_diagnostics()['dt_status']
        at = np.fromiter(words, np.int64, len(words)) - 1
        status[rows[at]] = [word == 'tp' for word in words.values()]
    return status


def _score_curves(
    truth: GroundTruth, found: Detections, status: npt.NDArray[np.int8]
) -> dict[str, Any]:
    """Return precision, recall and F1 over the lowest score that is kept."""
    scores = np.arange(101) / 100
    counted = np.flatnonzero(status >= 0)
    step = np.searchsorted(scores, found.scores[counted], 'right') - 1
    numbers = np.zeros((2, len(truth.category_ids), len(scores)))
    np.add.at(numbers, (status[counted], found.category[counted], step), 1)
    wrong, right = numbers[..., ::-1].cumsum(-1)[..., ::-1]
    objects = np.bincount(truth.category[~truth.crowd], minlength=len(right))

    def rates(right: Floats, wrong: Floats, objects: int) -> dict[str, list[Any]]:
        parts = {
            'precision': (right, right + wrong),
            'recall': (right, np.full_like(right, objects)),
            'f1': (2 * right, right + wrong + objects),
        }
        return {
            key: [a / b if b else None for a, b in zip(*part, strict=True)]
            for key, part in parts.items()
        }

    def best(curves: dict[str, list[Any]]) -> dict[str, Any]:
        f1 = [value or 0 for value in curves['f1']]
        at = max(range(len(f1)), key=lambda at: (f1[at], at))  # the highest of equals
        return {'score': scores[at].item()} | {k: v[at] for k, v in curves.items()}

    whole = rates(right.sum(0), wrong.sum(0), int(objects.sum()))
    classes = [
        {'id': truth.category_ids[at], 'name': truth.category_names[at]}
        | {'objects': int(count), **best(rates(right[at], wrong[at], count))}
        for at, count in enumerate(objects)
        if count
    ]
    return {'scores': scores.tolist(), **whole, 'best': best(whole), 'classes': classes}


def _extreme_images(
    truth: GroundTruth,
    found: Detections,
    status: npt.NDArray[np.int8],
    score_threshold: float,
) -> dict[str, list[dict[str, Any]]]:
    """Return the images of lowest and of highest F1; those with more objects first."""
    total = len(truth.image_ids)
    confident = np.flatnonzero(found.scores >= score_threshold)
    right, wrong = (
        np.bincount(found.image[confident[status[confident] == k]], minlength=total)
        for k in (1, 0)
    )
    missed = np.bincount(truth.image[~truth.crowd], minlength=total) - right
    table = np.stack([right, wrong, missed], 1)
    counted: list[tuple[int, dict[str, float]]] = []
    for at in np.flatnonzero(table.any(1)).tolist():
        tp, fp, fn = table[at].tolist()
        f1 = 2 * tp / (2 * tp + fp + fn)
        counted.append((at, {'f1': f1, 'tp': tp, 'fp': fp, 'fn': fn}))
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
                'detections': _entries(truth, found, at, score_threshold),
            }
            for at, numbers in sorted(counted, key=lambda pair: order(pair[1]))[
                :EXTREME_IMAGES
            ]
        ]
        for name, order in orders.items()
    }


def _entries(
    truth: GroundTruth, found: Detections, at: int, score_threshold: float
) -> list[dict[str, Any]]:
    """Return the confident detections of one image, highest score first."""
    rows = np.flatnonzero((found.image == at) & (found.scores >= score_threshold))
    rows = rows[np.argsort(-found.scores[rows], kind='stable')]
    entries = [result_entry(found, truth, row) for row in rows]
    return [{k: v for k, v in e.items() if k != 'image_id'} for e in entries]


def _label_errors(axes: Any) -> None:
    for text in (*axes.texts, *axes.figure.texts):  # at the bars, and the subtitle
        short = re.sub(r'\d+\.\d+', lambda m: f'{float(m[0]):.1f}', text.get_text())
        text.set_text(short.replace('AP=', 'AP50 = '))
    kinds = [label.get_text() for label in axes.get_yticklabels()]
    axes.set_yticklabels([f'{kind}: {TIDE_ERRORS[kind]}' for kind in kinds])
    axes.set_xlabel('AP50 gain if fixed, 0-100')


def _most_confused(matrix: npt.NDArray[Any]) -> list[int]:
    """Return the classes to draw, and the background."""
    classes = matrix[:-1, :-1].astype(int)
    confused = classes.sum(0) + classes.sum(1) - 2 * classes.diagonal()
    order = np.argsort(-confused, kind='stable')[:DRAWN_CLASSES]
    return [*sorted(order.tolist()), len(classes)]


def _label_cells(confusion: dict[str, Any], title: str, axes: Any) -> None:
    """Write counts into the cells, whose colours are shares of the row."""
    for text in axes.texts:
        column, row = map(round, text.get_position())
        text.set_text(f'{confusion["matrix"][row, column]:.0f}')
    names = [*confusion['cat_names'], 'background']
    axes.set_xticklabels(names)
    axes.set_yticklabels(names)
    axes.set_title(title, fontsize=11, pad=10)
    axes.figure.axes[-1].set_ylabel('share of the row')


def _draw(
    folder: Path | None,
    task: str,
    name: str,
    plot: str,
    content: Any,
    finish: Callable[[Any], None] = lambda axes: None,
    **settings: Any,
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
        figure, axes = getattr(hotcoco.plot, plot)(content, **settings)
        finish(axes)
        colour = figure.get_facecolor()
        file = folder / f'{task}_{name}.png'
        figure.savefig(file, dpi=200, bbox_inches='tight', facecolor=colour)
        plt.close('all')
