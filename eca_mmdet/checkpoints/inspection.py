"""Identification of checkpoint files, and the backbone and shipped config they fit.

Only tensor names and shapes count. The file's own name and its entries ('arch':
'se_resnet50' in the ECA authors' files) are shown but never believed.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from eca_mmdet.catalog.architectures import (
    MOBILENET_V2_KERNEL_SIZES,
    MOBILENET_V2_STAGES,
    RELEASED_KERNEL_SIZES,
    TIMM_KERNEL_SIZES,
)
from eca_mmdet.catalog.configs import shipped_configs
from eca_mmdet.checkpoints.download import local_file
from eca_mmdet.checkpoints.identify import (
    Architecture,
    Heads,
    Recognised,
    recognise,
    unusual_constant,
)
from eca_mmdet.checkpoints.io import read_checkpoint
from eca_mmdet.checkpoints.key_maps import GATES
from eca_mmdet.utils.text import first, printable

_FAMILIES = {  # start of the shipped configs' names, and the heads with num_classes
    'Faster R-CNN': ('faster-rcnn', 'roi_head.bbox_head'),
    'Mask R-CNN': ('mask-rcnn', 'roi_head.bbox_head', 'roi_head.mask_head'),
    'RetinaNet': ('retinanet', 'bbox_head'),
}
_AS_FOUND = 'depth blocks block shortcut out_channels widths gate gates'.split()
_TITLES = {'authors': 'the ECA-Net authors', 'mmdet': 'mmdet backbones'}
_EXPECTED = (
    'expected names like conv1.weight or stem.0.weight or conv1.0.weight with '
    'layer1.0.conv1.weight, or features.1.conv.0.0.weight; before them nothing or the '
    'names of wrappers.'
)


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint file is; fields that do not apply are empty."""

    path: str
    what: str  # one line: network, purpose, whose names it uses
    known: bool
    kind: str  # 'backbone', 'classifier', 'detector' or 'unknown'
    origin: str = ''  # 'authors', 'torchvision', 'timm', 'MMDetection v1', ...
    network: str = ''  # 'ECA-ResNet-50', ...
    depth: int | None = None  # 18, 34, 50, 101 or 152
    blocks: tuple[int, ...] = ()  # number per stage
    block: str = ''  # 'basic', 'bottleneck' or 'inverted residual'
    stem: str = ''  # e.g. '7x7, 64' or '3x3, 32-32-64'
    shortcut: str = ''  # e.g. 'convolution' or 'average pool + convolution'
    out_channels: tuple[int, ...] = ()  # per stage
    widths: tuple[tuple[tuple[int, ...], ...], ...] = ()  # [stage][block][convolution]
    gate: str = ''  # 'ECA', 'SE', 'FcaNet', ...
    gates: int = 0  # number
    # ECA gates, one per stage; None where a stage has several sizes.
    kernel_sizes: tuple[int | None, ...] | None = ()
    uniform: bool = True
    block_kernel_sizes: tuple[tuple[int | None, ...], ...] = ()  # [stage][block]
    classes: int | None = None  # without background
    tensors: int = 0
    dtypes: tuple[str, ...] = ()
    sha256: str = ''
    container: str = ''  # 'PyTorch' or 'safetensors'
    wrapped: str = ''  # key and prefix of the tensors in the file
    choices: tuple[str, ...] = ()  # keys of further sets of the same tensors in it
    beside: tuple[str, ...] = ()  # other entries of the file
    metadata: dict[str, str] = field(default_factory=dict)  # its text entries
    backbone: str = ''  # the mmdet backbone that it fits, as config text
    command: str = ''  # uses it with a shipped config
    notes: tuple[str, ...] = ()  # warnings for the user

    def to_dict(self) -> dict[str, Any]:
        """Return every attribute, ready for JSON."""
        return asdict(self)


