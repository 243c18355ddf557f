"""Predictions of a detector, from arrays of one image to columns of one task.

mmdet's metric is slow and large because of half a million dicts for 5,000 images. Here
an image, or the share of a process, is a few arrays, and processes exchange these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import compress
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


@dataclass(frozen=True)
class Predictions:
    """Detections of M images in columns, N in all.

    Attributes:
        image_ids: M ids, in the order of arrival.
        lengths: (M,) number of detections.
        boxes: (N, 4) x, y, width, height.
        scores: (N,).
        labels: (N,).
        mask_counts: concatenated counts of N RLEs; None without masks.
        mask_lengths: (N,) bytes of each RLE.
        mask_sizes: (M, 2) height and width.
        mask_scores: (N,); equal to ``scores`` where masks have none of their own.
    """

    image_ids: list[ImageId]
    lengths: Array
    boxes: Array
    scores: Array
    labels: Array
    mask_counts: bytes | None
    mask_lengths: Array
    mask_sizes: Array
    mask_scores: Array


def pack(images: Sequence[ImagePredictions]) -> Predictions:
    """Concatenate the images of one process."""
    with_masks = any(image.masks is not None for image in images)
    without = [i.image_id for i in images if i.masks is None and len(i.scores)]
    if with_masks and without:
        raise UserError(
            f'{len(without)} of {len(images)} images have detections without masks, '
            f'the first {without[0]!r}; others have masks.',
            code='bad-predictions',
        )
    masks = [mask for image in images for mask in image.masks or ()]
    return Predictions(
        image_ids=[image.image_id for image in images],
        lengths=np.array([len(image.scores) for image in images], np.int64),
        boxes=_join([image.boxes for image in images]).reshape(-1, 4),
        scores=_join([image.scores for image in images]),
        labels=_join([image.labels for image in images]).astype(np.int64),
        mask_counts=b''.join(masks) if with_masks else None,
        mask_lengths=np.array([len(mask) for mask in masks], np.int64),
        mask_sizes=np.array([i.mask_size for i in images], np.int64).reshape(-1, 2),
        mask_scores=_join(
            [i.scores if i.mask_scores is None else i.mask_scores for i in images]
        ),
    )


def _join(arrays: Sequence[Array]) -> Array:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.float32)


def merge(parts: Sequence[Predictions]) -> Predictions:
    """Concatenate the shares of several processes, and keep each image once.

    A distributed sampler repeats images so that all processes have as many; the first
    one counts.
    """
    full = [part for part in parts if part.image_ids]
    if len(full) < 2:  # a copy would be of a quarter of a gigabyte for 50,000 images
        return _once(full[0] if full else parts[0])
    masked = [part.mask_counts for part in full if part.mask_counts is not None]
    arrays = {
        field.name: np.concatenate([getattr(part, field.name) for part in full])
        for field in fields(Predictions)
        if field.name not in ('image_ids', 'mask_counts')
    }
    return _once(
        Predictions(
            image_ids=[image_id for part in full for image_id in part.image_ids],
            mask_counts=b''.join(masked) if masked else None,
            **arrays,
        )
    )


def _once(everything: Predictions) -> Predictions:
    """Return each image's first entry."""
    ids, counts = everything.image_ids, everything.mask_counts
    first = {image_id: index for index, image_id in reversed(list(enumerate(ids)))}
    if len(first) == len(ids):
        return everything
    chosen = np.array([first[image_id] == at for at, image_id in enumerate(ids)], bool)
    rows = np.repeat(chosen, everything.lengths)
    if counts is not None:
        counts = b''.join(compress(_split(counts, everything.mask_lengths), rows))
    return Predictions(
        image_ids=list(compress(ids, chosen)),
        lengths=everything.lengths[chosen],
        boxes=everything.boxes[rows],
        scores=everything.scores[rows],
        labels=everything.labels[rows],
        mask_counts=counts,
        mask_lengths=everything.mask_lengths[rows[: len(everything.mask_lengths)]],
        mask_sizes=everything.mask_sizes[chosen],
        mask_scores=everything.mask_scores[rows],
    )


