"""ECA-ResNet in timm's layouts: deep stems, average-pooled shortcuts, any widths.

Source: timm's ``ecaresnet`` family; He et al., Bag of Tricks, arXiv:1812.01187 (the D
variant); Wang et al., ECA-Net, arXiv:1910.03151. State-dict keys are those of mmdet's
``ResNetV1d`` with an ``ECALayer`` after each block's last norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmcv.cnn import build_norm_layer
from mmdet.registry import MODELS
from mmengine.model import BaseModule, Sequential
from torch import Tensor, nn

from eca_mmdet.catalog.architectures import (
    D_LAYOUTS,
    TIMM_KERNEL_SIZES,
    DLayout,
    Widths,
    regular_widths,
)
from eca_mmdet.models.attention.eca import ECALayer
from eca_mmdet.models.backbones.resnet import (
    ResidualBlock,
    check_memory,
    stage_kernel_sizes,
)
from eca_mmdet.models.initialization import FreezableBackbone
from eca_mmdet.models.lean.fused import sequence, stem


def _norm(norm_cfg: dict[str, Any], channels: int) -> nn.Module:
    return build_norm_layer(norm_cfg, channels)[1]  # type: ignore[no-any-return]


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class ECABottleneck(ResidualBlock, BaseModule):  # type: ignore[misc]
    """1x1, 3x3 (strided), 1x1, gate, add, ReLU; each convolution of its own width.

    The shortcut of a block that changes shape is average pool, 1x1, norm.
    """

    after_conv3_plugin_names = ('eca',)

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        stride: int,
        kernel_size: int | None,
        shortcut: bool,
        norm_cfg: dict[str, Any],
        with_cp: bool,
        memory: str = 'lean',
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg, memory=memory)
        first, second, outputs = widths
        self.with_cp = with_cp
        self.conv1, self.bn1 = _conv(inputs, first, 1), _norm(norm_cfg, first)
        self.conv2 = _conv(first, second, 3, stride)
        self.bn2 = _norm(norm_cfg, second)
        self.conv3, self.bn3 = _conv(second, outputs, 1), _norm(norm_cfg, outputs)
        self.eca = ECALayer(outputs, kernel_size)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if shortcut:
            self.downsample = nn.Sequential(
                nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False),
                _conv(inputs, outputs, 1),
                _norm(norm_cfg, outputs),
            )


@MODELS.register_module()
class ECAResNetD(FreezableBackbone):
    """The backbone of timm's ECA weights.

    Args:
        arch: '26t', '50t', '50d', '50d_pruned', '101d', '101d_pruned', '269d' or
            'light'; or a dict with ``stem`` (one width for a 7x7 convolution, three
            for 3x3 ones) and ``widths`` ([stage][block][three convolutions]) or
            ``depths`` and ``base_channels`` for the regular ones. ``eca-mmdet weights
            inspect FILE`` prints it for any file.
        kernel_sizes: sizes of the gates: one odd integer a stage; one for all; or
            'adaptive'. The default is that of timm's files.
        out_indices: stages to return.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stages up to the n-th.
        norm_cfg: as mmdet's ``ResNet``.
        norm_eval: keep norms in evaluation mode while training.
        with_cp: recompute blocks in the backward pass, to save memory.
        memory: 'lean' or 'plain', as :class:`PluginResNet`.
        init_cfg: as mmengine's.

    Attributes:
        out_channels: channels of the returned stages, for ``neck.in_channels``.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any],
        kernel_sizes: Sequence[int] | int | str = TIMM_KERNEL_SIZES,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_cfg: dict[str, Any] | None = None,
        norm_eval: bool = True,
        with_cp: bool = False,
        memory: str = 'lean',
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        fresh = init_cfg is None
        super().__init__(init_cfg or _DEFAULT_INIT)
        stem, widths = _read_arch(arch)
        stages = len(widths)
        valid = frozen_stages in range(-1, stages + 1) and len(out_indices) > 0
        if not valid or not set(out_indices) <= set(range(stages)):
            raise ValueError(
                f'this backbone has {stages} stages: out_indices must be within '
                f'0..{stages - 1} and frozen_stages within -1..{stages}; got '
                f'{out_indices!r} and {frozen_stages!r}.'
            )
        self.kernel_sizes = stage_kernel_sizes(
            kernel_sizes, len(widths), f"timm's files use {TIMM_KERNEL_SIZES}."
        )
        self.out_indices, self.frozen_stages = tuple(out_indices), frozen_stages
        self.norm_eval, self.with_cp = norm_eval, with_cp
        self.memory = check_memory(memory)
        self.norm_cfg = norm_cfg or dict(type='BN', requires_grad=True)
        self.out_channels = tuple(widths[i][-1][-1] for i in self.out_indices)
        self._make_stem(stem)
        channels = stem[-1]
        for index, blocks in enumerate(widths):
            stage = self._make_stage(index, channels, blocks, fresh)
            self.add_module(f'layer{index + 1}', stage)
            channels = blocks[-1][-1]
        self.res_layers = [f'layer{index + 1}' for index in range(stages)]
        self.freeze()

    def _make_stem(self, widths: Sequence[int]) -> None:
        if len(widths) == 1:
            self.conv1 = _conv(3, widths[0], 7, stride=2)
            self.bn1 = _norm(self.norm_cfg, widths[0])
        else:
            layers: list[nn.Module] = []
            for inputs, outputs in zip((3, *widths), widths, strict=False):
                layers += [
                    _conv(inputs, outputs, 3, stride=1 if layers else 2),
                    _norm(self.norm_cfg, outputs),
                    nn.ReLU(inplace=True),
                ]
            self.stem = nn.Sequential(*layers)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

    def _make_stage(
        self, index: int, inputs: int, blocks: Sequence[Sequence[int]], fresh: bool
    ) -> Sequential:
        # As in mmdet, a branch that starts at zero makes a new block the identity.
        zero = dict(type='Constant', val=0, override=dict(name='bn3'))
        layers = []
        for number, widths in enumerate(blocks):
            layers.append(
                ECABottleneck(
                    inputs,
                    widths,
                    stride=2 if index and not number else 1,
                    kernel_size=self.kernel_sizes[index],
                    shortcut=not number,
                    norm_cfg=self.norm_cfg,
                    with_cp=self.with_cp,
                    memory=self.memory,
                    init_cfg=zero if fresh else None,
                )
            )
            inputs = widths[-1]
        return Sequential(*layers)

    def _stem(self, x: Tensor) -> Tensor:
        lean = self.memory == 'lean'
        if hasattr(self, 'stem'):
            return self.maxpool(sequence(x, self.stem) if lean else self.stem(x))  # type: ignore[no-any-return]
        if lean:
            return stem(x, self.conv1, self.bn1, self.relu, self.maxpool)
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) to one map for each of ``out_indices``, stride 4 to 32."""
        x = self._stem(x)
        outputs = []
        for index, name in enumerate(self.res_layers):
            x = getattr(self, name)(x)
            if index in self.out_indices:
                outputs.append(x)
        return tuple(outputs)

    def freeze(self) -> None:
        """Freeze the stem and the first stages."""
        names = ['stem', 'conv1', 'bn1'] if self.frozen_stages >= 0 else []
        for name in (*names, *self.res_layers[: max(self.frozen_stages, 0)]):
            if hasattr(self, name):
                getattr(self, name).eval().requires_grad_(False)


_DEFAULT_INIT = [
    dict(type='Kaiming', layer='Conv2d'),
    dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
]


def _read_arch(arch: str | Mapping[str, Any]) -> DLayout:
    """Return the layout that ``arch`` names or describes."""
    if isinstance(arch, str):
        if arch not in D_LAYOUTS:
            raise ValueError(
                f'arch must be one of {", ".join(D_LAYOUTS)}, or a dict with stem and '
                f'widths; got {arch!r}.'
            )
        return D_LAYOUTS[arch]
    if not isinstance(arch, Mapping):
        raise ValueError(f'arch must be a name or a dict; got {arch!r}.')
    given = dict(arch)
    stem = given.pop('stem', (32, 32, 64))
    stem = (stem,) if isinstance(stem, int) else tuple(stem)
    if 'depths' in given:
        base = given.pop('base_channels', 64)
        widths = regular_widths(given.pop('depths'), base)
    else:
        stages = given.pop('widths', ())
        widths = tuple(tuple(tuple(block) for block in stage) for stage in stages)
    if given or not widths:
        raise ValueError(
            'arch takes stem, and either widths or depths with base_channels; got '
            f'{dict(arch)!r}.'
        )
    _check_widths(stem, widths)
    return DLayout(stem, widths)


def _check_widths(stem: tuple[int, ...], widths: Widths) -> None:
    if len(stem) not in (1, 3):
        raise ValueError(f'stem must have 1 or 3 widths; got {stem!r}.')
    for number, blocks in enumerate(widths, 1):
        fit = blocks and all(len(block) == 3 for block in blocks)
        if not fit or len({block[-1] for block in blocks}) != 1:
            raise ValueError(
                f'stage {number}: every block needs three widths, the last of them '
                f'the same in the whole stage (the residual sum); got {blocks!r}.'
            )
