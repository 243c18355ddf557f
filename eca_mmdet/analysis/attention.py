"""Properties and costs of attention layers, measured by running them.

The ECA-Net article lists whether a mechanism reduces the dimensionality (DR), whether
channels interact (CCI), and its parameters. Here they are recomputed from the layers.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from eca_mmdet import registration
from eca_mmdet.analysis.complexity import medians
from eca_mmdet.analysis.exact_cost import Meter
from eca_mmdet.catalog.mechanisms import MECHANISMS, Mechanism
from eca_mmdet.catalog.published import published
from eca_mmdet.models.attention.gate import Gate
from eca_mmdet.utils.errors import UserError

_SIDE = 8
_CHUNK = 128
_TOLERANCE = 1e-9
_ATTEMPTS = 10


@dataclass(frozen=True)
class Properties:
    """How the gate at one position depends on the channels at another.

    ``rank`` is that of the C x C Jacobian. The layer reduces the dimensionality (DR) if
    it is at most C / 2; channels interact (CCI) if there are entries off the diagonal.
    """

    rank: int
    reduces: bool
    interacts: bool


@dataclass(frozen=True)
class MechanismRow:
    """One attention mechanism, as listed by ``eca-mmdet attention list --json``.

    ``published_parameters`` is the formula in the paper's tables, '' if not given;
    ``gflops`` and the median ``milliseconds`` are those of one inference, in 10^9 and
    ms; ``reported_top1`` is ResNet-50's published ImageNet accuracy in percent.
    """

    key: str
    name: str
    layer: dict[str, Any]
    source: str
    reduces: bool
    interacts: bool
    rank: int
    parameters: int
    published_parameters: str
    gflops: float
    milliseconds: float
    reported_top1: float | None


def compare_mechanisms(
    mechanisms: Sequence[Mechanism] = (),
    channels: int = 256,
    size: tuple[int, int] = (50, 80),
    rounds: int = 9,
) -> list[MechanismRow]:
    """Compute properties and costs of attention mechanisms on one feature map.

    All mechanisms by default; ``size`` is the height and width of the map, and times
    are the median of ``rounds``.
    """
    registration.register()
    mechanisms = mechanisms or MECHANISMS
    shape = (1, channels, *size)
    layers = []
    for mechanism in mechanisms:
        try:
            layers.append(build_layer(mechanism, channels))
        except ValueError as error:
            raise UserError(
                f'{mechanism.name} cannot have {channels} channels: {error}',
                code='option-invalid',
            ) from error
    try:
        times = time_layers(layers, shape, rounds)
    except ValueError as error:
        raise UserError(
            f'--size {size[0]} {size[1]}: {error}', code='option-invalid'
        ) from error
    return [
        MechanismRow(
            key=mechanism.key,
            name=mechanism.name,
            layer=dict(mechanism.layer),
            source=mechanism.source,
            **asdict(properties(layer, channels)),
            parameters=sum(p.numel() for p in layer.parameters()),
            published_parameters=mechanism.published,
            gflops=operations(build_layer(mechanism, channels, 'meta'), shape) / 1e9,
            milliseconds=spent,
            reported_top1=reported_top1(mechanism),
        )
        for mechanism, layer, spent in zip(mechanisms, layers, times, strict=True)
    ]


def reported_top1(mechanism: Mechanism) -> float | None:
    """Return ResNet-50's published ImageNet top-1 in percent; None if there is none."""
    variants = published()['attention']['imagenet']['rows']
    known = {row['name']: row['top1'] for row in variants}
    for row in published()['imagenet']['rows']:
        if row.get('depth') == 50:
            known.setdefault(row['attention'], row['top1'])
    top1 = known.get(mechanism.imagenet or mechanism.name)
    return None if top1 is None else float(top1)


def build_layer(mechanism: Mechanism, channels: int, device: str = 'cpu') -> nn.Module:
    """Return the mechanism's layer in evaluation mode.

    Raises ValueError where it cannot have so many channels.
    """
    from mmcv.cnn import build_plugin_layer

    with torch.device(device):
        _, layer = build_plugin_layer(dict(mechanism.layer), in_channels=channels)
    layer.eval()
    return layer  # type: ignore[no-any-return]


def properties(layer: nn.Module, channels: int, seed: int = 0) -> Properties:
    """Compute DR and CCI from the Jacobian, at random weights; the layer's are lost."""
    for attempt in range(seed, seed + _ATTEMPTS):
        matrix = jacobian(layer, channels, attempt)
        largest = matrix.abs().max()
        if largest:  # the few ReLUs of a narrow layer may let nothing through
            break
    else:
        raise RuntimeError(
            f'{type(layer).__name__}: the gate does not depend on the map.'
        )
    rank = int(torch.linalg.matrix_rank(matrix, rtol=_TOLERANCE))
    off_diagonal = matrix - matrix.diagonal().diag()
    return Properties(
        rank,
        reduces=rank <= channels // 2,
        interacts=bool(off_diagonal.abs().max() > _TOLERANCE * largest),
    )


def jacobian(layer: nn.Module, channels: int, seed: int = 0) -> Tensor:
    """Return d gate(p) / d x(q), (C, C) in float64, at random weights.

    The gate is what multiplies the map, or what is added to it. p and q are neighbours
    in the middle of an 8 x 8 map.
    """
    generator = torch.Generator().manual_seed(seed)
    layer.double().eval()
    _randomise(layer, generator)
    middle = _SIDE // 2
    x = torch.randn(
        (1, channels, _SIDE, _SIDE), generator=generator, dtype=torch.float64
    )
    rows = []
    for start in range(0, channels, _CHUNK):
        chosen = torch.arange(start, min(start + _CHUNK, channels))
        # A copy of the map for each row, so that one backward pass is enough.
        copies = x.repeat(len(chosen), 1, 1, 1).requires_grad_()
        gate = layer.gate(copies) if isinstance(layer, Gate) else layer(copies) - copies
        at_p = gate.expand(-1, -1, _SIDE, _SIDE)[:, :, middle, middle]
        total = at_p[torch.arange(len(chosen)), chosen].sum()
        (gradient,) = torch.autograd.grad(total, copies, materialize_grads=True)
        rows.append(gradient[:, :, middle, middle - 1])
    return torch.cat(rows)


def _randomise(layer: nn.Module, generator: torch.Generator) -> None:
    """Fill parameters; biases are positive, so that ReLUs let most through."""
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            values = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
            if weight.dim() > 1:
                values /= weight[0].numel() ** 0.5
            elif name.endswith('bias'):
                values = 2 + values.abs()
            weight.copy_(values)


def operations(layer: nn.Module, shape: Sequence[int]) -> int:
    """Count the operations of a layer on the meta device.

    Multiply-adds of convolutions and matrix products; for everything else one for each
    element of the largest tensor that it reads or writes, copies included.
    """
    x = torch.empty(*shape, device='meta')
    with torch.no_grad(), FlopCounterMode(display=False) as flops, Meter() as meter:
        layer(x)
    return int(flops.get_total_flops() // 2 + meter.elements)


def time_layers(
    layers: Sequence[nn.Module], shape: Sequence[int], rounds: int, warm_up: int = 2
) -> list[float]:
    """Return each layer's median milliseconds of inference on the CPU, in turns.

    ``shape`` is (N, C, H, W) of the input.
    """
    x = torch.rand(*shape)
    runs = [functools.partial(layer, x) for layer in layers]
    with torch.no_grad():
        return medians(runs, x.device, rounds, warm_up)
