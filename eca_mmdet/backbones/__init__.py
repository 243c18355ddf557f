"""Backbones that register with mmdet."""

from eca_mmdet.backbones.eca_resnet import ECAResNet
from eca_mmdet.backbones.nonlocal_resnet import NonLocalResNet
from eca_mmdet.backbones.plugin_resnet import PluginResNet

__all__ = ['ECAResNet', 'NonLocalResNet', 'PluginResNet']
