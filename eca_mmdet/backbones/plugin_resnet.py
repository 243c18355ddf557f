"""mmdet's ResNet with plugins at every depth, 18 and 34 included.

mmdet's ``BasicBlock`` asserts that it has no plugins (open-mmlab/mmdetection#6723).
"""

from __future__ import annotations

from typing import Any

from mmdet.models.backbones.resnet import ResNet
from mmdet.registry import MODELS
from torch import Tensor, nn

from eca_mmdet.backbones.blocks import PluginBasicBlock, PluginBottleneck, check_memory
from eca_mmdet.backbones.loud_weights import LoudWeights
from eca_mmdet.ops.conv_norm import conv_norm, sequence
from eca_mmdet.ops.max_pool import relu_max_pool


@MODELS.register_module()
class PluginResNet(LoudWeights, ResNet):  # type: ignore[misc]
    """ResNet with plugins at every depth, in two formulations.

    Args:
        depth: 18, 34, 50, 101 or 152.
        memory: 'lean' folds norms in evaluation mode and channel gates into the
            convolutions: the same function, with about half the memory for backward.
            'plain' runs every layer by itself, as mmdet's ``ResNet`` does.
        **kwargs: as mmdet's ``ResNet``. In 18 and 34, ``plugins`` go to
            'after_conv1' or 'after_conv2'.

    Raises:
        ValueError: a depth or formulation that does not exist.
    """

    arch_settings = {
        18: (PluginBasicBlock, (2, 2, 2, 2)),
        34: (PluginBasicBlock, (3, 4, 6, 3)),
        50: (PluginBottleneck, (3, 4, 6, 3)),
        101: (PluginBottleneck, (3, 4, 23, 3)),
        152: (PluginBottleneck, (3, 8, 36, 3)),
    }

    def __init__(self, depth: int, memory: str = 'lean', **kwargs: Any) -> None:
        if depth not in self.arch_settings:
            known = ', '.join(map(str, self.arch_settings))
            raise ValueError(
                f'{type(self).__name__} depth must be one of {known}; got {depth!r}.'
            )
        self.memory = check_memory(memory)  # make_res_layer needs it
        super().__init__(depth, **kwargs)

    def make_res_layer(self, **kwargs: Any) -> nn.Sequential:
        """Build a stage; arguments as mmdet's ``ResLayer``."""
        # mmdet zeroes the last norm of a block only where the class *is* its own.
        if self.zero_init_residual and isinstance(self.init_cfg, list):
            last = 'norm2' if self.block is PluginBasicBlock else 'norm3'
            kwargs['init_cfg'] = dict(type='Constant', val=0, override=dict(name=last))
        return super().make_res_layer(memory=self.memory, **kwargs)  # type: ignore[no-any-return]

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
