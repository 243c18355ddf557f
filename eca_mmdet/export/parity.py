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
from eca_mmdet.export.matching import (
    BOX_PX,
    MASK,
    SCORE,
    TIES,
    Array,
    Distance,
    Limits,
    distance,
)
from eca_mmdet.export.processing import prepare
from eca_mmdet.export.runtime import open_onnx
from eca_mmdet.export.samples import Batch
from eca_mmdet.export.writer import ExportPart, compiled, one_line
from eca_mmdet.inference.detector import ECADetector
from eca_mmdet.inference.prediction import Prediction
from eca_mmdet.utils.errors import RunError

Runner = Callable[[dict[str, Array]], list[Array]]
"""From the inputs by name to the outputs, in the order of the part's."""

FEATURE = 1e-4
"""Largest difference of a feature that passes, by the largest value of its map."""

_SIDES = ((90, 160), (160, 90))
"""Height and width of an image that lies, and of one that stands."""

_OBJECTS = ('objects', 'only one', 'at a tie', 'box, px', 'score', 'mask pixels')


@dataclass
class Row:
    """One input and what came of it.

    Attributes:
        shape: of the images, N, H and W.
        features: largest difference, by the largest value; None if not compared.
        objects: how far they are apart; None if not compared.
        bare: images without an object that both have.
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
    """What a check found.

    Attributes:
        rows: one an input.
        masks: whether the objects have any.
    """

    rows: list[Row] = field(default_factory=list)
    masks: bool = False

    @property
    def passes(self) -> bool:
        """Whether every row does."""
        return all(row.passes for row in self.rows)

    @property
    def objects(self) -> int:
        """How many were compared."""
        return sum(row.objects.objects for row in self.rows if row.objects)

    @property
    def images(self) -> int:
        """How many went in."""
        return sum(row.shape[0] for row in self.rows)

    @property
    def bare(self) -> int:
        """How many of them had nothing to compare."""
        return sum(row.bare for row in self.rows)


def compare(
    paths: Sequence[Path],
    part: ExportPart,
    model: Any,
    metadata: dict[str, Any],
    batches: list[Batch],
) -> Report:
    """Run the file and the detector on the same arrays.

    Args:
        paths: of the ONNX file, or of OpenVINO's XML and weights.
        part: what is in them.
        model: the detector, whose own ``predict`` is the reference.
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
            features = tuple(model.backbone(batch.images))
        found = _run(run, part, batch, features)
        if part.name == 'backbone':
            row.features = _apart(features, found)
        else:
            limits = Limits(
                metadata['score_threshold'],
                metadata['nms_iou'],
                metadata['max_per_image'],
            )
            row.objects, row.bare = _objects_apart(model, batch, found, limits)
        report.rows.append(row)
    return report


def _open(paths: Sequence[Path], part: ExportPart) -> Runner:
    names = list(part.outputs)
    try:
        if len(paths) == 1:
            session = _session(paths[0])
            return lambda inputs: list(session.run(names, inputs))
        request = compiled(paths, torch.get_num_threads())
    except Exception as error:  # the runtime's own, of many kinds
        raise RunError(
            f'what was written does not open: {one_line(error)}', code='check-failed'
        ) from error

    def run(inputs: dict[str, Array]) -> list[Array]:
        found = request(inputs)
        return [found[name] for name in names]

    return run


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; they are raised as well
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(
        str(path), options, providers=['CPUExecutionProvider']
    )


def _run(
    run: Runner, part: ExportPart, batch: Batch, features: tuple[Tensor, ...]
) -> list[Array]:
    sizes = torch.tensor(batch.sizes).float()
    arrays = {'images': batch.images, 'sizes': sizes}
    arrays |= {f'feature_{index}': one for index, one in enumerate(features)}
    inputs = {name: arrays[name].numpy() for name in part.inputs}
    try:
        return run(inputs)
    except Exception as error:  # the runtime's own, of many kinds
        shape = ' x '.join(map(str, batch.images.shape))
        raise RunError(
            f'what was written stops at an input of {shape}: {one_line(error)}',
            code='check-failed',
        ) from error


def _apart(wanted: Sequence[Tensor], found: Sequence[Array]) -> float:
    shares = []
    for one, other in zip(wanted, found, strict=True):
        if one.shape != other.shape:
            return float('inf')
        largest = max(float(one.abs().max()), 1e-12)
        shares.append(np.abs(one.numpy() - other).max() / largest)
    return float(np.max(shares))


def _objects_apart(
    model: Any, batch: Batch, found: list[Array], limits: Limits
) -> tuple[Distance, int]:
    total, bare = Distance(), 0
    with torch.no_grad():
        wanted = model.predict(batch.images, batch.samples(), rescale=True)
    for index, sample in enumerate(wanted):
        own = _of_file([array[index] for array in found], batch.sizes[index], model)
        apart = distance(Prediction.from_instances(sample.pred_instances), own, limits)
        total.add(apart)
        bare += not apart.objects
    return total, bare


def _of_file(found: list[Array], size: tuple[int, int], model: Any) -> Prediction:
    boxes, scores, labels = (array[found[2] >= 0] for array in found[:3])
    masks = None
    if len(found) > 3:
        probabilities = torch.from_numpy(found[3][found[2] >= 0])
        masks = _paste(probabilities, torch.from_numpy(boxes), size, model)
    return Prediction(boxes, scores, labels, masks)


def _paste(masks: Tensor, boxes: Tensor, size: tuple[int, int], model: Any) -> Array:
    """Paste masks (K, h, w) as mmdet does, so that it is the graph that is compared."""
    if not len(masks):
        return np.zeros((0, *size), bool)
    pasted = paste_masks(masks[:, None], boxes, *size)
    threshold = model.roi_head.test_cfg.mask_thr_binary
    return np.asarray((pasted >= threshold).numpy())


def require_same_input(path: Path, trained: ECADetector) -> None:
    """Compare what goes into the network: the file's images and the config's.

    Args:
        path: of the file of a whole detector.
        trained: a :class:`~eca_mmdet.inference.detector.ECADetector`.

    Raises:
        UserError: the file cannot be opened.
        RunError: its metadata say something else than the detector does.
    """
    file = open_onnx(str(path), threads=1)
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
        found = prepare(image, rule)
        images, size = trained.prepared(image)
        same = np.array_equal(found.images, images.cpu().numpy())
        if not same or found.sizes.tolist() != [list(size)]:
            raise RunError(
                f'of an image of {width} x {height} the metadata of the file make '
                'another input than the test pipeline of the config.',
                code='check-failed',
            )


def table(report: Report) -> str:
    """Return a table: a line an input, and the tolerances."""
    if report.rows[0].objects is None:
        heads: tuple[str, ...] = ('features',)
        last = [f'{FEATURE:g}']
    else:
        heads = _OBJECTS
        last = ['', '0', f'{TIES:.0%}', f'{BOX_PX:g}', f'{SCORE:g}', f'{MASK:g}']
    lines = [['images', *heads], *map(_line, report.rows), ['may be', *last]]
    if report.rows[0].objects is not None and not report.masks:
        lines = [line[:-1] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return '\n'.join(
        '  '
        + '  '.join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def _line(row: Row) -> list[str]:
    count, height, width = row.shape
    line = [f'{count} of {height} x {width}']
    if row.objects is None:
        return [*line, f'{row.features:.1e}']
    found = row.objects
    values = (found.box_px, found.score, found.mask)
    counts = (found.objects, found.missing, found.ties)
    return [*line, *map(str, counts), *(f'{value:.1e}' for value in values)]
