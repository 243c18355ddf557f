"""The mmdet backbone and the shipped config that a checkpoint fits."""

from __future__ import annotations

import shlex

from eca_mmdet.catalog.architectures import (
    MOBILENET_V2_KERNEL_SIZES,
    MOBILENET_V2_STAGES,
    RELEASED_KERNEL_SIZES,
    TIMM_KERNEL_SIZES,
)
from eca_mmdet.catalog.configs import shipped_configs
from eca_mmdet.checkpoints.detector import Heads
from eca_mmdet.checkpoints.identify import Architecture
from eca_mmdet.checkpoints.key_maps import GATES

_FAMILIES = {
    'Faster R-CNN': 'faster-rcnn',
    'Mask R-CNN': 'mask-rcnn',
    'RetinaNet': 'retinanet',
}


def suggest_backbone(found: Architecture, path: str) -> str:
    """Return ``backbone=dict(...)`` as text, or '' where no backbone fits.

    Args:
        found: the file's architecture.
        path: of the file, for ``init_cfg``.
    """
    arguments = _backbone_arguments(found)
    if not arguments:
        return ''
    init = f"init_cfg=dict(type='ECAPretrained', checkpoint={path!r})"
    lines = [f'{key}={value}' for key, value in arguments.items()] + [init]
    neck = ''
    if found.family == 'MobileNetV2' or not found.is_plain or found.block == 'basic':
        neck = f',\nneck=dict(in_channels={_neck_channels(found)})'
    return 'backbone=dict(\n    ' + ',\n    '.join(lines) + ',\n)' + neck


def _neck_channels(found: Architecture) -> list[int]:
    """Return the channels of the maps that the backbone returns by default."""
    if found.family == 'MobileNetV2':
        return [found.out_channels[i] for i in (1, 2, 4)] + [1280]
    return list(found.out_channels)


def _backbone_arguments(found: Architecture) -> dict[str, str]:
    sizes = found.stage_kernel_sizes
    eca = found.gate == 'ECA'
    if eca and (sizes is None or None in sizes):
        return {}
    if 0 in found.blocks or found.gate not in ('', *GATES):
        return {}
    if found.family == 'MobileNetV2':
        return _mobilenet_arguments(found, eca)
    if found.shortcut == 'average pool + convolution' and found.groups == 1:
        return _d_arguments(found)
    depth = {'depth': str(found.depth)}
    if found.groups > 1 and found.depth and not found.gate:
        group_width = found.widths[0][0][0] // found.groups
        shape = {'groups': str(found.groups), 'base_width': str(group_width)}
        return {'type': "'ResNeXt'", **depth, **shape}
    if not found.is_plain or not found.depth:
        return {}
    width = str(found.stem[0])
    base = {'base_channels': width, 'stem_channels': width} if width != '64' else {}
    if eca:
        return {'type': "'ECAResNet'", **depth, 'kernel_sizes': str(sizes)} | base
    if found.gate == 'SE':
        return {'type': "'PluginResNet'", **depth, 'plugins': _se_plugins(found)} | base
    if found.gate:
        if not _has_usual_gates(found):
            return {}
        layer = {'attention': f'dict(type={found.gate!r})'}
        return {'type': "'PluginResNet'", **depth, **layer} | base
    return {'type': "'ResNet'", **depth} | base


def _mobilenet_arguments(found: Architecture, eca: bool) -> dict[str, str]:
    channels = tuple(stage[1] for stage in MOBILENET_V2_STAGES)
    if found.out_channels != channels or found.gate not in ('', 'ECA'):
        return {}
    kind = {'type': "'ECAMobileNetV2'" if eca else "'MobileNetV2'"}
    if eca and found.stage_kernel_sizes != MOBILENET_V2_KERNEL_SIZES:
        kind['kernel_sizes'] = str(found.stage_kernel_sizes)
    return kind


