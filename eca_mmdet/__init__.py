"""ECA-Net for MMDetection 3.x.

``import eca_mmdet`` (or ``custom_imports = dict(imports=['eca_mmdet'])`` in a config)
registers every class below with mmdet, and supplies mmcv's operators from torchvision
where mmcv came without its compiled extension. The import itself is light: mmdet is
loaded when it is first needed.

The functions ``evaluate``, ``check_annotations``, ``make_config`` and so on do what the
commands do; ``dir(eca_mmdet)`` lists them. Bad input raises ``UserError`` with a code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eca_mmdet import registration
from eca_mmdet.catalog.mechanisms import LAYER_MODULES

if TYPE_CHECKING:  # for type checkers and editors; __getattr__ loads them late
    from eca_mmdet.analysis.complexity import complexity as complexity
    from eca_mmdet.autoconfig.plan import add_attention as add_attention
    from eca_mmdet.autoconfig.plan import make_config as make_config
    from eca_mmdet.checkpoints.conversion import convert_weights as convert_weights
    from eca_mmdet.checkpoints.initializer import ECAPretrained as ECAPretrained
    from eca_mmdet.checkpoints.inspection import inspect_weights as inspect_weights
    from eca_mmdet.datasets.checking import check_annotations as check_annotations
    from eca_mmdet.datasets.splitting import split_annotations as split_annotations
    from eca_mmdet.engine.config import build_model as build_model
    from eca_mmdet.engine.config import load_config as load_config
    from eca_mmdet.engine.testing import test as test
    from eca_mmdet.engine.training import train as train
    from eca_mmdet.evaluation.api import evaluate as evaluate
    from eca_mmdet.evaluation.metric import CocoTableMetric as CocoTableMetric
    from eca_mmdet.export.exporter import export_onnx as export_onnx
    from eca_mmdet.export.runtime import OnnxDetector as OnnxDetector
    from eca_mmdet.inference.detector import ECADetector as ECADetector
    from eca_mmdet.inference.detector import load_detector as load_detector
    from eca_mmdet.inference.prediction import Prediction as Prediction
    from eca_mmdet.models.attention import eca_kernel_size as eca_kernel_size
    from eca_mmdet.models.attention.cbam import *  # noqa: F403
    from eca_mmdet.models.attention.eca import *  # noqa: F403
    from eca_mmdet.models.attention.fcanet import *  # noqa: F403
    from eca_mmdet.models.attention.gather_excite import *  # noqa: F403
    from eca_mmdet.models.attention.second_order import *  # noqa: F403
    from eca_mmdet.models.attention.squeeze_excite import *  # noqa: F403
    from eca_mmdet.models.backbones import ECAMobileNetV2 as ECAMobileNetV2
    from eca_mmdet.models.backbones import ECAResNet as ECAResNet
    from eca_mmdet.models.backbones import ECAResNetD as ECAResNetD
    from eca_mmdet.models.backbones import PluginResNet as PluginResNet
    from eca_mmdet.models.backbones import TimmBackbone as TimmBackbone
    from eca_mmdet.models.plugins import AttentionNeck as AttentionNeck
    from eca_mmdet.reporting.page import report as report
    from eca_mmdet.utils.errors import UserError as UserError

__version__ = '0.1.0'

_EXPORTS = {
    **dict.fromkeys(LAYER_MODULES, 'eca_mmdet.models.attention'),
    'eca_kernel_size': 'eca_mmdet.models.attention',
    'ECAMobileNetV2': 'eca_mmdet.models.backbones',
    'ECAResNet': 'eca_mmdet.models.backbones',
    'ECAResNetD': 'eca_mmdet.models.backbones',
    'PluginResNet': 'eca_mmdet.models.backbones',
    'TimmBackbone': 'eca_mmdet.models.backbones',
    'AttentionNeck': 'eca_mmdet.models.plugins',
    'CocoTableMetric': 'eca_mmdet.evaluation.metric',
    'ECAPretrained': 'eca_mmdet.checkpoints.initializer',
    'ECADetector': 'eca_mmdet.inference.detector',
}
"""Classes that are registered with mmdet when one of them is looked up."""

_FUNCTIONS = {
    'OnnxDetector': 'eca_mmdet.export.runtime',
    'Prediction': 'eca_mmdet.inference.prediction',
    'UserError': 'eca_mmdet.utils.errors',
    'build_model': 'eca_mmdet.engine.config',
    'check_annotations': 'eca_mmdet.datasets.checking',
    'complexity': 'eca_mmdet.analysis.complexity',
    'convert_weights': 'eca_mmdet.checkpoints.conversion',
    'evaluate': 'eca_mmdet.evaluation.api',
    'export_onnx': 'eca_mmdet.export.exporter',
    'inspect_weights': 'eca_mmdet.checkpoints.inspection',
    'load_config': 'eca_mmdet.engine.config',
    'load_detector': 'eca_mmdet.inference.detector',
    'add_attention': 'eca_mmdet.autoconfig.plan',
    'make_config': 'eca_mmdet.autoconfig.plan',
    'report': 'eca_mmdet.reporting.page',
    'split_annotations': 'eca_mmdet.datasets.splitting',
    'test': 'eca_mmdet.engine.testing',
    'train': 'eca_mmdet.engine.training',
}
"""What the commands do, and what they raise. Looking one up loads no mmdet."""

__all__ = ['__version__', *_EXPORTS, *_FUNCTIONS]


def __getattr__(name: str) -> Any:
    import importlib

    if name == 'weights':  # inspecting and converting files needs no mmdet
        return importlib.import_module('eca_mmdet.checkpoints')
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    if name not in _EXPORTS:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    registration.register()
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


registration.on_import()
