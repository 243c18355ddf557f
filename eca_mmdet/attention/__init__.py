"""Channel-attention blocks, each an mmdet plugin layer in a file of its own."""

from eca_mmdet.attention.eca import ECALayer, eca_kernel_size
from eca_mmdet.attention.squeeze_excite import SqueezeExcite

__all__ = ['ECALayer', 'SqueezeExcite', 'eca_kernel_size']
