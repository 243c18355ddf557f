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

Anything else (carafe, masked_im2col, line_nms, roi_pool, rotated boxes, 3-D
operators) raises :class:`NotImplementedError` when it is called, naming itself.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

EXTENSION = 'mmcv._ext'


def refuse(name: str) -> Callable[..., Any]:
    """Return a stand-in for operator ``name`` that explains itself when called."""

    def unsupplied(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(
            f'mmcv operator {name!r} needs mmcv with its compiled extension; this '
            'mmcv has none, and eca_mmdet supplies from torchvision only the '
            'operators listed in eca_mmdet/ops/mmcv_ext.py. To get it: build mmcv '
            'from source (MMCV_WITH_OPS=1 pip install --no-build-isolation '
            '--no-binary :all: onedl-mmcv) or install an mmcv wheel that was built '
            'for your torch.'
        )

    unsupplied.__name__ = unsupplied.__qualname__ = name
    return unsupplied


# Plain classes: importing importlib.abc would quadruple the start-up cost.
class _TorchvisionLoader:
    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        from eca_mmdet.ops import deform, focal, nms, roi_align

        for source in (nms, roi_align, focal, deform):
            for name in source.__all__:
                setattr(module, name, getattr(source, name))
        note = 'none: eca_mmdet supplies operators from torchvision'
        module.get_compiler_version = lambda: note  # type: ignore[attr-defined]
        module.get_compiling_cuda_version = lambda: note  # type: ignore[attr-defined]

        def refuse_unknown(name: str) -> Any:
            if name.startswith('__'):
                raise AttributeError(name)
            return refuse(name)

        module.__getattr__ = refuse_unknown  # type: ignore[method-assign]


class _LastResortFinder:
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
            origin='eca_mmdet.ops (torchvision)',
        )


def offer() -> None:
    """Answer ``import mmcv._ext`` from now on if nothing else can.

    Costs no import: torchvision is loaded when mmcv first asks. Calling it again
    changes nothing.
    """
    if not any(isinstance(finder, _LastResortFinder) for finder in sys.meta_path):
        sys.meta_path.append(_LastResortFinder())


def is_supplied() -> bool:
    """Tell whether the loaded ``mmcv._ext`` is ours rather than a compiled one."""
    module = sys.modules.get(EXTENSION)
    spec = getattr(module, '__spec__', None)
    return isinstance(getattr(spec, 'loader', None), _TorchvisionLoader)
