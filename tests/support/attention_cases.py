"""The attention layers by name: how to build them, and their references."""

from __future__ import annotations

import torch

import eca_mmdet
from eca_mmdet.catalog.mechanisms import MECHANISMS
from tests.references import attention as references

NAMES_IN_BLOCKS = {row.type: row.abbr for row in MECHANISMS}
LAYERS = tuple(NAMES_IN_BLOCKS)
NEEDED = {  # mmcv's layers have other defaults, or none
    row.type: {key: value for key, value in row.layer.items() if key != 'type'}
    for row in MECHANISMS
    if not row.module
}


def plain(name, channels, **kwargs):
    """A new layer, as it starts."""
    eca_mmdet.registration.register()
    from mmengine.registry import MODELS

    return MODELS.get(name)(channels, **{**NEEDED.get(name, {}), **kwargs})


def randomise(module, seed=1):
    """Fill parameters and running statistics, also those that start at 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            width = 1 if parameter.ndim < 2 else max(1, parameter[0].numel())
            parameter.normal_(0, 1.5 * width**-0.5, generator=generator)
        for name, buffer in module.named_buffers():
            if name.endswith('running_mean'):
                buffer.normal_(0, 0.3, generator=generator)
            elif name.endswith('running_var'):
                buffer.uniform_(0.5, 2, generator=generator)
    return module


def build(name, channels, seed=1, **kwargs):
    """A layer in evaluation mode whose parameters and statistics are random."""
    return randomise(plain(name, channels, **kwargs), seed).eval()


def image(channels, size=(7, 7), batch=2, seed=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, *size, generator=generator).to(dtype)


def arrays(layer):
    """The state dict as float64 arrays."""
    return {
        name: value.detach().double().numpy()
        for name, value in layer.state_dict().items()
        if value.is_floating_point()
    }


def expected(name, layer, x, **kwargs):
    """What the reference makes of ``x`` with the layer's parameters."""
    reference = references.LAYERS[name].output(x.shape[1], **kwargs)
    with_norms = arrays(layer)
    return torch.from_numpy(
        reference(x.detach().double().numpy(), with_norms, training=layer.training)
    )
