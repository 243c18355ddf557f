"""Comparison of an exported file with its detector: outputs, objects and metadata."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from msgspec import structs
from torch import Tensor
from torchvision.ops import box_iou

from eca_mmdet.engine.config import leaf_datasets
from eca_mmdet.evaluation.tables import render
from eca_mmdet.export.runtime import (
    OnnxDetector,
    fitted,
    open_session,
    paste_masks,
    prepare,
)
from eca_mmdet.export.writer import ExportPart, compile_openvino, one_line
from eca_mmdet.inference.detector import ECADetector
from eca_mmdet.inference.predict import find_images
from eca_mmdet.inference.prediction import Prediction
from eca_mmdet.utils.errors import RunError, UserError

Array = npt.NDArray[Any]
_Run = Callable[[dict[str, Array]], list[Array]]  # from inputs to outputs

BOX_PX = 0.05  # largest difference of a coordinate that passes
SCORE = 1e-3  # largest difference of a score that passes
MASK = 0.01  # largest share of a mask's pixels that may differ; one pixel always may
IOU = 0.01  # within this distance of the threshold, two boxes may or may not suppress
TIES = 0.05
"""Largest share of ties; two always may be. With more of them, boxes that are all a
little off would pass for boxes that suppress each other."""

EQUAL = 10 * SCORE
"""Largest difference of scores whose order may differ without a fault in the file."""

FEATURE = 1e-4
"""Largest difference of a feature that passes, relative to its map's largest value."""

_SAME = 0.9  # IoU from which two boxes are one object
_IMAGES = 4
_SCALE = (640, 480)  # width and height where the config names none
_SIDES = ((90, 160), (160, 90))
"""Height and width of a landscape and of a portrait image."""

_COLUMNS = {
    'objects': ('objects', ''),
    'missing': ('only one', '0'),
    'ties': ('at a tie', f'{TIES:.0%}'),
    'box_px': ('box, px', f'{BOX_PX:g}'),
    'score': ('score', f'{SCORE:g}'),
    'mask': ('mask pixels', f'{MASK:g}'),
    'feature': ('features', f'{FEATURE:g}'),
}
"""Title and tolerance of a column of the table, by the field of ``Distance``."""


@dataclass(frozen=True)
class Batch:
    """(N, 3, H, W) normalised and padded images; their heights and widths unpadded."""

    images: Tensor
    sizes: list[tuple[int, int]]

    def samples(self) -> list[Any]:
        """Return mmdet's data samples; no image was rescaled."""
        from mmdet.structures import DetDataSample

        padded = tuple(self.images.shape[2:])
        shared = dict(
            scale_factor=(1.0, 1.0), batch_input_shape=padded, pad_shape=padded
        )
        return [
            DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, **shared))
            for size in self.sizes
        ]


def find_samples(folder: str | None, cfg: Any) -> tuple[list[Array], str]:
    """Return some images (H, W, 3) BGR, and where they are from.

    Without a folder, use the config's test images, or generated ones.
    """
    if folder is not None:
        root = Path(folder)
        if not root.is_dir():
            raise UserError(f'--images {folder} is no folder.', code='file-not-found')
        images = _read(root, find_images(root))
        if not images:
            raise UserError(
                f'--images {folder} has no image that OpenCV reads.', code='no-images'
            )
        return images, f'of {folder}'
    test_folder = _test_folder(cfg)
    if test_folder is not None and test_folder.is_dir():
        with contextlib.suppress(UserError):
            if images := _read(test_folder, find_images(test_folder)):
                return images, f'of {test_folder}, where the config has its test images'
    from eca_mmdet.datasets.shapes import draw_image

    drawn = [draw_image(0, 'val', index)[0] for index in range(_IMAGES)]
    return drawn, "of generated shapes: the config's test images are not here"


def _test_folder(cfg: Any) -> Path | None:
    dataset = next(iter(leaf_datasets(cfg.get('test_dataloader'))), None)
    if not isinstance(dataset, dict):
        return None
    prefix = dataset.get('data_prefix')
    below = prefix.get('img') if isinstance(prefix, dict) else None
    parts = [str(part) for part in (dataset.get('data_root'), below) if part]
    return Path(*parts) if parts else None