def _split(joined: bytes, lengths: Array) -> list[bytes]:
    ends = np.cumsum(lengths).tolist()
    starts = [0, *ends][:-1]
    return [joined[a:b] for a, b in zip(starts, ends, strict=True)]


def to_detections(
    found: Predictions, truth: GroundTruth, task: str
) -> tuple[Detections, list[str]]:
    """Return one task's detections in the positions of the ground truth.

    Labels count the categories in the order of the file, as mmdet's ``CocoDataset``
    does, whatever the order of the class names. The notes mention detections that are
    not finite and do not count, and images without predictions, which do.
    """
    at = {image_id: index for index, image_id in enumerate(truth.image_ids)}
    _require_match(found, truth, at, task)
    scores = found.scores if task == 'bbox' else found.mask_scores
    finite = np.isfinite(scores) & np.isfinite(found.boxes).all(1)
    images = np.array([at[image_id] for image_id in found.image_ids], np.int64)
    boxes = masks = None
    notes = _notes(found, truth, int((~finite).sum()))
    if task == 'bbox':
        boxes = _those(found.boxes, finite).astype(np.float64, copy=False)
    else:
        masks = _rles(found)
        masks = masks if finite.all() else masks.take(np.flatnonzero(finite))
        notes += _other_sizes(found, truth, images)
    detections = Detections(
        image=_those(np.repeat(images, found.lengths), finite),
        category=truth.file_order[_those(found.labels, finite)],
        scores=_those(scores, finite).astype(np.float64, copy=False),
        boxes=boxes,
        masks=masks,
    )
    return detections, notes


def _those(column: Array, kept: Array) -> Array:
    """Return some entries; all of them without a copy."""
    return column if kept.all() else column[kept]


def _rles(found: Predictions) -> Rles:
    counts = _split(found.mask_counts or b'', found.mask_lengths)
    return Rles.of(counts, np.repeat(found.mask_sizes, found.lengths, axis=0))


def _require_match(
    found: Predictions, truth: GroundTruth, at: dict[ImageId, int], task: str
) -> None:
    unknown = [image_id for image_id in found.image_ids if image_id not in at]
    if unknown:
        raise UserError(
            f'{len(unknown)} of {len(found.image_ids)} images that were tested are not '
            f'in {truth.source}, the first {unknown[0]!r}. The ann_file of the '
            'evaluator and of the dataset must be the same.',
            code='bad-predictions',
        )
    categories = len(truth.file_order)
    outside = found.labels[(found.labels < 0) | (found.labels >= categories)]
    if len(outside):
        raise UserError(
            f'the detector gives label {outside[0]}, but {truth.source} has '
            f'{categories} of its classes. num_classes and metainfo.classes must be '
            'those of the file.',
            code='class-mismatch',
        )
    if task == 'segm' and found.mask_counts is None and len(found.scores):
        raise UserError(
            "metric='segm' needs masks, and this detector gives boxes alone. Set the "
            "evaluator's metric='bbox'.",
            code='no-masks',
        )


def _notes(found: Predictions, truth: GroundTruth, dropped: int) -> list[str]:
    notes = []
    if dropped:
        notes.append(
            f'{dropped} of {len(found.scores)} detections are not finite numbers and '
            'do not count'
        )
    missing = len(truth.image_ids) - len(found.image_ids)
    if missing:
        notes.append(
            f'{missing} of {len(truth.image_ids)} images of {truth.source} were not '
            'tested; their objects count as missed'
        )
    return notes


def _other_sizes(found: Predictions, truth: GroundTruth, images: Array) -> list[str]:
    stated = truth.sizes[images]
    wrong = (stated != found.mask_sizes).any(1) & (stated > 0).all(1)
    wrong &= found.lengths > 0
    if not wrong.any():
        return []
    first = int(np.flatnonzero(wrong)[0])
    return [
        f'the masks of {int(wrong.sum())} images have another size than '
        f'{truth.source} says and match nothing: image {found.image_ids[first]!r} is '
        f'{found.mask_sizes[first].tolist()}, the file says {stated[first].tolist()} '
        '(height, width). See: eca-mmdet check-data'
    ]
