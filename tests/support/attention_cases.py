"""The 19 attention layers by name: how to build them, and their references."""

from __future__ import annotations

import torch

import eca_mmdet
from tests.references import attention as references

# Of the channels and the arguments that differ from the defaults.
REFERENCES = {
    'ECALayer': lambda c, circular=False, **_: references.eca(circular),
    'SqueezeExcite': lambda c, **_: references.se,
    'SEVar1': lambda c: references.se_var1,
    'SEVar2': lambda c: references.se_var2,
    'SEVar3': lambda c: references.se_var3,
    'SEGC1': lambda c, groups=16: references.se_gc(groups),
    'SEGC2': lambda c, group_size=16: references.se_gc(c // group_size),
    'SEGC3': lambda c, group_size=8: references.se_gc(c // group_size),
    'ECANS': lambda c, **_: references.eca_ns,
    'CBAM': lambda c, **_: references.cbam,
    'BAM': lambda c, dilation=4, **_: references.bam(dilation),
    'GEThetaMinus': lambda c, extent=0: references.ge_theta_minus(extent),
    'GETheta': lambda c, extent=8: references.ge_theta(extent),
    'GEThetaPlus': lambda c, extent=8, **_: references.ge_theta_plus(extent),
    'DoubleAttention': lambda c, **_: references.double_attention,
    'GSoP': lambda c, **_: references.gsop,
    'FcaNet': lambda c, size=7, frequencies=16, **_: references.fca(size, frequencies),
    'ContextBlock': lambda c, **_: references.global_context,
    'NonLocal2d': lambda c, **_: references.non_local,
}
LAYERS = tuple(REFERENCES)
WITH_NORM = ('CBAM', 'BAM', 'GETheta', 'GEThetaPlus', 'DoubleAttention', 'GSoP')
NEEDED = {'ContextBlock': dict(ratio=1 / 16)}  # mmcv gives it no default
NAMES_IN_BLOCKS = {
    'ECALayer': 'eca',
    'SqueezeExcite': 'se',
    'SEVar1': 'se_var1',
    'SEVar2': 'se_var2',
    'SEVar3': 'se_var3',
    'SEGC1': 'se_gc1',
    'SEGC2': 'se_gc2',
    'SEGC3': 'se_gc3',
    'ECANS': 'eca_ns',
    'CBAM': 'cbam',
    'BAM': 'bam',
    'GEThetaMinus': 'ge_theta_minus',
    'GETheta': 'ge_theta',
    'GEThetaPlus': 'ge_theta_plus',
    'DoubleAttention': 'a2',
    'GSoP': 'gsop',
    'FcaNet': 'fca',
    'ContextBlock': 'context_block',
    'NonLocal2d': 'nonlocal_block',
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
    reference = REFERENCES[name](x.shape[1], **kwargs)
    with_norms = arrays(layer)
    return torch.from_numpy(
        reference(x.detach().double().numpy(), with_norms, training=layer.training)
    )