def _read(root: Path, names: Sequence[str]) -> list[Array]:
    """Read the first few readable images."""
    images: list[Array] = []
    for name in names[: 4 * _IMAGES]:
        image = cv2.imread(str(root / name))
        if image is not None and len(images) < _IMAGES:
            images.append(image.astype(np.uint8))
    return images


def make_batches(images: list[Array], model: Any, metadata: Any) -> list[Batch]:
    """Return inputs of one image and of two; where any size is allowed, of two sizes.

    ``images`` are (H, W, 3) BGR, at least one; ``model`` prepares them. UserError is
    raised where a layer needs a larger image than the file is for.
    """
    size = metadata['size']
    width, height = metadata['scale'] or _SCALE
    if size is not None:
        height, width = min(height, size[0]), min(width, size[1])
    problem = ''
    # Some layers need a map of a few pixels: then the other size is a larger one.
    for scales in ((1.0, 0.6, 1.0, 0.7), (1.0, 1.4, 1.0, 0.7)):
        resized = [
            _fit(images[index % len(images)], (height * scale, width * scale), size)
            for index, scale in enumerate(scales)
        ]
        groups = [resized[:1], resized[1:2], resized[2:]]
        batches = [_batch(group, model, size) for group in groups]
        try:
            with torch.no_grad():
                for batch in batches:
                    model.backbone(batch.images)
            return batches
        except ValueError as error:  # the map is too small for a layer
            problem = str(error)
    raise UserError(
        f'the detector does not take images of this size: {problem}',
        code='option-invalid',
    )


def _fit(image: Array, scale: tuple[float, float], size: Any) -> Array:
    height, width = fitted(image.shape[0], image.shape[1], scale, size)
    sides = max(1, width), max(1, height)
    resized: Array = cv2.resize(image, sides, interpolation=cv2.INTER_LINEAR)
    return resized


def _batch(images: list[Array], model: Any, size: Any) -> Batch:
    tensors = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
    with torch.no_grad():
        data = model.data_preprocessor({'inputs': tensors, 'data_samples': None})
    inputs = data['inputs']
    if size is not None:
        right, bottom = size[1] - inputs.shape[3], size[0] - inputs.shape[2]
        value = float(model.data_preprocessor.pad_value)
        inputs = F.pad(inputs, (0, right, 0, bottom), value=value)
    return Batch(inputs, [(image.shape[0], image.shape[1]) for image in images])


@dataclass
class Distance:
    """Counts of objects, and the largest differences of those that both lists have.

    A tie is an object of one list whose score or overlap is at a threshold; ``missing``
    counts the others. ``mask`` is a share of pixels, ``feature`` is relative.
    ``distinct`` counts those of one list that fewer than a quarter of it equal in
    score, and those that the file should have suppressed.
    """

    objects: int = 0
    missing: int = 0
    ties: int = 0
    box_px: float = 0.0
    score: float = 0.0
    mask: float = 0.0
    feature: float = 0.0
    distinct: int = 0

    def add(self, other: Distance) -> None:
        """Include another image."""
        for name, value in vars(self).items():
            more = getattr(other, name)
            # np.maximum keeps a NaN, which ``max`` may drop.
            both = value + more if isinstance(value, int) else np.maximum(value, more)
            setattr(self, name, type(value)(both))

    @property
    def passes(self) -> bool:
        """Whether nothing is further apart than it may be; a NaN is."""
        few = self.ties <= max(2, TIES * self.objects)
        return self._is_near and few and not self.missing

    @property
    def may_pass(self) -> bool:
        """Whether only the order of nearly equal scores may keep it from passing."""
        few = self.missing + self.ties <= 2 * max(2, TIES * self.objects)
        return self._is_near and few and not self.distinct

    @property
    def _is_near(self) -> bool:
        near = self.box_px <= BOX_PX and self.score <= SCORE and self.mask <= MASK
        return near and self.feature <= FEATURE


