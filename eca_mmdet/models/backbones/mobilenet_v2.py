"""ECA-MobileNetV2, the authors' small network.

Source: Sandler et al., MobileNetV2, arXiv:1801.04381; BangguWu/ECANet for the gate's
place (after the last norm of every inverted residual) and its kernel sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet.models.backbones.mobilenet_v2 import MobileNetV2
from mmdet.models.layers import InvertedResidual
from mmdet.registry import MODELS
from torch import Tensor, nn

from eca_mmdet.catalog.architectures import (
    MOBILENET_V2_KERNEL_SIZES,
    MOBILENET_V2_STAGES,
)
from eca_mmdet.models.attention.eca import ECALayer
from eca_mmdet.models.backbones.resnet import recompute, stage_kernel_sizes
from eca_mmdet.models.initialization import InitGuard


class ECAInvertedResidual(InvertedResidual):  # type: ignore[misc]
    """mmdet's ``InvertedResidual`` with a gate before the residual add."""

    def __init__(self, kernel_size: int | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.eca = ECALayer(kwargs['out_channels'], kernel_size)

    def _branch(self, x: Tensor) -> Tensor:
        out = self.expand_conv(x) if self.with_expand_conv else x
        gated: Tensor = self.eca(self.linear_conv(self.depthwise_conv(out)))
        return x + gated if self.with_res_shortcut else gated

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        return recompute(self._branch, x, self.with_cp)


@MODELS.register_module()
class ECAMobileNetV2(InitGuard, MobileNetV2):  # type: ignore[misc]
    """MobileNetV2 with an ECA gate at the end of every inverted residual.

    Args:
        kernel_sizes: sizes of the gates: one odd integer for each of the 7 stages; one
            for all; or 'adaptive'. The default is that of the authors' file: 1 under 96
            channels, otherwise 3.
        **kwargs: as mmdet's ``MobileNetV2``.
    """

    in_channels: int  # of the next block, while mmdet builds the stages

    def __init__(
        self,
        kernel_sizes: Sequence[int] | int | str = MOBILENET_V2_KERNEL_SIZES,
        **kwargs: Any,
    ) -> None:
        self.kernel_sizes = stage_kernel_sizes(
            kernel_sizes,
            len(MOBILENET_V2_STAGES),
            f"The authors' file uses {MOBILENET_V2_KERNEL_SIZES}.",
        )
        super().__init__(**kwargs)

    def make_layer(
        self, out_channels: int, num_blocks: int, stride: int, expand_ratio: int
    ) -> nn.Sequential:
        """Build a stage; arguments as mmdet's ``MobileNetV2.make_layer``."""
        blocks = []
        for number in range(num_blocks):
            blocks.append(
                ECAInvertedResidual(
                    self.kernel_sizes[len(self.layers)],  # mmdet lists finished stages
                    in_channels=self.in_channels,
                    out_channels=out_channels,
                    mid_channels=round(self.in_channels * expand_ratio),
                    stride=1 if number else stride,
                    with_expand_conv=expand_ratio != 1,
                    conv_cfg=self.conv_cfg,
                    norm_cfg=self.norm_cfg,
                    act_cfg=self.act_cfg,
                    with_cp=self.with_cp,
                )
            )
            self.in_channels = out_channels
        return nn.Sequential(*blocks)
