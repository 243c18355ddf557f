"""Comparison of an exported file with its detector: outputs, metadata and a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eca_mmdet.compat import paste_masks
from eca_mmdet.export import matching
from eca_mmdet.export.matching import Array, Distance, Limits, distance
from eca_mmdet.export.processing import prepare
from eca_mmdet.export.runtime import OnnxDetector, open_session
from eca_mmdet.export.samples import Batch
from eca_mmdet.export.writer import ExportPart, compile_openvino, one_line
from eca_mmdet.inference.detector import ECADetector
from eca_mmdet.inference.prediction import Prediction
from eca_mmdet.utils.errors import RunError

Runner = Callable[[dict[str, Array]], list[Array]]
"""From the inputs by name to the outputs, in the order of the part's."""

FEATURE = 1e-4
"""Largest difference of a feature that passes, relative to its map's largest value."""

_SIDES = ((90, 160), (160, 90))
"""Height and width of a landscape and of a portrait image."""

_COLUMNS = {
    'objects': '',
    'only one': '0',
    'at a tie': f'{matching.TIES:.0%}',
    'box, px': f'{matching.BOX_PX:g}',
    'score': f'{matching.SCORE:g}',
    'mask pixels': f'{matching.MASK:g}',
}
"""Tolerances of objects by the column's title."""


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
    def objects(self) -> int:
        """Number of compared objects."""
        return sum(row.objects.objects for row in self.rows if row.objects)

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

    Args:
        paths: the ONNX file, or OpenVINO's XML file and weights.
        part: what is in them.
        metadata: of the file; thresholds are taken from it.
        batches: the inputs.

    Raises:
        RunError: onnxruntime or OpenVINO does not run what was written.
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
    """Compare what goes into the network by the file's metadata and by the config.

    Raises:
        UserError: the file cannot be opened.
        RunError: its metadata differ from the detector.
    """
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
    lines = [
        ['images', *columns],
        *map(_line, report.rows),
        ['may be', *columns.values()],
    ]
    if columns is _COLUMNS and not report.masks:
        lines = [line[:-1] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return '\n'.join(
        ''.join(f'  {cell:>{width}}' for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def _line(row: Row) -> list[str]:
    count, height, width = row.shape
    line = [f'{count} of {height} x {width}']
    if row.objects is None:
        return [*line, f'{row.features:.1e}']
    objects = row.objects
    counts = (objects.objects, objects.missing, objects.ties)
    values = (objects.box_px, objects.score, objects.mask)
    return [*line, *map(str, counts), *(f'{value:.1e}' for value in values)]
