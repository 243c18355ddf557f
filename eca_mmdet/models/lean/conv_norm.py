"""Convolution, batch norm and ReLU as one operation that keeps one tensor.

Folded, all three are relu(conv(x, scale * w) + shift). Backward needs x, which the
layer before keeps as its own result, and the result, which the layer after keeps as its
input. The convolution's plain output, which batch norm would keep, is not needed.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from eca_mmdet.models.lean.folding import autocast_dtype, bypassable, fold
from eca_mmdet.models.lean.scaled_conv import is_pointwise, scaled_conv


def conv_norm(x: Tensor, conv: Any, norm: Any, relu: Any = None) -> Tensor:
    """Return ``relu(norm(conv(x)))``.

    A batch norm in evaluation mode is folded into the convolution, and nothing but x
    and the result is kept for backward. Other layers run as they are.

    Args:
        x: (N, K, H, W).
        conv: to C channels.
        norm: of C channels.
        relu: None for none.

    Returns:
        (N, C, H', W'), in the dtype and memory format that ``conv`` gives.
    """
    fused_before = type(norm) is nn.Identity and not is_pointwise(conv)
    affine = None if fused_before else fold(x, conv, norm)
    if affine is None:
        out = norm(conv(x))
        return out if relu is None else relu(out)  # type: ignore[no-any-return]
    fused = type(relu) is nn.ReLU and bypassable(relu)
    x = x.to(autocast_dtype(x))
    out = scaled_conv(x, conv, affine, relu=fused)
    return out if relu is None or fused else relu(out)


def sequence(x: Tensor, layers: Any) -> Tensor:
    """Return ``layers(x)``, each convolution with the norm and ReLU after it as one.

    Args:
        x: (N, K, H, W).
        layers: an ``nn.Sequential``; any other layer is called.
    """
    known = getattr(type(layers), 'forward', None) is nn.Sequential.forward
    if not known or not bypassable(layers):
        return layers(x)  # type: ignore[no-any-return]
    rest = list(layers)
    while rest:
        layer = rest.pop(0)
        if not isinstance(layer, nn.Conv2d) or not rest:
            x = layer(x)
            continue
        norm = rest.pop(0)
        relu = rest.pop(0) if rest and isinstance(rest[0], nn.ReLU) else None
        x = conv_norm(x, layer, norm, relu)
    return x
