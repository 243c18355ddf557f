"""Pretrained weights: where they are to be had, and loading them loudly."""

from eca_mmdet.weights.pretrained import ECAPretrained

__all__ = ['ECAPretrained']