def _d_arguments(found: Architecture) -> dict[str, str]:
    if found.block != 'bottleneck' or found.gate not in ('', 'ECA'):
        return {}
    if not found.gate:  # mmdet's own D variant has the same names
        v1d = {'50d': '50', '101d': '101'}.get(found.d_name or '')
        return {'type': "'ResNetV1d'", 'depth': v1d} if v1d else {}
    arch = f'{found.d_name!r}'
    if not found.d_name:
        arch = f'dict(stem={found.stem}, widths={found.widths})'
    arguments = {'type': "'ECAResNetD'", 'arch': arch}
    if found.stage_kernel_sizes != TIMM_KERNEL_SIZES:
        arguments['kernel_sizes'] = str(found.stage_kernel_sizes)
    return arguments


def _se_plugins(found: Architecture) -> str:
    """Return one plugin for each ratio that the stages have."""
    ratios = [
        stage[0] and channels // stage[0]
        for stage, channels in zip(found.hidden, found.out_channels, strict=True)
    ]
    position = 'after_conv2' if found.block == 'basic' else 'after_conv3'
    bias = ', bias=True' if found.se_bias else ''
    plugins = []
    for ratio in dict.fromkeys(r for r in ratios if r):
        stages = tuple(r == ratio for r in ratios)
        where = '' if all(stages) else f'stages={stages}, '
        plugins.append(
            f"dict(cfg=dict(type='SqueezeExcite', ratio={ratio}{bias}), "
            f"{where}position='{position}')"
        )
    return '[' + ', '.join(plugins) + ']'


def suggest_command(found: Architecture, heads: Heads | None, path: str) -> str:
    """Return an ``eca-mmdet`` command with a shipped config for the file, or ''.

    Args:
        found: the file's architecture.
        heads: of a detector; None for a backbone.
        path: of the file.
    """
    if heads and heads.version == 'v1':
        return shlex.join(['eca-mmdet', 'weights', 'convert', path, 'NEW.pth'])
    names = [_config_name(found, family) for family in _families(heads)]
    name = next((name for name in names if name in shipped_configs()), '')
    if not name:
        return ''
    options = []
    if found.gate == 'ECA' and found.stage_kernel_sizes != _usual_sizes(found):
        sizes = ','.join(map(str, found.stage_kernel_sizes or ()))
        options.append(f'model.backbone.kernel_sizes=({sizes})')
    if heads is None:
        options.append(f'model.backbone.init_cfg.checkpoint={path}')
        words = ['eca-mmdet', 'train', name]
    else:
        words = ['eca-mmdet', 'test', name, path]
        for head in _heads_with_classes(heads) if heads.classes != 80 else ():
            options.append(f'{head}.num_classes={heads.classes}')
    if options:
        words += ['--cfg-options', *options]
    return shlex.join(words)


def _families(heads: Heads | None) -> list[str]:
    """Return how the names of configs for a detector begin; of all for a backbone."""
    if heads is None:
        return list(_FAMILIES.values())
    unclear = heads.version.startswith('v1,') or not heads.classes
    return [] if unclear else [_FAMILIES.get(heads.detector, '')]


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
    """Tell whether SE or FcaNet gates, if any, are the usual: r = 16, no biases."""
    reduced = all(
        units is None or units * 16 == channels
        for stage, channels in zip(found.hidden, found.out_channels, strict=True)
        for units in stage
    )
    return reduced and not found.se_bias


def _heads_with_classes(heads: Heads) -> list[str]:
    """Return the config entries that count classes."""
    if heads.detector == 'RetinaNet':
        return ['model.bbox_head']
    names = ['model.roi_head.bbox_head']
    return names + ['model.roi_head.mask_head'] * ('Mask' in heads.detector)


def _usual_sizes(found: Architecture) -> tuple[int, ...] | None:
    """Return the kernel sizes that the shipped config of this network has."""
    if found.family == 'MobileNetV2':
        return MOBILENET_V2_KERNEL_SIZES
    if found.shortcut.startswith('average'):
        return TIMM_KERNEL_SIZES
    return RELEASED_KERNEL_SIZES.get(found.depth or 0)
