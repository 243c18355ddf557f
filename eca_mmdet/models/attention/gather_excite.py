"""Gather-Excite: a gate from what lies within an extent of each position.

Source: Hu et al., Gather-Excite, NeurIPS 2018, arXiv:1810.12348.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from eca_mmdet.models.attention.gate import Gate, check_map, hidden_units, is_whole

_EXTENTS = (2, 4, 8)  # ratios of local extents in the paper; 0 is the whole map


class GatherExcite(Gate):
    """Scale a map by sigma(up(gather(x))), ``up`` the nearest neighbour.

    ``gather`` maps (N, C, H, W) to about 1 / extent of height and width.
    """

    def __init__(self, extent: int, gather: nn.Module) -> None:
        super().__init__()
        self.extent = extent
        self.gather = gather

    def gate(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape, or (N, C, 1, 1); in (0, 1)."""
        if self.extent:
            # Half of it: the last of several steps still has two values to gather.
            advice = 'use a smaller extent, or GEThetaMinus(extent=0)'
            check_map(self, x, self.extent // 2 + 1, advice)
        gathered: Tensor = self.gather(x).sigmoid()
        if self.extent == 0:
            return gathered
        return _nearest(gathered, x.shape[2], x.shape[3])


def _nearest(x: Tensor, height: int, width: int) -> Tensor:
    """Enlarge to (height, width); position i takes cell i * cells // size.

    ``F.interpolate`` computes that in float32 and takes the cell before at some sizes;
    onnxruntime does not.
    """
    rows, columns = (
        torch.arange(size, device=x.device) * cells // size
        for size, cells in ((height, x.shape[2]), (width, x.shape[3]))
    )
    return x.index_select(2, rows).index_select(3, columns)


class _AveragePool(nn.Module):
    """The mean within ``extent``, or of all positions."""

    def __init__(self, extent: int) -> None:
        super().__init__()
        self.extent = extent

    def forward(self, x: Tensor) -> Tensor:
        if self.extent == 0:
            return x.mean((2, 3), keepdim=True)
        size, padding = 2 * self.extent - 1, self.extent - 1
        return F.avg_pool2d(x, size, self.extent, padding, count_include_pad=False)


def _steps(channels: int, extent: int) -> list[nn.Module]:
    """Return log2(extent) depthwise 3x3 convolutions of stride 2."""
    layers: list[nn.Module] = []
    for step in range(extent.bit_length() - 1):
        if step:
            layers.append(nn.ReLU(inplace=True))
        conv = nn.Conv2d(
            channels, channels, 3, stride=2, padding=1, groups=channels, bias=False
        )
        layers += [conv, nn.BatchNorm2d(channels)]
    return layers


def _check_extent(extent: int, known: tuple[int, ...], reason: str) -> int:
    if not is_whole(extent) or extent not in known:
        raise ValueError(
            f'extent must be one of {", ".join(map(str, known))}; got {extent!r}. '
            f'{reason}'
        )
    return extent


_NO_GLOBAL = (
    'A global extent with parameters has a kernel of the size of the map, which a '
    'detector does not keep; GEThetaMinus(extent=0) has none.'
)


@MODELS.register_module()
class GEThetaMinus(GatherExcite):
    """GE-theta-minus: means within the extent, no parameters, no interaction.

    gate = sigma(up(avg_pool(x, 2e - 1, stride e))); with ``extent=0`` sigma(mean(x)),
    the paper's best without parameters, which is the default.

    Args:
        extent: e: 0 (the whole map), 2, 4 or 8 pixels.
    """

    _abbr_ = 'ge_theta_minus'

    def __init__(self, in_channels: int, extent: int = 0) -> None:
        _check_extent(extent, (0, *_EXTENTS), '0 is the whole map.')
        super().__init__(extent, _AveragePool(extent))


@MODELS.register_module()
class GETheta(GatherExcite):
    """GE-theta: the extent is gathered by depthwise convolutions.

    log2(e) convolutions 3x3 of stride 2, a norm after each, ReLU between: 9 C log2(e)
    weights. No interaction between channels.

    Args:
        extent: e: 2, 4 or 8 pixels. The paper's best is global, which needs maps of
            one size.

    Shape:
        (N, C, H, W) to the same shape and dtype. With batch statistics N must be 2 or
        more where the map is not larger than the extent.
    """

    _abbr_ = 'ge_theta'

    def __init__(self, in_channels: int, extent: int = 8) -> None:
        _check_extent(extent, _EXTENTS, _NO_GLOBAL)
        super().__init__(extent, nn.Sequential(*_steps(in_channels, extent)))


@MODELS.register_module()
class GEThetaPlus(GatherExcite):
    """GE-theta-plus: GE-theta's gather, ReLU, then SE's two layers as convolutions.

    9 C log2(e) + 2C^2/r weights. The ReLU is that of the authors' network
    (hujie-frank/GENet); timm has none there.

    Args:
        extent: e: 2, 4 or 8 pixels.
        ratio: r; the hidden layer has C / r channels.

    Shape:
        (N, C, H, W) to the same shape and dtype. With batch statistics N must be 2 or
        more where the map is not larger than the extent.
    """

    _abbr_ = 'ge_theta_plus'

    def __init__(self, in_channels: int, extent: int = 8, ratio: int = 16) -> None:
        _check_extent(extent, _EXTENTS, _NO_GLOBAL)
        hidden = hidden_units(in_channels, ratio)
        mlp = nn.Sequential(
            nn.ReLU(inplace=True),
            nn.Conv2d(in_channels, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, in_channels, 1),
        )
        super().__init__(extent, nn.Sequential(*_steps(in_channels, extent), mlp))