def inspect_weights(
    source: str | Path, trust: Iterable[str] = (), key: str = ''
) -> Inspection:
    """Identify the checkpoint at a path or an https:// or hf:// address.

    ``trust`` has 'MODULE.CLASS' names that reading the file may use; ``key`` is the
    entry or prefix of the tensors, where the file has several sets. A readable file
    that is not recognised is no error: ``known`` is False.

    Example:
        >>> import eca_mmdet
        >>> found = eca_mmdet.inspect_weights('eca_resnet18.pth')
        >>> found.network, found.kernel_sizes
        ('ECA-ResNet-18', (3, 5, 7, 7))
    """
    return inspect(local_file(source), trust, str(source), key)


def inspect(
    path: str | Path, trust: Iterable[str] = (), name: str | None = None, key: str = ''
) -> Inspection:
    """Identify a local checkpoint, which the suggestions call ``name``."""
    name = name or str(path)
    file = read_checkpoint(path, trust, key)
    beside = [f'{printable(str(k))} {_brief(v)}' for k, v in file.extras.items()]
    wrapped = [f"under '{file.wrapper}'"] if file.wrapper else []
    if file.prefix:
        some = f'{len(file.state)} of {len(file.raw)} names'
        names = 'every name' if len(file.state) == len(file.raw) else some
        wrapped.append(f"'{file.prefix}' before {names}")
    about = identify(file.state, file.extras, name)
    about['notes'] += tuple(_other_weights(choice, key) for choice in file.choices)
    return Inspection(
        path=name,
        tensors=len(file.state),
        dtypes=tuple(sorted({str(t.dtype)[6:] for t in file.state.values()})),
        sha256=file.sha256,
        container=file.container,
        wrapped=', '.join(wrapped),
        choices=file.choices,
        beside=tuple(beside),
        metadata=file.metadata,
        **about,
    )


def identify(
    state: Mapping[str, Tensor], extras: Mapping[str, Any], path: str
) -> dict[str, Any]:
    """Return the fields of :class:`Inspection` that tensors and entries tell."""
    known = recognise(state, extras)
    canonical, found, heads = known.canonical, known.network, known.heads
    if found is None:
        shapes = [f'{k} {tuple(t.shape)}' for k, t in canonical.backbone.items()]
        return dict(
            what='unknown: neither a ResNet nor a MobileNetV2',
            known=False,
            kind='unknown',
            origin=f'MMDetection {heads.version}' if heads else '',
            classes=known.classes,
            notes=(f'found {len(shapes)} tensors: {first(shapes, 4)}', _EXPECTED),
        )
    kind = 'detector' if heads else 'classifier' if canonical.classifier else 'backbone'
    names = _TITLES.get(known.origin, known.origin)
    what = f'{found.title} {kind}, in the names of {names}'
    if heads:
        what = f'{heads.title} on {found.title}'
    elif kind == 'classifier' and known.classes == 1000:
        what = what.replace(kind, f'ImageNet {kind}', 1)
    notes = _notes(known, found)
    backbone = ''
    if unusual := unusual_constant(canonical):
        notes.append(unusual)
    else:
        backbone = _suggest_backbone(found, path)
    return dict(
        what=what,
        known=True,
        kind=kind,
        origin=known.origin,
        network=found.title,
        **{name: getattr(found, name) for name in _AS_FOUND},
        stem=f'{found.stem_kernel}x{found.stem_kernel}, '
        + '-'.join(map(str, found.stem)),
        kernel_sizes=found.stage_kernel_sizes if 'ECA' in found.gate else (),
        uniform=found.stage_kernel_sizes is not None,
        block_kernel_sizes=found.kernel_sizes if 'ECA' in found.gate else (),
        classes=known.classes,
        backbone=backbone,
        command=_suggest_command(found, heads, path) if backbone else '',
        notes=tuple(notes),
    )


