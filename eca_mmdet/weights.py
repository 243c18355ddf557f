"""Alias of :mod:`eca_mmdet.checkpoints`, under its name before 0.2."""

from __future__ import annotations

from typing import Any

from eca_mmdet import checkpoints

__all__ = checkpoints.__all__


def __getattr__(name: str) -> Any:
    return getattr(checkpoints, name)
