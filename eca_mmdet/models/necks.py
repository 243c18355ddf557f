"""Attention on the maps that a neck returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor

from eca_mmdet.models.backbones.plugins import add_plugins, check_layer


@MODELS.register_module()
class AttentionNeck(BaseModule):  # type: ignore[misc]
    """A layer of its own for each map of the neck before it.

    mmdet runs a list of necks in order::

        neck=[
            dict(type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256,
                 num_outs=5),
            dict(type='AttentionNeck', in_channels=256, num_levels=5,
                 attention=dict(type='ECALayer')),
        ]

    Args:
        in_channels: channels of every map.
        num_levels: number of maps.
        attention: a plugin layer's config.
    """

    def __init__(
        self, in_channels: int, num_levels: int, attention: dict[str, Any]
    ) -> None:
        super().__init__()
        if not isinstance(num_levels, int) or num_levels < 1:
            raise ValueError(f'num_levels must be 1 or more; got {num_levels!r}.')
        check_layer(attention)
        cfgs = [{**attention, 'postfix': f'_{level}'} for level in range(num_levels)]
        self.in_channels = in_channels
        self._names = add_plugins(self, cfgs, in_channels)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Apply each level's layer to its map."""
        if len(maps) != len(self._names):
            raise ValueError(
                f'AttentionNeck has {len(self._names)} levels and got {len(maps)} '
                'maps; set num_levels to the num_outs of the neck before it.'
            )
        channels = {x.shape[1] for x in maps} - {self.in_channels}
        if channels:
            raise ValueError(
                f'AttentionNeck was made for {self.in_channels} channels and got maps '
                f'of {channels.pop()}; set in_channels to the out_channels of the neck '
                'before it.'
            )
        layers = (getattr(self, name) for name in self._names)
        return tuple(layer(x) for layer, x in zip(layers, maps, strict=True))
