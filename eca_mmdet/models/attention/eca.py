"""Efficient Channel Attention, and its variant whose weights are not shared (ECA-NS).

Source: Wang et al., ECA-Net, CVPR 2020, arXiv:1910.03151. Weight names and shapes
follow BangguWu/ECANet.
"""

from __future__ import annotations

import math

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from eca_mmdet.models.attention.gate import ChannelGate, is_whole


def eca_kernel_size(channels: int, gamma: float = 2, b: float = 1) -> int:
    """Return psi(C), the paper's adaptive kernel size.

    ``|log2(C) / gamma + b / gamma|`` is truncated, and one is added if that is even,
    as the authors' code rounds it.

    >>> [eca_kernel_size(c) for c in (64, 128, 256, 512, 1024, 2048)]
    [3, 5, 5, 5, 5, 7]
    """
    if channels < 1 or gamma <= 0:
        raise ValueError(
            f'channels must be at least 1 and gamma positive; got {channels}, {gamma}.'
        )
    size = int(abs((math.log2(channels) + b) / gamma))
    return size if size % 2 else size + 1


def check_kernel_size(kernel_size: object) -> int:
    """Return ``kernel_size`` if it is a positive odd integer, or raise ValueError."""
    if not is_whole(kernel_size) or kernel_size < 1 or kernel_size % 2 == 0:  # type: ignore[operator]
        raise ValueError(
            f'an ECA kernel size must be a positive odd integer; got {kernel_size!r}. '
            'Released weights use 3, 5 and 7.'
        )
    return kernel_size  # type: ignore[return-value]


@MODELS.register_module()
class ECALayer(ChannelGate):
    """Scale channels by a sigmoid gate computed across neighbouring channels.

    As a plugin of any mmdet backbone, at ECA's place in a bottleneck::

        plugins=[dict(cfg=dict(type='ECALayer', kernel_size=3),
                      position='after_conv3')]

    Args:
        kernel_size: Odd width of the 1-D convolution, in channels; None computes
            it from C with :func:`eca_kernel_size`, ``gamma`` and ``b``.
        circular: the first channel is the last one's neighbour (timm's CECA); by
            default there are zeros beyond both ends, as in the paper. The weights have
            the same name and shape.

    Shape:
        (N, C, H, W) to the same shape, dtype and memory format; any H and W.
    """

    _abbr_ = 'eca'

    def __init__(
        self,
        in_channels: int,
        kernel_size: int | None = None,
        gamma: float = 2,
        b: float = 1,
        circular: bool = False,
    ) -> None:
        super().__init__()
        if kernel_size is None:
            kernel_size = eca_kernel_size(in_channels, gamma, b)
        check_kernel_size(kernel_size)
        if circular and kernel_size > in_channels:
            raise ValueError(
                f'a circular kernel of {kernel_size} goes round all {in_channels} '
                'channels; use a smaller kernel_size.'
            )
        self.circular = circular
        self.margin = kernel_size // 2
        padding = 0 if circular else self.margin
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=padding, bias=False)

    def factors(self, pooled: Tensor) -> Tensor:
        """(N, C) means to (N, C) factors in (0, 1)."""
        if self.circular and self.margin:
            ends = pooled[:, -self.margin :], pooled[:, : self.margin]
            pooled = torch.cat([ends[0], pooled, ends[1]], dim=1)
        gate: Tensor = self.conv(pooled.unsqueeze(1)).squeeze(1).sigmoid()
        return gate


@MODELS.register_module()
class ECANS(ChannelGate):
    """Scale channels by a gate of k neighbours, which every channel weighs by itself.

    factor_c = sigma(sum_j w_cj y_(c + j - (k - 1) / 2)), j from 0 to k - 1, zeros
    beyond the ends: k C parameters, where ECA shares k among all channels.

    Args:
        kernel_size: k, odd; None computes it from C with
            :func:`~eca_mmdet.models.attention.eca.eca_kernel_size`, ``gamma``
            and ``b``.
    """

    _abbr_ = 'eca_ns'

    def __init__(
        self,
        in_channels: int,
        kernel_size: int | None = None,
        gamma: float = 2,
        b: float = 1,
    ) -> None:
        super().__init__()
        if kernel_size is None:
            kernel_size = eca_kernel_size(in_channels, gamma, b)
        self.kernel_size = check_kernel_size(kernel_size)
        bound = kernel_size**-0.5  # as a convolution of this fan-in starts
        weight = torch.empty(in_channels, kernel_size).uniform_(-bound, bound)
        self.weight = nn.Parameter(weight)

    def factors(self, pooled: Tensor) -> Tensor:
        """(N, C) means to (N, C) factors in (0, 1)."""
        margin = self.kernel_size // 2
        padded = nn.functional.pad(pooled, (margin, margin))
        count = self.weight.shape[0]
        # Not ``padded.unfold``, which does not export to ONNX for any batch.
        windows = [padded[:, at : at + count] for at in range(self.kernel_size)]
        return (torch.stack(windows, 2) * self.weight).sum(2).sigmoid()
