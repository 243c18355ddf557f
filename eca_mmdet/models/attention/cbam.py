"""Gates on channels and positions: CBAM and BAM.

Source: Woo et al., CBAM, ECCV 2018, arXiv:1807.06521; Park et al., BAM, BMVC 2018,
arXiv:1807.06514.
"""

from __future__ import annotations

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from eca_mmdet.models.attention.gate import (
    Gate,
    check_map,
    hidden_units,
    is_whole,
    reduction,
)

_KERNEL = 3


@MODELS.register_module()
class CBAM(Gate):
    """Scale channels by their means and maxima, then positions by those of channels.

    With F' = Mc * F::

        Mc = sigma(W1 relu(W0 avg(F)) + W1 relu(W0 max(F)))   over positions
        Ms = sigma(BN(conv([avg(F'); max(F')])))              over channels

    2C^2/r + 2k^2 weights. The norm is not in the paper's formula; the authors' code and
    timm have it, and it adds two parameters. The authors' code has max before avg in
    the convolution's input, where paper, timm and this have avg first.

    Args:
        ratio: r; the hidden layer has C / r units.
        kernel_size: k of the convolution over positions, odd.
        bias: whether the two layers of Mc have biases, as in the authors' code; the
            published parameter counts of ResNet-50 and -101 have none.
    """

    _abbr_ = 'cbam'

    def __init__(
        self,
        in_channels: int,
        ratio: int = 16,
        kernel_size: int = 7,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.fc = nn.Sequential(*reduction(in_channels, ratio, bias))
        if not is_whole(kernel_size) or kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(
                f'kernel_size must be a positive odd integer; got {kernel_size!r}. '
                'The paper uses 7.'
            )
        self.margin = kernel_size // 2
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=self.margin, bias=False)
        self.bn = nn.BatchNorm2d(1)

    def gate(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape, in (0, 1)."""
        channels = self._channels(x)
        return channels * self._positions(x * channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same, by one gate after the other."""
        # Their product is as large as x, and backward would keep it.
        refined = x * self._channels(x)
        return refined * self._positions(refined)

    def _channels(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, 1, 1)."""
        check_map(self, x, self.margin + 1, 'use a smaller kernel_size')
        pooled: Tensor = self.fc(x.mean((2, 3))) + self.fc(x.amax((2, 3)))
        return pooled.sigmoid()[:, :, None, None].to(x.dtype)

    def _positions(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, 1, H, W)."""
        maps = torch.cat([x.mean(1, True), x.amax(1, True)], 1)
        positions: Tensor = self.bn(self.conv(maps))
        return positions.sigmoid().to(x.dtype)


@MODELS.register_module()
class BAM(Gate):
    """Scale a map by 1 + sigma(Mc + Ms); the paper's place is between two stages.

    With F the map, f1x1 and f3x3 convolutions, the latter dilated by d::

        Mc = BN(W1 relu(W0 avg(F)))                         one value a channel
        Ms = BN(f1x1(relu(f3x3(relu(f3x3(relu(f1x1(F))))))))  one value a position

    C/r (3C + 2 k^2 C/r + 1) weights with k = 3, and biases and two norms beside them.
    This is the paper's formula, which does not write the ReLUs. The authors' code
    differs: norms inside both branches, and none at their ends; and it multiplies the
    branches where the paper adds them.

    As a plugin of this package's ResNets, after stages 1 to 3::

        plugins=[dict(cfg=dict(type='BAM'), position='after_stage',
                      stages=(True, True, True, False))]

    Args:
        ratio: r; both branches are C / r wide inside.
        dilation: d, in pixels.

    Shape:
        (N, C, H, W) to the same shape and dtype. With batch statistics (training, and
        no ``norm_eval``) N must be 2 or more.
    """

    _abbr_ = 'bam'
    bounds = (1.0, 2.0)

    def __init__(self, in_channels: int, ratio: int = 16, dilation: int = 4) -> None:
        super().__init__()
        hidden = hidden_units(in_channels, ratio)
        if not is_whole(dilation) or dilation < 1:
            raise ValueError(
                f'dilation must be a positive integer; got {dilation!r}. The paper '
                'uses 4.'
            )
        self.dilation = dilation
        dilated = dict(padding=dilation, dilation=dilation)
        self.channels = nn.Sequential(
            *reduction(in_channels, ratio, bias=True), nn.BatchNorm1d(in_channels)
        )
        self.positions = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, _KERNEL, **dilated),  # type: ignore[arg-type]
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, _KERNEL, **dilated),  # type: ignore[arg-type]
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, 1, 1),
            nn.BatchNorm2d(1),
        )

    def gate(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape, in (1, 2)."""
        check_map(self, x, self.dilation + 1, 'use a smaller dilation')
        channels: Tensor = self.channels(x.mean((2, 3)))
        both: Tensor = channels[:, :, None, None] + self.positions(x)
        return 1 + both.sigmoid()
