"""Squeeze-and-Excitation, as the published detection tables use it.

s = sigma(W2 relu(W1 y)), y the means of the channels: 2C^2/r parameters.

Source: Hu et al., Squeeze-and-Excitation Networks, CVPR 2018. By default no bias and
r = 16: the parameter columns of the ECA-Net tables come out only so. Weight names
follow the common SE-ResNet (``layer1.0.se.fc.0.weight``, ``layer1.0.se.fc.2.weight``).
"""

from __future__ import annotations

from mmengine.registry import MODELS
from torch import Tensor, nn

from eca_mmdet.models.attention.gate import ChannelGate, reduction


@MODELS.register_module()
class SqueezeExcite(ChannelGate):
    """Scale channels by a gate from two fully connected layers.

    mmdet's own ``SELayer`` has other weight names and another gate.

    Args:
        ratio: r; the hidden layer has C / r units.
        bias: whether the layers have biases, as in timm's SE files.
    """

    _abbr_ = 'se'

    def __init__(self, in_channels: int, ratio: int = 16, bias: bool = False) -> None:
        super().__init__()
        self.fc = nn.Sequential(*reduction(in_channels, ratio, bias), nn.Sigmoid())

    def factors(self, pooled: Tensor) -> Tensor:
        """(N, C) means to (N, C) factors in (0, 1)."""
        gate: Tensor = self.fc(pooled)
        return gate
