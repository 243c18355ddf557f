"""mmdet's ResNet with plugins at every depth, 18 and 34 included.

mmdet's ``BasicBlock`` asserts that it has no plugins (open-mmlab/mmdetection#6723).
"""

from __future__ import annotations

from typing import Any

from mmcv.cnn import build_plugin_layer
from mmdet.models.backbones.resnet import BasicBlock, Bottleneck, ResNet
from mmdet.registry import MODELS
from torch import Tensor, nn

from eca_mmdet.backbones.loud_weights import LoudWeights
from eca_mmdet.backbones.recompute import recompute

_POSITIONS = ('after_conv1', 'after_conv2')


class PluginBasicBlock(BasicBlock):  # type: ignore[misc]
    """mmdet's ``BasicBlock`` plus plugin layers.

    Args:
        inplanes: channels of the input.
        planes: channels of both convolutions.
        plugins: dicts with ``cfg`` and ``position``: 'after_conv1' (after its ReLU)
            or 'after_conv2' (after its norm, before the residual add).
        **kwargs: as mmdet's ``BasicBlock``.

    Raises:
        ValueError: a position this block does not have.
    """

    def __init__(
        self,
        inplanes: int,
        planes: int,
        *,
        plugins: list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(inplanes, planes, **kwargs)
        self._plugin_names: dict[str, list[str]] = {p: [] for p in _POSITIONS}
        for plugin in plugins or []:
            position = plugin['position']
            if position not in _POSITIONS:
                raise ValueError(
                    'a plugin of ResNet-18 or -34 goes to one of '
                    f'{", ".join(_POSITIONS)} (a basic block has two convolutions); '
                    f'got position {position!r}.'
                )
            cfg = dict(plugin['cfg'])
            postfix = cfg.pop('postfix', '')
            name, layer = build_plugin_layer(cfg, postfix=postfix, in_channels=planes)
            self.add_module(name, layer)
            self._plugin_names[position].append(name)

    def _plug(self, x: Tensor, position: str) -> Tensor:
        for name in self._plugin_names[position]:
            x = getattr(self, name)(x)
        return x

    def _residual(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        out = self._plug(out, 'after_conv1')
        out = self._plug(self.norm2(self.conv2(out)), 'after_conv2')
        return out + (x if self.downsample is None else self.downsample(x))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inplanes, H, W) to (N, planes, H / stride, W / stride)."""
        out = recompute(self._residual, x, self.with_cp)
        return self.relu(out)  # type: ignore[no-any-return]


@MODELS.register_module()
class PluginResNet(LoudWeights, ResNet):  # type: ignore[misc]
    """ResNet whose basic blocks take plugins too; for 50 and up, mmdet's own.

    Args:
        depth: 18, 34, 50, 101 or 152.
        **kwargs: as mmdet's ``ResNet``. In 18 and 34, ``plugins`` go to
            'after_conv1' or 'after_conv2'.

    Raises:
        ValueError: a depth that does not exist.
    """

    arch_settings = {
        18: (PluginBasicBlock, (2, 2, 2, 2)),
        34: (PluginBasicBlock, (3, 4, 6, 3)),
        50: (Bottleneck, (3, 4, 6, 3)),
        101: (Bottleneck, (3, 4, 23, 3)),
        152: (Bottleneck, (3, 8, 36, 3)),
    }

    def __init__(self, depth: int, **kwargs: Any) -> None:
        if depth not in self.arch_settings:
            known = ', '.join(map(str, self.arch_settings))
            raise ValueError(
                f'{type(self).__name__} depth must be one of {known}; got {depth!r}.'
            )
        super().__init__(depth, **kwargs)

    def make_res_layer(self, **kwargs: Any) -> nn.Sequential:
        """Build a stage; arguments as mmdet's ``ResLayer``."""
        # mmdet zeroes the last norm of a block only where the class *is* its own.
        fresh = isinstance(self.init_cfg, list)
        if self.block is PluginBasicBlock and self.zero_init_residual and fresh:
            kwargs['init_cfg'] = dict(
                type='Constant', val=0, override=dict(name='norm2')
            )
        return super().make_res_layer(**kwargs)  # type: ignore[no-any-return]
