"""ECA-Net for MMDetection 3.x.

``import eca_mmdet`` (or ``custom_imports = dict(imports=['eca_mmdet'])`` in a config)
registers every class below with mmdet, and supplies mmcv's operators from torchvision
where mmcv came without its compiled extension. The import itself is light: mmdet is
loaded when it is first needed.
"""

from __future__ import annotations

from typing import Any

from eca_mmdet import registration

__version__ = '0.1.0'

_EXPORTS = {
    'BAM': 'eca_mmdet.attention',
    'CBAM': 'eca_mmdet.attention',
    'DoubleAttention': 'eca_mmdet.attention',
    'ECALayer': 'eca_mmdet.attention',
    'ECANS': 'eca_mmdet.attention',
    'FcaNet': 'eca_mmdet.attention',
    'GETheta': 'eca_mmdet.attention',
    'GEThetaMinus': 'eca_mmdet.attention',
    'GEThetaPlus': 'eca_mmdet.attention',
    'GSoP': 'eca_mmdet.attention',
    'SEGC1': 'eca_mmdet.attention',
    'SEGC2': 'eca_mmdet.attention',
    'SEGC3': 'eca_mmdet.attention',
    'SEVar1': 'eca_mmdet.attention',
    'SEVar2': 'eca_mmdet.attention',
    'SEVar3': 'eca_mmdet.attention',
    'SqueezeExcite': 'eca_mmdet.attention',
    'eca_kernel_size': 'eca_mmdet.attention',
    'ECAMobileNetV2': 'eca_mmdet.backbones',
    'ECAResNet': 'eca_mmdet.backbones',
    'ECAResNetD': 'eca_mmdet.backbones',
    'PluginResNet': 'eca_mmdet.backbones',
    'TimmBackbone': 'eca_mmdet.backbones',
    'AttentionNeck': 'eca_mmdet.necks',
    'ECAPretrained': 'eca_mmdet.weights.pretrained',
    'ECADetector': 'eca_mmdet.inference.detector',
}

__all__ = ['__version__', *_EXPORTS]


def __getattr__(name: str) -> Any:
    import importlib

    if name == 'weights':  # inspecting and converting files needs no mmdet
        return importlib.import_module('eca_mmdet.weights')
    if name not in _EXPORTS:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    registration.register()
    return getattr(importlib.import_module(_EXPORTS[name]), name)


registration.on_import()
