"""Base classes of the attention layers that multiply a map, and their checks."""

from __future__ import annotations

from torch import Tensor, nn

from eca_mmdet.catalog.mechanisms import ADDING_LAYERS
from eca_mmdet.utils.errors import UserError


class Gate(nn.Module):
    """Multiply a map by a gate computed from it.

    A subclass defines :meth:`gate`. Random weights make a random gate, which spoils the
    features of a pretrained network until it is trained; a layer that *adds* to the
    map, and starts at zero, does not.
    """

    bounds: tuple[float, float] = (0.0, 1.0)
    """Between which the gate's values lie: closed, and open."""

    def gate(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to what multiplies it; 1 in every direction it is equal in."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same: x times its gate."""
        # Under autocast the gate may be narrower than x; x keeps its dtype.
        return x * self.gate(x).to(x.dtype)


def is_attention(layer: nn.Module) -> bool:
    """Tell whether a layer is a gate, or attention that adds to the map."""
    return isinstance(layer, Gate) or type(layer).__name__ in ADDING_LAYERS


class ChannelGate(Gate):
    """Base class of gates on channels that are computed from each channel's mean.

    A subclass defines :meth:`factors`. A residual block may then call only that and
    put the factors where they cost least
    (:func:`eca_mmdet.models.lean.fused.gated_residual`).
    """

    def factors(self, pooled: Tensor) -> Tensor:
        """(N, C) means to (N, C) factors."""
        raise NotImplementedError

    def gate(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, 1, 1)."""
        return self.factors(x.mean(dim=(2, 3)))[:, :, None, None]

    @property
    def is_foldable(self) -> bool:
        """Whether the layer does nothing but multiply by :meth:`factors` of means."""
        kind = type(self)
        return (kind.forward, kind.gate) == (ChannelGate.forward, ChannelGate.gate)


def is_whole(value: object) -> bool:
    """Tell whether a value is an integer and no boolean."""
    return isinstance(value, int) and not isinstance(value, bool)


def hidden_units(in_channels: int, ratio: int) -> int:
    """Return C / r, the width inside a layer that reduces channels."""
    if not is_whole(ratio) or not 1 <= ratio <= in_channels:
        raise ValueError(
            f'ratio must be an integer between 1 and in_channels ({in_channels}), so '
            f'that a hidden unit is left; got {ratio!r}.'
        )
    if in_channels % ratio:
        raise ValueError(f'ratio must divide the {in_channels} channels; got {ratio}.')
    return in_channels // ratio


def reduction(in_channels: int, ratio: int, bias: bool = False) -> list[nn.Module]:
    """Return two linear layers with a ReLU between them: C to C / r to C."""
    hidden = hidden_units(in_channels, ratio)
    return [
        nn.Linear(in_channels, hidden, bias=bias),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, in_channels, bias=bias),
    ]


class MapSizeError(UserError, ValueError):
    """A feature map is too small for a layer, since the images are."""

    code = 'config-invalid'


def check_map(layer: nn.Module, x: Tensor, least: int, advice: str) -> None:
    """Reject a map (N, C, H, W) whose larger side is under ``least`` pixels."""
    height, width = x.shape[-2:]
    if max(height, width) < least:
        raise MapSizeError(
            f'{type(layer).__name__} needs a map of {least} pixels or more in height '
            f'or width; got {height} x {width}. Enlarge the images, or {advice}.'
        )
