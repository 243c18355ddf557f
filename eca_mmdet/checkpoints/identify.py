"""Architecture and origin of a state dict, from tensor names and shapes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eca_mmdet.catalog.architectures import (
    D_LAYOUTS,
    RESNET_BLOCKS,
    Widths,
    regular_widths,
)
from eca_mmdet.checkpoints.key_maps import (
    GATES,
    Canonical,
    GateKind,
    attention_of,
    is_known,
    to_canonical,
)
from eca_mmdet.models.dct import STAGE_SIZES, dct_filters

if TYPE_CHECKING:
    from eca_mmdet.models.initialization import FileNames  # imports mmengine

_PARTS = {  # convolutions of a block
    'inverted residual': ('depthwise_conv.conv', 'linear_conv.conv'),
    'bottleneck': ('conv1', 'conv2', 'conv3'),
    'basic': ('conv1', 'conv2'),
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
        shape = self.block, self.blocks
        return next((d for d, known in RESNET_BLOCKS.items() if known == shape), None)

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Output channels of each stage; 0 where it is missing."""
        return tuple(stage[-1][-1] if stage else 0 for stage in self.widths)

    @property
    def gates(self) -> int:
        """Number of attention layers."""
        sizes = chain(*self.kernel_sizes, *self.hidden)
        known = sum(size is not None for size in sizes)
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
        regular = regular_widths(self.blocks, self.stem[-1])
        if self.block == 'basic':
            regular = tuple(tuple(b[:2] for b in blocks) for blocks in regular)
        stem = len(self.stem) == 1 and self.stem_kernel == 7
        plain = self.shortcut in ('convolution', 'identity')
        return stem and plain and self.widths == regular and self.groups == 1

    @property
    def d_name(self) -> str | None:
        """Name of timm's ``ecaresnet`` with these widths ('50d'), or None."""
        shape = self.stem, self.widths
        return next((name for name in D_LAYOUTS if D_LAYOUTS[name] == shape), None)

    @property
    def title(self) -> str:
        """'ECA-ResNet-50', 'SE-ResNet', 'MobileNetV2', ..."""
        name, size = self.family, None
        if name == 'ResNet':
            name = 'ResNeXt' if self.groups > 1 else name
            pooled = self.shortcut == 'average pool + convolution'
            size = self.d_name if pooled else self.depth
        gate = self.gate.replace(' + ', '-')
        return '-'.join(str(part) for part in (gate, name, size) if part)


def read_architecture(state: Mapping[str, Tensor]) -> Architecture | None:
    """Read a ResNet or MobileNetV2 from its tensors, or None.

    They have mmdet's names, and may be meta tensors. Other names are ignored.
    """
    names = _block_names(state)
    stem, kernel = _read_stem(state)
    # HRNet and others begin like a ResNet: most names must be a ResNet's. (An
    # attention layer in every block may have more tensors than the blocks.)
    attention = {key: layer for key in state if (layer := attention_of(key))}
    own = state.keys() - attention.keys()
    if not names or not stem or sum(map(is_known, own)) < len(own) / 2:
        return None
    first = next(blocks[0] for blocks in names if blocks)
    ends = {f'{first}.{parts[-1]}.weight': kind for kind, parts in _PARTS.items()}
    block = next((kind for end, kind in ends.items() if end in state), None)
    if block is None:
        return None

    def sizes(kind: GateKind) -> Sizes:
        def size(name: str) -> int | None:
            tensor = state.get(f'{name}.{kind.layer}.{kind.size}')
            return None if tensor is None else size_of(tensor, kind.axis)

        return tuple(tuple(map(size, stage)) for stage in names)

    def widths(name: str) -> tuple[int, ...]:
        parts = _PARTS[block]
        if f'{name}.expand_conv.conv.weight' in state:  # not in MobileNetV2's first
            parts = ('expand_conv.conv', *parts)
        return tuple(size_of(state.get(f'{name}.{part}.weight')) for part in parts)

    grids = {name: sizes(kind) for name, kind in GATES.items()}
    gates = [name for name, grid in grids.items() if {*chain(*grid)} - {None}]
    reducing = next((name for name in gates if name != 'ECA'), 'SE')
    others = Counter(name for name, _ in {*attention.values()})
    return Architecture(
        block=block,
        stem=stem,
        stem_kernel=kernel,
        shortcut=_read_shortcut(state),
        widths=tuple(tuple(map(widths, stage)) for stage in names),
        groups=_read_groups(state, first, block),
        gate=' + '.join([*gates, *sorted(others)]),
        kernel_sizes=grids['ECA'],
        hidden=grids[reducing],
        se_bias=any(re.search(r'\.se\.fc\.0\.bias$', key) for key in state),
        others=tuple(sorted(others.items())),
    )


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
    """Return widths and kernel size of its convolutions; no widths without a stem."""
    for layers in (('stem.0', 'stem.3', 'stem.6'), ('conv1',), ('conv1.conv',)):
        shapes = [state[f'{s}.weight'].shape for s in layers if f'{s}.weight' in state]
        if len(shapes) == len(layers) and {*map(len, shapes)} == {4}:
            return tuple(shape[0] for shape in shapes), shapes[0][-1]
    return (), 0


