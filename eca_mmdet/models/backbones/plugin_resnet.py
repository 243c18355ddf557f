"""mmdet's ResNet with plugins at every depth, 18 and 34 included.

mmdet's ``BasicBlock`` asserts that it has no plugins (open-mmlab/mmdetection#6723).
"""

from __future__ import annotations

from typing import Any

from mmdet.models.backbones.resnet import ResNet
from mmdet.registry import MODELS
from torch import Tensor, nn

from eca_mmdet.models.backbones.blocks import (
    PluginBasicBlock,
    PluginBottleneck,
    check_memory,
)
from eca_mmdet.models.backbones.init_guard import InitGuard
from eca_mmdet.models.backbones.plugins import (
    BASIC_POSITIONS,
    BOTTLENECK_POSITIONS,
    STAGE_POSITIONS,
    PluginStage,
    check_plugins,
    staged,
)
from eca_mmdet.models.lean.conv_norm import conv_norm, sequence
from eca_mmdet.models.lean.max_pool import relu_max_pool


@MODELS.register_module()
class PluginResNet(InitGuard, ResNet):  # type: ignore[misc]
    """ResNet with plugins at every depth, in two formulations.

    Args:
        depth: 18, 34, 50, 101 or 152.
        memory: 'lean' folds norms in evaluation mode and channel gates into the
            convolutions: the same function, with about half the memory for backward.
            'plain' runs every layer by itself, as mmdet's ``ResNet`` does.
        attention: a plugin layer for the end of every residual branch (after its
            last norm, before the residual add), e.g. ``dict(type='CBAM')``.
        plugins: further plugin layers, as mmdet's ``ResNet`` takes them; they come
            after ``attention`` where they share its position. In 18 and 34 they go to
            'after_conv1' or 'after_conv2'. Two positions are of a stage, not of its
            blocks: 'before_last_block', and 'after_stage' (after its last block).
        **kwargs: as mmdet's ``ResNet``.

    Raises:
        ValueError: a depth, formulation, layer or position that does not exist; a list
            of ``stages`` that has not one entry a stage.
    """

    arch_settings = {
        18: (PluginBasicBlock, (2, 2, 2, 2)),
        34: (PluginBasicBlock, (3, 4, 6, 3)),
        50: (PluginBottleneck, (3, 4, 6, 3)),
        101: (PluginBottleneck, (3, 4, 23, 3)),
        152: (PluginBottleneck, (3, 8, 36, 3)),
    }

    def __init__(
        self,
        depth: int,
        memory: str = 'lean',
        attention: dict[str, Any] | None = None,
        plugins: list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        if depth not in self.arch_settings:
            known = ', '.join(map(str, self.arch_settings))
            raise ValueError(
                f'{type(self).__name__} depth must be one of {known}; got {depth!r}.'
            )
        self.memory = check_memory(memory)  # make_res_layer needs it
        positions = self.block_positions(depth)
        if attention is not None:
            gate = dict(cfg=attention, position=positions[-1])
            plugins = [gate, *(plugins or [])]
        if plugins is not None:
            check_plugins(plugins, positions, kwargs.get('num_stages', 4))
        super().__init__(depth, plugins=plugins, **kwargs)

    @classmethod
    def block_positions(cls, depth: int) -> tuple[str, ...]:
        """Return the positions in a block of this depth; the last is its end."""
        basic = cls.arch_settings.get(depth, (None,))[0] is PluginBasicBlock
        return BASIC_POSITIONS if basic else BOTTLENECK_POSITIONS

    def make_res_layer(self, **kwargs: Any) -> nn.Sequential:
        """Build a stage; arguments as mmdet's ``ResLayer``."""
        # mmdet zeroes the last norm of a block only where the class *is* its own.
        if self.zero_init_residual and isinstance(self.init_cfg, list):
            last = 'norm2' if self.block is PluginBasicBlock else 'norm3'
            kwargs['init_cfg'] = dict(type='Constant', val=0, override=dict(name=last))
        plugins = kwargs.pop('plugins', None)
        plugins = plugins and staged(plugins, len(self.res_layers))
        inside = plugins and [
            p for p in plugins if p['position'] not in STAGE_POSITIONS
        ]
        stage = super().make_res_layer(memory=self.memory, plugins=inside, **kwargs)
        before_last, after = (
            [
                plugin['cfg']
                for plugin in plugins or []
                if plugin['position'] == position
            ]
            for position in STAGE_POSITIONS
        )
        if not before_last and not after:
            return stage  # type: ignore[no-any-return]
        channels = kwargs['planes'] * self.block.expansion
        return PluginStage(stage, before_last, after, channels)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) to one map for each of ``out_indices``, stride 4 to 32."""
        if self.memory == 'plain':
            return super().forward(x)  # type: ignore[no-any-return]
        if self.deep_stem:
            x = self.maxpool(sequence(x, self.stem))
        else:
            x = conv_norm(x, self.conv1, self.norm1)
            x = relu_max_pool(x, self.relu, self.maxpool)
        outputs = []
        for index, name in enumerate(self.res_layers):
            x = getattr(self, name)(x)
            if index in self.out_indices:
                outputs.append(x)
        return tuple(outputs)
