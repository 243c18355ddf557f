"""RoI features as MMDetection v1 cut them: no half-pixel shift, inclusive corners."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class V1RoIExtractor(SingleRoIExtractor):  # type: ignore[misc]
    """``SingleRoIExtractor`` with v1's levels and v1's RoIAlign.

    What differs: the level is chosen by ``sqrt((w + 1)(h + 1))``; an RoI runs from
    ``x1 * s`` to ``(x2 + 1) * s`` (s is 1 / stride), and its size is never negative.
    The ordinary ``RoIAlign(aligned=True)`` does that on RoIs shifted by half a cell.

    Args:
        **kwargs: as mmdet's ``SingleRoIExtractor``; ``roi_layer`` must be aligned.

    Raises:
        ValueError: another ``roi_layer``.
    """

    def __init__(self, **kwargs: Any) -> None:
        layer = kwargs.get('roi_layer') or {}
        if layer.get('type') != 'RoIAlign' or layer.get('aligned') is False:
            raise ValueError(
                "V1RoIExtractor shifts its RoIs for roi_layer=dict(type='RoIAlign', "
                f'aligned=True, sampling_ratio=2); got {layer!r}.'
            )
        super().__init__(**kwargs)

    def map_roi_levels(self, rois: Tensor, num_levels: int) -> Tensor:
        """Return the level of each RoI; (K, 5) to (K,)."""
        sizes = rois[:, 3:] - rois[:, 1:3] + 1
        scale = torch.sqrt(sizes[:, 0] * sizes[:, 1])
        levels = torch.floor(torch.log2(scale / self.finest_scale + 1e-6))
        return levels.clamp(min=0, max=num_levels - 1).long()

    def forward(
        self,
        feats: tuple[Tensor, ...],
        rois: Tensor,
        roi_scale_factor: float | None = None,
    ) -> Tensor:
        """Return (K, C, size, size) for RoIs (K, 5): image index and corners."""
        # In fp32 throughout, as v1: half precision cannot hold the area of a large RoI.
        rois = rois.float()
        size = self.roi_layers[0].output_size
        result = feats[0].new_zeros(len(rois), self.out_channels, *size)
        levels = self.map_roi_levels(rois, len(feats))
        if roi_scale_factor is not None:
            rois = self.roi_rescale(rois, roi_scale_factor)
        for level, (feature, layer) in enumerate(
            zip(feats, self.roi_layers, strict=False)
        ):
            chosen = (levels == level).nonzero().squeeze(1)
            if len(chosen):
                own = shifted_rois(rois[chosen], self.featmap_strides[level])
                result[chosen] = layer(feature.float(), own).to(result.dtype)
        return result


def shifted_rois(rois: Tensor, stride: float) -> Tensor:
    """Return RoIs for which an aligned RoIAlign samples where v1's did.

    Args:
        rois: (K, 5), inclusive corners.
        stride: of the feature map, in pixels.
    """
    low = rois[:, 1:3]
    # v1's size (x2 + 1 - x1) was clamped at 0.
    high = torch.maximum(rois[:, 3:] + 1, low)
    return torch.cat([rois[:, :1], low + 0.5 * stride, high + 0.5 * stride], dim=1)
