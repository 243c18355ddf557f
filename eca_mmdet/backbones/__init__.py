"""Backbones that register with mmdet."""

from eca_mmdet.backbones.eca_mobilenet_v2 import ECAMobileNetV2
from eca_mmdet.backbones.eca_resnet import ECAResNet
from eca_mmdet.backbones.eca_resnet_d import ECAResNetD
from eca_mmdet.backbones.plugin_resnet import PluginResNet
from eca_mmdet.backbones.timm_features import TimmBackbone

__all__ = [
    'ECAMobileNetV2',
    'ECAResNet',
    'ECAResNetD',
    'PluginResNet',
    'TimmBackbone',
]
