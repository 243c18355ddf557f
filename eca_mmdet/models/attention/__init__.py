"""Attention layers of the ECA-Net comparison.

Each is an mmdet plugin layer: mmdet passes it ``in_channels``, C, and it maps
(N, C, H, W) to the same shape and dtype. Wrong arguments, and maps too small for a
layer's kernels, raise ValueError.
:data:`eca_mmdet.catalog.mechanisms.MECHANISMS` lists them; importing this package
imports, and so registers, every layer in that list. NL and GC are mmcv's
``NonLocal2d`` and ``ContextBlock``.
"""

import importlib
from typing import TYPE_CHECKING, Any

from eca_mmdet.catalog.mechanisms import LAYER_MODULES
from eca_mmdet.models.attention.eca import eca_kernel_size
from eca_mmdet.models.attention.gate import ChannelGate, Gate
from eca_mmdet.models.attention.squeeze_excite import SEGC

__all__ = [*LAYER_MODULES, 'SEGC', 'ChannelGate', 'Gate', 'eca_kernel_size']  # noqa: PLE0604

for _name, _module in LAYER_MODULES.items():
    globals()[_name] = getattr(importlib.import_module(f'{__name__}.{_module}'), _name)

if TYPE_CHECKING:  # the names that the loop defines

    def __getattr__(name: str) -> Any: ...