def distance(
    reference: Prediction, exported: Prediction, metadata: Mapping[str, Any]
) -> Distance:
    """Match mmdet's and the file's objects by label and overlap; measure the pairs.

    ``metadata`` have the thresholds of both.

    An object that only one list has is a tie where a difference within the tolerances
    decides whether it is there: see :func:`_ties`. In the file, no two objects of a
    class may overlap by more than the suppression lets pass.
    """
    overlaps = _overlaps(reference, exported)
    rows, columns = _pairs(overlaps)
    boxes = np.abs(reference.boxes[rows] - exported.boxes[columns])
    scores = np.abs(reference.scores[rows] - exported.scores[columns])
    too_near = _overlaps(exported, exported) > metadata['nms_iou'] + IOU
    doubles = np.triu(too_near, 1).any(0)
    total = Distance(
        objects=len(rows),
        missing=int(doubles.sum()),
        distinct=int(doubles.sum()),
        box_px=float(boxes.max(initial=0)),
        score=float(scores.max(initial=0)),
    )
    if reference.masks is not None and exported.masks is not None:
        for a, b in zip(reference.masks[rows], exported.masks[columns], strict=True):
            differ = int((a ^ b).sum())
            share = differ / int((a | b).sum()) if differ > 1 else 0.0
            total.mask = max(total.mask, share)
    single = ~np.isin(np.arange(len(reference)), rows)
    single_exported = ~np.isin(np.arange(len(exported)), columns)
    for own, alone, others, others_alone, table in (
        (reference, single, exported, single_exported, overlaps),
        (exported, single_exported, reference, single, overlaps.T),
    ):
        ties = _ties(own.scores, others.scores, others_alone, table, metadata)
        total.ties += int((alone & ties).sum())
        total.missing += int((alone & ~ties).sum())
        equal = np.abs(own.scores[alone, None] - own.scores) <= EQUAL
        total.distinct += int((equal.mean(1) < 0.25).sum()) if alone.any() else 0
    return total


def _overlaps(rows: Prediction, columns: Prediction) -> Array:
    """Return the (K, L) IoU of K and L objects, -1 between classes."""
    iou = box_iou(torch.from_numpy(rows.boxes), torch.from_numpy(columns.boxes))
    same = rows.labels[:, None] == columns.labels
    return np.where(same, iou.nan_to_num().numpy(), -1)


def _pairs(overlaps: Array) -> tuple[list[int], list[int]]:
    """Pair rows and columns, largest overlap first."""
    rows: list[int] = []
    columns: list[int] = []
    same = np.argwhere(overlaps >= _SAME)
    for row, column in same[np.argsort(-overlaps[tuple(same.T)], kind='stable')]:
        if row not in rows and column not in columns:
            rows.append(row)
            columns.append(column)
    return rows, columns


def _ties(
    scores: Array,
    others: Array,
    single: Array,
    overlaps: Array,
    metadata: Mapping[str, Any],
) -> Array:
    """Tell for K objects whether a small difference decides if they are in a list.

    The score is at the threshold, or at that of the last of a full list; or the object
    overlaps another of the class just at the threshold of suppression, which both lists
    have; or the other list has one of an equal score in its place, which overlaps by
    more.

    Args:
        scores: (K,).
        others: (L,) scores of the other list.
        single: (L,) True for objects that this list lacks.
        overlaps: (K, L) IoU, -1 between classes.
        metadata: thresholds.
    """
    ties: Array = scores <= metadata['score_threshold'] + SCORE
    if len(others) >= metadata['max_per_image']:
        ties |= scores <= others.min() + SCORE
    iou = metadata['nms_iou']
    lower = others >= scores[:, None] - SCORE
    equal = np.abs(others - scores[:, None]) <= SCORE
    suppressing = ~single & (np.abs(overlaps - iou) <= IOU) & lower
    replacing = single & (overlaps >= iou) & equal
    ties |= (suppressing | replacing).any(1)
    return ties