def _notes(known: Recognised, found: Architecture) -> list[str]:
    notes, heads, unknown = [], known.heads, known.canonical.unknown
    if found.stage_kernel_sizes is None:
        notes.append('kernel sizes differ inside a stage: no backbone here has that.')
    if unknown:
        shown = ', '.join(unknown[:3])
        notes.append(f'{len(unknown)} backbone tensors of other layers: {shown}')
    if heads and heads.version == 'v1':
        notes.append(
            'MMDetection v1 orders classes and codes boxes in other ways than 3.x. '
            'Convert it, and test it with a config of configs/legacy (docs/legacy.md); '
            'its backbone can be loaded as it is, as below.'
        )
    if heads and heads.detector == 'RetinaNet' and heads.version.startswith('v1,'):
        notes.append(
            'the names are the same in all three versions. If it was trained with '
            'MMDetection v1 (the released ECA detectors were): eca-mmdet weights '
            'convert --v1-retinanet, and a config of configs/legacy (docs/legacy.md).'
        )
    return notes


def _other_weights(choice: str, key: str) -> str:
    # mmengine swaps the two when it saves.
    trained = ', as trained: state_dict is the average' * (choice == 'ema_state_dict')
    use = f' To use it: --key {choice}, or key={choice!r} of ECAPretrained.'
    return f"also has '{choice}', a set of the same tensors{trained}.{use * (not key)}"


def _brief(value: Any) -> str:
    """Show a value beside the tensors in a few words, never in full."""
    if isinstance(value, Tensor):
        single = value.numel() == 1 and not value.is_meta
        return f'{value.item():g}' if single else str(tuple(value.shape))
    if isinstance(value, (int, float, bool)) or value is None:
        return str(value)
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:37] + '...')
    if isinstance(value, (dict, list, tuple)):
        return f'({len(value)} entries)'
    return f'({type(value).__name__})'


def _suggest_backbone(found: Architecture, path: str) -> str:
    """Return ``backbone=dict(...)`` as text, or '' where no backbone fits."""
    arguments = _backbone_arguments(found)
    if not arguments:
        return ''
    arguments['init_cfg'] = f"dict(type='ECAPretrained', checkpoint={path!r})"
    lines = ''.join(f'    {key}={value},\n' for key, value in arguments.items())
    channels = list(found.out_channels)
    if found.family == 'MobileNetV2':
        channels = [channels[stage] for stage in (1, 2, 4)] + [1280]
    elif found.is_plain and found.block == 'bottleneck':
        return f'backbone=dict(\n{lines})'  # the shipped configs' neck fits
    return f'backbone=dict(\n{lines}),\nneck=dict(in_channels={channels})'


def _backbone_arguments(found: Architecture) -> dict[str, str]:
    """Return the arguments of a backbone with this network; empty if there is none."""
    gate, sizes = found.gate, found.stage_kernel_sizes
    if 0 in found.blocks or gate not in ('', *GATES):
        return {}
    if gate == 'ECA' and (sizes is None or None in sizes):
        return {}
    usual = gate != 'ECA' or sizes == _usual_sizes(found)
    own = {} if usual else {'kernel_sizes': str(sizes)}
    if found.family == 'MobileNetV2':
        regular = found.out_channels == tuple(row[1] for row in MOBILENET_V2_STAGES)
        fits = regular and gate in ('', 'ECA')
        return {'type': f"'{gate}MobileNetV2'"} | own if fits else {}
    if found.shortcut == 'average pool + convolution' and found.groups == 1:
        if found.block != 'bottleneck' or gate not in ('', 'ECA'):
            return {}
        if not gate:  # mmdet's own D variant has the same names
            v1d = {'50d': '50', '101d': '101'}.get(found.d_name or '')
            return {'type': "'ResNetV1d'", 'depth': v1d} if v1d else {}
        arch = f'dict(stem={found.stem}, widths={found.widths})'
        arch = repr(found.d_name) if found.d_name else arch
        return {'type': "'ECAResNetD'", 'arch': arch} | own
    depth = {'depth': str(found.depth)}
    if found.groups > 1 and found.depth and not gate:
        group_width = found.widths[0][0][0] // found.groups
        shape = {'groups': str(found.groups), 'base_width': str(group_width)}
        return {'type': "'ResNeXt'", **depth, **shape}
    if not found.is_plain or not found.depth:
        return {}
    width = str(found.stem[0])
    base = {'base_channels': width, 'stem_channels': width} if width != '64' else {}
    if gate == 'ECA':
        return {'type': "'ECAResNet'", **depth, 'kernel_sizes': str(sizes)} | base
    if gate == 'SE':
        return {'type': "'PluginResNet'", **depth, 'plugins': _se_plugins(found)} | base
    if not gate:
        return {'type': "'ResNet'", **depth} | base
    if not _has_usual_gates(found):
        return {}
    layer = {'attention': f'dict(type={gate!r})'}
    return {'type': "'PluginResNet'", **depth, **layer} | base


