"""ResNet with plugins at every depth, ECA-ResNet, and their blocks in two formulations.

``memory='lean'`` computes the same function as ``'plain'`` with fewer passes over the
feature maps, and keeps about half as much for backward (docs/performance.md).

mmdet's ``BasicBlock`` asserts that it has no plugins (open-mmlab/mmdetection#6723).
Source: Wang et al., ECA-Net, CVPR 2020, arXiv:1910.03151. State-dict keys are those of
the authors' ImageNet files (``layer1.0.eca.conv.weight``), without ``fc``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmdet.models.backbones.resnet import BasicBlock, Bottleneck, ResNet, ResNetV1d
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eca_mmdet.catalog.architectures import RELEASED_KERNEL_SIZES, RESNET_BLOCKS
from eca_mmdet.catalog.mechanisms import BLOCK, Mechanism
from eca_mmdet.models.attention.eca import check_kernel_size
from eca_mmdet.models.initialization import InitGuard, as_list
from eca_mmdet.models.lean.fused import (
    conv_norm,
    fold_block,
    gated_residual,
    sequence,
    stem,
)
from eca_mmdet.models.plugins import (
    BASIC_POSITIONS,
    BOTTLENECK_POSITIONS,
    STAGE_POSITIONS,
    PluginStage,
    add_plugins,
    check_plugins,
    layers_at,
    staged,
)
from eca_mmdet.utils.text import clipped

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
    may_draw = any(map(_draws, block.__self__.modules()))  # type: ignore[attr-defined]
    result: Tensor = checkpoint(
        block, x, use_reentrant=False, preserve_rng_state=may_draw
    )
    return result


def _draws(layer: nn.Module) -> bool:
    """Tell whether a layer may draw random numbers; unknown layers may."""
    kind = type(layer)
    known = kind.__module__.startswith(('torch.nn.', 'mmcv.', 'mmdet.', 'eca_mmdet.'))
    random = isinstance(layer, (nn.RReLU, nn.FractionalMaxPool2d))
    # nn.MultiheadAttention has its dropout as a number.
    drops = 'drop' in kind.__name__.lower() or bool(getattr(layer, 'dropout', 0))
    return not known or random or drops


class ResidualBlock:
    """Mixin of residual blocks: branch, gate and shortcut in two formulations.

    The branch is ``conv1`` to ``conv{convolutions}``, each with a norm, a ReLU after
    all but the last, and the plugins that are named ``after_conv{i}_plugin_names``.
    """

    convolutions = 3
    downsample: Any
    relu: Any
    with_cp: bool

    def __init__(self, *args: Any, memory: str = 'lean', **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.memory = check_memory(memory)

    def _layers(self) -> list[tuple[Any, Any, Sequence[str]]]:
        """Return each convolution, its norm, and the names of the plugins after it."""
        return [
            (
                getattr(self, f'conv{i}'),
                getattr(self, getattr(self, f'norm{i}_name', f'bn{i}')),
                getattr(self, f'after_conv{i}_plugin_names', ()),
            )
            for i in range(1, self.convolutions + 1)
        ]

    def _plug(self, names: Sequence[str], x: Tensor) -> Tensor:
        for name in names:
            x = getattr(self, name)(x)
        return x

    def _plain(self, x: Tensor) -> Tensor:
        *layers, (last_conv, last_norm, last_names) = self._layers()
        out = x
        for conv, norm, names in layers:
            out = self._plug(names, self.relu(norm(conv(out))))
        out = self._plug(last_names, last_norm(last_conv(out)))
        return out + (x if self.downsample is None else self.downsample(x))

    def _lean(self, x: Tensor) -> Tensor:
        *layers, (last_conv, last_norm, last_names) = self._layers()
        gate: Any = functools.partial(self._plug, last_names) if last_names else None
        if len(last_names) == 1:
            gate = getattr(self, last_names[0])
        pairs = [*(layer[:2] for layer in layers), (last_conv, last_norm)]
        folds = fold_block(x, pairs, gate, self.downsample)
        out = x
        for conv, norm, names in layers:
            pooled = folds.is_gated and conv is layers[-1][0] and not names
            out = conv_norm(out, conv, norm, self.relu, folds, pooled)
            out = self._plug(names, out)
        shortcut = x if self.downsample is None else sequence(x, self.downsample, folds)
        return gated_residual(
            out, last_conv, last_norm, gate, shortcut, self.relu, folds
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the channels of the last convolution, H and W / stride."""
        if self.memory == 'lean':
            return recompute(self._lean, x, self.with_cp)
        return self.relu(recompute(self._plain, x, self.with_cp))  # type: ignore[no-any-return]


