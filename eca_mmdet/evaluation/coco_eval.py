"""COCO metrics of columns, by hotcoco or pycocotools, and their ``metrics.json``."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import logging
import operator
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np

import eca_mmdet
from eca_mmdet.catalog.published import AP_COLUMNS
from eca_mmdet.datasets.detections import Detections
from eca_mmdet.datasets.ground_truth import Floats, GroundTruth, ImageId
from eca_mmdet.datasets.masks import MASK_FAULTS, to_rle
from eca_mmdet.utils.errors import UserError

logger = logging.getLogger(__name__)

BACKENDS = ('hotcoco', 'pycocotools')

OWN_METRICS = ('CocoTableMetric', 'V1CocoMetric')
"""Names in mmdet's registry of the metrics of this package."""

COCO_METRICS = (*OWN_METRICS, 'CocoMetric')
"""Names of all metrics that compute COCO's numbers."""

AREAS = {'S': 1, 'M': 2, 'L': 3}
IMAGES_AT_ONCE = 500
"""Images that are matched together."""

MAX_DETS = (1, 10, 100)
"""COCO's own limits of detections an image and category."""

Metrics = dict[str, float | None]
"""0-1; None where no object is counted."""

_PACKAGES = (
    *('hotcoco', 'pycocotools', 'numpy', 'torch', 'torchvision'),
    *('mmdet', 'onedl-mmdetection', 'mmcv', 'mmcv-lite', 'onedl-mmcv'),
    *('mmengine', 'onedl-mmengine'),
)
"""Packages whose versions are recorded."""


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
        task: 'bbox' or 'segm'.
        max_dets: limits of detections an image; AP is at the last.
        metrics: columns of :func:`columns`.
        classes: results of each category, in ascending order of the ids.
        counts: images, categories, objects, crowd regions and detections.
    """

    task: str
    max_dets: tuple[int, ...]
    metrics: Metrics
    classes: tuple[ClassResult, ...]
    counts: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """Return the numbers for ``metrics.json``."""
        return {
            'metrics': self.metrics,
            'max_dets': list(self.max_dets),
            'counts': self.counts,
            'classes': [asdict(each) for each in self.classes],
        }


def evaluate(
    truth: GroundTruth,
    found: Detections,
    task: str,
    max_dets: Sequence[int] = MAX_DETS,
    backend: str = 'hotcoco',
) -> TaskResult:
    """Compute COCO's numbers of one task, 'bbox' or 'segm'.

    Both backends give the same bits.
    """
    limits = check_max_dets(max_dets)
    _require_truth(truth, task)
    for name, boxes in ((truth.source, truth.boxes), ('the detections', found.boxes)):
        if task == 'segm' or boxes is None:
            continue
        thin = np.count_nonzero((boxes[:, 2:] < 1).any(1))
        if 2 * thin > len(boxes):
            logger.warning(
                f'warning: {thin} of {len(boxes)} boxes of {name} are less than 1 px '
                'wide or high: expected x, y, width and height in pixels'
            )
    run = {'hotcoco': _run_hotcoco, 'pycocotools': _run_pycocotools}[backend]
    precision, recall = run(truth, found, task, limits)
    objects = np.bincount(
        truth.category[~truth.crowd], minlength=len(truth.category_ids)
    )
    classes = tuple(
        ClassResult(
            category,
            name,
            int(objects[at]),
            _summarize(precision[:, :, [at]], recall[:, [at]], limits),
        )
        for at, (category, name) in enumerate(
            zip(truth.category_ids, truth.category_names, strict=True)
        )
    )
    counts = {
        'images': len(truth.image_ids),
        'categories': len(truth.category_ids),
        'objects': int((~truth.crowd).sum()),
        'crowd_regions': int(truth.crowd.sum()),
        'detections': len(found),
    }
    metrics = _summarize(precision, recall, limits)
    return TaskResult(task, limits, metrics, classes, counts)


def check_max_dets(max_dets: Sequence[int]) -> tuple[int, ...]:
    """Return the limits as a tuple; ValueError unless ascending integers from 1."""
    try:
        if any(isinstance(limit, bool) for limit in max_dets):
            raise TypeError
        limits = tuple(map(operator.index, max_dets))
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
    faults = truth.mask_faults() if task == 'segm' else None
    if faults:
        index, fault = next(iter(faults.items()))
        image = truth.image_ids[truth.image[index]]
        raise UserError(
            f'masks cannot be evaluated: {len(faults)} of {len(truth.image)} '
            f'annotations of {truth.source} have none that counts; the first, on image '
            f'{image!r}, {MASK_FAULTS[fault]}. eca-mmdet data check {truth.source} '
            'lists them all; with --fix OUT.json it writes a repaired copy.',
            code='no-masks',
        )
    if task == 'segm' and (empty := truth.count_masks_without_pixel()):
        logger.warning(
            f'warning: {empty} of {len(truth.image)} masks of {truth.source} have no '
            'pixel in their image: objects that cannot be found'
        )


def hotcoco_evaluator(
    truth: GroundTruth,
    found: Detections,
    task: str,
    max_dets: Sequence[int] = MAX_DETS,
    loose: bool = False,
) -> Any:
    """Return hotcoco's ``COCOeval`` with every detection matched.

    Its ids are positions plus 1. ``loose`` matches at IoU 0.5 and for objects of all
    sizes only, which takes less memory.
    """
    import hotcoco

    objects = hotcoco.COCO.from_arrays(
        _images(truth),
        _categories(truth),
        truth.image + 1,
        truth.category + 1,
        truth.boxes,
        area=truth.areas,
        iscrowd=truth.crowd,
        segmentation=list(truth.segmentations) if task == 'segm' else None,
    )
    detections = objects.load_res(_rows(found), segmentation=_rles(found))
    evaluator = hotcoco.COCOeval(objects, detections, task)
    evaluator.params.max_dets = list(max_dets)
    if loose:
        evaluator.params.iou_thrs = [0.5]
        evaluator.params.area_rng = evaluator.params.area_rng[:1]
        evaluator.params.area_rng_lbl = evaluator.params.area_rng_lbl[:1]
    evaluator.evaluate()
    return evaluator


def _images(truth: GroundTruth, first: int = 1) -> list[dict[str, Any]]:
    return [
        {'id': at, 'height': height, 'width': width}
        for at, (height, width) in enumerate(truth.sizes.tolist(), first)
    ]


def _categories(truth: GroundTruth) -> list[dict[str, Any]]:
    return [{'id': at, 'name': name} for at, name in enumerate(truth.category_names, 1)]


def _rows(found: Detections, first: int = 1) -> Floats:
    """Return hotcoco's (N, 7): image, box, score and category.

    A mask has a box of its area, which decides S, M and L, and is used for that only.
    """
    boxes = found.boxes
    if boxes is None:
        boxes = np.zeros((len(found), 4))
        boxes[:, 2], boxes[:, 3] = found.areas(), 1
    ids = found.image + first, found.category + 1
    return np.column_stack([ids[0], boxes, found.scores, ids[1]])


def _rles(found: Detections) -> Any:
    return None if found.masks is None else found.masks.as_dicts()


def _run_hotcoco(
    truth: GroundTruth, found: Detections, task: str, max_dets: tuple[int, ...]
) -> tuple[Floats, Floats]:
    """Return precision and recall, in the shapes of :func:`_summarize`."""
    import hotcoco

    params = hotcoco.Params(task)
    params.max_dets = list(max_dets)
    stream = hotcoco.StreamingEval(_categories(truth), task, params=params)
    for start in range(0, len(truth.image_ids), IMAGES_AT_ONCE):
        some = truth.part(start, start + IMAGES_AT_ONCE)
        part = found.part(start, start + IMAGES_AT_ONCE)
        columns = (some.category, some.boxes, some.areas, some.crowd)
        objects = _as_annotations(some.image + start, *columns)
        if task == 'segm':
            for entry, mask in zip(objects, some.segmentations, strict=True):
                entry['segmentation'] = mask
        stream.update(
            _images(some, start + 1),
            objects,
            _rows(part, start + 1),
            segmentation=_rles(part),
        )
    evaluator = stream.finalize()
    evaluator.accumulate()
    curves: Any = evaluator.eval
    return curves['precision'], curves['recall']


def _run_pycocotools(
    truth: GroundTruth, found: Detections, task: str, max_dets: tuple[int, ...]
) -> tuple[Floats, Floats]:
    """Return the same as :func:`_run_hotcoco`, slowly."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations = _as_annotations(
        truth.image, truth.category, truth.boxes, truth.areas, truth.crowd
    )
    if task == 'segm':
        for entry, segmentation in zip(annotations, truth.segmentations, strict=True):
            size = truth.sizes[entry['image_id'] - 1].tolist()
            entry['segmentation'] = to_rle(segmentation, *size)
    boxes = np.zeros((len(found), 4)) if found.boxes is None else found.boxes
    crowd = np.zeros(len(found), bool)
    results = _as_annotations(found.image, found.category, boxes, found.areas(), crowd)
    for index, entry in enumerate(results):
        entry['score'] = float(found.scores[index])
        if found.masks is not None:
            entry['segmentation'] = found.masks[index]
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
    return evaluator.eval['precision'], evaluator.eval['recall']


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


