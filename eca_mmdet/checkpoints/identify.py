"""Architecture and origin of a state dict, from tensor names and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from eca_mmdet.catalog.architectures import D_LAYOUTS, RESNET_BLOCKS, Widths
from eca_mmdet.checkpoints.detector import Heads, size_of
from eca_mmdet.checkpoints.key_maps import (
    GATES,
    Canonical,
    GateKind,
    attention_of,
    is_known,
)
from eca_mmdet.models.dct import STAGE_SIZES, dct_filters

_INVERTED = ('expand_conv.conv', 'depthwise_conv.conv', 'linear_conv.conv')
_CONVOLUTIONS = {
    'basic': ('conv1', 'conv2'),
    'bottleneck': ('conv1', 'conv2', 'conv3'),
    'inverted residual': _INVERTED,
}

Sizes = tuple[tuple[int | None, ...], ...]
"""[stage][block]; None in blocks without the layer."""


@dataclass(frozen=True)
class Architecture:
    """A ResNet or MobileNetV2 as its tensors describe it."""

    block: str  # 'basic', 'bottleneck' or 'inverted residual'
    stem: tuple[int, ...]  # widths of its convolutions
    stem_kernel: int  # 7 or 3
    # 'convolution', 'average pool + convolution', 'identity' (no block changes the
    # shape) or 'mixed'.
    shortcut: str
    widths: Widths  # output channels, [stage][block][convolution]
    groups: int  # in the 3x3 convolution of the first block
    gate: str  # 'ECA', 'SE', 'FcaNet', 'CBAM', ..., 'ECA + SE', or ''
    kernel_sizes: Sizes  # ECA gates
    hidden: Sizes  # units of the gates other than ECA
    se_bias: bool
    others: tuple[tuple[str, int], ...] = ()  # other attention layers and their number

    @property
    def family(self) -> str:
        """'MobileNetV2' or 'ResNet'."""
        return 'MobileNetV2' if self.block == 'inverted residual' else 'ResNet'

    @property
    def blocks(self) -> tuple[int, ...]:
        """Number of blocks per stage."""
        return tuple(map(len, self.widths))

    @property
    def depth(self) -> int | None:
        """18 to 152, or None where no such ResNet has these blocks."""
        for depth, known in RESNET_BLOCKS.items():
            if known == (self.block, self.blocks):
                return depth
        return None

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Output channels of each stage; 0 where it is missing."""
        return tuple(stage[-1][-1] if stage else 0 for stage in self.widths)

    @property
    def gates(self) -> int:
        """Number of attention layers."""
        sizes = (*self.kernel_sizes, *self.hidden)
        known = sum(size is not None for stage in sizes for size in stage)
        return known + sum(count for _, count in self.others)

    @property
    def stage_kernel_sizes(self) -> tuple[int | None, ...] | None:
        """One ECA kernel size per stage, or None where they differ in a stage."""
        if any(len(set(stage)) > 1 for stage in self.kernel_sizes):
            return None
        return tuple(stage[0] if stage else None for stage in self.kernel_sizes)

    @property
    def is_plain(self) -> bool:
        """Whether mmdet's ResNet has this stem, these shortcuts and these widths."""
        expansion = 1 if self.block == 'basic' else 4
        base = self.stem[-1]
        regular = all(
            set(block[:-1]) == {base << stage}
            and block[-1] == (base << stage) * expansion
            for stage, blocks in enumerate(self.widths)
            for block in blocks
        )
        stem = len(self.stem) == 1 and self.stem_kernel == 7
        plain = self.shortcut in ('convolution', 'identity')
        return stem and plain and regular and self.groups == 1

    @property
    def d_name(self) -> str | None:
        """Name of timm's ``ecaresnet`` with these widths ('50d'), or None."""
        for name, layout in D_LAYOUTS.items():
            if (self.stem, self.widths) == tuple(layout):
                return name
        return None

    @property
    def title(self) -> str:
        """'ECA-ResNet-50', 'SE-ResNet', 'MobileNetV2', ..."""
        name = self.family
        if self.block != 'inverted residual':
            if self.groups > 1:
                name = 'ResNeXt'
            pooled = self.shortcut == 'average pool + convolution'
            size = self.d_name if pooled else self.depth
            name += f'-{size}' if size else ''
        gate = self.gate.replace(' + ', '-')
        return f'{gate}-{name}' if gate else name


def read_architecture(state: Mapping[str, Tensor]) -> Architecture | None:
    """Read an architecture from tensors under mmdet's names; they may be meta tensors.

    None where this is no ResNet or MobileNetV2. Other names are ignored.
    """
    names = _block_names(state)
    stem, kernel = _read_stem(state)
    # HRNet and others begin like a ResNet: most names must be a ResNet's. (An
    # attention layer in every block may have more tensors than the blocks.)
    own = [key for key in state if not attention_of(key)]
    if not names or not stem or sum(map(is_known, own)) < len(own) / 2:
        return None
    first = next(blocks[0] for blocks in names if blocks)
    if f'{first}.depthwise_conv.conv.weight' in state:
        block = 'inverted residual'
    elif f'{first}.conv3.weight' in state:
        block = 'bottleneck'
    elif f'{first}.conv2.weight' in state:
        block = 'basic'
    else:
        return None

    def sizes(kind: GateKind) -> Sizes:
        keys = [
            [f'{name}.{kind.layer}.{kind.size}' for name in blocks] for blocks in names
        ]
        return tuple(
            tuple(size_of(state[k], kind.axis) if k in state else None for k in stage)
            for stage in keys
        )

    grids = {kind.name: sizes(kind) for kind in GATES.values()}
    gates = [
        name
        for name, grid in grids.items()
        if any(size is not None for stage in grid for size in stage)
    ]
    reducing = next((name for name in gates if name != 'ECA'), 'SE')
    others = _read_others(state)
    return Architecture(
        block=block,
        stem=stem,
        stem_kernel=kernel,
        shortcut=_read_shortcut(state),
        widths=tuple(
            tuple(_block_widths(state, name, block) for name in blocks)
            for blocks in names
        ),
        groups=_read_groups(state, first, block),
        gate=' + '.join([*gates, *(name for name, _ in others)]),
        kernel_sizes=grids['ECA'],
        hidden=grids[reducing],
        se_bias=any(re.search(r'\.se\.fc\.0\.bias$', key) for key in state),
        others=others,
    )


