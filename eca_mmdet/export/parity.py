"""Comparison of an exported file with its detector: outputs, objects and metadata."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eca_mmdet.compat import paste_masks
from eca_mmdet.evaluation.tables import render
from eca_mmdet.export.processing import prepare
from eca_mmdet.export.runtime import OnnxDetector, open_session
from eca_mmdet.export.samples import Batch
from eca_mmdet.export.writer import ExportPart, compile_openvino, one_line
from eca_mmdet.inference.detector import ECADetector
from eca_mmdet.inference.prediction import Prediction
from eca_mmdet.utils.errors import RunError

Array = npt.NDArray[Any]

BOX_PX = 0.05  # largest difference of a coordinate that passes
SCORE = 1e-3  # largest difference of a score that passes
MASK = 0.01  # largest share of a mask's pixels that may differ; one pixel always may
IOU = 0.01  # within this distance of the threshold, two boxes may or may not suppress
TIES = 0.05
"""Largest share of ties; two always may be. With more of them, boxes that are all a
little off would pass for boxes that suppress each other."""

_SAME = 0.9  # IoU from which two boxes are one object

Runner = Callable[[dict[str, Array]], list[Array]]
"""From the inputs by name to the outputs, in the order of the part's."""

FEATURE = 1e-4
"""Largest difference of a feature that passes, relative to its map's largest value."""

_SIDES = ((90, 160), (160, 90))
"""Height and width of a landscape and of a portrait image."""

_COLUMNS = {
    'objects': '',
    'only one': '0',
    'at a tie': f'{TIES:.0%}',
    'box, px': f'{BOX_PX:g}',
    'score': f'{SCORE:g}',
    'mask pixels': f'{MASK:g}',
}
"""Tolerances of objects by the column's title."""


@dataclass
class Distance:
    """Counts of objects, and the largest differences of those that both lists have.

    A tie is an object of one list whose score or overlap is at a threshold; ``missing``
    counts the others. ``mask`` is a share of pixels.
    """

    objects: int = 0
    ties: int = 0
    missing: int = 0
    box_px: float = 0.0
    score: float = 0.0
    mask: float = 0.0

    def add(self, other: Distance) -> None:
        """Include another image."""
        for name in ('objects', 'ties', 'missing'):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ('box_px', 'score', 'mask'):
            # np.maximum keeps a NaN, which ``max`` may drop.
            worst = float(np.maximum(getattr(self, name), getattr(other, name)))
            setattr(self, name, worst)

    @property
    def passes(self) -> bool:
        """Whether nothing is further apart than it may be; a NaN is."""
        near = self.box_px <= BOX_PX and self.score <= SCORE and self.mask <= MASK
        few = self.ties <= max(2, TIES * self.objects)
        return near and few and not self.missing


@dataclass(frozen=True)
class Limits:
    """Score threshold, IoU threshold of suppression, and largest number per image."""

    score: float
    nms_iou: float
    count: int


def distance(reference: Prediction, exported: Prediction, limits: Limits) -> Distance:
    """Match mmdet's and the file's objects by label and overlap; measure the pairs.

    An object that only one list has is a tie where a difference within the tolerances
    decides whether it is there: its score is at the threshold, or at that of the last
    of a full list; or it overlaps another of the class just at the threshold of
    suppression, and that one both lists have; or the other list has one of an equal
    score in its place, which overlaps by more. In the file, no two objects of a class
    may overlap by more.
    """
    overlaps = _overlaps(reference, exported)
    pairs = _pairs(overlaps)
    left = [set(range(len(side.scores))) for side in (reference, exported)]
    for first, second in pairs:
        left[0].discard(first)
        left[1].discard(second)
    total = Distance(objects=len(pairs), missing=_doubles(exported, limits))
    for first, second in pairs:
        total.add(_between(reference, first, exported, second))
    for side, own, others in ((0, reference, exported), (1, exported, reference)):
        table = overlaps.T if side else overlaps
        single = np.isin(np.arange(len(others.scores)), list(left[1 - side]))
        for place in left[side]:
            score = own.scores[place]
            tied = _is_tie(score, table[place], others.scores, single, limits)
            total.ties += tied
            total.missing += not tied
    return total


