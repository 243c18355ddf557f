"""Detectors outside of mmdet: ONNX files, and what runs them."""

from eca_mmdet.export.runtime import OnnxDetector

__all__ = ['OnnxDetector']
