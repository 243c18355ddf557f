"""Channel-attention blocks, each an mmdet plugin layer in a file of its own."""

from eca_mmdet.attention.eca import ECALayer, eca_kernel_size
from eca_mmdet.attention.squeeze_excite import SqueezeExcite

GATES = (ECALayer, SqueezeExcite)
"""Layers whose random weights spoil a pretrained network's features."""

__all__ = ['GATES', 'ECALayer', 'SqueezeExcite', 'eca_kernel_size']
