"""Comparison of a checkpoint with a backbone: networks, names, shapes and values."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from torch import Tensor, nn

from eca_mmdet.catalog.mechanisms import ADDING_LAYERS
from eca_mmdet.checkpoints.identify import Architecture, Sizes, same_filters
from eca_mmdet.checkpoints.key_maps import GATES, Canonical, is_known
from eca_mmdet.models.attention.fcanet import FcaNet
from eca_mmdet.models.attention.gate import Gate
from eca_mmdet.models.initialization import file_names_of
from eca_mmdet.utils.text import first


@dataclass
class Fit:
    """Comparison of a file's tensors with a backbone's."""

    weights: dict[str, Tensor]  # to copy, by the backbone's names
    missing: list[str]  # in the file, gates excepted
    unused: list[str]  # of the file's tensors
    gates: dict[str, bool]  # the backbone's, and whether the file has all their tensors
    tensors: int  # in the backbone outside gates
    bare_gates: int  # gates without weights
    origin: str = ''  # e.g. 'eca_resnet50_k3557 (authors, ImageNet)'
    problems: list[str] = field(default_factory=list)  # why the file does not fit

    @property
    def line(self) -> str:
        """'318/318 tensors, 16/16 gates from …', and which did not fit."""
        loaded = self.tensors - len(self.missing)
        line = f'{loaded}/{self.tensors} tensors'
        if self.gates:
            line += f', {sum(self.gates.values())}/{len(self.gates)} gates'
        line += f' from {self.origin}'
        if self.bare_gates:
            line += f'; {self.bare_gates} gates have no weights'
        for title, names in (('new', self.missing), ('not used', self.unused)):
            if names:
                line += f'; {len(names)} {title}: {first(names)}'
        return line


def compare(canonical: Canonical, module: nn.Module) -> Fit:
    """Sort the names of both sides; nothing is judged yet."""
    own, theirs = module.state_dict(), canonical.backbone
    names = file_names_of(module)
    gates = {
        name: set(gate.state_dict(prefix=f'{name}.'))
        for name, gate in module.named_modules()
        if isinstance(gate, Gate) or (names and name in names.gates)
    }
    weights = {
        key: tensor
        for key, tensor in theirs.items()
        if key in own and own[key].shape == tensor.shape
    }
    # PyTorch before 0.4.1 did not count batches; the counter is not used.
    plain = [
        key
        for key in own
        if key in theirs or not key.endswith('num_batches_tracked')
        if not any(key in keys for keys in gates.values())
    ]
    return Fit(
        weights,
        missing=[key for key in plain if key not in weights],
        unused=[canonical.source[key] for key in theirs if key not in own],
        gates={name: weights.keys() >= keys for name, keys in gates.items() if keys},
        tensors=len(plain),
        bare_gates=sum(not keys for keys in gates.values()),
    )


def key_problems(
    fit: Fit, canonical: Canonical, module: nn.Module, unknown_backbone: bool
) -> list[str]:
    """List tensors that two files of the same network would share."""
    own, theirs = module.state_dict(), canonical.backbone
    shapes = [
        f'{key} (file {tuple(theirs[key].shape)}, backbone {tuple(own[key].shape)})'
        for key in own
        if key in theirs and key not in fit.weights
    ]
    needed = [
        key
        for key in fit.missing
        if key not in theirs and (unknown_backbone or _is_needed(key))
    ]
    # Part of a gate, or a bias without a place in the backbone: both have the layer,
    # which would compute something else.
    partial = [
        key
        for gate, complete in fit.gates.items()
        for key in own
        if not complete and key.startswith(f'{gate}.') and key not in theirs
        if any(other.startswith(f'{gate}.') for other in theirs)
    ]
    extra = [key for key in theirs if key not in own]
    if names := file_names_of(module):
        both, extra = '', [key for key in extra if names.part_of(key) != 'left_out']
    else:
        both, layers = 'of layers that both have ', {k.rpartition('.')[0] for k in own}
        extra = [key for key in extra if key.rpartition('.')[0] in layers]
    without_place = [canonical.source[key] for key in extra]
    return counted(
        (shapes, 'have another shape'),
        (needed + partial, 'are not in the file'),
        (without_place, f'{both}are not in the backbone'),
    )


def counted(*problems: tuple[list[str], str]) -> list[str]:
    """Return a sentence for each list with tensors: their number and first names."""
    return [
        f'{len(keys)} tensors {title}: {first(keys)}'
        for keys, title in problems
        if keys
    ]


def _is_needed(key: str) -> bool:
    """Return whether a tensor is of the plain network: a public name, or any norm."""
    norm = r'((layer\d+\.\d+|stem)\.)?[a-z]*n\d\.\w+'  # 'gn1', 'layer1.0.sbn2'
    return is_known(key) or re.fullmatch(norm, key) is not None


def value_problems(weights: dict[str, Tensor], own: dict[str, Tensor]) -> list[str]:
    """List tensors whose values cannot be weights."""
    integers = [
        f'{key} ({str(tensor.dtype)[6:]})'
        for key, tensor in weights.items()
        if own[key].is_floating_point() and not tensor.is_floating_point()
    ]
    broken = [
        key
        for key, tensor in weights.items()
        if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    return counted(
        (integers, 'are no floating-point numbers'), (broken, 'hold NaN or infinity')
    )


def frozen_additions(fit: Fit, module: nn.Module) -> list[str]:
    """Return new layers that add to the map, in frozen stages: they stay at zero."""
    return [
        name
        for name, layer in module.named_modules()
        if type(layer).__name__ in ADDING_LAYERS
        and any(key.startswith(f'{name}.') for key in fit.missing)
        and is_frozen(module, name)
    ]


def constant_problems(canonical: Canonical, module: nn.Module) -> list[str]:
    """List the file's constants that come from other arguments than the layer's."""
    modules = dict(module.named_modules())
    problems = []
    for key, theirs in canonical.constants.items():
        gate = modules.get(key.removesuffix('.filters'))
        if not isinstance(gate, FcaNet):
            continue
        ours = gate.filters()
        if ours.shape != theirs.shape:
            problems.append(
                f'{key}: file {tuple(theirs.shape)}, backbone {tuple(ours.shape)}; the '
                f'second number is the size of FcaNet: set size={theirs.shape[-1]}'
            )
        elif not same_filters(theirs, ours):
            problems.append(f'{key}: other frequencies than the backbone has')
    return problems


def is_frozen(module: nn.Module, gate: str) -> bool:
    """Return whether training leaves a gate as it is."""
    stage = re.match(r'layer(\d+)\.', gate)
    if stage and int(stage[1]) <= getattr(module, 'frozen_stages', -1):
        return True  # mmdet's MobileNetV2 freezes only when training starts
    parameters = module.get_submodule(gate).parameters()
    return not any(parameter.requires_grad for parameter in parameters)


def differences(file: Architecture, own: Architecture) -> list[str]:
    """List how a file's network differs from a backbone's, one sentence each.

    The backbone may have fewer stages; gates are compared where both have them.
    """
    if file.family != own.family:
        return [f'the file is a {file.family}, the backbone a {own.family}']
    stages = len(own.blocks)
    found = []
    missing = [i + 1 for i in range(stages) if not (*file.blocks, *[0] * stages)[i]]
    if missing:
        found.append(f'the file has no stage {", ".join(map(str, missing))}')
    elif (file.block, file.blocks[:stages]) != (own.block, own.blocks):
        found.append(f'depth: file {_depth(file)}, backbone {_depth(own)}')
    if (file.stem, file.stem_kernel) != (own.stem, own.stem_kernel):
        found.append(f'stem: file {_stem(file)}, backbone {_stem(own)}')
    shortcuts = {file.shortcut, own.shortcut} - {'identity'}
    if len(shortcuts) > 1:
        found.append(f'shortcut: file {file.shortcut}, backbone {own.shortcut}')
    same_depth = not missing and file.blocks[:stages] == own.blocks
    if same_depth and file.block == own.block and file.widths[:stages] != own.widths:
        line = f'widths of the stages: file {file.out_channels}, '
        line += f'backbone {own.out_channels}'
        same = file.out_channels[:stages] == own.out_channels
        found.append('widths inside the blocks differ' if same else line)
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