class PluginBasicBlock(ResidualBlock, BasicBlock):  # type: ignore[misc]
    """mmdet's ``BasicBlock`` plus plugin layers, which mmdet's rejects.

    Args:
        plugins: dicts with ``cfg`` and ``position``: 'after_conv1' (after its ReLU)
            or 'after_conv2' (after its norm, before the residual add).
        **kwargs: as mmdet's ``BasicBlock``, and ``memory``, 'lean' or 'plain'.
    """

    convolutions = 2

    def __init__(
        self,
        inplanes: int,
        planes: int,
        *,
        plugins: list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(inplanes, planes, **kwargs)
        for position in BASIC_POSITIONS:
            names = add_plugins(self, layers_at(position, plugins), planes)
            setattr(self, f'{position}_plugin_names', names)


class PluginBottleneck(ResidualBlock, Bottleneck):  # type: ignore[misc]
    """mmdet's ``Bottleneck``, which has plugins of its own, in two formulations."""

    def make_block_plugins(self, in_channels: int, plugins: list[Any]) -> list[str]:
        """Build the layers of one position; return their names."""
        return add_plugins(self, plugins, in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inplanes, H, W) to (N, 4 planes, H / stride, W / stride)."""
        lean = self.memory == 'lean'
        return super().forward(x) if lean else Bottleneck.forward(self, x)


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
    """

    arch_settings = {
        depth: (PluginBasicBlock if kind == 'basic' else PluginBottleneck, blocks)
        for depth, (kind, blocks) in RESNET_BLOCKS.items()
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
        before_last, after = (layers_at(p, plugins) for p in STAGE_POSITIONS)
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
            x = stem(x, self.conv1, self.norm1, self.relu, self.maxpool)
        outputs = []
        for index, name in enumerate(self.res_layers):
            x = getattr(self, name)(x)
            if index in self.out_indices:
                outputs.append(x)
        return tuple(outputs)


@MODELS.register_module()
class ECAResNet(PluginResNet):
    """ResNet with an ECA gate at the end of every residual branch.

    The gate follows the block's last norm and precedes the residual add.

    Args:
        depth: 18, 34, 50, 101 or 152.
        kernel_sizes: One odd integer a stage; one integer for all stages; or
            'adaptive', psi of each block's output channels. There is no default:
            released weights differ in it by depth, and neither the formula nor a
            file's name tells. A checkpoint's tensors do.
        attention: another layer in the gate's place, e.g. ``dict(type='CBAM')``; it
            replaces ``kernel_sizes``.
        plugins: further plugins, as :class:`PluginResNet` takes them; they come after
            the gate where they share its position.
        **kwargs: as :class:`PluginResNet`, ``memory`` among them, and mmdet's
            ``ResNet``.
    """

    def __init__(
        self,
        depth: int,
        kernel_sizes: Sequence[int] | int | str | None = None,
        attention: dict[str, Any] | None = None,
        plugins: list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        if attention is not None:
            if kernel_sizes is not None:
                raise ValueError(
                    'kernel_sizes are of the ECA gate, which attention replaces: give '
                    f'one of them; got {kernel_sizes!r} and {attention!r}.'
                )
            super().__init__(depth, attention=attention, plugins=plugins, **kwargs)
            return
        num_stages = kwargs.get('num_stages', 4)
        hint = f'Released weights use {RELEASED_KERNEL_SIZES}.'
        if depth in RELEASED_KERNEL_SIZES:
            released = RELEASED_KERNEL_SIZES[depth]
            hint = f"The authors' ImageNet ResNet-{depth} uses {released}."
        self.kernel_sizes = stage_kernel_sizes(kernel_sizes, num_stages, hint)
        gates = [
            dict(
                cfg=dict(type='ECALayer', kernel_size=size),
                stages=tuple(other == stage for other in range(num_stages)),
                position=self.block_positions(depth)[-1],
            )
            for stage, size in enumerate(self.kernel_sizes)
        ]
        super().__init__(depth, plugins=[*gates, *(plugins or [])], **kwargs)


def stage_kernel_sizes(
    kernel_sizes: Sequence[int] | int | str | None, num_stages: int, hint: str
) -> tuple[int | None, ...]:
    """Return one kernel size a stage; None leaves it to the layer ('adaptive').

    ``hint`` ends the error message: what released weights use.
    """
    if kernel_sizes == 'adaptive':
        return (None,) * num_stages
    if isinstance(kernel_sizes, int):
        return (check_kernel_size(kernel_sizes),) * num_stages
    valid = isinstance(kernel_sizes, Sequence) and not isinstance(kernel_sizes, str)
    if not valid or len(kernel_sizes) != num_stages:  # type: ignore[arg-type]
        raise ValueError(
            f'kernel_sizes must be {num_stages} odd integers (one a stage), one odd '
            f"integer, or 'adaptive'; got {kernel_sizes!r}. {hint}"
        )
    return tuple(map(check_kernel_size, kernel_sizes))  # type: ignore[arg-type]


def attention_entries(
    backbone: Mapping[str, Any],
    mechanism: Mechanism,
    layer: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the entries that give a backbone's config an attention mechanism.

    The network stays the same, with layers in the mechanism's places, and starts from
    the same file; new gates are random, in stages that train.

    Args:
        backbone: config of a ResNet without attention.
        mechanism: where the layers go, and whether they have parameters.
        layer: config of the layer; default: the mechanism's.

    Raises:
        ValueError: it has attention already, or is no ResNet, or has no such places.
    """
    kind = backbone['type']
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    name = getattr(kind, '__name__', backbone['type'])
    if has := backbone.get('attention') or backbone.get('plugins'):
        raise ValueError(f'{name} has attention or other plugins: {clipped(str(has))}')
    new: Any = PluginResNet if kind in (ResNet, ResNetV1d) else kind
    takes_attention = new and 'attention' in inspect.signature(new).parameters
    initializer = getattr(new, 'init_weights', None)  # mmengine's reads init_cfg
    takes_plugins = new is PluginResNet or (
        initializer is BaseModule.init_weights and issubclass(new, ResNet)
    )
    if not (takes_attention or takes_plugins):
        raise ValueError(
            f"{name} is not a ResNet that takes attention: mmdet's ResNet, ResNetV1d, "
            'ResNeXt, Res2Net, ResNeSt, RegNet and TridentResNet do, and PluginResNet '
            'and TimmBackbone'
        )
    if mechanism.position != BLOCK and new is not PluginResNet:
        raise ValueError(
            f'{mechanism.name} goes between blocks or stages, where {name} has no '
            'place; ResNet and ResNetV1d have. Choose a mechanism of blocks, e.g. eca'
        )
    plugin = mechanism.plugin(backbone.get('depth', 50))
    plugin['cfg'] = layer = dict(layer or mechanism.layer)
    stages = (mechanism.stages or (True,) * 4)[: backbone.get('num_stages', 4)]
    if mechanism.stages:
        plugin['stages'] = stages
    entries: dict[str, Any] = {'type': new.__name__}
    if kind is ResNetV1d:
        entries |= dict(deep_stem=True, avg_down=True)
    everywhere = mechanism.position == BLOCK and not mechanism.stages
    if takes_attention and (everywhere or not takes_plugins):
        entries['attention'] = layer
    else:
        entries['plugins'] = [plugin]
    first = stages.index(True)
    if mechanism.has_parameters and backbone.get('frozen_stages', -1) > first:
        entries['frozen_stages'] = first
    own = as_list(backbone.get('init_cfg'))
    loads = [entry for entry in own if entry.get('checkpoint')]
    if file := loads[-1]['checkpoint'] if loads else backbone.get('pretrained'):
        start: dict[str, Any] = dict(type='ECAPretrained', checkpoint=file)
        start |= {k: v for e in loads for k, v in e.items() if k in ('strict', 'key')}
        if mechanism.has_parameters and not mechanism.adds:
            start['random_gates'] = True
        others = [entry for entry in own if entry not in loads]
        entries['init_cfg'] = [*others, start] if others else {'_delete_': True} | start
    if 'pretrained' in backbone:
        entries['pretrained'] = None
    return entries