@dataclass
class Report:
    """Result of a check.

    Attributes:
        columns: compared fields of :class:`Distance`.
        rows: N, H and W of each input, and how far its outputs are apart.
    """

    columns: list[str]
    rows: list[tuple[tuple[int, int, int], Distance]] = field(default_factory=list)

    @property
    def passes(self) -> bool:
        """Whether every row is within the tolerances."""
        return all(distance.passes for _, distance in self.rows)

    @property
    def may_pass(self) -> bool:
        """Whether rows that fail do so for nearly equal scores, as far as it shows."""
        return all(row.passes or row.may_pass for _, row in self.rows)

    @property
    def is_empty(self) -> bool:
        """Whether objects were to be compared, and there was none."""
        return 'objects' in self.columns and not any(d.objects for _, d in self.rows)

    def table(self) -> str:
        """Return a table with a line per input, and the tolerances."""
        lines = []
        for (count, height, width), row in self.rows:
            values = [getattr(row, name) for name in self.columns]
            cells = [str(v) if isinstance(v, int) else f'{v:.1e}' for v in values]
            lines.append([f'{count} of {height} x {width}', *cells])
        lines.append(['may be', *(_COLUMNS[name][1] for name in self.columns)])
        header = ['images', *(_COLUMNS[name][0] for name in self.columns)]
        return render(header, lines, 'table')


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
    whole = part.name != 'backbone'
    left_out = {'feature'} if 'masks' in part.outputs else {'feature', 'mask'}
    report = Report(
        [n for n in _COLUMNS if n not in left_out] if whole else ['feature']
    )
    for batch in batches:
        with torch.no_grad():
            features = tuple(part.model.backbone(batch.images))
        outputs = _run(run, part, batch, features)
        if whole:
            row = _compare_objects(part.model, batch, outputs, metadata)
        else:
            row = Distance(feature=_relative_difference(features, outputs))
        report.rows.append(((len(batch.sizes), *batch.images.shape[2:]), row))
    return report


def _open(paths: Sequence[Path], part: ExportPart) -> _Run:
    names = list(part.outputs)
    with _failing('does not open'):
        if len(paths) == 1:
            session = open_session(str(paths[0]), threads=torch.get_num_threads())
            return lambda inputs: list(session.run(names, inputs))
        request = compile_openvino(paths, torch.get_num_threads())
    return lambda inputs: list(map(request(inputs).__getitem__, names))


@contextlib.contextmanager
def _failing(how: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the runtime's own, of many kinds
        raise RunError(
            f'what was written {how}: {one_line(error)}', code='check-failed'
        ) from error


def _run(
    run: _Run, part: ExportPart, batch: Batch, features: tuple[Tensor, ...]
) -> list[Array]:
    arrays = {'images': batch.images, 'sizes': torch.tensor(batch.sizes).float()}
    arrays |= {f'feature_{index}': array for index, array in enumerate(features)}
    shape = ' x '.join(map(str, batch.images.shape))
    with _failing(f'stops at an input of {shape}'):
        return run({name: arrays[name].numpy() for name in part.inputs})


def _relative_difference(expected: Sequence[Tensor], outputs: Sequence[Array]) -> float:
    shares = []
    for own, other in zip(expected, outputs, strict=True):
        if own.shape != other.shape:
            return float('inf')
        largest = max(float(own.abs().max()), 1e-12)
        shares.append(np.abs(own.numpy() - other).max() / largest)
    return float(np.max(shares))


def _compare_objects(
    model: Any, batch: Batch, outputs: list[Array], metadata: Mapping[str, Any]
) -> Distance:
    total = Distance()
    with torch.no_grad():
        expected = model.predict(batch.images, batch.samples(), rescale=True)
    for index, sample in enumerate(expected):
        arrays = [array[index] for array in outputs]
        exported = _prediction(arrays, batch.sizes[index], model)
        own = Prediction.from_instances(sample.pred_instances)
        total.add(distance(own, exported, metadata))
    return total


def _prediction(arrays: list[Array], size: tuple[int, int], model: Any) -> Prediction:
    """Return the file's objects."""
    boxes, scores, labels, *maps = (array[arrays[2] >= 0] for array in arrays)
    masks = None
    if maps:
        threshold = model.roi_head.test_cfg.mask_thr_binary
        masks = paste_masks(maps[0], np.nan_to_num(boxes), size, threshold)
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
    rule = structs.replace(file.rule, size=None)  # a config has no input of one size
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
