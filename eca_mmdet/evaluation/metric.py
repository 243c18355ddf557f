"""The metrics of the configs, and the hook that writes their ``metrics.json``."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mmdet.registry import METRICS
from mmengine.dist import get_world_size, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.fileio import get_local_path
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop

from eca_mmdet import compat
from eca_mmdet.datasets.detections import (
    TASKS,
    Detections,
    results_path,
    write_results,
    write_submission,
)
from eca_mmdet.datasets.ground_truth import GroundTruth, ImageId, read_ground_truth
from eca_mmdet.datasets.masks import Rles
from eca_mmdet.evaluation.coco_eval import (
    BACKENDS,
    MAX_DETS,
    TaskResult,
    check_max_dets,
    evaluate,
    make_record,
)
from eca_mmdet.evaluation.tables import TITLES, ap_table, class_table, heading
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import describe_file, write_json
from eca_mmdet.utils.text import printable

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ImagePredictions:
    """The n detections of one image.

    Attributes:
        image_id: as in the annotation file.
        boxes: (n, 4) x, y, width, height in pixels.
        scores: (n,).
        labels: (n,) from 0, in the order of the dataset's categories.
        masks: n RLE counts; None where the detector gives boxes only.
        mask_size: height and width of the masks.
        mask_scores: (n,); None where masks have no scores of their own.
    """

    image_id: ImageId
    boxes: Array
    scores: Array
    labels: Array
    masks: list[bytes] | None = None
    mask_size: tuple[int, int] = (0, 0)
    mask_scores: Array | None = None


def merge(parts: Sequence[list[ImagePredictions]]) -> list[ImagePredictions]:
    """Return the images of several processes, each once.

    A distributed sampler repeats images so that all processes have as many; the first
    one counts.
    """
    images: dict[ImageId, ImagePredictions] = {}
    for image in chain.from_iterable(parts):
        images.setdefault(image.image_id, image)
    return list(images.values())


def to_detections(
    images: Sequence[ImagePredictions], truth: GroundTruth, task: str
) -> tuple[Detections, list[str]]:
    """Return one task's detections in the positions of the ground truth.

    Labels count the categories in the order of the file, as mmdet's ``CocoDataset``
    does, whatever the order of the class names. The notes mention detections that are
    not finite and do not count, and images without predictions, which do.
    """
    at = {image_id: index for index, image_id in enumerate(truth.image_ids)}
    labels = _join([image.labels for image in images]).astype(np.int64)
    _require_match(images, labels, truth, at, task)
    lengths = np.array([len(image.scores) for image in images], np.int64)
    places = np.array([at[image.image_id] for image in images], np.int64)
    boxes = _join([image.boxes for image in images]).reshape(-1, 4)
    own = [i.scores if i.mask_scores is None else i.mask_scores for i in images]
    scores = _join([i.scores for i in images] if task == 'bbox' else own)
    finite = np.isfinite(scores) & np.isfinite(boxes).all(1)
    masks = None
    notes = _notes(images, truth, finite)
    if task == 'segm':
        counts = [mask for image in images for mask in image.masks or ()]
        sizes = np.array([i.mask_size for i in images], np.int64).reshape(-1, 2)
        masks = Rles.of(counts, np.repeat(sizes, lengths, axis=0))
        notes += _other_sizes(images, sizes, truth.sizes[places], truth.source)
    detections = Detections(
        image=np.repeat(places, lengths),
        category=truth.file_order[labels],
        scores=scores.astype(np.float64, copy=False),
        boxes=boxes.astype(np.float64, copy=False) if masks is None else None,
        masks=masks,
    )
    if not finite.all():
        detections = detections.take(np.flatnonzero(finite))
    return detections, notes


def _join(arrays: Sequence[Array]) -> Array:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.float32)


def _require_match(
    images: Sequence[ImagePredictions],
    labels: Array,
    truth: GroundTruth,
    at: dict[ImageId, int],
    task: str,
) -> None:
    unknown = [image.image_id for image in images if image.image_id not in at]
    if unknown:
        raise UserError(
            f'{len(unknown)} of {len(images)} images that were tested are not in '
            f'{truth.source}, the first {unknown[0]!r}. The ann_file of the evaluator '
            'and of the dataset must be the same.',
            code='bad-predictions',
        )
    categories = len(truth.file_order)
    outside = labels[(labels < 0) | (labels >= categories)]
    if len(outside):
        raise UserError(
            f'the detector gives label {outside[0]}, but {truth.source} has '
            f'{categories} of its classes. num_classes and metainfo.classes must be '
            'those of the file.',
            code='class-mismatch',
        )
    bare = [i.image_id for i in images if i.masks is None and len(i.scores)]
    if task == 'segm' and bare and all(image.masks is None for image in images):
        raise UserError(
            "metric='segm' needs masks, and this detector gives boxes alone. Set the "
            "evaluator's metric='bbox'.",
            code='no-masks',
        )
    if task == 'segm' and bare:
        raise UserError(
            f'{len(bare)} of {len(images)} images have detections without masks, the '
            f'first {bare[0]!r}; others have masks.',
            code='bad-predictions',
        )


def _notes(
    images: Sequence[ImagePredictions], truth: GroundTruth, finite: Array
) -> list[str]:
    notes = []
    if not finite.all():
        notes.append(
            f'{int((~finite).sum())} of {len(finite)} detections are not finite '
            'numbers and do not count'
        )
    missing = len(truth.image_ids) - len(images)
    if missing:
        notes.append(
            f'{missing} of {len(truth.image_ids)} images of {truth.source} were not '
            'tested; their objects count as missed'
        )
    return notes


def _other_sizes(
    images: Sequence[ImagePredictions], sizes: Array, stated: Array, source: str
) -> list[str]:
    found = np.array([len(image.scores) > 0 for image in images], bool)
    wrong = (stated != sizes).any(1) & (stated > 0).all(1) & found
    if not wrong.any():
        return []
    first = int(np.flatnonzero(wrong)[0])
    return [
        f'the masks of {int(wrong.sum())} images have another size than {source} says '
        f'and match nothing: image {images[first].image_id!r} is '
        f'{sizes[first].tolist()}, the file says {stated[first].tolist()} (height, '
        'width). See: eca-mmdet data check'
    ]


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
    ``coco/bbox_{class}_AP``. ``record`` keeps all of it for ``metrics.json``, and
    :meth:`analyze` has the errors behind it.

    Args:
        ann_file: COCO annotation file of the dataset.
        metric: 'bbox', 'segm' or both.
        classwise: also log a table of the classes.
        max_dets: limits of detections an image and class, ascending; AP is at the last.
        backend: 'hotcoco', or 'pycocotools' for the slow reference.
        format_only: write results and the server's zip without evaluating; the file
            may lack annotations (test-dev). Needs ``outfile_prefix``.
        outfile_prefix: also write ``PREFIX.bbox.json`` and ``PREFIX.segm.json``.
        backend_args: arguments of mmengine's file backend, for ``ann_file``.
        collect_device: as in mmengine.
        prefix: prefix of the names, 'coco' by default.
        collect_dir: as in mmengine.
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
        if not isinstance(ann_file, (str, Path)) or not str(ann_file):
            raise ValueError(
                f'ann_file must name the annotation file; got {ann_file!r}. Without '
                "one, mmdet's CocoMetric evaluates against the dataset's annotations."
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
            predicted = sample['pred_instances']
            masks, size = None, (0, 0)
            if 'segm' in self.tasks and 'masks' in predicted:
                masks, size = _encode(predicted['masks'], sample['ori_shape'])
            own = predicted.get('mask_scores')
            self.results.append(
                ImagePredictions(
                    image_id=sample['img_id'],
                    boxes=self.to_xywh(_array(predicted['bboxes']).reshape(-1, 4)),
                    scores=_array(predicted['scores']),
                    labels=_array(predicted['labels']),
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

        ``size`` is not needed: each image counts once, however the data were split.
        """
        # One item a process, so that mmengine's gathering keeps them all.
        self.results: list[Any] = [self.results]
        return dict(super().evaluate(get_world_size()))

    def compute_metrics(
        self, results: list[list[ImagePredictions]]
    ) -> dict[str, float]:
        """Compute, log the table and fill ``record``, on the main process only.

        There is one item of ``results`` for each process.
        """
        logger = MMLogger.get_current_instance()
        truth = self._ground_truth()
        predictions = merge(results)
        computed: list[TaskResult] = []
        notes = list(truth.notes)
        found = []
        for task in self.tasks:
            detections, more = to_detections(predictions, truth, task)
            notes += [note for note in more if note not in notes]
            found.append((task, detections))
            if not self.format_only:
                computed.append(
                    evaluate(truth, detections, task, self.max_dets, self.backend)
                )
        for note in notes:
            logger.warning(printable(note))
        if computed:
            rows = {TITLES[result.task]: result.metrics for result in computed}
            logger.info(f'{heading(self.max_dets)}:\n{ap_table(rows)}')
            for result in computed if self.classwise else ():
                logger.info(f'{TITLES[result.task]}, by class:\n{class_table(result)}')
            annotations = {'file': self.ann_file, 'sha256': truth.sha256}
            self.record = make_record(computed, annotations, self.backend, notes=notes)
            self._found = found
        # Last, so that a full disk does not cost the numbers.
        for task, detections in found if self.outfile_prefix else ():
            self._write(detections, truth, task, self.outfile_prefix or '')
        return _flat(computed, self.classwise)

    def analyze(self) -> dict[str, Any]:
        """Return ``error_analysis.analyze`` by task, and release the detections.

        Empty if nothing was evaluated since the last call, or so much that its memory
        could end a training.
        """
        from eca_mmdet.evaluation.error_analysis import MAX_PAIRS, analyze

        found, self._found = self._found, []
        if not found:
            return {}
        pairs = max(detections.count_pairs() for _, detections in found)
        if pairs > MAX_PAIRS:
            MMLogger.get_current_instance().warning(
                f'the errors are not split by kind: {pairs} pairs of an image and a '
                f'class have detections, and more than {MAX_PAIRS} take gigabytes '
                'beside the training. In a process of its own: eca-mmdet test '
                '--save-results, then eca-mmdet eval --analysis.'
            )
            return {}
        truth = self._ground_truth()
        return {
            task: analyze(truth, detections, task, max_dets=self.max_dets)
            for task, detections in found
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
                'metainfo.classes of the dataset.',
                code='unknown-class',
            )
        return truth

    def _write(
        self, found: Detections, truth: GroundTruth, task: str, prefix: str
    ) -> None:
        path = results_path(prefix, task)
        write_results(found, truth, path)
        logger = MMLogger.get_current_instance()
        logger.info(f'{len(found)} detections: {path}')
        if self.format_only:
            folder, name = os.path.split(prefix)
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
        sizes = [tuple(map(int, rle['size'])) for rle in masks]
        if len(set(sizes)) > 1:
            raise UserError(
                f'the masks of one image have several sizes: {set(sizes)}.',
                code='bad-predictions',
            )
        counts = [rle['counts'] for rle in masks]
        plain = [c.encode() if isinstance(c, str) else bytes(c) for c in counts]
        height, width = sizes[0] if sizes else shape[:2]
        return plain, (int(height), int(width))
    stack = _array(masks)
    stack = stack.view(np.uint8) if stack.dtype == bool else stack.astype(np.uint8)
    size = (int(stack.shape[1]), int(stack.shape[2]))
    # One mask at a time: the encoder takes a copy in column order, which for 100 masks
    # of a large image would be a gigabyte.
    return [api.encode(np.asfortranarray(mask))['counts'] for mask in stack], size


