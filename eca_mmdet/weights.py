"""Alias of :mod:`eca_mmdet.checkpoints`, whose former name it is."""

from __future__ import annotations

from typing import Any

from eca_mmdet import checkpoints

__all__ = checkpoints.__all__


def __getattr__(name: str) -> Any:
    return getattr(checkpoints, name)
