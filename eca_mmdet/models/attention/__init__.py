"""The attention layers of the ECA-Net comparison, one mechanism a file.

Each is an mmdet plugin layer: built with ``in_channels``, (N, C, H, W) to the same.
NL and GC are mmcv's ``NonLocal2d`` and ``ContextBlock``.
:mod:`eca_mmdet.catalog.mechanisms` lists all of them.
"""

from eca_mmdet.models.attention.bam import BAM
from eca_mmdet.models.attention.cbam import CBAM
from eca_mmdet.models.attention.channel_gate import ChannelGate
from eca_mmdet.models.attention.double_attention import DoubleAttention
from eca_mmdet.models.attention.eca import ECALayer, eca_kernel_size
from eca_mmdet.models.attention.eca_ns import ECANS
from eca_mmdet.models.attention.fcanet import FcaNet
from eca_mmdet.models.attention.gate import Gate
from eca_mmdet.models.attention.gather_excite import GETheta, GEThetaMinus, GEThetaPlus
from eca_mmdet.models.attention.gsop import GSoP
from eca_mmdet.models.attention.se_variants import (
    SEGC,
    SEGC1,
    SEGC2,
    SEGC3,
    SEVar1,
    SEVar2,
    SEVar3,
)
from eca_mmdet.models.attention.squeeze_excite import SqueezeExcite

__all__ = [
    'BAM',
    'CBAM',
    'ChannelGate',
    'DoubleAttention',
    'ECALayer',
    'ECANS',
    'FcaNet',
    'GETheta',
    'GEThetaMinus',
    'GEThetaPlus',
    'GSoP',
    'Gate',
    'SEGC',
    'SEGC1',
    'SEGC2',
    'SEGC3',
    'SEVar1',
    'SEVar2',
    'SEVar3',
    'SqueezeExcite',
    'eca_kernel_size',
]
