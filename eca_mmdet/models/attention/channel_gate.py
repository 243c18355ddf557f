"""What the gates share that scale channels by factors of their means."""

from __future__ import annotations

from torch import Tensor

from eca_mmdet.models.attention.gate import Gate


class ChannelGate(Gate):
    """Scale channels by factors computed from each channel's mean.

    A subclass defines :meth:`factors`. A residual block may then call that alone and
    put the factors where they cost least
    (:func:`eca_mmdet.models.lean.gated_residual.gated_residual`).
    """

    def factors(self, pooled: Tensor) -> Tensor:
        """(N, C) means to (N, C) factors."""
        raise NotImplementedError

    def gate(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, 1, 1)."""
        return self.factors(x.mean(dim=(2, 3)))[:, :, None, None]
