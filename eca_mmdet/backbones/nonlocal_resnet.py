"""ResNet with one non-local block, the "1 NL" row of the published table.

Source: Wang et al., Non-local Neural Networks, CVPR 2018: one block right before the
last residual block of res4. mmdet's plugins reach every block of a stage, not one.
"""

from __future__ import annotations

from typing import Any

from mmcv.cnn.bricks import NonLocal2d
from mmdet.registry import MODELS
from mmengine.model import Sequential
from torch import Tensor, nn

from eca_mmdet.backbones.plugin_resnet import PluginResNet

RES4 = 2
"""Index of the stage that is called res4 in papers and ``layer3`` in code."""


class _NonLocalStage(Sequential):  # type: ignore[misc]
    """A stage whose block keys stay ``0..n-1``, so that ResNet weights still fit."""

    def __init__(self, blocks: nn.Sequential, non_local: nn.Module) -> None:
        super().__init__(*blocks)
        self.non_local = non_local

    def forward(self, x: Tensor) -> Tensor:
        *body, last, non_local = self
        for block in body:
            x = block(x)
        return last(non_local(x))  # type: ignore[no-any-return]


@MODELS.register_module()
class NonLocalResNet(PluginResNet):
    """ResNet with a non-local block before the last block of ``layer3``.

    The block starts as the identity (its last convolution is zero).

    Args:
        depth: 18, 34, 50, 101 or 152.
        reduction: the block's inner width is the stage's divided by this.
        **kwargs: as mmdet's ``ResNet``.
    """

    def __init__(self, depth: int, reduction: int = 2, **kwargs: Any) -> None:
        self._reduction = reduction
        super().__init__(depth, **kwargs)

    def make_res_layer(self, **kwargs: Any) -> nn.Sequential:
        """Build a stage; arguments as mmdet's ``ResLayer``."""
        stage = super().make_res_layer(**kwargs)
        if len(self.res_layers) != RES4:
            return stage
        channels = kwargs['planes'] * self.block.expansion
        return _NonLocalStage(stage, NonLocal2d(channels, reduction=self._reduction))
