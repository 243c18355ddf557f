"""The metric of the configs: COCO's numbers, fast, whole and recorded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from mmengine.fileio import get_local_path
from mmengine.logging import MMLogger

from eca_mmdet.datasets.detections import TASKS, Detections
from eca_mmdet.datasets.ground_truth import GroundTruth, read_ground_truth
from eca_mmdet.datasets.results import results_path, write_results, write_submission
from eca_mmdet.evaluation.coco_eval import (
    BACKENDS,
    MAX_DETS,
    TaskResult,
    check_max_dets,
    evaluate,
)
from eca_mmdet.evaluation.metrics_json import make_record
from eca_mmdet.evaluation.predictions import (
    ImagePredictions,
    Predictions,
    merge,
    pack,
    to_detections,
)
from eca_mmdet.evaluation.tables import TITLES, ap_table, class_table, heading
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.text import printable

_MMDET_NAMES = {
    'AP': 'mAP',
    'AP50': 'mAP_50',
    'AP75': 'mAP_75',
    'APS': 'mAP_s',
    'APM': 'mAP_m',
    'APL': 'mAP_l',
}


@METRICS.register_module()
class CocoTableMetric(BaseMetric):  # type: ignore[misc]
    """COCO's AP and AR of boxes and masks, equal to pycocotools' to the last bit.

    In place of mmdet's ``CocoMetric``, which computes AP at 100 detections but AP50,
    AP75, APS, APM and APL at 1000, rounds to three digits, and names classes wrongly
    when the file's categories are not sorted. Objects of annotation id 0 count.

    The returned dict has ``coco/bbox_AP`` to ``coco/bbox_ARL`` (and ``coco/segm_...``),
    0-1, of full precision, -1 where no object is counted; mmdet's names of the same
    values (``coco/bbox_mAP``, ``coco/bbox_mAP_50``, ...); and with ``classwise``
    mmdet's ``coco/{class}_precision``, of the last task. ``record`` keeps all of it
    for ``metrics.json``, and :meth:`analyze` has the errors behind it.

    Args:
        ann_file: COCO annotation file; that of the dataset.
        metric: 'bbox', 'segm' or both.
        classwise: also log a table of the classes.
        max_dets: limits of detections an image and class, ascending; AP is at the last.
        backend: 'hotcoco', or 'pycocotools' for the slow reference.
        format_only: write results and the server's zip, evaluate nothing; the file may
            be without annotations (test-dev). Needs ``outfile_prefix``.
        outfile_prefix: also write ``PREFIX.bbox.json`` and ``PREFIX.segm.json``.
        backend_args: of mmengine's file backend, for ``ann_file``.
        collect_device: as in mmengine.
        prefix: of the names, 'coco' by default.
        collect_dir: as in mmengine.

    Raises:
        ValueError: an argument is not one of these.
    """

    default_prefix = 'coco'

    def __init__(
        self,
        ann_file: str,
        metric: str | Sequence[str] = 'bbox',
        classwise: bool = False,
        max_dets: Sequence[int] = MAX_DETS,
        backend: str = 'hotcoco',
        format_only: bool = False,
        outfile_prefix: str | None = None,
        backend_args: dict[str, Any] | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix, collect_dir)
        self.tasks = [metric] if isinstance(metric, str) else list(metric)
        if not self.tasks or not set(self.tasks) <= set(TASKS):
            raise ValueError(
                f"metric must be 'bbox', 'segm' or both; got {metric!r}. For "
                "proposals use mmdet's CocoMetric."
            )
        if backend not in BACKENDS:
            raise ValueError(f'backend must be one of {BACKENDS}; got {backend!r}.')
        if format_only and outfile_prefix is None:
            raise ValueError(
                'format_only=True needs outfile_prefix, which says where to write.'
            )
        self.ann_file = ann_file
        self.classwise = classwise
        self.max_dets = check_max_dets(max_dets)
        self.backend = backend
        self.format_only = format_only
        self.outfile_prefix = outfile_prefix
        self.backend_args = backend_args
        self.record: dict[str, Any] | None = None
        self._truth: GroundTruth | None = None
        self._found: list[tuple[str, Detections]] = []

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep the predictions of some images as arrays.

        Args:
            data_batch: not used.
            data_samples: each with ``img_id`` and ``pred_instances`` of bboxes (n, 4)
                x1, y1, x2, y2, scores (n,), labels (n,), and masks (n, H, W) bool or n
                RLEs where the detector has masks.
        """
        for sample in data_samples:
            found = sample['pred_instances']
            masks, size = None, (0, 0)
            if 'segm' in self.tasks and 'masks' in found:
                masks, size = _encode(found['masks'], sample['ori_shape'])
            own = found.get('mask_scores')
            self.results.append(
                ImagePredictions(
                    image_id=sample['img_id'],
                    boxes=self.to_xywh(_array(found['bboxes']).reshape(-1, 4)),
                    scores=_array(found['scores']),
                    labels=_array(found['labels']),
                    masks=masks,
                    mask_size=size,
                    mask_scores=None if own is None else _array(own),
                )
            )

    @staticmethod
    def to_xywh(boxes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Turn (n, 4) x1, y1, x2, y2 into x, y, width, height, in float64."""
        corners = boxes.astype(np.float64)
        return np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])

    def evaluate(self, size: int) -> dict[str, float]:
        """Gather each process's arrays and compute; the same dict on all.

        Args:
            size: not needed: each image counts once, however it was split.
        """
        from mmengine.dist import get_world_size

        # One item a process, so that mmengine's gathering keeps them all.
        self.results: list[Any] = [pack(self.results)]
        return dict(super().evaluate(get_world_size()))

    def compute_metrics(self, results: list[Predictions]) -> dict[str, float]:
        """Compute, log the table and fill ``record``; on the main process alone.

        Args:
            results: one a process.
        """
        logger = MMLogger.get_current_instance()
        truth = self._ground_truth()
        found = merge(results)
        computed: list[TaskResult] = []
        notes = list(truth.notes)
        written = []
        for task in self.tasks:
            detections, more = to_detections(found, truth, task)
            notes += [note for note in more if note not in notes]
            written.append((task, detections))
            if not self.format_only:
                computed.append(
                    evaluate(truth, detections, task, self.max_dets, self.backend)
                )
        for note in notes:
            logger.warning(printable(note))
        if computed:
            self._report(computed, truth, notes)
            self._found = written
        # Last, so that a full disk does not cost the numbers.
        for task, detections in written:
            self._write(detections, truth, task)
        return _flat(computed, self.classwise)

    def _report(
        self, computed: list[TaskResult], truth: GroundTruth, notes: list[str]
    ) -> None:
        """Log the tables and fill ``record``."""
        logger = MMLogger.get_current_instance()
        rows = {TITLES[one.task]: one.metrics for one in computed}
        logger.info(f'{heading(self.max_dets)}:\n{ap_table(rows)}')
        if self.classwise:
            for one in computed:
                logger.info(f'{TITLES[one.task]}, by class:\n{class_table(one)}')
        annotations = {'file': self.ann_file, 'sha256': truth.sha256}
        self.record = make_record(computed, annotations, self.backend, notes=notes)

    def analyze(self) -> dict[str, Any]:
        """Split the errors of the last evaluation, and let go of its detections.

        Returns:
            By task, what ``error_analysis.analyze`` returns; empty
            where nothing was evaluated, nothing since the last call, or so much that
            the memory could end a training.
        """
        from eca_mmdet.evaluation.error_analysis import MAX_PAIRS, analyze

        found, self._found = self._found, []
        pairs = max((detections.count_pairs() for _, detections in found), default=0)
        if pairs > MAX_PAIRS:
            MMLogger.get_current_instance().warning(
                f'the errors are not split by kind: {pairs} pairs of an image and a '
                f'class have detections, and more than {MAX_PAIRS} take gigabytes '
                'beside the training. In a process of its own: eca-mmdet test '
                '--save-results, then eca-mmdet eval --analysis.'
            )
            found = []
        truth = self._ground_truth() if found else None
        return {
            task: analyze(truth, detections, task, max_dets=self.max_dets)
            for task, detections in found
            if truth is not None
        }

    def _ground_truth(self) -> GroundTruth:
        """Read the annotation file once, and keep the classes of the dataset."""
        if self._truth is None:
            with get_local_path(self.ann_file, backend_args=self.backend_args) as path:
                truth = read_ground_truth(path)
            self._truth = truth if 'segm' in self.tasks else truth.without_masks()
        classes = (self.dataset_meta or {}).get('classes')
        if classes is None:
            return self._truth
        truth = self._truth.only(classes)
        if not truth.category_ids:
            raise UserError(
                f'none of the classes {tuple(classes)[:5]} is in {self.ann_file}, '
                f'which has {self._truth.category_names[:5]}. Set the '
                'metainfo.classes of the data set.',
                code='unknown-class',
            )
        return truth

    def _write(self, found: Detections, truth: GroundTruth, task: str) -> None:
        if self.outfile_prefix is None:
            return
        path = results_path(self.outfile_prefix, task)
        write_results(found, truth, path)
        logger = MMLogger.get_current_instance()
        logger.info(f'{len(found)} detections: {path}')
        if self.format_only:
            folder, name = os.path.split(self.outfile_prefix)
            target = write_submission(found, truth, Path(folder) / task, name)
            logger.info(f"for COCO's server: {target}")


def _array(values: Any) -> np.ndarray[Any, Any]:
    """Return a tensor or array as a numpy array on the CPU; half precision widens."""
    if hasattr(values, 'detach'):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    return np.asarray(values)


def _encode(masks: Any, shape: Sequence[int]) -> tuple[list[bytes], tuple[int, int]]:
    """Return RLE counts and the size of n masks (n, H, W), or of n RLEs."""
    from pycocotools import mask as api

    if isinstance(masks, (list, tuple)):
        sizes = [tuple(map(int, one['size'])) for one in masks]
        if len(set(sizes)) > 1:
            raise UserError(
                f'the masks of one image have several sizes: {set(sizes)}.',
                code='bad-predictions',
            )
        counts = [one['counts'] for one in masks]
        plain = [c.encode() if isinstance(c, str) else bytes(c) for c in counts]
        height, width = sizes[0] if sizes else shape[:2]
        return plain, (int(height), int(width))
    stack = _array(masks).astype(np.uint8)
    size = (int(stack.shape[1]), int(stack.shape[2]))
    # One mask at a time: the encoder wants a copy in column order, which for 100 masks
    # of a large photo would be a gigabyte.
    return [api.encode(np.asfortranarray(one))['counts'] for one in stack], size


def _flat(computed: Sequence[TaskResult], classwise: bool) -> dict[str, float]:
    """Return the numbers under mmdet's names and ours; -1 for None.

    mmdet's come first: mmengine's ``save_best='auto'`` takes the first, and knows that
    more is better from its name alone.
    """
    flat: dict[str, float] = {}
    for one in computed:
        values = {k: -1.0 if v is None else v for k, v in one.metrics.items()}
        flat |= {f'{one.task}_{n}': values[ours] for ours, n in _MMDET_NAMES.items()}
        flat |= {f'{one.task}_{name}': value for name, value in values.items()}
        names = [each.name for each in one.classes]
        for each in one.classes if classwise else ():
            ap = each.metrics['AP']
            twice = f'_{each.id}' if names.count(each.name) > 1 else ''
            flat[f'{each.name}{twice}_precision'] = -1.0 if ap is None else ap
    return flat
