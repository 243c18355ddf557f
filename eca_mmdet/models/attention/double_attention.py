"""Double attention, the block of A2-Nets.

Source: Chen et al., A^2-Nets: Double Attention Networks, NeurIPS 2018,
arXiv:1810.11579.
"""

from __future__ import annotations

from mmengine.registry import MODELS
from torch import Tensor, nn

from eca_mmdet.models.attention.gate import hidden_units


@MODELS.register_module()
class DoubleAttention(nn.Module):
    """Gather features of the whole map by attention, and hand them out by attention.

    With 1x1 convolutions A (C to m), B and V (C to n) and m = n = C / r::

        G = A(x) softmax(B(x))^T     m x n; softmax over positions
        Z = G softmax(V(x))          m x positions; softmax over the n
        out = x + BN(conv1x1(Z))

    4C^2/r weights and a norm. It starts as the identity: the norm's scale is zero at
    first, so that pretrained features stay what they are. The paper's network has five
    such blocks, in res3 and res4 of ResNet-50.

    Args:
        ratio: r.
    """

    _abbr_ = 'a2'

    def __init__(self, in_channels: int, ratio: int = 4) -> None:
        super().__init__()
        hidden = hidden_units(in_channels, ratio)
        self.features = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.gather = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.distribute = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.out = nn.Conv2d(hidden, in_channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(in_channels)
        self.init_weights()

    def init_weights(self) -> None:
        """Make it the identity; mmengine calls this after its own initialisation."""
        nn.init.zeros_(self.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        maps = self.gather(x).flatten(2).softmax(2)
        descriptors = self.features(x).flatten(2) @ maps.transpose(1, 2)
        spread = descriptors @ self.distribute(x).flatten(2).softmax(1)
        added: Tensor = self.bn(self.out(spread.unflatten(2, x.shape[2:])))
        return x + added.to(x.dtype)
