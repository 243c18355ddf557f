"""Operators dispatched, bytes read and written, and bytes alive, by part of a run."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from eca_mmdet.analysis.exact_cost import Meter

FREE = frozenset(
    'empty empty_like empty_strided new_empty new_empty_strided detach alias '
    'lift_fresh _unsafe_view unsafe_split _reshape_alias'.split()
)
"""Operators that launch no kernel, besides views."""


@dataclass
class Tally:
    """What one part dispatched."""

    operators: int = 0
    moved: int = 0  # bytes read and written
    highest: int = 0  # bytes of new tensors alive at once, those of all parts included


class Counter(Meter):
    """Counts what is dispatched while it is active, for the part named at the time.

    An operator that PyTorch runs as a whole (a convolution, RoIAlign) counts once.
    Tensors without values (meta, fake) count like others.
    """

    def __init__(self) -> None:
        super().__init__()
        self.part = ''
        self.parts: defaultdict[str, Tally] = defaultdict(Tally)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        output = super().__torch_dispatch__(func, types, args, kwargs)
        tally = self.parts[self.part]
        tally.highest = max(tally.highest, self.alive_bytes)
        moved = moved_bytes(func, args, kwargs, output)
        if moved is not None:
            tally.operators += 1
            tally.moved += moved
        return output


def moved_bytes(func: Any, args: Any, kwargs: Any, output: Any) -> int | None:
    """Return what an operator reads and writes; None if it launches no kernel."""
    made = any(isinstance(leaf, Tensor) for leaf in tree_leaves(output))
    if func.is_view or func._opname in FREE or not (made or func._schema.is_mutable):
        return None
    leaves = tree_leaves((args, kwargs, output))
    return sum(nbytes(leaf) for leaf in leaves if isinstance(leaf, Tensor))


def nbytes(tensor: Tensor) -> int:
    """Return a tensor's bytes, at most those of its storage (if it is expanded)."""
    return min(tensor.numel() * tensor.itemsize, tensor.untyped_storage().nbytes())
