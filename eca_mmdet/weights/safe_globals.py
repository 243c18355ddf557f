"""Let ``torch.load(weights_only=True)`` read the checkpoints that mmengine writes.

Beside tensors they hold loss histories: mmengine's ``HistoryBuffer`` and numpy arrays.
torch 2.6 and newer refuse those by default; mmengine 0.10.7 then fails to test or
resume (open-mmlab/mmengine#1655), and onedl-mmengine falls back to loading that may run
code. Naming the few harmless classes keeps loading safe on both lines.
"""

from __future__ import annotations

from typing import Any


def allow_mmengine_checkpoints() -> None:
    """Add what mmengine's checkpoints need to torch's safe globals."""
    import numpy as np
    import torch
    from mmengine.logging import HistoryBuffer

    if not hasattr(torch.serialization, 'add_safe_globals'):
        return  # before torch 2.5, which has no list to add to

    def history_method(owner: Any, name: str) -> Any:
        # A pickled HistoryBuffer refers to its statistics as getattr(class, name).
        if owner is not HistoryBuffer or name.startswith('_'):
            raise ValueError(f'refused: getattr({owner!r}, {name!r}) in a checkpoint')
        return getattr(owner, name)

    core = np.zeros(1).__reduce__()[0]  # numpy's own constructor of arrays
    scalar = np.float64(0).__reduce__()[0]
    dtypes = {type(np.dtype(name)) for name in ('f4', 'f8', 'i4', 'i8', 'u1', 'bool')}
    allowed: list[Any] = [HistoryBuffer, np.ndarray, np.dtype, *dtypes]
    allowed.append((history_method, 'builtins.getattr'))
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        allowed += [(core, f'{module}._reconstruct'), (scalar, f'{module}.scalar')]
    torch.serialization.add_safe_globals(allowed)
