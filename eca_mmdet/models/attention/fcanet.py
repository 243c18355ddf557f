"""FcaNet's gate: SE whose pooling is a coefficient of the discrete cosine transform.

Source: Qin et al., FcaNet: Frequency Channel Attention Networks, ICCV 2021,
arXiv:2012.11879; frequencies, sizes and weight names follow cfzd/FcaNet.
"""

from __future__ import annotations

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from eca_mmdet.models.attention.gate import Gate, is_whole, reduction
from eca_mmdet.models.dct import GRID, separable_filters
from eca_mmdet.models.lean.folding import no_autocast


@MODELS.register_module()
class FcaNet(Gate):
    """Scale channels by sigma(W2 relu(W1 y)), y_c one frequency of channel c.

    The channels are divided among the frequencies in order. The map is averaged to
    ``size`` x ``size`` if it is of another size; then
    y_c = sum over h, w of x_chw f_u(h) f_v(w), where f_u is the orthonormal DCT-II
    basis of ``size`` points and (u, v) the channel's frequency. With the one frequency
    (0, 0) this is SE of ``size`` times the mean. 2C^2/r parameters, as SE. The filters
    follow from the arguments and are in no checkpoint; those in a file of the authors'
    are held against them when it is loaded.

    Args:
        ratio: r; the hidden layer has C / r units.
        size: side of the transform in pixels, a multiple of 7. This package's ResNets
            give 56, 28, 14 and 7 to their stages, as the authors do, where it is not
            set.
        frequencies: how many of the best 16; 1, 2, 4, 8 or 16. They divide C.
    """

    _abbr_ = 'fca'

    def __init__(
        self,
        in_channels: int,
        ratio: int = 16,
        size: int = GRID,
        frequencies: int = 16,
    ) -> None:
        super().__init__()
        self.fc = nn.Sequential(*reduction(in_channels, ratio))
        if not is_whole(size) or size < 1 or size % GRID:
            raise ValueError(f'size must be a multiple of {GRID}; got {size!r}.')
        self.size = size
        known = is_whole(frequencies) and frequencies in (1, 2, 4, 8, 16)
        if not known or in_channels % frequencies:
            raise ValueError(
                'frequencies must be 1, 2, 4, 8 or 16 and divide the channels '
                f'({in_channels}); got {frequencies!r}.'
            )
        filters = separable_filters(in_channels, size, frequencies)
        for name, factor in zip(('vertical', 'horizontal'), filters, strict=True):
            # Fixed by the arguments, so that it is in no checkpoint.
            factor = factor.to(torch.get_default_device())
            self.register_buffer(name, factor, persistent=False)

    def filters(self) -> Tensor:
        """Return the (C, size, size) filters, as cfzd/FcaNet keeps them."""
        return self.vertical[:, :, None] * self.horizontal[:, None, :]  # type: ignore[index]

    def gate(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, 1, 1), in (0, 1)."""
        # Averaging to size x size and the filter are both linear, and separable: so
        # the small filters are spread over the map, not the map brought to their size.
        with no_autocast(x):
            rows = _spread(self.vertical, x.shape[2])  # type: ignore[arg-type]
            columns = _spread(self.horizontal, x.shape[3])  # type: ignore[arg-type]
            pooled = (x.to(rows.dtype) @ columns[:, :, None]).squeeze(3)
            pooled = (pooled * rows).sum(2)
        gate: Tensor = self.fc(pooled.to(x.dtype))
        return gate.sigmoid()[:, :, None, None]


def _spread(filters: Tensor, length: int) -> Tensor:
    """Return (C, length) filters that do as (C, size) after adaptive pooling."""
    size = filters.shape[1]
    if not torch.jit.is_tracing() and length == size:  # type: ignore[attr-defined,no-untyped-call]
        return filters  # a trace must do for other lengths
    cell = torch.arange(size, device=filters.device)[:, None]
    place = torch.arange(length, device=filters.device)
    # Numerators from 0: ONNX rounds the others' quotients towards 0.
    start, end = cell * length // size, ((cell + 1) * length + size - 1) // size
    inside = ((place >= start) & (place < end)).to(filters.dtype)
    return filters @ (inside / (end - start))
