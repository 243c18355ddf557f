"""Predictions of a detector, from one image's arrays to one task's columns.

Half a million dicts for 5,000 images are what makes mmdet's metric slow and large. Here
an image is a handful of arrays, a process's share of the data is a handful of arrays,
and that is also what processes send to each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from eca_mmdet.datasets.detections import Detections
from eca_mmdet.datasets.ground_truth import GroundTruth, ImageId
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
        masks: n RLE counts; None where the detector gives boxes alone.
        mask_size: height and width that the masks have.
        mask_scores: (n,) where masks have scores of their own, else None.
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
        lengths: (M,) detections of each.
        boxes: (N, 4) x, y, width, height.
        scores: (N,).
        labels: (N,).
        mask_counts: the N RLEs' counts behind each other; None without masks.
        mask_lengths: (N,) bytes of each.
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
    """Put the images of one process behind each other."""
    with_masks = any(one.masks is not None for one in images)
    without = [one.image_id for one in images if one.masks is None and len(one.scores)]
    if with_masks and without:
        raise UserError(
            f'{len(without)} of {len(images)} images have detections without masks, '
            f'the first {without[0]!r}; others have masks.',
            code='bad-predictions',
        )
    masks = [mask for one in images for mask in one.masks or ()]
    own = [one.scores if one.mask_scores is None else one.mask_scores for one in images]
    return Predictions(
        image_ids=[one.image_id for one in images],
        lengths=np.array([len(one.scores) for one in images], np.int64),
        boxes=_join([one.boxes for one in images]).reshape(-1, 4),
        scores=_join([one.scores for one in images]),
        labels=_join([one.labels for one in images]).astype(np.int64),
        mask_counts=b''.join(masks) if with_masks else None,
        mask_lengths=np.array([len(one) for one in masks], np.int64),
        mask_sizes=np.array([one.mask_size for one in images], np.int64).reshape(-1, 2),
        mask_scores=_join(own),
    )


def _join(arrays: Sequence[Array]) -> Array:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.float32)


def merge(parts: Sequence[Predictions]) -> Predictions:
    """Put the shares of several processes together, each image once.

    A distributed sampler repeats images so that all processes have as many; the first
    one counts.
    """
    full = [part for part in parts if part.image_ids]
    if len(full) < 2:  # a copy would be of a quarter of a gigabyte for 50,000 images
        return _once(full[0] if full else parts[0])
    image_ids = [one for part in full for one in part.image_ids]
    masked = [part.mask_counts for part in full if part.mask_counts is not None]
    arrays = {
        one.name: np.concatenate([getattr(part, one.name) for part in full])
        for one in fields(Predictions)
        if one.name not in ('image_ids', 'mask_counts')
    }
    counts = b''.join(masked) if masked else None
    return _once(Predictions(image_ids, mask_counts=counts, **arrays))


def _once(everything: Predictions) -> Predictions:
    """Return each image's first entry."""
    image_ids = everything.image_ids
    first = {one: index for index, one in reversed(list(enumerate(image_ids)))}
    if len(first) == len(image_ids):
        return everything
    chosen = np.array([first[one] == at for at, one in enumerate(image_ids)], bool)
    return _choose(everything, chosen)


def _choose(everything: Predictions, chosen: Array) -> Predictions:
    rows = np.repeat(chosen, everything.lengths)
    counts, lengths = everything.mask_counts, everything.mask_lengths
    if counts is not None:
        pieces = _split(counts, lengths)
        counts = b''.join(p for p, keep in zip(pieces, rows, strict=True) if keep)
        lengths = lengths[rows]
    ids = zip(everything.image_ids, chosen, strict=True)
    return Predictions(
        image_ids=[one for one, keep in ids if keep],
        lengths=everything.lengths[chosen],
        boxes=everything.boxes[rows],
        scores=everything.scores[rows],
        labels=everything.labels[rows],
        mask_counts=counts,
        mask_lengths=lengths,
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
    does, whatever the order of the class names.

    Returns:
        The detections, and a line for each thing that a user should know: detections
        that are not finite do not count, images without predictions do.

    Raises:
        UserError: an image or a label is not the annotation file's, or there are no
            masks to evaluate.
    """
    at = {one: index for index, one in enumerate(truth.image_ids)}
    _require_match(found, truth, at, task)
    scores = found.scores if task == 'bbox' else found.mask_scores
    finite = np.isfinite(scores) & np.isfinite(found.boxes).all(1)
    images = np.array([at[one] for one in found.image_ids], np.int64)
    boxes = masks = None
    notes = _notes(found, truth, int((~finite).sum()))
    if task == 'bbox':
        boxes = _those(found.boxes, finite).astype(np.float64, copy=False)
    else:
        kept = zip(_rles(found), finite, strict=True)
        masks = [mask for mask, keep in kept if keep]
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


def _rles(found: Predictions) -> list[dict[str, Any]]:
    if found.mask_counts is None:
        return []
    sizes = [list(map(int, size)) for size in found.mask_sizes]
    owner = np.repeat(np.arange(len(sizes)), found.lengths).tolist()
    pieces = zip(_split(found.mask_counts, found.mask_lengths), owner, strict=True)
    return [{'size': sizes[index], 'counts': counts} for counts, index in pieces]


def _require_match(
    found: Predictions, truth: GroundTruth, at: dict[ImageId, int], task: str
) -> None:
    unknown = [one for one in found.image_ids if one not in at]
    if unknown:
        raise UserError(
            f'{len(unknown)} of {len(found.image_ids)} images that were tested are not '
            f'in {truth.source}, the first {unknown[0]!r}. The ann_file of the '
            'evaluator and of the data set must be the same.',
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
