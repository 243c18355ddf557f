"""Squeeze-and-Excitation, and the gates between it and ECA: sigma(W y).

y are the means of the C channels. SE, as the published detection tables use it, is
sigma(W2 relu(W1 y)): 2C^2/r parameters, without biases, r = 16. The variants do not
reduce the dimensionality, and differ in which entries of the C x C matrix W are free:

- SE-Var1: none, W = I: no parameters;
- SE-Var2: the diagonal: C;
- SE-Var3: all: C^2;
- SE-GC: blocks on the diagonal, one a group of channels: C^2 / groups;
- ECA-NS (``ECANS``): a band of k diagonals: k C.

ECA (``ECALayer``) has the band, and one value a diagonal.

Source: Hu et al., Squeeze-and-Excitation Networks, CVPR 2018; Wang et al., ECA-Net,
CVPR 2020, arXiv:1910.03151, section 3.2. Weight names of SE follow the common SE-ResNet
(``layer1.0.se.fc.0.weight``, ``layer1.0.se.fc.2.weight``).
"""

from __future__ import annotations

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from eca_mmdet.models.attention.gate import ChannelGate, is_whole, reduction


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


@MODELS.register_module()
class SEVar1(ChannelGate):
    """SE-Var1: scale channels by sigma(y); no parameters, no interaction.

    It is GE-theta-minus of global extent.
    """

    _abbr_ = 'se_var1'

    def __init__(self, in_channels: int) -> None:
        super().__init__()

    def factors(self, pooled: Tensor) -> Tensor:
        """(N, C) means to (N, C) factors in (0, 1)."""
        return pooled.sigmoid()


@MODELS.register_module()
class SEVar2(ChannelGate):
    """SE-Var2: scale channels by sigma(w * y); C parameters, no interaction.

    The paper does not say how w starts; here at 1, which is SE-Var1.
    """

    _abbr_ = 'se_var2'

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(in_channels))

    def factors(self, pooled: Tensor) -> Tensor:
        """(N, C) means to (N, C) factors in (0, 1)."""
        return (self.weight * pooled).sigmoid()


@MODELS.register_module()
class SEVar3(ChannelGate):
    """SE-Var3: scale channels by sigma(W y); C^2 parameters, all interactions."""

    _abbr_ = 'se_var3'

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(in_channels, in_channels, bias=False)

    def factors(self, pooled: Tensor) -> Tensor:
        """(N, C) means to (N, C) factors in (0, 1)."""
        gate: Tensor = self.fc(pooled)
        return gate.sigmoid()


@MODELS.register_module()
class SEGC(ChannelGate):
    """Scale channels by sigma(W y), W block-diagonal; C^2 / G parameters.

    Args:
        groups: G, which divides C.
    """

    _abbr_ = 'se_gc'

    def __init__(self, in_channels: int, groups: int) -> None:
        super().__init__()
        if not is_whole(groups) or groups < 1 or in_channels % groups:
            raise ValueError(
                f'groups must divide the {in_channels} channels; got {groups!r}.'
            )
        self.conv = nn.Conv1d(in_channels, in_channels, 1, groups=groups, bias=False)

    def factors(self, pooled: Tensor) -> Tensor:
        """(N, C) means to (N, C) factors in (0, 1)."""
        gate: Tensor = self.conv(pooled.unsqueeze(2))
        return gate.squeeze(2).sigmoid()


@MODELS.register_module()
class SEGC1(SEGC):
    """SE-GC1: :class:`SEGC` of 16 groups; C^2 / 16 parameters."""

    _abbr_ = 'se_gc1'

    def __init__(self, in_channels: int, groups: int = 16) -> None:
        super().__init__(in_channels, groups)


@MODELS.register_module()
class SEGC2(SEGC):
    """SE-GC2: :class:`SEGC` of C / 16 groups; 16 C parameters.

    Args:
        group_size: channels of a group, which divide C.
    """

    _abbr_ = 'se_gc2'

    def __init__(self, in_channels: int, group_size: int = 16) -> None:
        if not is_whole(group_size) or group_size < 1 or in_channels % group_size:
            raise ValueError(
                f'group_size must divide the {in_channels} channels; got '
                f'{group_size!r}.'
            )
        super().__init__(in_channels, in_channels // group_size)


@MODELS.register_module()
class SEGC3(SEGC2):
    """SE-GC3: :class:`SEGC` of C / 8 groups; 8 C parameters."""

    _abbr_ = 'se_gc3'

    def __init__(self, in_channels: int, group_size: int = 8) -> None:
        super().__init__(in_channels, group_size)
