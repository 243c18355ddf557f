"""Detectors outside of mmdet: ONNX files, and what runs them."""

from __future__ import annotations

from typing import Any

_EXPORTS = {'OnnxDetector': 'runtime'}

__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Import what is asked for; neither torch nor mmdet is needed to run a file."""
    if name not in _EXPORTS:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    import importlib

    return getattr(importlib.import_module(f'{__name__}.{_EXPORTS[name]}'), name)