def _overlaps(rows: Prediction, columns: Prediction) -> Array:
    """Return the (K, L) IoU of K and L objects, -1 between classes."""
    a, b = rows.boxes[:, None], columns.boxes[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    inter = np.prod(np.clip(sides, 0, None), 2)
    areas = [np.prod(boxes[..., 2:] - boxes[..., :2], 2) for boxes in (a, b)]
    iou: Array = inter / np.maximum(areas[0] + areas[1] - inter, 1e-9)
    iou[rows.labels[:, None] != columns.labels] = -1
    return iou


def _pairs(overlaps: Array) -> list[tuple[int, int]]:
    """Pair objects, largest overlap first."""
    pairs: list[tuple[int, int]] = []
    rows, columns = np.nonzero(overlaps >= _SAME)
    taken: tuple[set[int], set[int]] = (set(), set())
    for index in np.argsort(-overlaps[rows, columns], kind='stable'):
        pair = int(rows[index]), int(columns[index])
        if pair[0] not in taken[0] and pair[1] not in taken[1]:
            pairs.append(pair)
            taken[0].add(pair[0])
            taken[1].add(pair[1])
    return pairs


def _between(
    reference: Prediction, first: int, exported: Prediction, second: int
) -> Distance:
    mask = 0.0
    if reference.masks is not None and exported.masks is not None:
        a, b = reference.masks[first], exported.masks[second]
        differ = int((a ^ b).sum())
        mask = differ / int((a | b).sum()) if differ > 1 else 0.0
    return Distance(
        box_px=float(np.abs(reference.boxes[first] - exported.boxes[second]).max()),
        score=float(abs(reference.scores[first] - exported.scores[second])),
        mask=mask,
    )


def _doubles(objects: Prediction, limits: Limits) -> int:
    """Count the objects that another of their class should have suppressed."""
    over = np.triu(_overlaps(objects, objects) > limits.nms_iou + IOU, 1)
    return int(over.any(0).sum())


def _is_tie(
    score: float, overlaps: Array, scores: Array, single: Array, limits: Limits
) -> bool:
    """Tell whether an object that only one list has is a tie.

    ``overlaps`` and ``scores`` are those of the other list's objects, ``single`` marks
    the ones without a partner.
    """
    if score <= limits.score + SCORE:
        return True
    if len(scores) >= limits.count and score <= scores.min() + SCORE:
        return True
    at_limit = ~single & (np.abs(overlaps - limits.nms_iou) <= IOU)
    at_limit &= scores >= score - SCORE
    over = single & (overlaps >= limits.nms_iou) & (np.abs(scores - score) <= SCORE)
    return bool((at_limit | over).any())


@dataclass
class Row:
    """Differences on one input: relative ones of features, or those of objects.

    ``shape`` is N, H and W; ``bare`` counts images without an object that both have.
    """

    shape: tuple[int, int, int]
    features: float | None = None
    objects: Distance | None = None
    bare: int = 0

    @property
    def passes(self) -> bool:
        """Whether everything is within its tolerance; a NaN is not."""
        near = self.features is None or self.features <= FEATURE
        return near and (self.objects is None or self.objects.passes)


@dataclass
class Report:
    """Result of a check, a row per input; ``masks`` is True for objects with masks."""

    rows: list[Row] = field(default_factory=list)
    masks: bool = False

    @property
    def passes(self) -> bool:
        """Whether every row is within the tolerances."""
        return all(row.passes for row in self.rows)

    @property
    def images(self) -> int:
        """Number of images."""
        return sum(row.shape[0] for row in self.rows)

    @property
    def bare(self) -> int:
        """Number of images with no object to compare."""
        return sum(row.bare for row in self.rows)


def compare(
    paths: Sequence[Path],
    part: ExportPart,
    metadata: dict[str, Any],
    batches: list[Batch],
) -> Report:
    """Run the file and the detector's own ``predict`` on the same arrays.

    ``paths`` are the ONNX file, or OpenVINO's XML file and weights; thresholds are
    taken from their ``metadata``.
    """
    run = _open(paths, part)
    report = Report(masks='masks' in part.outputs)
    for batch in batches:
        row = Row((len(batch.sizes), *batch.images.shape[2:]))
        with torch.no_grad():
            features = tuple(part.model.backbone(batch.images))
        outputs = _run(run, part, batch, features)
        if part.name == 'backbone':
            row.features = _relative_difference(features, outputs)
        else:
            names = ('score_threshold', 'nms_iou', 'max_per_image')
            limits = Limits(*(metadata[name] for name in names))
            row.objects, row.bare = _compare_objects(part.model, batch, outputs, limits)
        report.rows.append(row)
    return report


def _open(paths: Sequence[Path], part: ExportPart) -> Runner:
    names = list(part.outputs)
    try:
        if len(paths) == 1:
            session = open_session(str(paths[0]), threads=torch.get_num_threads())
            return lambda inputs: list(session.run(names, inputs))
        request = compile_openvino(paths, torch.get_num_threads())
    except Exception as error:  # the runtime's own, of many kinds
        raise RunError(
            f'what was written does not open: {one_line(error)}', code='check-failed'
        ) from error

    def run(inputs: dict[str, Array]) -> list[Array]:
        outputs = request(inputs)
        return [outputs[name] for name in names]

    return run


def _run(
    run: Runner, part: ExportPart, batch: Batch, features: tuple[Tensor, ...]
) -> list[Array]:
    arrays = {'images': batch.images, 'sizes': torch.tensor(batch.sizes).float()}
    arrays |= {f'feature_{index}': array for index, array in enumerate(features)}
    try:
        return run({name: arrays[name].numpy() for name in part.inputs})
    except Exception as error:  # the runtime's own, of many kinds
        shape = ' x '.join(map(str, batch.images.shape))
        raise RunError(
            f'what was written stops at an input of {shape}: {one_line(error)}',
            code='check-failed',
        ) from error


def _relative_difference(expected: Sequence[Tensor], outputs: Sequence[Array]) -> float:
    shares = []
    for own, other in zip(expected, outputs, strict=True):
        if own.shape != other.shape:
            return float('inf')
        largest = max(float(own.abs().max()), 1e-12)
        shares.append(np.abs(own.numpy() - other).max() / largest)
    return float(np.max(shares))


def _compare_objects(
    model: Any, batch: Batch, outputs: list[Array], limits: Limits
) -> tuple[Distance, int]:
    total, bare = Distance(), 0
    with torch.no_grad():
        expected = model.predict(batch.images, batch.samples(), rescale=True)
    for index, sample in enumerate(expected):
        arrays = [array[index] for array in outputs]
        exported = _prediction(arrays, batch.sizes[index], model)
        own = Prediction.from_instances(sample.pred_instances)
        difference = distance(own, exported, limits)
        total.add(difference)
        bare += not difference.objects
    return total, bare


def _prediction(arrays: list[Array], size: tuple[int, int], model: Any) -> Prediction:
    """Return the file's objects; masks are pasted by mmdet, to compare the graph."""
    boxes, scores, labels, *maps = (array[arrays[2] >= 0] for array in arrays)
    masks = None
    if maps:
        masks = np.zeros((0, *size), bool)
        if len(boxes):
            probabilities = torch.from_numpy(maps[0])[:, None]
            pasted = paste_masks(probabilities, torch.from_numpy(boxes), *size)
            masks = (pasted >= model.roi_head.test_cfg.mask_thr_binary).numpy()
    return Prediction(boxes, scores, labels, masks)


def require_same_input(path: Path, trained: ECADetector) -> None:
    """Compare what goes into the network by the file's metadata and by the config."""
    file = OnnxDetector(path, threads=1)
    if file.classes != tuple(trained.classes):
        raise RunError(
            f'the file has the classes {", ".join(file.classes)}; the detector has '
            f'{", ".join(trained.classes)}.',
            code='check-failed',
        )
    rule = replace(file.rule, size=None)  # a config has no input of one size
    random = np.random.default_rng(0)
    for height, width in _SIDES:
        image = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
        prepared = prepare(image, rule)
        images, size = trained.prepared(image)
        same = np.array_equal(prepared.images, images.cpu().numpy())
        if not same or prepared.sizes.tolist() != [list(size)]:
            raise RunError(
                f'of an image of {width} x {height} the metadata of the file make '
                'another input than the test pipeline of the config.',
                code='check-failed',
            )


def table(report: Report) -> str:
    """Return a table with a line per input, and the tolerances."""
    columns = _COLUMNS
    if report.rows[0].objects is None:
        columns = {'features': f'{FEATURE:g}'}
    count = 1 + len(columns) - (columns is _COLUMNS and not report.masks)
    lines = [*map(_line, report.rows), ['may be', *columns.values()]]
    header = ['images', *columns]
    return render(header[:count], [line[:count] for line in lines], 'table')


def _line(row: Row) -> list[str]:
    count, height, width = row.shape
    line = [f'{count} of {height} x {width}']
    if row.objects is None:
        return [*line, f'{row.features:.1e}']
    objects = row.objects
    counts = (objects.objects, objects.missing, objects.ties)
    values = (objects.box_px, objects.score, objects.mask)
    return [*line, *map(str, counts), *(f'{value:.1e}' for value in values)]
