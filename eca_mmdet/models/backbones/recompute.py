"""Blocks that are computed again in the backward pass, to save memory."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.utils.checkpoint import checkpoint


def recompute(block: Callable[[Tensor], Tensor], x: Tensor, with_cp: bool) -> Tensor:
    """Return ``block(x)``; with ``with_cp``, keep x alone for the backward pass.

    Args:
        block: the part of a network to compute again.
        x: its input.
        with_cp: mmdet's argument of that name.
    """
    if not (with_cp and x.requires_grad):
        return block(x)
    result: Tensor = checkpoint(block, x, use_reentrant=False)
    return result
