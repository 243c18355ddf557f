"""An exported file against the detector that it is of: its runtime beside mmdet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eca_mmdet.compat import paste_masks
from eca_mmdet.export.onnx.writer import Part
from eca_mmdet.export.openvino import compiled, one_line
from eca_mmdet.export.verify.matching import Array, Distance, Limits, Objects, distance
from eca_mmdet.export.verify.samples import Batch
from eca_mmdet.utils.errors import RunError

Runner = Callable[[dict[str, Array]], list[Array]]
"""From the inputs by name to the outputs, in the order of the part's."""

FEATURE = 1e-4
"""Largest difference of a feature that passes, by the largest value of its map."""


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
    part: Part,
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


def _open(paths: Sequence[Path], part: Part) -> Runner:
    names = list(part.outputs)
    try:
        if len(paths) == 1:
            session = _session(paths[0])
            return lambda inputs: list(session.run(names, inputs))
        request = compiled(paths, torch.get_num_threads())
    except Exception as error:  # the runtime's own, of many kinds
        raise RunError(f'what was written does not open: {one_line(error)}') from error

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
    run: Runner, part: Part, batch: Batch, features: tuple[Tensor, ...]
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
            f'what was written stops at an input of {shape}: {one_line(error)}'
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
        own = _of_file([one[index] for one in found], batch.sizes[index], model)
        apart = distance(_of_mmdet(sample.pred_instances), own, limits)
        total.add(apart)
        bare += not apart.objects
    return total, bare


def _of_mmdet(found: Any) -> Objects:
    masks = np.asarray(found.masks.numpy(), bool) if 'masks' in found else None
    boxes, scores = found.bboxes.numpy(), found.scores.numpy()
    return Objects(boxes, scores, found.labels.numpy(), masks)


def _of_file(found: list[Array], size: tuple[int, int], model: Any) -> Objects:
    boxes, scores, labels = (one[found[2] >= 0] for one in found[:3])
    masks = None
    if len(found) > 3:
        probabilities = torch.from_numpy(found[3][found[2] >= 0])
        masks = _paste(probabilities, torch.from_numpy(boxes), size, model)
    return Objects(boxes, scores, labels, masks)


def _paste(masks: Tensor, boxes: Tensor, size: tuple[int, int], model: Any) -> Array:
    """Paste masks (K, h, w) as mmdet does, so that it is the graph that is compared."""
    if not len(masks):
        return np.zeros((0, *size), bool)
    pasted = paste_masks(masks[:, None], boxes, *size)
    threshold = model.roi_head.test_cfg.mask_thr_binary
    return np.asarray((pasted >= threshold).numpy())
