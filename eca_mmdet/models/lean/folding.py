"""A norm that is a fixed scale and shift, folded into the convolution before it.

Source: the folding is the usual one of inference; that it serves training as well,
for norms in evaluation mode, is the subject of You et al., "Efficient ConvBN Blocks for
Transfer Learning and Beyond", ICLR 2024, arXiv:2305.11624.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eca_mmdet import compat
from eca_mmdet.models.lean import kernels as ops

_GLOBAL_HOOKS = compat.global_module_hooks()
_is_exporting = getattr(torch.compiler, 'is_exporting', lambda: False)  # torch 2.7
_is_fx_tracing = compat.fx_tracing()
_BATCH_NORMS = (compat.batch_norm_base().forward, nn.SyncBatchNorm.forward)
_KNOWN: dict[type, Any] = {
    kind: (kind.forward, kind.__call__) for kind in (nn.Conv2d, nn.ReLU, nn.MaxPool2d)
}
_CONV_FORWARD = compat.conv_forward(nn.Conv2d)


@dataclass
class Folded:
    """A convolution with its norm in it: ``conv(x, kernel) + shift``.

    Args:
        kernel: (C, K, h, w), in the dtype of the convolution or wider.
        shift: (C,), float32 or wider.
        again: makes kernel again for backward, and in float16 the (C,) ranges by which
            it was divided; None where ``kernel`` is to be kept.
    """

    kernel: Tensor
    shift: Tensor
    again: Callable[[], tuple[Tensor, Tensor | None]] | None = None


class Folds(dict[nn.Module, Folded]):
    """Folded convolutions of a block.

    Attributes:
        is_gated: the last convolution's kernel is wide, for a gate to scale.
        is_lazy: each is folded when it runs; at once is no faster on a CPU, and takes
            more memory.
        means: a map of the block and its (N, C) means over pixels.
    """

    is_gated = False
    is_lazy = False
    means: tuple[Tensor, Tensor] | None = None


def bypassable(*layers: nn.Module) -> bool:
    """Tell whether computing these layers' function without calling them is safe.

    It is not with hooks, a replaced ``forward``, transforms (``torch.func``), or while
    the network is recorded (tracing, export, compilation): ordinary layers make better
    graphs.
    """
    if (
        torch.compiler.is_compiling()
        or any(_GLOBAL_HOOKS)
        or compat.functorch_transforms_active()
    ):
        return False
    if torch.jit.is_tracing() or _is_fx_tracing() or _is_exporting():  # type: ignore[attr-defined,no-untyped-call]
        return False
    return not any(map(_is_changed, layers))


def _is_changed(layer: nn.Module) -> bool:
    kind = type(layer)
    if 'forward' in layer.__dict__ or compat.has_own_conv_forward(layer):
        return True
    if any(compat.module_hooks(layer)):
        return True
    if kind is nn.Conv2d and compat.conv_forward(kind) is not _CONV_FORWARD:
        return True
    expected = _KNOWN.get(kind, (kind.forward, nn.Module.__call__))
    return bool(expected != (kind.forward, kind.__call__))


def is_batch_norm(norm: nn.Module) -> bool:
    """Tell whether ``norm`` runs PyTorch's own 2-D batch norm."""
    known = isinstance(norm, (nn.BatchNorm2d, nn.SyncBatchNorm))
    return known and type(norm).forward in _BATCH_NORMS


def fold(x: Tensor, pairs: Iterable[tuple[Any, Any]], gated: Any = None) -> Folds:
    """Fold the norms of ``(conv, norm)`` pairs that are fixed, differentiably, at once.

    Fixed are a zero-padded ``nn.Conv2d`` followed by an affine batch norm in evaluation
    mode or ``nn.Identity`` (which fusion leaves behind), if both are
    :func:`bypassable`. An input that they reject is left for them to reject.

    Args:
        x: an input (N, C, H, W) of the dtype that all of them get.
        pairs: convolutions and their norms.
        gated: the convolution whose kernel is to be float32 or wider.
    """
    folds = Folds()
    normed = []
    for conv, norm in pairs:
        if not is_foldable(x, conv, norm):
            continue
        dtype = _wide_dtype(conv) if conv is gated else autocast_dtype(x)
        if type(norm) is not nn.Identity:
            normed.append((conv, norm, dtype))
            continue
        shift = conv.bias
        if shift is None:
            shift = torch.zeros_like(conv.weight[:, 0, 0, 0])
        folds[conv] = Folded(conv.weight.to(dtype), ops.wide(shift))
    if normed:
        group = _Group(normed)
        kernels_and_shifts = _Fold.apply(group, *group.tensors[: 3 * len(normed)])
        for i, (conv, _, _) in enumerate(normed):
            kernel, shift = kernels_and_shifts[i], kernels_and_shifts[len(normed) + i]
            again = functools.partial(group.again, i)
            folds[conv] = Folded(kernel, shift, again)
    folds.is_gated = gated in folds
    return folds


