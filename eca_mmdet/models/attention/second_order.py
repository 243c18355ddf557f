"""Second-order attention: double attention (A2-Nets), and covariance pooling (GSoP).

Source: Chen et al., A^2-Nets: Double Attention Networks, NeurIPS 2018,
arXiv:1810.11579; Gao et al., Global Second-order Pooling Convolutional Networks, CVPR
2019, arXiv:1811.12006 (the channel-wise block of GSoP-Net1).
"""

from __future__ import annotations

from mmengine.registry import MODELS
from torch import Tensor, nn

from eca_mmdet.models.attention.gate import Gate, hidden_units, is_whole

_REDUCED = 128
_EXPANSION = 4


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


@MODELS.register_module()
class GSoP(Gate):
    """Scale channels by a gate of the covariance matrix of reduced channels.

    Y = relu(BN(conv1x1(relu(x)))), d channels; S = cov(Y), d x d, over positions. Each
    row of S, normalised, gives 4 values (a grouped d x 1 convolution), and all 4 d of
    them the gate: sigma(W [4d] + b). C d + 4 d^2 + 4 d C weights, and biases and two
    norms beside them.

    The authors' code halves the first stage's map before the covariance, to save time;
    this does not.

    Args:
        reduced: d; None is 128, the authors', or C / 2 where C is below 256.
    """

    _abbr_ = 'gsop'

    def __init__(self, in_channels: int, reduced: int | None = None) -> None:
        super().__init__()
        if reduced is None:
            reduced = max(1, min(_REDUCED, in_channels // 2))
        if not is_whole(reduced) or not 1 <= reduced <= in_channels:
            raise ValueError(
                f'reduced must be an integer between 1 and in_channels '
                f'({in_channels}); got {reduced!r}.'
            )
        wide = _EXPANSION * reduced
        self.reduce = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(in_channels, reduced, 1),
            nn.BatchNorm2d(reduced),
            nn.ReLU(inplace=True),
        )
        self.row_bn = nn.BatchNorm2d(reduced)
        self.row_conv = nn.Conv2d(reduced, wide, (reduced, 1), groups=reduced)
        self.fc = nn.Conv2d(wide, in_channels, 1)

    def gate(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, 1, 1), in (0, 1)."""
        values: Tensor = self.reduce(x).flatten(2)
        centred = values - values.mean(2, keepdim=True)
        # By its root on both sides: in float16, 1 / positions would underflow.
        centred = centred / centred.shape[2] ** 0.5
        covariance = centred @ centred.transpose(1, 2)
        rows = self.row_bn(covariance.unsqueeze(3))
        gate: Tensor = self.fc(self.row_conv(rows))
        return gate.sigmoid()