def _flat(computed: Sequence[TaskResult], classwise: bool) -> dict[str, float]:
    """Return the numbers under mmdet's names and ours; -1 for None.

    mmdet's come first: mmengine's ``save_best='auto'`` takes the first, and knows that
    more is better from its name alone.
    """
    flat: dict[str, float] = {}
    for result in computed:
        task = result.task
        values = {k: -1.0 if v is None else v for k, v in result.metrics.items()}
        flat |= {f'{task}_{theirs}': values[k] for k, theirs in _MMDET_NAMES.items()}
        flat |= {f'{task}_{name}': value for name, value in values.items()}
        names = [each.name for each in result.classes]
        for each in result.classes if classwise else ():
            ap = each.metrics['AP']
            number = f'_{each.id}' if names.count(each.name) > 1 else ''
            flat[f'{task}_{each.name}{number}_AP'] = -1.0 if ap is None else ap
    return flat


@METRICS.register_module()
class V1CocoMetric(CocoTableMetric):
    """``CocoTableMetric`` for boxes whose corners are both inside.

    v1 wrote a box from x1 to x2 as x2 - x1 + 1 wide, in the original image. The AP of
    its detectors needs that 1.
    """

    @staticmethod
    def to_xywh(boxes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Turn (n, 4) corners into x, y, width, height, both corners counted."""
        return CocoTableMetric.to_xywh(boxes) + (0, 0, 1, 1)


@HOOKS.register_module()
class MetricsFileHook(Hook):  # type: ignore[misc]
    """Write what ``CocoTableMetric`` recorded into the log folder of the run.

    ``metrics.json`` is the last evaluation. Each one during training also has its
    ``metrics_epoch_12.json`` or ``metrics_iter_520.json``. Only ``metrics.json`` has
    the ``analysis`` of ``eca-mmdet eval --analysis``, which takes a few seconds for the
    whole of COCO.
    """

    priority = 'LOWEST'
    """After mmengine's CheckpointHook: ``save_best`` rewrites the file of this step,
    whose sha256 is recorded here."""

    def after_val_epoch(
        self, runner: Any, metrics: dict[str, float] | None = None
    ) -> None:
        """Write after a validation during training."""
        loop = compat.train_loop(runner)
        if not isinstance(loop, BaseLoop):  # validation only
            self._write_test(runner, runner.val_evaluator)
            return
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        unit, at = ('epoch', runner.epoch) if by_epoch else ('iter', runner.iter)
        saved = runner.message_hub.get_info('last_ckpt', None)
        # Validation follows saving: a file of this step is what was measured.
        current = saved and Path(saved).stem == f'{unit}_{at}'
        more = {unit: at, 'checkpoint': _describe(saved if current else None)}
        self._write(runner, runner.val_evaluator, more, f'metrics_{unit}_{at}.json')

    def after_test_epoch(
        self, runner: Any, metrics: dict[str, float] | None = None
    ) -> None:
        """Write after a test."""
        self._write_test(runner, runner.test_evaluator)

    def _write_test(self, runner: Any, evaluator: Any) -> None:
        loaded = getattr(runner, 'loaded_file', None)
        checkpoint = loaded or _describe(compat.load_path(runner))
        self._write(runner, evaluator, {'checkpoint': checkpoint})

    def _write(
        self, runner: Any, evaluator: Any, more: dict[str, Any], name: str = ''
    ) -> None:
        metrics = [m for m in evaluator.metrics if getattr(m, 'record', None)]
        if not metrics or not is_main_process():
            return
        record = copy.deepcopy(metrics[0].record)
        if metrics[1:]:  # each with its own file, limits and notes
            record['other_evaluators'] = [metric.record for metric in metrics[1:]]
        config = runner.cfg.filename
        record['config'] = Path(config).stem if config else None
        if runner.cfg.get('fast'):
            record['fast'] = True  # eca-mmdet test --fast: not the exact AP
            record['fast_dtype'] = runner.cfg.get('fast_dtype')
        record |= more
        folder = Path(runner.log_dir)
        if name:
            write_json(folder / name, record)
        write_json(folder / 'metrics.json', record)
        # Written again with the analysis, whose failure must not cost the numbers.
        analysis = _analyze(metrics, runner)
        if analysis:
            write_json(folder / 'metrics.json', {**record, 'analysis': [analysis]})
        runner.logger.info(f'all numbers: {folder / "metrics.json"}')


def _analyze(metrics: list[Any], runner: Any) -> dict[str, Any]:
    """Return the errors of the first evaluator that can analyse them, by task."""
    for metric in metrics:
        if hasattr(metric, 'analyze'):
            try:
                return dict(metric.analyze())
            except Exception as error:
                runner.logger.warning(f'the errors were not split by kind: {error!r}')
    return {}


def _describe(checkpoint: str | None) -> dict[str, str] | None:
    """Return name and sha256 of a checkpoint; for an URL, only the name."""
    if not checkpoint:
        return None
    local = Path(checkpoint).is_file()
    return describe_file(checkpoint) if local else {'file': str(checkpoint)}