def _read_shortcut(state: Mapping[str, Tensor]) -> str:
    places = {
        match[1]
        for key, tensor in state.items()
        if (match := re.fullmatch(r'layer\d+\.\d+\.downsample\.(\d)\.weight', key))
        and tensor.dim() == 4
    }
    if not places:
        return 'identity'
    if '1' not in places:
        return 'convolution'
    return 'average pool + convolution' if places == {'1'} else 'mixed'


def _read_groups(state: Mapping[str, Tensor], first: str, block: str) -> int:
    conv1, conv2 = (state.get(f'{first}.conv{i}.weight') for i in (1, 2))
    if block != 'bottleneck' or conv1 is None or conv2 is None or conv2.dim() < 2:
        return 1
    return max(1, conv1.shape[0] // max(1, conv2.shape[1]))


@dataclass(frozen=True)
class Heads:
    """A detector without its backbone."""

    detector: str  # 'Cascade Mask R-CNN', 'RetinaNet', 'RPN', 'detector', ...
    # 'v1', 'v2 or v3' or 'v1, v2 or v3' (RetinaNet's names never changed), narrowed by
    # the file's metadata.
    version: str
    classes: int | None  # without background; None where the heads do not show it

    @property
    def title(self) -> str:
        """'Faster R-CNN of MMDetection v1' and the like."""
        return f'{self.detector} of MMDetection {self.version}'


def read_heads(
    state: Mapping[str, Tensor], extras: Mapping[str, Any] | None = None
) -> Heads | None:
    """Read a detector's kind from names and shapes; None without heads.

    ``extras``, the entries beside the tensors, narrow the version.
    """
    parts = {key.split('.')[0] for key in state}
    heads = {'bbox_head', 'roi_head', 'rpn_head', 'mask_head'}
    if 'backbone' not in parts or not parts & heads:
        return None
    stated = _stated_version(extras or {})
    if 'bbox_head.retina_cls.weight' in state or 'bbox_head.retina_cls.bias' in state:
        old_towers = 'bbox_head.cls_convs.0.weight' in state  # v0.6.0
        version = 'v1' if old_towers else stated or 'v1, v2 or v3'
        anchors = size_of(state.get('bbox_head.retina_reg.weight')) // 4
        rows = size_of(state.get('bbox_head.retina_cls.weight'))
        classes = rows // anchors if rows and anchors else None
        return Heads('RetinaNet', version, classes)
    top = 'roi_head' not in parts and {'rpn_head', 'bbox_head'} <= parts
    prefix = '' if top else 'roi_head.'
    # Four rows for each class and background: v1's, wherever the head stands.
    old = top or any(
        key.endswith('.fc_cls.weight')
        and size_of(state.get(key.replace('fc_cls', 'fc_reg'))) == 4 * size_of(tensor)
        for key, tensor in state.items()
    )
    version = 'v1' if old else stated or 'v2 or v3'
    boxes, cascade, masks = (
        any(key.startswith(f'{prefix}{head}.') for key in state)
        for head in ('bbox_head', 'bbox_head.0', 'mask_head')
    )
    if not boxes:
        kind = 'RPN' if parts <= {'backbone', 'neck', 'rpn_head'} else 'detector'
        return Heads(kind, stated or 'v1, v2 or v3', None)
    kind = 'Mask R-CNN' if masks else 'R-CNN' if cascade else 'Faster R-CNN'
    head = f'{prefix}bbox_head.0' if cascade else f'{prefix}bbox_head'
    rows = size_of(state.get(f'{head}.fc_cls.weight'))
    return Heads('Cascade ' * cascade + kind, version, rows - 1 if rows else None)


def size_of(tensor: Tensor | None, axis: int = 0) -> int:
    """Return the size along an axis; 0 without a tensor or axes."""
    return tensor.shape[axis] if tensor is not None and tensor.dim() else 0


def _stated_version(extras: Mapping[str, Any]) -> str:
    """Return the version that the metadata states, or ''."""
    meta = extras.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    if 'message_hub' in extras or 'mmengine_version' in meta:
        return 'v3'
    stated = str(meta.get('mmdet_version', ''))
    # mmdet 2.x wrote its own version; v1 did too, from 1.0rc0 on.
    return f'v{stated[0]}' if stated[:2] in ('1.', '2.', '3.') else ''


@dataclass(frozen=True)
class Recognised:
    """What the tensors of a checkpoint are."""

    canonical: Canonical
    network: Architecture | None
    heads: Heads | None

    @property
    def origin(self) -> str:
        """The library whose names these are ('timm', 'authors', ...)."""
        layout = self.canonical.layout
        if self.heads:
            return f'MMDetection {self.heads.version}'
        if any(name.startswith('backbone.') for name in self.canonical.source.values()):
            return 'mmpretrain'
        if layout.bare_origin and not self.canonical.classifier:
            return layout.bare_origin
        gate = self.network.gate if self.network else ''
        return layout.gate_origins.get(gate, layout.origin)

    @property
    def classes(self) -> int | None:
        """Number of classes of a classifier or detector."""
        if self.heads:
            return self.heads.classes
        sizes = [t.shape[0] for t in self.canonical.classifier.values() if t.dim()]
        return sizes[0] if sizes else None


def recognise(
    state: Mapping[str, Tensor],
    extras: Mapping[str, Any] | None = None,
    names: FileNames | None = None,
) -> Recognised:
    """Recognise the tensors of a file; ``extras`` are its other entries.

    ``names`` are those that a backbone declares whose tensors are not renamed.
    """
    canonical = to_canonical(dict(state), names)
    network = read_architecture(canonical.backbone)
    return Recognised(canonical, network, read_heads(state, extras))


def unusual_constant(canonical: Canonical) -> str:
    """Describe the first FcaNet filters that this package's ResNets have not, or ''."""
    for name, tensor in canonical.constants.items():
        stage = int(name.partition('.')[0].removeprefix('layer'))
        size = STAGE_SIZES[min(stage, len(STAGE_SIZES)) - 1]
        if tensor.shape[1:] != (size, size) or tensor.shape[0] % 16:
            return (
                f'{name} has shape {tuple(tensor.shape)} where the authors have '
                f'channels, {size}, {size}'
            )
        if not same_filters(tensor, dct_filters(tensor.shape[0], size)):
            return f'{name} is of other frequencies than the best 16'
    return ''


def same_filters(theirs: Tensor, ours: Tensor) -> bool:
    """Return whether filters are equal up to rounding; meta tensors by shape only."""
    if theirs.is_meta or ours.is_meta:
        return theirs.shape == ours.shape
    return torch.allclose(theirs.float().cpu(), ours.float().cpu(), atol=1e-5)


def differences(file: Architecture, own: Architecture) -> list[str]:
    """List how a file's network differs from a backbone's, one sentence each.

    The backbone may have fewer stages; gates are compared where both have them.
    """
    if file.family != own.family:
        return [f'the file is a {file.family}, the backbone a {own.family}']
    stages = len(own.blocks)
    missing = [i + 1 for i in range(stages) if not (*file.blocks, *[0] * stages)[i]]
    found, same_depth = [], file.blocks[:stages] == own.blocks
    if missing:
        found.append(f'the file has no stage {", ".join(map(str, missing))}')
    elif not same_depth or file.block != own.block:
        found.append(f'depth: file {_depth(file)}, backbone {_depth(own)}')
    elif file.widths[:stages] != own.widths:
        line = 'widths inside the blocks differ'
        if file.out_channels[:stages] != own.out_channels:
            line = f'widths of the stages: file {file.out_channels}, '
            line += f'backbone {own.out_channels}'
        found.append(line)
    if (file.stem, file.stem_kernel) != (own.stem, own.stem_kernel):
        found.append(f'stem: file {_stem(file)}, backbone {_stem(own)}')
    if len({file.shortcut, own.shortcut} - {'identity'}) > 1:
        found.append(f'shortcut: file {file.shortcut}, backbone {own.shortcut}')
    return found + _gate_differences(file, own)


def _gate_differences(file: Architecture, own: Architecture) -> list[str]:
    found = []
    kernels = _pairs(file.kernel_sizes, own.kernel_sizes)
    if any(None not in pair and pair[0] != pair[1] for pair in kernels):
        sizes = file.stage_kernel_sizes
        both = f'file {file.kernel_sizes}, backbone {own.kernel_sizes}'
        if sizes is not None and None not in sizes:
            own_sizes = own.stage_kernel_sizes or own.kernel_sizes
            both = f'file {sizes}, backbone {own_sizes}; set kernel_sizes={sizes}'
        found.append(f'ECA kernel sizes: {both}')
    other = 'the features would differ from those that the file was trained for'
    for name, count in file.others:
        if name not in dict(own.others):
            found.append(
                f'the file has {count} layers of {name}, the backbone none: {other}'
            )
    others = GATES.keys() - {'ECA'}
    theirs, ours = (others & set(net.gate.split(' + ')) for net in (file, own))
    if theirs and ours and theirs != ours:
        found.append(f'gates: file {file.gate}, backbone {own.gate}')
    extra = sum(
        pair[0] is not None and pair[1] is None
        for pair in kernels + _pairs(file.hidden, own.hidden)
    )
    if extra:
        found.append(
            f'the file has {file.gate} gates in {extra} blocks where the backbone has '
            f'none: {other}'
        )
    return found


def _pairs(file: Sizes, own: Sizes) -> list[tuple[int | None, int | None]]:
    """Return the sizes of both for every block that both have."""
    stages = zip(file, own, strict=False)
    return [pair for stage in stages for pair in zip(*stage, strict=False)]


def _depth(network: Architecture) -> str:
    name = f'{network.depth} ' if network.depth else ''
    return f'{name}{network.blocks} of {network.block} blocks'


def _stem(network: Architecture) -> str:
    widths = '-'.join(map(str, network.stem))
    return f'{network.stem_kernel}x{network.stem_kernel} {widths}'
