"""The networks that the benchmarks compare, by the names in their tables."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

PLAIN, OFFICIAL, TIMM = 'mmdet ResNet', 'ECA, official layer', 'ECA, timm layer'
NETWORKS: dict[str, dict[str, Any]] = {
    PLAIN: dict(type='ResNet'),
    OFFICIAL: dict(type='ResNet', layer='OfficialECA'),
    TIMM: dict(type='ResNet', layer='TimmECA'),
    'ECA, plain': dict(type='PluginResNet', memory='plain', layer='ECALayer'),
    'ECA, lean': dict(type='PluginResNet', memory='lean', layer='ECALayer'),
    'SE, lean': dict(type='PluginResNet', memory='lean', layer='SqueezeExcite'),
    'no gate, lean': dict(type='PluginResNet', memory='lean'),
    # mmengine's efficient_conv_bn_eval: norms folded into convolutions by torch.fx
    'mmdet ResNet, conv_bn_eval': dict(type='ResNet', folded=True),
    'official layer, conv_bn_eval': dict(
        type='ResNet', layer='OfficialECA', folded=True
    ),
    'official layer, with_cp': dict(type='ResNet', layer='OfficialECA', with_cp=True),
    'ECA, lean, with_cp': dict(
        type='PluginResNet', memory='lean', layer='ECALayer', with_cp=True
    ),
}
COMPILED = {
    'mmdet ResNet, compiled': dict(type='ResNet', compiled=True),
    'official layer, compiled': dict(type='ResNet', layer='OfficialECA', compiled=True),
    'ECA, lean, compiled': dict(
        type='PluginResNet', memory='lean', layer='ECALayer', compiled=True
    ),
}
"""Networks under ``torch.compile``, which takes minutes for each."""

FORMULATIONS = (
    (
        *(OFFICIAL, TIMM, 'ECA, plain', 'ECA, lean', 'official layer, conv_bn_eval'),
        *('official layer, with_cp', 'ECA, lean, with_cp'),
        *('official layer, compiled', 'ECA, lean, compiled'),
    ),
    (
        *(PLAIN, 'no gate, lean', 'mmdet ResNet, conv_bn_eval'),
        'mmdet ResNet, compiled',
    ),
)
"""Networks that are the same function."""


class OfficialECA(nn.Module):
    """The formula of BangguWu/ECANet: adaptive pooling, a product with expand_as."""

    _abbr_ = 'eca'

    def __init__(self, in_channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Scale x, whose factors are expanded to its whole shape."""
        means = self.pool(x).squeeze(-1).transpose(-1, -2)
        gate = self.conv(means).transpose(-1, -2).unsqueeze(-1).sigmoid()
        return x * gate.expand_as(x)


class TimmECA(OfficialECA):
    """The formula of timm's ``EcaModule``: a mean, a view, a product."""

    def forward(self, x: Tensor) -> Tensor:
        """Scale x."""
        means = x.mean((2, 3)).view(len(x), 1, -1)
        gate = self.conv(means).view(len(x), -1, 1, 1).sigmoid()
        return x * gate.expand_as(x)


def register_layers() -> None:
    """Make the two other formulations known where plugins are looked for."""
    from mmengine.registry import MODELS

    for layer in (OfficialECA, TimmECA):
        MODELS.register_module(module=layer, force=True)


def build(name: str, depth: int, width: int, **settings: Any) -> Any:
    """Return a backbone by its name in the tables, initialised by its seed."""
    from mmdet.registry import MODELS
    from mmengine.model.efficient_conv_bn_eval import (
        turn_on_efficient_conv_bn_eval_for_single_model,
    )

    known = (NETWORKS | COMPILED)[name]
    cfg = dict(known, depth=depth, base_channels=width, init_cfg=[])
    layer, folded, compiled = (
        cfg.pop(key, None) for key in ('layer', 'folded', 'compiled')
    )
    if layer:
        options: dict[str, Any] = {'type': layer}
        if layer != 'SqueezeExcite':
            options['kernel_size'] = 3
        cfg['plugins'] = [dict(cfg=options, position='after_conv3')]
    torch.manual_seed(0)
    network = MODELS.build(dict(cfg, **settings))
    if folded:
        turn_on_efficient_conv_bn_eval_for_single_model(network)
    if compiled:
        network.compile(dynamic=False)
    return network
