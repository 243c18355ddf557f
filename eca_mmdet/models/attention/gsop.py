"""Global second-order pooling: a gate from the covariance of channels.

Source: Gao et al., Global Second-order Pooling Convolutional Networks, CVPR 2019,
arXiv:1811.12006 (the channel-wise block of GSoP-Net1).
"""

from __future__ import annotations

from mmengine.registry import MODELS
from torch import Tensor, nn

from eca_mmdet.models.attention.gate import Gate, is_whole

_REDUCED = 128
_EXPANSION = 4


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
