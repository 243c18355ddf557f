"""Let ``torch.load(weights_only=True)`` read the checkpoints that mmengine writes.

Beside tensors they hold loss histories: mmengine's ``HistoryBuffer`` and numpy arrays.
torch 2.6 and newer refuse those by default; mmengine 0.10.7 then fails to test or
resume (open-mmlab/mmengine#1655), and onedl-mmengine falls back to loading that may run
code. Naming the few harmless classes keeps loading safe on both lines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _named(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return the function under the global name that a checkpoint calls it by.

    torch 2.4 and 2.5 know no other way to allow a function under another name.
    """

    def renamed(*args: Any) -> Any:
        return function(*args)

    renamed.__module__, _, renamed.__name__ = name.rpartition('.')
    renamed.__qualname__ = renamed.__name__
    return renamed


def allow_mmengine_checkpoints() -> None:
    """Add what mmengine's checkpoints need to torch's safe globals."""
    import numpy as np
    import torch
    from mmengine.logging import HistoryBuffer

    def history_method(owner: Any, name: str) -> Any:
        # A pickled HistoryBuffer refers to its statistics as getattr(class, name).
        if owner is not HistoryBuffer or name.startswith('_'):
            raise ValueError(f'refused: getattr({owner!r}, {name!r}) in a checkpoint')
        return getattr(owner, name)

    array: Any = np.zeros(1).__reduce__()[0]  # numpy's own constructors
    scalar: Any = np.float64(0).__reduce__()[0]
    dtypes = {type(np.dtype(name)) for name in ('f4', 'f8', 'i4', 'i8', 'u1', 'bool')}
    allowed: list[Any] = [HistoryBuffer, np.ndarray, np.dtype, *dtypes]
    allowed.append(_named(history_method, 'builtins.getattr'))
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        allowed.append(_named(array, f'{module}._reconstruct'))
        allowed.append(_named(scalar, f'{module}.scalar'))
    torch.serialization.add_safe_globals(allowed)
