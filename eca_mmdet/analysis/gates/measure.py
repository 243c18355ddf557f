"""Gate values of a detector on images, recorded by forward hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eca_mmdet.datasets.images import open_images
from eca_mmdet.inference.detector import ECADetector
from eca_mmdet.models.attention import Gate
from eca_mmdet.utils.errors import UserError

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
