"""What the gates share that scale channels by factors of the pooled features."""

from __future__ import annotations

from torch import Tensor, nn


class ChannelGate(nn.Module):
    """Scale channels by factors computed from each channel's mean.

    A subclass defines :meth:`factors`. A residual block may then call that alone and
    put the factors where they cost least
    (:func:`eca_mmdet.ops.gated_residual.gated_residual`).
    """

    def factors(self, pooled: Tensor) -> Tensor:
        """(N, C) means to (N, C) factors."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same: x times one factor a sample and channel."""
        factors = self.factors(x.mean(dim=(2, 3)))
        # Under autocast the factors may be narrower than x; x keeps its dtype.
        return x * factors.to(x.dtype)[:, :, None, None]
