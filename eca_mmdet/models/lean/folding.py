"""A norm that is a fixed scale and shift, folded into the convolution before it.

Source: the folding is the usual one of inference; that it serves training as well,
for norms in evaluation mode, is the subject of You et al., "Efficient ConvBN Blocks for
Transfer Learning and Beyond", ICLR 2024, arXiv:2305.11624.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from eca_mmdet import compat

_GLOBAL_HOOKS = compat.global_module_hooks()
_is_exporting = getattr(torch.compiler, 'is_exporting', lambda: False)  # torch 2.7
_is_fx_tracing = compat.fx_tracing()
_BATCH_NORMS = (compat.batch_norm_base().forward, nn.SyncBatchNorm.forward)
_KNOWN: dict[type, Any] = {
    kind: (kind.forward, kind.__call__) for kind in (nn.Conv2d, nn.ReLU, nn.MaxPool2d)
}
_CONV_FORWARD = compat.conv_forward(nn.Conv2d)


class Affine(NamedTuple):
    """``scale * y + shift`` by channel: two (C,) tensors in float32 or wider."""

    scale: Tensor
    shift: Tensor


def bypassable(*layers: nn.Module) -> bool:
    """Tell whether computing these layers' function without calling them is safe.

    It is not with hooks, a replaced ``forward``, transforms (``torch.func``), or while
    the network is recorded (tracing, export): ordinary layers make better graphs.
    """
    if any(_GLOBAL_HOOKS) or compat.functorch_transforms_active():
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


def fold(x: Tensor, conv: nn.Module, norm: Any) -> Affine | None:
    """Return what ``conv``'s bias and ``norm`` do, differentiably; None if not fixed.

    Fixed are a zero-padded ``nn.Conv2d`` followed by a batch norm in evaluation mode
    or ``nn.Identity`` (which fusion leaves behind), if both are :func:`bypassable`. An
    input that they reject is left for them to reject. In float16 with gradients nothing
    is folded: the gradients of the scaled weights would overflow where those of the
    layers do not.
    """
    if type(conv) is not nn.Conv2d or not bypassable(conv, norm):
        return None
    if conv.padding_mode != 'zeros' or isinstance(conv.padding, str):
        return None
    if x.dim() != 4 or not x.is_floating_point():
        return None
    if x.dtype != conv.weight.dtype and not _autocasts(x):
        return None
    if torch.is_grad_enabled() and autocast_dtype(x) == torch.float16:
        return None
    bias = None if conv.bias is None else _wide(conv.bias)
    if type(norm) is nn.Identity:
        ones = _wide(torch.ones_like(conv.weight[:, 0, 0, 0]))
        return Affine(ones, torch.zeros_like(ones) if bias is None else bias)
    if not is_batch_norm(norm) or norm.num_features != conv.out_channels:
        return None
    if norm.training or norm.running_mean is None or norm.running_var is None:
        return None
    scale = torch.rsqrt(_wide(norm.running_var) + norm.eps)
    if norm.weight is not None:
        scale = scale * _wide(norm.weight)
    mean = _wide(norm.running_mean)
    mean = mean if bias is None else mean - bias
    if norm.bias is None:
        return Affine(scale, -mean * scale)
    return Affine(scale, torch.addcmul(_wide(norm.bias), mean, scale, value=-1))


def _wide(x: Tensor) -> Tensor:
    """Return x in float32 or wider, as the kernels of batch norm compute."""
    return x.float() if x.dtype.itemsize < 4 else x


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
