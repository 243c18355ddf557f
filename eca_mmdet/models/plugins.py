"""Plugin layers of ResNets, their positions and checks; attention after a neck.

mmdet's own checks are bare assertions, and its positions lie inside of blocks. Some
mechanisms sit elsewhere: BAM between two stages, the published "1 NL" right before the
last block of a stage.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from mmcv.cnn import build_plugin_layer
from mmcv.cnn.bricks import ContextBlock
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.model import BaseModule, Sequential
from mmengine.registry import MODELS
from torch import Tensor, nn

from eca_mmdet.catalog.mechanisms import MECHANISMS
from eca_mmdet.models.attention.fcanet import FcaNet
from eca_mmdet.models.attention.gate import is_whole
from eca_mmdet.models.dct import STAGE_SIZES
from eca_mmdet.utils.text import suggestion

BASIC_POSITIONS = ('after_conv1', 'after_conv2')
BOTTLENECK_POSITIONS = (*BASIC_POSITIONS, 'after_conv3')
STAGE_POSITIONS = ('before_last_block', 'after_stage')
_KEYS = {'cfg', 'position', 'stages'}


def layers_at(position: str, plugins: Sequence[Any] | None) -> list[Any]:
    """Return the layer configs of plugins at a position."""
    return [p['cfg'] for p in plugins or [] if p['position'] == position]


def check_plugins(
    plugins: Any,
    positions: Sequence[str],
    num_stages: int,
    of_stages: Sequence[str] = STAGE_POSITIONS,
) -> None:
    """Reject plugins that a ResNet with such positions in blocks would misread."""
    if not isinstance(plugins, (list, tuple)):
        raise ValueError(f'plugins must be a list of dicts; got {plugins!r}.')
    for plugin in plugins:
        given = set(plugin) if isinstance(plugin, dict) else set()
        if not {'cfg', 'position'} <= given <= _KEYS:
            raise ValueError(
                'a plugin is a dict with cfg, position and, for some stages only, '
                f'stages; got {plugin!r}.'
            )
        check_layer(plugin['cfg'])
        known, position = (*positions, *of_stages), plugin['position']
        if position not in known:
            reason = ''
            if position in BOTTLENECK_POSITIONS:
                reason = ' The blocks of ResNet-18 and -34 have two convolutions.'
            raise ValueError(
                f'position must be one of {", ".join(known)}; got {position!r}.{reason}'
            )
        stages = plugin.get('stages')
        if stages is not None and not (
            isinstance(stages, (list, tuple))
            and len(stages) == num_stages
            and all(isinstance(choice, bool) for choice in stages)
        ):
            raise ValueError(
                f'stages must be {num_stages} of True or False, one a stage; got '
                f'{stages!r}.'
            )


def staged(plugins: Sequence[Any], stage: int) -> list[Any]:
    """Return a stage's plugins, each FcaNet with the stage's size unless it has one."""
    size = STAGE_SIZES[min(stage, len(STAGE_SIZES) - 1)]
    return [
        {**plugin, 'cfg': {'size': size, **plugin['cfg']}}
        if plugin['cfg']['type'] in ('FcaNet', FcaNet)
        else plugin
        for plugin in plugins
    ]


def check_layer(cfg: Any) -> None:
    """Reject the config of a plugin layer whose type is not registered."""
    kind = cfg.get('type') if isinstance(cfg, Mapping) else None
    if inspect.isclass(kind):
        return
    if not isinstance(kind, str):
        raise ValueError(
            f"a layer is a dict with its type, e.g. dict(type='ECALayer'); got {cfg!r}."
        )
    with MODELS.switch_scope_and_registry(None) as registry:
        if registry.get(kind) is not None:
            return
    names = {row.type for row in MECHANISMS} | {'SEGC', 'GeneralizedAttention'}
    raise ValueError(
        f'no layer {kind!r} is registered.{suggestion(kind, names)} The attention '
        f'layers: {", ".join(sorted(names))}.'
    )


def add_plugins(owner: nn.Module, cfgs: Sequence[Any], in_channels: int) -> list[str]:
    """Build plugin layers as children of a block or stage; return their names.

    A config's ``postfix`` is appended to the name, of which there may be one only.
    """
    names = []
    for cfg in cfgs:
        cfg = dict(cfg)
        postfix = cfg.pop('postfix', '')
        _check_reduction(cfg, in_channels)
        try:
            name, layer = build_plugin_layer(cfg, postfix, in_channels=in_channels)
        except TypeError as error:
            raise ValueError(f'{cfg!r} is no proper layer: {error}.') from error
        if isinstance(layer, ContextBlock):
            # mmengine's initialisation of every convolution comes after the
            # constructor, and this after that: it starts as the identity.
            layer.init_weights = layer.reset_parameters
        if hasattr(owner, name):
            raise ValueError(
                f'two plugins are called {name!r}; give one a postfix: '
                f"cfg=dict(type={cfg['type']!r}, postfix='_2')."
            )
        owner.add_module(name, layer)
        names.append(name)
    return names


def _check_reduction(cfg: Any, channels: int) -> None:
    """Reject reductions that mmcv's layers would accept silently."""
    kind = getattr(cfg['type'], '__name__', cfg['type'])
    if kind == 'ContextBlock' and 'ratio' in cfg:
        ratio = cfg['ratio']
        if not 0 < ratio <= 1 or int(channels * ratio) < 1:
            raise ValueError(
                f'ratio of ContextBlock is that of its inner width to the {channels} '
                f'channels, e.g. 1/16, at least 1/{channels}; got {ratio!r}.'
            )
    if kind == 'NonLocal2d':
        reduction = cfg.get('reduction', 2)
        if not is_whole(reduction) or not 1 <= reduction <= channels:
            raise ValueError(
                f'reduction of NonLocal2d must be an integer between 1 and the '
                f'{channels} channels; got {reduction!r}.'
            )


class PluginStage(Sequential):  # type: ignore[misc]
    """A stage with plugin layers between or after its blocks.

    The blocks' names stay 0 to n - 1, so that the weights of a ResNet fit.
    """

    def __init__(
        self,
        blocks: nn.Sequential,
        before_last: Sequence[Any],
        after: Sequence[Any],
        channels: int,
    ) -> None:
        super().__init__(*blocks)
        self._blocks = list(map(str, range(len(blocks))))
        self._before_last = add_plugins(self, before_last, channels)
        self._after = add_plugins(self, after, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Run blocks and layers in order."""
        *body, last = self._blocks
        for name in (*body, *self._before_last, last, *self._after):
            x = getattr(self, name)(x)
        return x


@MMDET_MODELS.register_module()
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