def is_foldable(x: Tensor, conv: Any, norm: Any) -> bool:
    """Tell whether :func:`fold` folds a pair."""
    if type(conv) is not nn.Conv2d or not bypassable(conv, norm):
        return False
    if conv.padding_mode != 'zeros' or isinstance(conv.padding, str):
        return False
    if x.dim() != 4 or not x.is_floating_point():
        return False
    if x.dtype != conv.weight.dtype and not _autocasts(x):
        return False
    if type(norm) is nn.Identity:
        return True
    if not is_batch_norm(norm) or norm.num_features != conv.out_channels:
        return False
    if norm.training or norm.running_mean is None or norm.running_var is None:
        return False
    return norm.weight is not None and norm.bias is not None and conv.bias is None


def _wide_dtype(conv: Any) -> torch.dtype:
    return torch.promote_types(conv.weight.dtype, torch.float32)


class _Group:
    """Convolutions and norms that are folded together."""

    def __init__(self, layers: list[tuple[Any, Any, torch.dtype]]) -> None:
        convs, norms, dtypes = zip(*layers, strict=True)
        self.count, self.dtypes = len(layers), list(dtypes)
        self.epsilons = [norm.eps for norm in norms]
        names = ('weight', 'bias', 'running_mean', 'running_var')
        norm_tensors = (getattr(norm, name) for name in names for norm in norms)
        self.tensors = [*(conv.weight for conv in convs), *norm_tensors]
        self.versions = self._versions()
        self.made: Any = None

    def _versions(self) -> list[int]:
        return [0 if one.is_inference() else one._version for one in self.tensors]

    def fold(self, ranged: bool) -> Any:
        """Return kernels, shifts and ranges, as ``kernels.fold`` does."""
        tensors = [one.detach() for one in self.tensors]
        weights, norms = tensors[: self.count], tensors[self.count :]
        return ops.fold(weights, norms, self.epsilons, self.dtypes, ranged)

    def again(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Return a kernel and its ranges for backward; made once for all of them."""
        if self.made is None:
            if self.versions != self._versions():
                raise RuntimeError(
                    'one of the variables needed for gradient computation has been '
                    'modified by an inplace operation: a weight, or a statistic of a '
                    'norm, between forward and backward.'
                )
            with torch.no_grad():
                self.made = self.fold(ranged=True)
        kernels, _, ranges = self.made
        return kernels[index], ranges[index]


class _Fold(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, group: _Group, *parameters: Tensor) -> tuple[Tensor, ...]:
        kernels, shifts, _ = group.fold(ranged=False)
        ctx.save_for_backward(*parameters)
        ctx.group = group
        ctx.set_materialize_grads(False)
        return (*kernels, *shifts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        reject_double_backward()
        group, count, needs = ctx.group, ctx.group.count, ctx.needs_input_grad[1:]
        group.made = None
        saved = ctx.saved_tensors  # once: recomputation frees them
        weights = list(saved[:count])
        grad_shifts = list(grads[count:])
        of_weights, of_gammas = ops.fold_backward(
            *(list(grads[:count]), grad_shifts, weights, group.tensors[count:]),
            *(group.epsilons, list(needs[: 2 * count])),
        )
        results = zip(
            (*of_weights, *of_gammas, *grad_shifts),
            saved,
            needs,
            strict=True,
        )
        return None, *(
            grad.to(one.dtype) if need and grad is not None else None
            for grad, one, need in results
        )


def autocast_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype that a convolution of x runs in."""
    return torch.get_autocast_dtype(x.device.type) if _autocasts(x) else x.dtype


def _autocasts(x: Tensor) -> bool:
    kind = x.device.type
    if x.dtype == torch.float64 or not torch.amp.is_autocast_available(kind):
        return False  # autocast leaves float64 as it is
    return torch.is_autocast_enabled(kind)


def no_autocast(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which operations on x's device keep their dtypes."""
    kind = x.device.type
    known = torch.amp.is_autocast_available(kind)
    if not known or not torch.is_autocast_enabled(kind):
        return contextlib.nullcontext()
    return torch.autocast(kind, enabled=False)


def reject_double_backward() -> None:
    """Raise RuntimeError where a hand-written backward would be differentiated."""
    if torch.is_grad_enabled():  # autograd enables it only for create_graph=True
        raise RuntimeError(
            "the backbone computes first derivatives only (memory='lean'); "
            'create_graph=True asks for a gradient that can be differentiated again. '
            "Build the backbone with memory='plain' for that."
        )
