"""Gate values of trained detectors: the content of ``gates.json``.

The ECA-Net article (Wang et al., CVPR 2020, arXiv:1910.03151) plots the gates of the
last block of every stage by channel, averaged over the images of a class.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
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
from eca_mmdet.utils.text import printable

Floats = npt.NDArray[np.float64]

ClassesOf = Sequence[Collection[str]]  # names of the classes on each image
GateValues = list[tuple[Floats, Floats | None]]
"""For each image: (C,) means over positions, and (C,) standard deviations over
positions, None for a gate that is the same everywhere."""

_DIGITS = 6
_STAGE = re.compile(r'\.(?:layer|stage)(\d+)\.(?:(\d+)\.)?')
_OTHER_ATTENTION = {
    *(mechanism.layer['type'] for mechanism in MECHANISMS),
    *('SELayer', 'SEModule', 'EffectiveSEModule', 'EcaModule', 'CecaModule'),
    *('CbamModule', 'LightCbamModule', 'GatherExcite', 'GlobalContext', 'SplitAttn'),
}
"""Attention layers of mmcv, mmdet and timm, which are reported when not measured."""


@dataclass(frozen=True)
class Thresholds:
    """When a channel counts, as shares of the range of its gate.

    At 0.05 and 0.95 a sigmoid's slope is 0.0475, under a fifth of its largest: a
    channel beyond is closed or open on every image, and hardly learns any more (on
    saturation: Glorot and Bengio, AISTATS 2010).
    """

    dead: float = 0.05  # below it on all images
    saturated: float = 0.95  # above it on all images
    constant: float = 1e-3  # standard deviation over images below it: a fixed scale


def record_gates(
    checkpoints: Sequence[str],
    images: ImageSet,
    configs: Sequence[str | None] | None = None,
    device: str | None = None,
    thresholds: Thresholds | None = None,
) -> dict[str, Any]:
    """Load detectors, measure their gates, and return the content of ``gates.json``.

    ``images`` come from :func:`~eca_mmdet.analysis.gate_images.choose_images`; a config
    of None is the one embedded in the checkpoint, a device of None the best.
    """
    measured = []
    for checkpoint, config in zip(
        checkpoints, configs or [None] * len(checkpoints), strict=True
    ):
        detector = load_detector(checkpoint, config, device)
        gates = measure_gates(detector, images.images, images.classes_of, thresholds)
        file = {'file': str(detector.path), 'sha256': detector.sha256}
        measured.append({**file, **gates})
    return gates_record(measured, images, thresholds)


def gates_record(
    checkpoints: Sequence[Mapping[str, Any]],
    images: ImageSet,
    thresholds: Thresholds | None = None,
) -> dict[str, Any]:
    """Return the content of ``gates.json`` for results of :func:`measure_gates`."""
    counts = class_counts(images.classes_of or ())
    return {
        'images': len(images.images),
        'image_source': images.source,
        'classes': [{'name': name, 'images': n} for name, n in counts.items()],
        'thresholds': asdict(thresholds or Thresholds()),
        'checkpoints': [dict(checkpoint) for checkpoint in checkpoints],
    }


def class_counts(classes_of: ClassesOf) -> dict[str, int]:
    """Return the number of images of each class, most images first."""
    counts = Counter(name for names in classes_of for name in dict.fromkeys(names))
    return dict(counts.most_common())


def measure_gates(
    detector: ECADetector,
    images: Sequence[Path],
    classes_of: ClassesOf | None = None,
    thresholds: Thresholds | None = None,
) -> dict[str, Any]:
    """Run images one by one through backbone and neck, and describe every gate.

    An image goes through the detector's test pipeline and is padded as for a test of
    batch size 1; the gates see the padded map. A progress bar goes to stderr if that is
    a terminal.

    Returns:
        ``detector``, ``gates`` in the order in which they run, and ``left_out``: an
        entry of ``checkpoints`` in ``gates.json`` (docs/gates.md).
    """
    modules = detector.model.named_modules()
    gates = {name: module for name, module in modules if isinstance(module, Gate)}
    if not gates:
        raise UserError(_no_gates(detector), code='unsupported-model')
    measured = _gate_values(detector, gates, images)
    if not measured:
        raise UserError(
            f'{detector.path} has gates ({next(iter(gates))}, ...), and its backbone '
            'and neck run none of them.',
            code='unsupported-model',
        )
    classes_of = classes_of or ()
    with_class = {
        name: np.array([name in names for names in classes_of], bool)
        for name in class_counts(classes_of)
    }
    return {
        'detector': type(detector.model).__name__,
        'gates': [
            _describe(name, gates[name], values, with_class, thresholds or Thresholds())
            for name, values in measured.items()
        ],
        'left_out': _left_out(detector.model, gates, measured),
    }


def _gate_values(
    detector: ECADetector, gates: Mapping[str, Gate], images: Sequence[Path]
) -> dict[str, GateValues]:
    """Return the values of every gate that ran, in the order in which they ran.

    A lean block calls a gate that has hooks as a layer instead of folding it into its
    convolution (``folding.bypassable``), so that none is missed.
    """
    from rich.console import Console
    from rich.progress import track

    _require_images(images)
    calls: dict[str, list[Floats]] = {}  # of the image at hand: (C, H or 1, W or 1)

    def keep(name: str, module: Any, args: tuple[Tensor]) -> None:
        values = module.gate(args[0])[0].double().cpu().numpy()
        calls.setdefault(name, []).append(values)

    measured: dict[str, GateValues] = {}
    console = Console(stderr=True)
    with contextlib.ExitStack() as hooks, torch.no_grad():
        for name, gate in gates.items():
            hook = gate.register_forward_pre_hook(functools.partial(keep, name))
            hooks.callback(hook.remove)
        for image in track(
            images,
            'images',
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ):
            calls.clear()
            try:
                detector.model.extract_feat(detector.prepared(image)[0])
            except ValueError as error:  # of a layer that rejects so small a map
                raise UserError(
                    f'image {str(image)!r}: {error}', code='unsupported-model'
                ) from error
            for name, arrays in calls.items():
                if not all(np.isfinite(array).all() for array in arrays):
                    raise UserError(
                        f'the gate {name} is not a number on image {str(image)!r}: the '
                        'weights of the checkpoint have diverged. Take an earlier one.',
                        code='not-finite',
                    )
                # The mean over the calls, if a network runs a layer repeatedly.
                mean = np.mean([array.mean((1, 2)) for array in arrays], 0)
                spread = None
                if any(array[0].size > 1 for array in arrays):
                    spread = np.mean([array.std((1, 2)) for array in arrays], 0)
                measured.setdefault(name, []).append((mean, spread))
    return measured


def _require_images(images: Sequence[Path]) -> None:
    if not images:
        raise UserError(
            'there are no images to measure gates on. Give one or more.',
            code='no-images',
        )
    files = open_images(Path(), [str(image) for image in images])
    if files.missing:
        raise UserError(
            f'{len(files.missing)} of {len(images)} images do not exist; the first is '
            f'{next(iter(files.missing))!r}.',
            code='file-not-found',
        )
    if files.damaged:
        name, reason = next(iter(files.damaged.items()))
        raise UserError(
            f'{len(files.damaged)} of {len(images)} images cannot be read; the first '
            f'is {name!r}: {reason}. Get it again or remove it.',
            code='broken-image',
        )


def _no_gates(detector: ECADetector) -> str:
    backbone = type(getattr(detector.model, 'backbone', None)).__name__
    others = sorted({layer['layer'] for layer in _left_out(detector.model, {}, {})})
    has = f' It has {", ".join(others)}, which cannot be measured.' if others else ''
    return (
        f'{detector.path} is a {type(detector.model).__name__} with the backbone '
        f'{backbone}, and has no gates.{has} Expected is a detector with ECA, SE, '
        'CBAM or another layer that multiplies by a gate: see eca-mmdet attention list.'
    )


def _describe(
    name: str,
    gate: Gate,
    measured: GateValues,
    with_class: Mapping[str, npt.NDArray[np.bool_]],
    thresholds: Thresholds,
) -> dict[str, Any]:
    """Return a gate's entry of ``gates.json``."""
    place = _STAGE.search(f'.{name}.')
    stage, block = place.groups() if place else (None, None)
    values = np.stack([mean for mean, _ in measured])  # images x channels
    local = [spread for _, spread in measured if spread is not None]
    by_class = {name: values[chosen].mean(0) for name, chosen in with_class.items()}
    class_spread = None
    if len(by_class) > 1:
        class_spread = _rounded(np.std(list(by_class.values()), axis=0).mean())
    return {
        'name': name,
        'layer': type(gate).__name__,
        'stage': None if stage is None else int(stage),
        'block': None if block is None else int(block),
        'channels': values.shape[1],
        'range': list(gate.bounds),
        **_kernel(gate),
        'mean': _rounded(values.mean(0)),
        'deviation': _rounded(values.std(0)),
        'position_deviation': _rounded(np.mean(local, 0)) if local else None,
        'by_class': {name: _rounded(mean) for name, mean in by_class.items()},
        'class_spread': class_spread,
        **count_channels(values, gate.bounds, thresholds),
    }


def count_channels(
    values: Floats, bounds: tuple[float, float], thresholds: Thresholds
) -> dict[str, Any]:
    """Count the channels of (images, channels) values that carry little information.

    Returns:
        ``dead``, ``saturated``, ``constant`` (None with one image), and ``uniform``:
        all channels have the same mean, within ``thresholds.constant``.
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
    model: nn.Module, gates: Mapping[str, Gate], measured: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Return the attention layers that were not measured, and why."""
    layers = []
    for name, module in model.named_modules():
        layer = type(module).__name__
        if name in gates and name not in measured:
            reason = 'backbone and neck do not run it'
        elif name not in gates and layer in _OTHER_ATTENTION:
            reason = 'it adds to the map, or is no gate of this package'
        else:
            continue
        layers.append({'name': printable(name), 'layer': layer, 'reason': reason})
    return layers
