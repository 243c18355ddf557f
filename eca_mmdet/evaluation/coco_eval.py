"""hotcoco and pycocotools behind one function. Both get the same columns."""

from __future__ import annotations

import contextlib
import io
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from eca_mmdet.datasets.detections import Detections
from eca_mmdet.datasets.ground_truth import GroundTruth
from eca_mmdet.datasets.masks import mask_faults, to_rle
from eca_mmdet.evaluation.summary import (
    MAX_DETS,
    ClassResult,
    Curves,
    TaskResult,
    summarize,
)
from eca_mmdet.utils.errors import UserError

BACKENDS = ('hotcoco', 'pycocotools')


def evaluate(
    truth: GroundTruth,
    found: Detections,
    task: str,
    max_dets: Sequence[int] = MAX_DETS,
    backend: str = 'hotcoco',
) -> TaskResult:
    """Compute COCO's numbers of one task.

    Args:
        truth: the objects.
        found: detections of the same images and categories.
        task: 'bbox' or 'segm'.
        max_dets: limits of detections an image and category, ascending.
        backend: one of ``BACKENDS``. Both give the same bits.

    Raises:
        UserError: the annotation file has no annotations, or no masks for 'segm'.
    """
    limits = check_max_dets(max_dets)
    _require_truth(truth, task)
    run = {'hotcoco': _run_hotcoco, 'pycocotools': _run_pycocotools}[backend]
    curves = run(truth, found, task, limits)
    objects = np.bincount(
        truth.category[~truth.crowd], minlength=len(truth.category_ids)
    )
    classes = tuple(
        ClassResult(one, name, int(count), summarize(curves, index))
        for index, (one, name, count) in enumerate(
            zip(truth.category_ids, truth.category_names, objects, strict=True)
        )
    )
    counts = {
        'images': len(truth.image_ids),
        'categories': len(truth.category_ids),
        'objects': int((~truth.crowd).sum()),
        'crowd_regions': int(truth.crowd.sum()),
        'detections': len(found),
    }
    return TaskResult(task, limits, summarize(curves), classes, counts)


def check_max_dets(max_dets: Sequence[int]) -> tuple[int, ...]:
    """Return the limits as a tuple.

    Raises:
        ValueError: they are not ascending whole numbers from 1.
    """
    try:
        if any(isinstance(one, bool) for one in max_dets):
            raise TypeError
        limits = tuple(operator.index(one) for one in max_dets)
    except TypeError:
        limits = ()
    if not limits or limits[0] < 1 or list(limits) != sorted(set(limits)):
        raise ValueError(
            'max_dets must be ascending whole numbers such as (1, 10, 100); got '
            f'{max_dets!r}.'
        )
    return limits


def _require_truth(truth: GroundTruth, task: str) -> None:
    if not truth.annotated:
        raise UserError(
            f'{truth.source} has no annotations, so nothing can be evaluated on it '
            '(as test-dev). To write results alone: eca-mmdet test ... --format-only',
            code='no-objects',
        )
    if task != 'segm':
        return
    sizes = truth.sizes[truth.image].tolist()
    faults = mask_faults(truth.segmentations, sizes)
    if faults:
        index, fault = next(iter(faults.items()))
        image = truth.image_ids[truth.image[index]]
        raise UserError(
            f'masks cannot be evaluated: {len(faults)} of {len(sizes)} annotations of '
            f'{truth.source} have none that counts; the first, on image {image!r}, '
            f'{fault}. eca-mmdet check-data {truth.source} lists them all; with --fix '
            'OUT.json it writes a repaired copy.',
            code='no-masks',
        )


