"""ECA whose weights are not shared.

Source: Wang et al., ECA-Net, CVPR 2020, arXiv:1910.03151, section 3.2.2 (ECA-NS).
"""

from __future__ import annotations

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from eca_mmdet.models.attention.eca import check_kernel_size, eca_kernel_size
from eca_mmdet.models.attention.gate import ChannelGate


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
