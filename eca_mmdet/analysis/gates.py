"""Gate values of a detector on images, recorded by forward hooks."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from eca_mmdet.analysis.gate_images import ImageSet
from eca_mmdet.catalog.mechanisms import MECHANISMS
from eca_mmdet.datasets.images import open_images
from eca_mmdet.inference.detector import ECADetector, load_detector
from eca_mmdet.models.attention import ECANS, ECALayer, Gate
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import describe_file
from eca_mmdet.utils.text import printable

Floats = npt.NDArray[np.float64]


@dataclass
class GateValues:
    """The values of one gate, a row an image.

    Attributes:
        values: (C,) each: means over positions.
        over_positions: (C,) each: standard deviations over positions; None for a gate
            that is the same everywhere.
    """

    values: list[Floats] = field(default_factory=list)
    over_positions: list[Floats | None] = field(default_factory=list)


def gate_values(
    detector: ECADetector,
    gates: Mapping[str, Gate],
    images: Sequence[Path],
) -> dict[str, GateValues]:
    """Run images one by one through backbone and neck.

    A progress bar goes to stderr if that is a terminal.

    Args:
        detector: in evaluation mode; it is left as it was.
        gates: of its model, by name.
        images: files.

    Returns:
        The values of every gate that ran, in the order in which they ran.

    Raises:
        UserError: no images, one that cannot be read or is too small for a gate, or
            gates that are not numbers.
    """
    from rich.console import Console
    from rich.progress import track

    _require_images(images)
    heard: dict[str, GateValues] = {}
    console = Console(stderr=True)
    for image in track(
        images,
        'images',
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ):
        for name, calls in _run(detector, gates, image).items():
            _add(heard.setdefault(name, GateValues()), calls)
    return heard


def _require_images(images: Sequence[Path]) -> None:
    if not images:
        raise UserError(
            'there are no images to measure gates on. Give one or more.',
            code='no-images',
        )
    found = open_images(Path(), [str(one) for one in images])
    if found.missing:
        name = next(iter(found.missing))
        raise UserError(
            f'{len(found.missing)} of {len(images)} images do not exist; the first is '
            f'{name!r}.',
            code='file-not-found',
        )
    if found.damaged:
        name, reason = next(iter(found.damaged.items()))
        raise UserError(
            f'{len(found.damaged)} of {len(images)} images cannot be read; the first '
            f'is {name!r}: {reason}. Get it again or remove it.',
            code='broken-image',
        )


def _run(
    detector: ECADetector, gates: Mapping[str, Gate], image: Path
) -> dict[str, list[Tensor]]:
    """Return every gate (1, C, H or 1, W or 1) of an image, in the order they run."""
    heard: dict[str, list[Tensor]] = {}
    inputs, _ = detector.prepared(image)
    try:
        with torch.no_grad(), _listening(gates, heard):
            detector.model.extract_feat(inputs)
    except ValueError as error:  # of a layer that refuses so small a map
        raise UserError(
            f'image {str(image)!r}: {error}', code='unsupported-model'
        ) from error
    for name, calls in heard.items():
        if not all(bool(call.isfinite().all()) for call in calls):
            raise UserError(
                f'the gate {name} is not a number on image {str(image)!r}: the weights '
                'of the checkpoint have diverged. Take an earlier one.',
                code='not-finite',
            )
    return heard


@contextlib.contextmanager
def _listening(
    gates: Mapping[str, Gate], heard: dict[str, list[Tensor]]
) -> Iterator[None]:
    """Collect what each gate multiplies its input by.

    A lean block calls a gate that has hooks as a layer instead of folding it into its
    convolution (``folding.bypassable``), so that none is missed.
    """

    def hook(name: str) -> Callable[..., None]:
        def hear(module: Any, args: tuple[Tensor]) -> None:
            heard.setdefault(name, []).append(module.gate(args[0]))

        return hear

    handles = [one.register_forward_pre_hook(hook(n)) for n, one in gates.items()]
    try:
        yield
    finally:
        for one in handles:
            one.remove()


def _add(heard: GateValues, calls: list[Tensor]) -> None:
    """Add an image: the mean over the calls, if a network runs a layer repeatedly."""
    arrays = [one[0].double().cpu().numpy() for one in calls]
    heard.values.append(np.mean([one.mean((1, 2)) for one in arrays], 0))
    local = any(one[0].size > 1 for one in arrays)
    spread = np.mean([one.std((1, 2)) for one in arrays], 0) if local else None
    heard.over_positions.append(spread)


ClassesOf = Sequence[Collection[str]]
"""The names of the classes on each image."""

_DIGITS = 6
_STAGE = re.compile(r'\.(?:layer|stage)(\d+)\.(?:(\d+)\.)?')
_OTHER_ATTENTION = {
    *(one.layer['type'] for one in MECHANISMS),
    *('SELayer', 'SEModule', 'EffectiveSEModule', 'EcaModule', 'CecaModule'),
    *('CbamModule', 'LightCbamModule', 'GatherExcite', 'GlobalContext', 'SplitAttn'),
}
"""Attention layers of mmcv, mmdet and timm, to be named where they are left out."""


@dataclass(frozen=True)
class Thresholds:
    """When a channel counts, as shares of the range of its gate.

    At 0.05 and 0.95 a sigmoid's slope is 0.0475, under a fifth of its largest: what
    lies beyond is closed or open on every image, and hardly learns any more (on
    saturation: Glorot and Bengio, AISTATS 2010).

    Attributes:
        dead: below it on all images.
        saturated: above it on all images.
        constant: standard deviation over images below it: the gate is a fixed scale.
    """

    dead: float = 0.05
    saturated: float = 0.95
    constant: float = 1e-3


def record_gates(
    checkpoints: Sequence[str],
    images: ImageSet,
    configs: Sequence[str | None] | None = None,
    device: str | None = None,
    thresholds: Thresholds | None = None,
) -> dict[str, Any]:
    """Load detectors, measure their gates, and return the content of ``gates.json``.

    Args:
        checkpoints: saved by mmengine in training.
        images: from :func:`~eca_mmdet.analysis.gates.images.choose_images`.
        configs: of each checkpoint; None for the embedded one.
        device: e.g. 'cuda:0'; None selects the best.
        thresholds: of the counted channels.

    Raises:
        UserError: as :func:`load_detector` and :func:`measure_gates`.
    """
    measured = []
    for checkpoint, config in zip(
        checkpoints, configs or [None] * len(checkpoints), strict=True
    ):
        detector = load_detector(checkpoint, config, device)
        found = measure_gates(detector, images.images, images.classes_of, thresholds)
        measured.append({**describe_file(detector.path), **found})
    return gates_record(measured, images, thresholds)


def measure_gates(
    detector: ECADetector,
    images: Sequence[Path],
    classes_of: ClassesOf | None = None,
    thresholds: Thresholds | None = None,
) -> dict[str, Any]:
    """Run images one by one through backbone and neck, and describe every gate.

    An image goes through the detector's test pipeline and is padded as for a test of
    batch size 1; the gates see the padded map.

    Args:
        detector: in evaluation mode; it is left as it was.
        images: files.
        classes_of: of each image; None for no classes.
        thresholds: of the counted channels.

    Returns:
        ``detector``, ``gates`` in the order in which they run, and ``left_out``: an
        entry of ``checkpoints`` in ``gates.json`` (docs/gates.md).

    Raises:
        UserError: no images, one that cannot be read, or no gate to measure.
    """
    modules = detector.model.named_modules()
    gates = {name: one for name, one in modules if isinstance(one, Gate)}
    if not gates:
        raise UserError(_no_gates(detector), code='unsupported-model')
    heard = gate_values(detector, gates, images)
    if not heard:
        raise UserError(
            f'{detector.path} has gates ({next(iter(gates))}, ...), and its backbone '
            'and neck run none of them.',
            code='unsupported-model',
        )
    on = _images_of(classes_of or ())
    at = thresholds or Thresholds()
    return {
        'detector': type(detector.model).__name__,
        'gates': [
            {**_name(name, gates[name]), **_describe(gates[name], one, on, at)}
            for name, one in heard.items()
        ],
        'left_out': _left_out(detector.model, gates, heard),
    }


def _images_of(classes_of: ClassesOf) -> dict[str, npt.NDArray[np.bool_]]:
    """Return which images have a class on them, by class."""
    return {
        name: np.array([name in one for one in classes_of], bool)
        for name in class_counts(classes_of)
    }


def gates_record(
    checkpoints: Sequence[Mapping[str, Any]],
    images: ImageSet,
    thresholds: Thresholds | None = None,
) -> dict[str, Any]:
    """Return the content of ``gates.json``.

    Args:
        checkpoints: of :func:`measure_gates`, each with ``file`` and ``sha256`` if
            they are known.
        images: as measured.
        thresholds: as measured.
    """
    counts = class_counts(images.classes_of or ())
    return {
        'images': len(images.images),
        'image_source': images.source,
        'classes': [{'name': name, 'images': n} for name, n in counts.items()],
        'thresholds': asdict(thresholds or Thresholds()),
        'checkpoints': [dict(one) for one in checkpoints],
    }


def class_counts(classes_of: ClassesOf) -> dict[str, int]:
    """Return the number of images of each class, most images first."""
    counts = Counter(name for one in classes_of for name in dict.fromkeys(one))
    return dict(counts.most_common())


def _no_gates(detector: ECADetector) -> str:
    backbone = type(getattr(detector.model, 'backbone', None)).__name__
    others = sorted({one['layer'] for one in _left_out(detector.model, {}, {})})
    found = f' It has {", ".join(others)}, which cannot be measured.' if others else ''
    return (
        f'{detector.path} is a {type(detector.model).__name__} with the backbone '
        f'{backbone}, and has no gates.{found} Expected is a detector with ECA, SE, '
        'CBAM or another layer that multiplies by a gate: see eca-mmdet attention.'
    )


def _name(name: str, gate: Gate) -> dict[str, Any]:
    place = _STAGE.search(f'.{name}.')
    stage, block = place.groups() if place else (None, None)
    return {
        'name': name,
        'layer': type(gate).__name__,
        'stage': None if stage is None else int(stage),
        'block': None if block is None else int(block),
    }


def _describe(
    gate: Gate,
    heard: GateValues,
    of_class: Mapping[str, npt.NDArray[np.bool_]],
    thresholds: Thresholds,
) -> dict[str, Any]:
    """Return what ``gates.json`` says of a gate, apart from its name."""
    values = np.stack(heard.values)  # images x channels
    local = [one for one in heard.over_positions if one is not None]
    by_class = {name: values[chosen].mean(0) for name, chosen in of_class.items()}
    spread = None
    if len(by_class) > 1:
        spread = _rounded(np.std(list(by_class.values()), axis=0).mean())
    return {
        'channels': values.shape[1],
        'range': list(gate.bounds),
        **_kernel(gate),
        'mean': _rounded(values.mean(0)),
        'deviation': _rounded(values.std(0)),
        'position_deviation': _rounded(np.mean(local, 0)) if local else None,
        'by_class': {name: _rounded(one) for name, one in by_class.items()},
        'class_spread': spread,
        **count_channels(values, gate.bounds, thresholds),
    }


def count_channels(
    values: Floats, bounds: tuple[float, float], thresholds: Thresholds
) -> dict[str, Any]:
    """Count the channels whose gate says little.

    Args:
        values: (images, channels).
        bounds: of the gate.
        thresholds: shares of the bounds' distance.

    Returns:
        ``dead``, ``saturated``, ``constant`` (None with one image, which says nothing
        about it), and ``uniform``: all channels have the same mean, within
        ``thresholds.constant``.
    """
    low, high = bounds
    share = (values - low) / (high - low)
    constant = int((share.std(0) < thresholds.constant).sum())
    return {
        'dead': int((share < thresholds.dead).all(0).sum()),
        'saturated': int((share > thresholds.saturated).all(0).sum()),
        'constant': constant if len(values) > 1 else None,
        'uniform': bool(share.mean(0).std() < thresholds.constant),
    }


def _kernel(gate: Gate) -> dict[str, Any]:
    """Return the weights of neighbouring channels, first channel first."""
    if isinstance(gate, ECALayer):
        return {'kernel': _rounded(gate.conv.weight.detach().double().cpu().flatten())}
    if isinstance(gate, ECANS):  # a kernel for each channel
        weights = gate.weight.detach().double().cpu().numpy()
        return {
            'kernel': _rounded(weights.mean(0)),
            'kernel_deviation': _rounded(weights.std(0)),
        }
    return {'kernel': None}


def _rounded(values: Any) -> Any:
    return np.round(np.asarray(values, np.float64), _DIGITS).tolist()


def _left_out(
    model: nn.Module, gates: Mapping[str, Gate], heard: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Name the attention layers that were not measured, and say why."""
    found = []
    for name, one in model.named_modules():
        layer = type(one).__name__
        if name in gates and name not in heard:
            reason = 'backbone and neck do not run it'
        elif name not in gates and layer in _OTHER_ATTENTION:
            reason = 'it adds to the map, or is no gate of this package'
        else:
            continue
        found.append({'name': printable(name), 'layer': layer, 'reason': reason})
    return found
