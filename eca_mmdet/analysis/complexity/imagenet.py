"""Params and GFLOPs of the paper's ImageNet classifiers, in its units."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from eca_mmdet.analysis.complexity.paper import count_operations

CLASSES = 1000
SIDE = 224
_PLUGINS = {
    'none': None,
    'SE': {'type': 'SqueezeExcite'},
    'ECA': {'type': 'ECALayer', 'kernel_size': 3},
    'CBAM': {'type': 'CBAM'},
}
_WIDTHS = {18: 512, 34: 512, 50: 2048, 101: 2048, 152: 2048}
MISSING = 'this package has no such network'


def backbone_of(row: dict[str, Any]) -> dict[str, Any] | None:
    """Return the config of a row's backbone; None if we have no such block."""
    attention = row['attention']
    if attention not in _PLUGINS:
        return None
    if row.get('model') == 'MobileNetV2':
        kinds = {'none': {'type': 'MobileNetV2'}, 'ECA': {'type': 'ECAMobileNetV2'}}
        found = kinds.get(attention)
        return None if found is None else {**found, 'out_indices': (7,)}
    plugin = _PLUGINS[attention]
    position = 'after_conv2' if row['depth'] < 50 else 'after_conv3'
    config = {'type': 'PluginResNet', 'depth': row['depth'], 'style': 'pytorch'}
    if plugin:
        config['plugins'] = [{'cfg': plugin, 'position': position}]
    return config


def classifier_cost(row: dict[str, Any]) -> dict[str, float] | None:
    """Count the classifier of a published row: backbone, pooling and linear layer.

    Args:
        row: with attention, and depth or model.

    Returns:
        ``params`` in 2^20, all of them, and ``gflops`` by the classic counter at
        3x224x224, in 2^30, for MobileNetV2 in 10^9; None if this package lacks the
        block.
    """
    from mmdet.registry import MODELS

    config = backbone_of(row)
    if config is None:
        return None
    with torch.device('meta'):
        backbone = MODELS.build(config)
    backbone.eval()
    width = 1280 if row.get('model') else _WIDTHS[row['depth']]
    head = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES, device='meta')
    )
    model = nn.ModuleList([backbone, head])
    image = torch.empty(1, 3, SIDE, SIDE, device='meta')
    with torch.no_grad():
        total = count_operations(model, lambda: head(backbone(image)[-1]))
    params = sum(one.numel() for one in model.parameters())
    unit = 1e9 if row.get('model') else 2**30
    return {'params': params / 2**20, 'gflops': total / unit}
