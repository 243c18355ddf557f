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
    'BAM': 'eca_mmdet.models.attention',
    'CBAM': 'eca_mmdet.models.attention',
    'DoubleAttention': 'eca_mmdet.models.attention',
    'ECALayer': 'eca_mmdet.models.attention',
    'ECANS': 'eca_mmdet.models.attention',
    'FcaNet': 'eca_mmdet.models.attention',
    'GETheta': 'eca_mmdet.models.attention',
    'GEThetaMinus': 'eca_mmdet.models.attention',
    'GEThetaPlus': 'eca_mmdet.models.attention',
    'GSoP': 'eca_mmdet.models.attention',
    'SEGC1': 'eca_mmdet.models.attention',
    'SEGC2': 'eca_mmdet.models.attention',
    'SEGC3': 'eca_mmdet.models.attention',
    'SEVar1': 'eca_mmdet.models.attention',
    'SEVar2': 'eca_mmdet.models.attention',
    'SEVar3': 'eca_mmdet.models.attention',
    'SqueezeExcite': 'eca_mmdet.models.attention',
    'eca_kernel_size': 'eca_mmdet.models.attention',
    'ECAMobileNetV2': 'eca_mmdet.models.backbones',
    'ECAResNet': 'eca_mmdet.models.backbones',
    'ECAResNetD': 'eca_mmdet.models.backbones',
    'PluginResNet': 'eca_mmdet.models.backbones',
    'TimmBackbone': 'eca_mmdet.models.backbones',
    'AttentionNeck': 'eca_mmdet.models.necks',
    'ECAPretrained': 'eca_mmdet.checkpoints.initializer',
    'ECADetector': 'eca_mmdet.inference.detector',
    'report': 'eca_mmdet.reporting.writing',
}

__all__ = ['__version__', *_EXPORTS]


def __getattr__(name: str) -> Any:
    import importlib

    if name == 'weights':  # inspecting and converting files needs no mmdet
        return importlib.import_module('eca_mmdet.checkpoints')
    if name not in _EXPORTS:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    registration.register()
    return getattr(importlib.import_module(_EXPORTS[name]), name)


registration.on_import()
