"""Operators dispatched, bytes read and written, and bytes alive, by part of a run."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from eca_mmdet.analysis.exact_cost import LiveBytes

NO_KERNELS = ('empty', 'new_empty', 'empty_like', 'empty_strided', 'detach', 'alias')


@dataclass
class Tally:
    """What one part dispatched."""

    operators: int = 0
    moved: int = 0  # bytes read and written
    highest: int = 0  # bytes of new tensors alive at once, those of all parts included


class Counter(LiveBytes):
    """Counts what is dispatched while it is active, for the part named at the time.

    An operator is one kernel: views and allocations are left out, and an operator that
    PyTorch runs as a whole (a convolution, RoIAlign) counts once, with its inputs and
    outputs. Tensors without values (meta, fake) count like others.
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
        tally.highest = max(tally.highest, self.now)
        if not func.is_view and func._schema.name.split('::')[1] not in NO_KERNELS:
            tally.operators += 1
            tally.moved += sum(map(nbytes, tree_leaves((args, kwargs, output))))
        return output


def nbytes(leaf: Any) -> int:
    """Return the bytes that reading a tensor touches; 0 for anything else."""
    if not isinstance(leaf, Tensor):
        return 0
    return min(leaf.numel() * leaf.itemsize, leaf.untyped_storage().nbytes())
