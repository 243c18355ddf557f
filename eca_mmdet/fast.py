"""Inference at speed: fused norms, channels-last, bfloat16 in backbone and neck."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from eca_mmdet.errors import UserError

TOLERANCE = 1e-3
"""Largest difference that fusion may make, relative to the largest feature."""


def make_fast(detector: nn.Module, compiled: bool = False) -> None:
    """Change a trained mmdet detector, in place, for inference alone.

    Batch norms of backbone and neck are fused into their convolutions, the detector's
    weights take the channels-last format, and backbone and neck run under bfloat16
    autocast. Heads, RoI operators and NMS get float32 features, as ever.

    Args:
        detector: with ``backbone`` and ``extract_feat``; put into evaluation mode.
        compiled: also run the backbone through ``torch.compile``, which takes minutes
            for the first image, and on a CPU needs a C++ compiler.

    Raises:
        UserError: it is no such detector, or fusion changed its features.
    """
    model: Any = detector
    if not hasattr(model, 'backbone') or not hasattr(model, 'extract_feat'):
        raise UserError(
            'fast inference needs a detector with a backbone and extract_feat; got '
            f'{type(detector).__name__}.'
        )
    model.eval()
    _fuse(model)
    model.to(memory_format=torch.channels_last)
    if compiled:
        model.backbone = torch.compile(model.backbone, dynamic=True)
    extract = model.extract_feat
    kind = next(model.parameters()).device.type

    def extract_feat(inputs: Tensor) -> tuple[Tensor, ...]:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast(kind, dtype=torch.bfloat16):
            features = extract(inputs)
        return tuple(one.float() for one in features)

    model.extract_feat = extract_feat


def _fuse(model: Any) -> None:
    """Fuse norms in backbone and neck, and hold the features against those before."""
    from mmcv.cnn import fuse_conv_bn

    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, 128, 128, generator=generator)
    image = image.to(next(model.parameters()))
    with torch.no_grad():
        before = model.extract_feat(image)
        for name in ('backbone', 'neck'):
            part = getattr(model, name, None)
            if part is not None:
                setattr(model, name, fuse_conv_bn(part))
        after = model.extract_feat(image)
    for one, other in zip(before, after, strict=True):
        if (one - other).abs().max() > TOLERANCE * one.abs().max():
            raise UserError(
                f'fusing the norms of {type(model.backbone).__name__} changes its '
                'features: its layers do not run in the order they are defined in. '
                'Test it without --fast.'
            )
