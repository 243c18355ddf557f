"""A residual block's tail in parts, and its gradients by either formulation."""

from __future__ import annotations

import copy

import torch
from torch import nn

from eca_mmdet.models.attention import ECALayer, SqueezeExcite
from eca_mmdet.models.lean.fused import gated_residual
from tests.tolerances import assert_near

FORMATS = {'nchw': torch.contiguous_format, 'nhwc': torch.channels_last}
CONVOLUTIONS = {
    '1x1': dict(kernel_size=1),
    '1x1 stride 2': dict(kernel_size=1, stride=2),
    '1x1 stride 1, 2': dict(kernel_size=1, stride=(1, 2)),
    '1x1 padded': dict(kernel_size=1, padding=1),
    '1x1 groups': dict(kernel_size=1, groups=2),
    '3x3': dict(kernel_size=3, padding=1),
    '3x3 stride 2': dict(kernel_size=3, padding=1, stride=2),
    '3x3 dilated': dict(kernel_size=3, padding=2, dilation=2),
    '3x3 groups': dict(kernel_size=3, padding=1, groups=2),
    '3x3 same': dict(kernel_size=3, padding='same'),
    '3x3 reflect': dict(kernel_size=3, padding=1, padding_mode='reflect'),
    '1x1 bias': dict(kernel_size=1, bias=True),
    '3x3 bias': dict(kernel_size=3, padding=1, bias=True),
}
CASES = {
    'ordinary': lambda parts: None,
    'gamma 0': lambda parts: parts.norm.weight.zero_(),
    'one gamma 0': lambda parts: parts.norm.weight[0].zero_(),
    'gamma tiny': lambda parts: parts.norm.weight.mul_(1e-12),
    'gamma negative': lambda parts: parts.norm.weight.abs_().neg_(),
    'dead channels': lambda parts: parts.norm.bias[:3].fill_(-1e3),
    'all negative': lambda parts: parts.norm.bias.fill_(-1e3),
    'variance 0': lambda parts: parts.norm.running_var[:2].zero_(),
    'saturated gates': lambda parts: [p.mul_(1e3) for p in parts.gate.parameters()],
    'shortcut large': lambda parts: parts.shortcut.mul_(1e4),
}


class Parts:
    """A convolution, a norm, a gate and inputs of a residual block's tail."""

    def __init__(
        self,
        kind='1x1',
        gate='eca',
        size=(2, 8, 6, 5),
        form='nchw',
        dtype=torch.float64,
        outputs=12,
        seed=0,
    ):
        torch.manual_seed(seed)
        settings = {'bias': False, **CONVOLUTIONS[kind]}
        self.conv = nn.Conv2d(size[1], outputs, **settings).to(dtype)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-2).to(dtype)
        gates = {
            'eca': lambda: ECALayer(outputs, 3),
            'se': lambda: SqueezeExcite(outputs, 4, bias=True),
            'none': lambda: None,
        }
        self.gate = gates[gate]()
        if self.gate is not None:
            self.gate.to(dtype)
        self.relu = nn.ReLU(inplace=True)
        with torch.no_grad():
            for one in (self.norm.weight, self.norm.bias, self.norm.running_mean):
                one.normal_()
            self.norm.running_var.uniform_(0.5, 2)
        self.norm.eval()
        self.x = torch.randn(size, dtype=dtype).to(memory_format=FORMATS[form])
        shape = (0, *self.conv(self.x[:1] if size[0] else self._one()).shape[1:])
        self.shortcut = torch.randn((size[0], *shape[1:]), dtype=dtype).to(
            memory_format=FORMATS[form]
        )

    def _one(self):
        return self.x.new_zeros((1, *self.x.shape[1:]))

    def leaves(self):
        layers = [self.conv, self.norm] + ([self.gate] if self.gate else [])
        named = {
            f'{type(one).__name__}.{name}': value
            for one in layers
            for name, value in one.named_parameters()
        }
        named.update(x=self.x, shortcut=self.shortcut)
        return named

    def ordinary(self):
        z = self.norm(self.conv(self.x))
        return torch.relu((z if self.gate is None else self.gate(z)) + self.shortcut)

    def lean(self):
        return gated_residual(
            self.x, self.conv, self.norm, self.gate, self.shortcut, self.relu
        )


def gradients(parts, run):
    """Return the output and the gradient of every leaf, under a fixed loss."""
    leaves = parts.leaves()
    for one in leaves.values():
        one.requires_grad_()
    out = run()
    generator = torch.Generator().manual_seed(9)
    weights = torch.randn(out.shape, generator=generator, dtype=torch.float64) + 0.5
    grads = torch.autograd.grad(
        (out * weights.to(out.dtype)).sum(), leaves.values(), allow_unused=True
    )
    return out.detach(), dict(zip(leaves, grads, strict=True))


def assert_same(parts, ordinary, lean, tolerance):
    state = copy.deepcopy(parts.norm.state_dict())
    expected, expected_grads = gradients(parts, ordinary)
    after = copy.deepcopy(parts.norm.state_dict())
    parts.norm.load_state_dict(state)
    got, grads = gradients(parts, lean)
    for name, value in parts.norm.state_dict().items():
        torch.testing.assert_close(value, after[name], rtol=tolerance, atol=0, msg=name)
    assert got.dtype == expected.dtype and got.shape == expected.shape
    assert_near(got, expected, tolerance, 'output')
    for name, expected_grad in expected_grads.items():
        assert (grads[name] is None) == (expected_grad is None), name
        if expected_grad is not None:
            assert_near(grads[name], expected_grad, tolerance, name)
