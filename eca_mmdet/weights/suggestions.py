"""The mmdet backbone and the shipped config that a file of weights fits."""

from __future__ import annotations

import shlex

from eca_mmdet.architectures import (
    MOBILENET_V2_KERNEL_SIZES,
    MOBILENET_V2_STAGES,
    RELEASED_KERNEL_SIZES,
    TIMM_KERNEL_SIZES,
)
from eca_mmdet.paths import shipped_configs
from eca_mmdet.weights.architecture import Architecture
from eca_mmdet.weights.heads import Heads

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
    if 0 in found.blocks or found.gate not in ('', 'ECA', 'SE'):
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
    return {'type': "'ResNet'", **depth} | base


def _mobilenet_arguments(found: Architecture, eca: bool) -> dict[str, str]:
    channels = tuple(stage[1] for stage in MOBILENET_V2_STAGES)
    if found.out_channels != channels or found.gate == 'SE':
        return {}
    kind = {'type': "'ECAMobileNetV2'" if eca else "'MobileNetV2'"}
    if eca and found.stage_kernel_sizes != MOBILENET_V2_KERNEL_SIZES:
        kind['kernel_sizes'] = str(found.stage_kernel_sizes)
    return kind


def _d_arguments(found: Architecture) -> dict[str, str]:
    if found.block != 'bottleneck' or found.gate == 'SE':
        return {}
    arch = f'{found.d_name!r}'
    if not found.d_name:
        arch = f'dict(stem={found.stem}, widths={found.widths})'
    arguments = {'type': "'ECAResNetD'", 'arch': arch}
    if found.gate and found.stage_kernel_sizes != TIMM_KERNEL_SIZES:
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


def suggest_config(found: Architecture, heads: Heads | None, path: str) -> str:
    """Return a shipped config for the file with the options it needs, or ''.

    Args:
        found: the file's architecture.
        heads: of a detector; None for a backbone.
        path: of the file.
    """
    family = _FAMILIES.get(heads.detector if heads else 'Faster R-CNN')
    old = heads is not None and heads.version == 'v1'
    if not family or old or found.groups > 1 or found.gate == 'ECA + SE':
        return ''
    attention = f'{found.gate.lower()}-' if found.gate else ''
    if found.family == 'MobileNetV2':
        size = 'mobilenetv2'
    else:
        pooled = found.shortcut.startswith('average')
        size = f'r{found.d_name if pooled else found.depth}'
    name = f'{family}_{attention}{size}_fpn_4xb2-1x_coco'
    if name not in shipped_configs():
        return ''
    options = []
    if heads is None:
        options.append(shlex.quote(f'model.backbone.init_cfg.checkpoint={path}'))
    if found.gate == 'ECA' and found.stage_kernel_sizes != _usual_sizes(found):
        sizes = ','.join(map(str, found.stage_kernel_sizes or ()))
        options.append(f'model.backbone.kernel_sizes="({sizes})"')
    if heads and heads.classes not in (80, None):
        key = (
            'model.roi_head.bbox_head'
            if 'R-CNN' in heads.detector
            else 'model.bbox_head'
        )
        options.append(f'{key}.num_classes={heads.classes}')
    return ' '.join([name, '--cfg-options', *options]) if options else name


def _usual_sizes(found: Architecture) -> tuple[int, ...] | None:
    """Return the kernel sizes that the shipped config of this network has."""
    if found.family == 'MobileNetV2':
        return MOBILENET_V2_KERNEL_SIZES
    if found.shortcut.startswith('average'):
        return TIMM_KERNEL_SIZES
    return RELEASED_KERNEL_SIZES.get(found.depth or 0)
