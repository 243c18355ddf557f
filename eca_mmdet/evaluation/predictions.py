"""Predictions of a detector, from arrays of one image to columns of one task.

mmdet's metric is slow and large because of half a million dicts for 5,000 images. Here
an image is a few arrays, and processes exchange these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from eca_mmdet.datasets.detections import Detections
from eca_mmdet.datasets.ground_truth import GroundTruth, ImageId
from eca_mmdet.datasets.masks import Rles
from eca_mmdet.utils.errors import UserError

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
        masks = masks if finite.all() else masks.take(np.flatnonzero(finite))
        notes += _other_sizes(images, sizes, truth.sizes[places], truth.source)
    detections = Detections(
        image=_those(np.repeat(places, lengths), finite),
        category=truth.file_order[_those(labels, finite)],
        scores=_those(scores, finite).astype(np.float64, copy=False),
        boxes=None
        if masks is not None
        else _those(boxes, finite).astype(np.float64, copy=False),
        masks=masks,
    )
    return detections, notes


def _join(arrays: Sequence[Array]) -> Array:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.float32)


def _those(column: Array, kept: Array) -> Array:
    """Return some entries; all of them without a copy."""
    return column if kept.all() else column[kept]


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
        'width). See: eca-mmdet check-data'
    ]