def _usual_sizes(found: Architecture) -> tuple[int, ...] | None:
    """Return the kernel sizes that the shipped config of this network has."""
    if found.family == 'MobileNetV2':
        return MOBILENET_V2_KERNEL_SIZES
    if found.shortcut.startswith('average'):
        return TIMM_KERNEL_SIZES
    return RELEASED_KERNEL_SIZES.get(found.depth or 0)


def _se_plugins(found: Architecture) -> str:
    """Return one plugin for each ratio that the stages have."""
    sizes = zip(found.hidden, found.out_channels, strict=True)
    ratios = [stage[0] and channels // stage[0] for stage, channels in sizes]
    position = 'after_conv2' if found.block == 'basic' else 'after_conv3'
    bias = ', bias=True' if found.se_bias else ''
    plugins = []
    for ratio in dict.fromkeys(filter(None, ratios)):
        stages = tuple(r == ratio for r in ratios)
        where = '' if all(stages) else f'stages={stages}, '
        layer = f"dict(type='SqueezeExcite', ratio={ratio}{bias})"
        plugins.append(f"dict(cfg={layer}, {where}position='{position}')")
    return f'[{", ".join(plugins)}]'


def _suggest_command(found: Architecture, heads: Heads | None, path: str) -> str:
    """Return an ``eca-mmdet`` command with a shipped config for the file, or ''."""
    if heads and heads.version == 'v1':
        return shlex.join(['eca-mmdet', 'weights', 'convert', path, 'NEW.pth'])
    if heads and (heads.version.startswith('v1,') or not heads.classes):
        return ''
    families = [heads.detector] if heads else [*_FAMILIES]
    names = [_config_name(found, _FAMILIES.get(family, [''])[0]) for family in families]
    name = next((name for name in names if name in shipped_configs()), '')
    if not name:
        return ''
    options = []
    if found.gate == 'ECA' and found.stage_kernel_sizes != _usual_sizes(found):
        sizes = ','.join(map(str, found.stage_kernel_sizes or ()))
        options.append(f'model.backbone.kernel_sizes=({sizes})')
    words = ['eca-mmdet', 'test', name, path] if heads else ['eca-mmdet', 'train', name]
    if heads is None:
        options.append(f'model.backbone.init_cfg.checkpoint={path}')
    elif heads.classes != 80:
        for part in _FAMILIES[heads.detector][1:]:
            options.append(f'model.{part}.num_classes={heads.classes}')
    return shlex.join(words + ['--cfg-options'] * bool(options) + options)


def _config_name(found: Architecture, family: str) -> str:
    """Return the name that a config for this network would have, or ''."""
    if found.gate and found.gate not in GATES:
        return ''
    attention = f'{GATES[found.gate].layer}-' if found.gate else ''
    if found.family == 'MobileNetV2':
        size = 'mobilenetv2' if found.gate else ''
    elif found.shortcut == 'average pool + convolution':
        size = f'r{found.d_name}' if found.d_name and found.gate else ''
    else:
        usual = found.is_plain and found.stem == (64,) and _has_usual_gates(found)
        size = f'r{found.depth}' if usual else ''
    return f'{family}_{attention}{size}_fpn_4xb2-1x_coco' if size else ''


def _has_usual_gates(found: Architecture) -> bool:
    """Return whether SE or FcaNet gates, if any, are the usual: r = 16, no biases."""
    sizes = zip(found.hidden, found.out_channels, strict=True)
    reduced = all({*stage} <= {None, channels / 16} for stage, channels in sizes)
    return reduced and not found.se_bias