def _read_others(state: Mapping[str, Tensor]) -> tuple[tuple[str, int], ...]:
    """Count the attention layers of each kind that has no entry of its own."""
    layers: dict[str, set[str]] = {}
    for key in state:
        name = attention_of(key)
        if name:
            layer = re.match(r'layer\d+\.(\d+\.)?[^.]+', key)
            layers.setdefault(name, set()).add(layer[0] if layer else key)
    return tuple((name, len(found)) for name, found in sorted(layers.items()))


def _block_names(state: Mapping[str, Tensor]) -> list[list[str]]:
    """Return 'layerS.B' of every stage and block, missing stages as empty lists."""
    found: dict[int, set[int]] = {}
    for key in state:
        match = re.match(r'layer([1-9])\.([0-9]{1,3})\.\w*conv', key)
        if match:
            found.setdefault(int(match[1]), set()).add(int(match[2]))
    return [
        [f'layer{stage}.{block}' for block in sorted(found.get(stage, ()))]
        for stage in range(1, max(found, default=0) + 1)
    ]


def _read_stem(state: Mapping[str, Tensor]) -> tuple[tuple[int, ...], int]:
    for names in (
        ('stem.0.weight', 'stem.3.weight', 'stem.6.weight'),
        ('conv1.weight',),
        ('conv1.conv.weight',),
    ):
        if all(name in state and state[name].dim() == 4 for name in names):
            widths = tuple(state[name].shape[0] for name in names)
            return widths, state[names[0]].shape[-1]
    return (), 0


def _block_widths(
    state: Mapping[str, Tensor], name: str, block: str
) -> tuple[int, ...]:
    """Return the widths of a block's convolutions; one that is missing counts 0."""
    keys = [f'{name}.{part}.weight' for part in _CONVOLUTIONS[block]]
    if block == 'inverted residual' and keys[0] not in state:
        keys = keys[1:]  # the first block does not expand
    return tuple(size_of(state.get(key)) for key in keys)


def _read_shortcut(state: Mapping[str, Tensor]) -> str:
    kinds = set()
    for key, tensor in state.items():
        match = re.fullmatch(r'layer\d+\.\d+\.downsample\.(\d)\.weight', key)
        if match and tensor.dim() == 4:
            kinds.add('average pool + ' * (match[1] == '1') + 'convolution')
    if len(kinds) > 1:
        return 'mixed'
    return kinds.pop() if kinds else 'identity'


def _read_groups(state: Mapping[str, Tensor], first: str, block: str) -> int:
    conv1, conv2 = (state.get(f'{first}.conv{i}.weight') for i in (1, 2))
    if block != 'bottleneck' or conv1 is None or conv2 is None or conv2.dim() < 2:
        return 1
    return max(1, conv1.shape[0] // max(1, conv2.shape[1]))


def origin_of(
    canonical: Canonical, found: Architecture, heads: Heads | None = None
) -> str:
    """Return the library whose names these are ('timm', 'authors', ...)."""
    if heads:
        return f'MMDetection {heads.version}'
    if any(name.startswith('backbone.') for name in canonical.source.values()):
        return 'mmpretrain'
    return canonical.layout.origin_of(found.gate, bool(canonical.classifier))


def classes_of(canonical: Canonical, heads: Heads | None) -> int | None:
    """Return the number of classes of a classifier or detector."""
    if heads:
        return heads.classes
    sizes = [t.shape[0] for t in canonical.classifier.values() if t.dim()]
    return sizes[0] if sizes else None


def unusual_constants(canonical: Canonical) -> list[str]:
    """Report FcaNet filters that differ from those of this package's ResNets."""
    problems = []
    for name, tensor in canonical.constants.items():
        stage = re.match(r'layer(\d+)', name)
        number = int(stage[1]) if stage else 0
        size = STAGE_SIZES[min(max(number, 1), len(STAGE_SIZES)) - 1]
        if tensor.shape[1:] != (size, size) or tensor.shape[0] % 16:
            problems.append(
                f'{name} has shape {tuple(tensor.shape)} where the authors have '
                f'channels, {size}, {size}'
            )
        elif not same_filters(tensor, dct_filters(tensor.shape[0], size)):
            problems.append(f'{name} is of other frequencies than the best 16')
    return problems


def same_filters(theirs: Tensor, ours: Tensor) -> bool:
    """Return whether filters are equal up to rounding; meta tensors by shape only."""
    if theirs.is_meta or ours.is_meta:
        return theirs.shape == ours.shape
    return torch.allclose(theirs.float().cpu(), ours.float().cpu(), atol=1e-5)
