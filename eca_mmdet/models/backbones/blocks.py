"""The residual blocks of ResNet, with plugins, in two formulations.

``memory='lean'`` computes the same function as ``'plain'`` with fewer passes over the
feature maps, and keeps about half as much for backward (docs/performance.md).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from mmdet.models.backbones.resnet import BasicBlock, Bottleneck
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from eca_mmdet.models.backbones.plugins import BASIC_POSITIONS, add_plugins, layers_at
from eca_mmdet.models.lean.fused import conv_norm, gated_residual, sequence

MEMORY = ('lean', 'plain')


def check_memory(memory: object) -> str:
    """Return ``memory`` if it names a formulation, or raise ValueError."""
    if memory not in MEMORY:
        raise ValueError(
            "memory must be 'lean' (fold norms and gates into the convolutions) or "
            f"'plain' (every layer by itself); got {memory!r}."
        )
    return str(memory)


def recompute(block: Callable[[Tensor], Tensor], x: Tensor, with_cp: bool) -> Tensor:
    """Return ``block(x)``; with ``with_cp``, keep only x for the backward pass."""
    if not (with_cp and x.requires_grad):
        return block(x)
    result: Tensor = checkpoint(block, x, use_reentrant=False)
    return result


def _tail_gate(block: Any, names: list[str]) -> Callable[[Tensor], Tensor] | None:
    """Return what a block's plugins before the residual add do, None for nothing."""
    if not names:
        return None
    if len(names) == 1:
        return getattr(block, names[0])  # type: ignore[no-any-return]
    return functools.partial(_plug, block, names)


def _plug(block: Any, names: list[str], x: Tensor) -> Tensor:
    for name in names:
        x = getattr(block, name)(x)
    return x


class PluginBasicBlock(BasicBlock):  # type: ignore[misc]
    """mmdet's ``BasicBlock`` plus plugin layers, which mmdet's rejects.

    Args:
        plugins: dicts with ``cfg`` and ``position``: 'after_conv1' (after its ReLU)
            or 'after_conv2' (after its norm, before the residual add).
        memory: 'lean' or 'plain'.
        **kwargs: as mmdet's ``BasicBlock``.
    """

    def __init__(
        self,
        inplanes: int,
        planes: int,
        *,
        plugins: list[dict[str, Any]] | None = None,
        memory: str = 'lean',
        **kwargs: Any,
    ) -> None:
        super().__init__(inplanes, planes, **kwargs)
        self.memory = check_memory(memory)
        self._plugin_names = {
            position: add_plugins(self, layers_at(position, plugins), planes)
            for position in BASIC_POSITIONS
        }

    def _plain(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        out = _plug(self, self._plugin_names['after_conv1'], out)
        out = self.norm2(self.conv2(out))
        out = _plug(self, self._plugin_names['after_conv2'], out)
        return out + (x if self.downsample is None else self.downsample(x))

    def _lean(self, x: Tensor) -> Tensor:
        out = conv_norm(x, self.conv1, self.norm1, self.relu)
        out = _plug(self, self._plugin_names['after_conv1'], out)
        gate = _tail_gate(self, self._plugin_names['after_conv2'])
        shortcut = x if self.downsample is None else sequence(x, self.downsample)
        return gated_residual(out, self.conv2, self.norm2, gate, shortcut, self.relu)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inplanes, H, W) to (N, planes, H / stride, W / stride)."""
        if self.memory == 'lean':
            return recompute(self._lean, x, self.with_cp)
        return self.relu(recompute(self._plain, x, self.with_cp))  # type: ignore[no-any-return]


class PluginBottleneck(Bottleneck):  # type: ignore[misc]
    """mmdet's ``Bottleneck``, which has plugins of its own, in two formulations."""

    def __init__(
        self, inplanes: int, planes: int, *, memory: str = 'lean', **kwargs: Any
    ) -> None:
        super().__init__(inplanes, planes, **kwargs)
        self.memory = check_memory(memory)

    def make_block_plugins(self, in_channels: int, plugins: list[Any]) -> list[str]:
        """Build the layers of one position; return their names."""
        return add_plugins(self, plugins, in_channels)

    def _names(self, position: str) -> list[str]:
        return getattr(self, f'{position}_plugin_names', [])

    def _lean(self, x: Tensor) -> Tensor:
        out = conv_norm(x, self.conv1, self.norm1, self.relu)
        out = _plug(self, self._names('after_conv1'), out)
        out = conv_norm(out, self.conv2, self.norm2, self.relu)
        out = _plug(self, self._names('after_conv2'), out)
        gate = _tail_gate(self, self._names('after_conv3'))
        shortcut = x if self.downsample is None else sequence(x, self.downsample)
        return gated_residual(out, self.conv3, self.norm3, gate, shortcut, self.relu)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inplanes, H, W) to (N, 4 planes, H / stride, W / stride)."""
        if self.memory == 'lean':
            return recompute(self._lean, x, self.with_cp)
        return super().forward(x)  # type: ignore[no-any-return]
