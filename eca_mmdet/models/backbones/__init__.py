"""Backbones that register with mmdet."""

from eca_mmdet.models.backbones.mobilenet_v2 import ECAMobileNetV2
from eca_mmdet.models.backbones.resnet import ECAResNet, PluginResNet
from eca_mmdet.models.backbones.resnet_d import ECAResNetD
from eca_mmdet.models.backbones.timm_backbone import TimmBackbone

__all__ = [
    'ECAMobileNetV2',
    'ECAResNet',
    'ECAResNetD',
    'PluginResNet',
    'TimmBackbone',
]