def hotcoco_evaluator(
    truth: GroundTruth,
    found: Detections,
    task: str,
    max_dets: Sequence[int] = MAX_DETS,
    loose: bool = False,
) -> Any:
    """Return hotcoco's ``COCOeval`` with every detection matched.

    Its ids are positions plus 1.

    Args:
        truth: the objects.
        found: the detections.
        task: 'bbox' or 'segm'.
        max_dets: limits of detections an image and category.
        loose: match at IoU 0.5 and for objects of all sizes alone, which takes less
            memory.
    """
    import hotcoco

    segmentation = truth.segmentations if task == 'segm' else None
    objects = hotcoco.COCO.from_arrays(
        _images(truth),
        _categories(truth),
        truth.image + 1,
        truth.category + 1,
        truth.boxes,
        area=truth.areas,
        iscrowd=truth.crowd,
        segmentation=segmentation,
    )
    boxes = np.zeros((len(found), 4)) if found.boxes is None else found.boxes
    rows = np.column_stack([found.image + 1, boxes, found.scores, found.category + 1])
    detections = objects.load_res(rows, segmentation=found.masks)
    del rows, boxes
    if found.masks is not None:
        ids = np.arange(1, len(found) + 1)
        detections.update_anns(ids=ids, area=found.areas())
    evaluator = hotcoco.COCOeval(objects, detections, task)
    evaluator.params.max_dets = list(max_dets)
    if loose:
        evaluator.params.iou_thrs = [0.5]
        evaluator.params.area_rng = evaluator.params.area_rng[:1]
        evaluator.params.area_rng_lbl = evaluator.params.area_rng_lbl[:1]
    evaluator.evaluate()
    return evaluator


def _images(truth: GroundTruth) -> list[dict[str, Any]]:
    return [
        {'id': at, 'height': height, 'width': width}
        for at, (height, width) in enumerate(truth.sizes.tolist(), 1)
    ]


def _categories(truth: GroundTruth) -> list[dict[str, Any]]:
    return [{'id': at, 'name': name} for at, name in enumerate(truth.category_names, 1)]


def _run_hotcoco(
    truth: GroundTruth, found: Detections, task: str, max_dets: tuple[int, ...]
) -> Curves:
    evaluator = hotcoco_evaluator(truth, found, task, max_dets)
    evaluator.accumulate()
    result = evaluator.eval
    return Curves(result['precision'], result['recall'], max_dets)


def _run_pycocotools(
    truth: GroundTruth, found: Detections, task: str, max_dets: tuple[int, ...]
) -> Curves:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    masks = task == 'segm'
    columns = (truth.image, truth.category, truth.boxes, truth.areas, truth.crowd)
    annotations = _as_annotations(*columns)
    for one, segmentation in zip(annotations, truth.segmentations, strict=True):
        if masks:
            one['segmentation'] = to_rle(
                segmentation, *truth.sizes[one['image_id'] - 1].tolist()
            )
    boxes = np.zeros((len(found), 4)) if found.boxes is None else found.boxes
    crowd = np.zeros(len(found), bool)
    results = _as_annotations(found.image, found.category, boxes, found.areas(), crowd)
    for index, one in enumerate(results):
        one['score'] = float(found.scores[index])
        if found.masks is not None:
            one['segmentation'] = found.masks[index]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        both = []
        for entries in (annotations, results):
            api = COCO()
            api.dataset = {
                'images': _images(truth),
                'categories': _categories(truth),
                'annotations': entries,
            }
            api.createIndex()
            both.append(api)
        evaluator = COCOeval(*both, task)
        evaluator.params.maxDets = list(max_dets)
        evaluator.evaluate()
        evaluator.accumulate()
    return Curves(evaluator.eval['precision'], evaluator.eval['recall'], max_dets)


def _as_annotations(
    image: Any, category: Any, boxes: Any, areas: Any, crowd: Any
) -> list[dict[str, Any]]:
    rows = zip(
        (image + 1).tolist(),
        (category + 1).tolist(),
        boxes.tolist(),
        areas.tolist(),
        crowd.tolist(),
        strict=True,
    )
    return [
        {
            'id': index,
            'image_id': at,
            'category_id': kind,
            'bbox': box,
            'area': area,
            'iscrowd': int(crowded),
        }
        for index, (at, kind, box, area, crowded) in enumerate(rows, 1)
    ]
