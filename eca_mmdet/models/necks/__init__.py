"""Necks of detectors."""

from eca_mmdet.models.necks.attention_neck import AttentionNeck

__all__ = ['AttentionNeck']