def columns(max_dets: Sequence[int] = MAX_DETS) -> tuple[str, ...]:
    """Return the names of COCO's columns for some limits of detections."""
    recalls = tuple(f'AR{limit}' for limit in max_dets)
    return (*AP_COLUMNS, *recalls, *(f'AR{area}' for area in AREAS))


def _summarize(precision: Floats, recall: Floats, max_dets: Sequence[int]) -> Metrics:
    """Return COCO's columns.

    AP is the mean of precision over IoU 0.50 to 0.95, recalls and categories that have
    objects; every AP is at the largest number of detections.

    Args:
        precision: (T, R, K, A, M) for 10 IoU thresholds, 101 recalls, K categories, 4
            area ranges (all, S, M, L) and M limits of detections; -1 for no object.
        recall: (T, K, A, M).
        max_dets: the M limits.
    """
    values = [
        precision[..., 0, -1],
        precision[0, ..., 0, -1],
        precision[5, ..., 0, -1],
        *(precision[..., area, -1] for area in AREAS.values()),
        *(recall[..., 0, index] for index in range(len(max_dets))),
        *(recall[..., area, -1] for area in AREAS.values()),
    ]
    return dict(zip(columns(max_dets), map(_mean, values), strict=True))


def _mean(values: Floats) -> float | None:
    counted = values[values > -1]
    return float(np.mean(counted)) if counted.size else None


def make_record(
    results: Sequence[TaskResult],
    annotations: Mapping[str, str],
    backend: str,
    **more: Any,
) -> dict[str, Any]:
    """Return the record of one evaluation for ``metrics.json``, with further entries.

    AP and AR are 0-1 and of full precision, null where no object is counted.
    """
    return {
        'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'unit': 'AP and AR are 0-1',
        'results': {result.task: result.as_json() for result in results},
        'annotations': dict(annotations),
        'backend': backend,
        'versions': versions(),
        **more,
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, this package and its dependencies.

    They are read from the installed metadata; nothing is imported.
    """
    found = {'python': platform.python_version(), 'eca-mmdet': eca_mmdet.__version__}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
