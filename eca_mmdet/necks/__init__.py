"""Necks of detectors."""

from eca_mmdet.necks.attention_neck import AttentionNeck

__all__ = ['AttentionNeck']
