"""Supply ``mmcv._ext`` when mmcv was installed without its compiled operators.

``pip install onedl-mmcv`` and ``pip install mmcv-lite`` both give an mmcv that
cannot import ``mmcv.ops``. :func:`offer` puts a finder at the *end* of
``sys.meta_path``: Python asks it only after every other finder has failed, so a
compiled extension is always preferred and is never touched.

Operators and where mmdet's configs reach them:

=========================== ===================================================
supplied                    reached by
=========================== ===================================================
nms                         every detector with anchors, points or RoIs
softnms                     ``rcnn=dict(nms=dict(type='soft_nms'))``
nms_match                   ScoreHLRSampler (PISA)
roi_align                   every two-stage detector; mask targets
sigmoid_focal_loss          RetinaNet, FCOS, DETR-like heads on CUDA
deform_conv                 DCN backbones, RepPoints, GuidedAnchor, TOOD, VFNet
modulated_deform_conv       DCNv2 backbones, DyHead
ms_deform_attn              Deformable DETR, DINO, Mask2Former on CUDA
=========================== ===================================================

Anything else raises :class:`NotImplementedError` when it is called, naming itself;
``UNSUPPLIED_TYPES`` lists the model parts that would reach one.

This file is self-contained and light, because ``eca_mmdet/startup.pth`` loads it by its
path at every start of Python: mmdet's own test.py imports mmcv's operators before it
reads a config that could import us.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

EXTENSION = 'mmcv._ext'
ORIGIN = 'eca_mmdet.mmcv_ops (torchvision)'

SUPPLIED = {
    'nms': 'nms',
    'nms_match': 'nms',
    'softnms': 'nms',
    'roi_align_backward': 'roi_align',
    'roi_align_forward': 'roi_align',
    'sigmoid_focal_loss_backward': 'focal',
    'sigmoid_focal_loss_forward': 'focal',
    'deform_conv_backward_input': 'deform',
    'deform_conv_backward_parameters': 'deform',
    'deform_conv_forward': 'deform',
    'modulated_deform_conv_backward': 'deform',
    'modulated_deform_conv_forward': 'deform',
    'ms_deform_attn_backward': 'deform',
    'ms_deform_attn_forward': 'deform',
}
"""Operator to the module of ``eca_mmdet.mmcv_ops`` that implements it."""

UNSUPPLIED_TYPES = {
    'CARAFEPack': 'carafe_forward',
    'carafe': 'carafe_forward',
    'FPN_CARAFE': 'carafe_forward',
    'GARetinaHead': 'masked_im2col_forward',
    'GARPNHead': 'masked_im2col_forward',
    'DeformRoIPool': 'deform_roi_pool_forward',
    'DeformRoIPoolPack': 'deform_roi_pool_forward',
    'ModulatedDeformRoIPoolPack': 'deform_roi_pool_forward',
    'RoIPool': 'roi_pool_forward',
    'CLRHead': 'line_nms_forward',
    'MMSyncBN': 'sync_bn_forward_mean',
}
"""``type`` in a model config to an operator that it needs and that is not supplied."""


def how_to_compile() -> str:
    """Return the command that builds the operators of the installed mmcv."""
    import mmcv

    # 2.3 and newer exist only as onedl-mmcv.
    onedl = tuple(map(int, mmcv.__version__.split('.')[:2])) >= (2, 3)
    name = 'onedl-mmcv' if onedl else 'mmcv'
    return (
        'MMCV_WITH_OPS=1 pip install --no-build-isolation --no-deps --force-reinstall '
        f'--no-binary {name} {name}=={mmcv.__version__}'
    )


def refuse(name: str) -> Callable[..., Any]:
    """Return a stand-in for operator ``name`` that explains itself when called."""

    def unsupplied(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(
            f'mmcv operator {name!r} needs mmcv with its compiled extension; this '
            'mmcv has none, and eca_mmdet supplies only the operators of '
            f'eca_mmdet/mmcv_ops/extension.py. To build it: {how_to_compile()}'
        )

    unsupplied.__name__ = unsupplied.__qualname__ = name
    return unsupplied


def supply(name: str) -> Callable[..., Any]:
    """Return operator ``name``; its module is imported at the first call."""

    def operator(*args: Any, **kwargs: Any) -> Any:
        module = importlib.import_module(f'eca_mmdet.mmcv_ops.{SUPPLIED[name]}')
        return getattr(module, name)(*args, **kwargs)

    operator.__name__ = operator.__qualname__ = name
    return operator


# Plain classes: importlib.abc would import tempfile, shutil and more at every start.
class _TorchvisionLoader:
    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        def operator(name: str) -> Any:
            if name.startswith('__'):
                raise AttributeError(name)
            return supply(name) if name in SUPPLIED else refuse(name)

        note = 'none: eca_mmdet supplies operators from torchvision'
        module.get_compiler_version = lambda: note  # type: ignore[attr-defined]
        module.get_compiling_cuda_version = lambda: note  # type: ignore[attr-defined]
        module.__getattr__ = operator  # type: ignore[method-assign]


class _LastResortFinder:
    origin = ORIGIN

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != EXTENSION:
            return None
        return importlib.machinery.ModuleSpec(
            fullname,
            _TorchvisionLoader(),  # type: ignore[arg-type]
            origin=ORIGIN,
        )


def offer() -> None:
    """Answer ``import mmcv._ext`` from now on if nothing else can.

    Costs no import: torchvision is loaded when an operator is first called. Calling it
    again changes nothing.
    """
    if not any(getattr(f, 'origin', None) == ORIGIN for f in sys.meta_path):
        sys.meta_path.append(_LastResortFinder())


def is_supplied() -> bool:
    """Tell whether the loaded ``mmcv._ext`` is ours rather than a compiled one."""
    spec = getattr(sys.modules.get(EXTENSION), '__spec__', None)
    return getattr(spec, 'origin', None) == ORIGIN
