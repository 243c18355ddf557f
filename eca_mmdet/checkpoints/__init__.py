"""Identification, conversion and complete loading of checkpoints."""

from __future__ import annotations

from typing import Any

_EXPORTS = {
    'ConvertReport': 'conversion',
    'convert': 'conversion',
    'Inspection': 'inspection',
    'inspect': 'inspection',
    'read_weights': 'io',
    'write_weights': 'io',
}

__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Import a function on first use; torch is not loaded before."""
    if name not in _EXPORTS:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    import importlib

    return getattr(importlib.import_module(f'{__name__}.{_EXPORTS[name]}'), name)
