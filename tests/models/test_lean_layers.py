"""Layers that someone listens to, replaced or broke are called, as plain ones are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from eca_mmdet.models.attention import ECALayer
from eca_mmdet.models.lean.folding import fold
from eca_mmdet.models.lean.fused import (
    conv_norm,
    gated_residual,
    relu_max_pool,
    sequence,
)
from tests.support.lean_parts import Parts, assert_same
from tests.tolerances import assert_near

NAMES = {'conv': 'Conv2d', 'norm': 'BatchNorm2d', 'gate': 'ECALayer', 'relu': 'ReLU'}
HOOKS = {
    'forward': lambda one, call: one.register_forward_hook(lambda *_: call()),
    'pre': lambda one, call: one.register_forward_pre_hook(lambda *_: call()),
    'backward': lambda one, call: one.register_full_backward_hook(lambda *_: call()),
    'backward pre': lambda one, call: one.register_full_backward_pre_hook(
        lambda *_: call()
    ),
}


def conv_norm_relu(parts):
    return conv_norm(parts.x, parts.conv, parts.norm, nn.ReLU())


def conv_norm_listened(parts):
    return conv_norm(parts.x, parts.conv, parts.norm, parts.relu)


@pytest.mark.parametrize('hook', HOOKS)
@pytest.mark.parametrize('listener', NAMES)
@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('kind', ['1x1', '3x3'])
def test_hooks_are_called(kind, training, listener, hook):
    """Once a run of the tail, and of convolution, norm and ReLU."""
    runs = {'tail': Parts.lean}
    if listener != 'gate':
        runs['conv_norm'] = conv_norm_listened
    for name, run in runs.items():
        parts = Parts(kind)
        parts.relu = nn.ReLU()  # in place, PyTorch refuses backward hooks
        parts.norm.train(training)
        parts.x.requires_grad_()
        expected = run(parts).detach()
        calls = []
        handle = HOOKS[hook](
            getattr(parts, listener), lambda calls=calls: calls.append(1)
        )
        out = run(parts)
        assert_near(out.detach(), expected, 1e-12, name)
        out.sum().backward()
        assert len(calls) == 1, name
        handle.remove()
        run(parts).sum().backward()
        assert len(calls) == 1, name


def test_hooks_on_everything_are_called():
    seen = []
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, *_: seen.append(type(module).__name__)
    )
    try:
        Parts().lean()
    finally:
        handle.remove()
    assert set(NAMES.values()) <= set(seen)


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('kind', ['1x1', '3x3'])
def test_a_hook_may_change_what_it_hears(kind, training):
    for name in ('conv', 'norm', 'gate'):
        parts = Parts(kind)
        parts.norm.train(training)
        getattr(parts, name).register_forward_hook(lambda m, i, out: 2 * out + 1)
        assert_same(parts, parts.ordinary, parts.lean, 1e-11)


@pytest.mark.parametrize('kind', ['1x1', '3x3'])
def test_what_a_hook_or_norm_keeps_stays(kind):
    parts = Parts(kind)
    kept = []
    parts.norm.register_forward_hook(lambda m, i, out: kept.append((out, out.clone())))
    with torch.no_grad():
        parts.lean()
    [(out, copy)] = kept
    assert torch.equal(out, copy)

    class Keeping(nn.GroupNorm):
        def forward(self, x):
            self.kept = super().forward(x)
            return self.kept

    parts = Parts(kind)
    parts.norm = Keeping(3, 12).double()
    with torch.no_grad():
        parts.lean()
        assert torch.equal(
            parts.norm.kept, nn.GroupNorm.forward(parts.norm, parts.conv(parts.x))
        )
        x = parts.shortcut.clone()
        identity = nn.Identity()
        gated_residual(x, identity, identity, parts.gate, x, parts.relu)
    assert torch.equal(x, parts.shortcut)


def test_replaced_functions_are_called(monkeypatch):
    def plus_one(function):
        return lambda *args: function(*args) + 1

    for name in ('conv', 'norm', 'gate', 'relu'):
        parts = Parts()
        layer = getattr(parts, name)
        before = parts.lean()
        layer.forward = plus_one(layer.forward)
        if name == 'relu':
            expected = before + 1
        else:
            expected = parts.ordinary()
        assert_near(parts.lean(), expected, 1e-12, name)
        assert not torch.allclose(before, expected)
    parts = Parts('3x3')
    before = parts.lean()
    parts.conv._conv_forward = plus_one(parts.conv._conv_forward)
    assert_near(parts.lean(), parts.ordinary(), 1e-12, '_conv_forward')
    assert not torch.allclose(before, parts.lean())
    monkeypatch.setattr(nn.Conv2d, 'forward', plus_one(nn.Conv2d.forward))
    parts = Parts()
    assert_near(parts.lean(), parts.ordinary(), 1e-12, 'class')


class Doubled(nn.BatchNorm2d):
    def __call__(self, x):
        return 2 * super().__call__(x)


class Tripled(nn.Conv2d):
    def forward(self, x):
        return 3 * super().forward(x)


class Halved(ECALayer):
    def forward(self, x):
        return super().forward(x) / 2


def test_subclasses_are_called():
    parts = Parts()
    parts.gate.__class__ = Halved
    assert_same(parts, parts.ordinary, parts.lean, 1e-11)
    parts = Parts()
    parts.norm.__class__ = Doubled
    assert_same(parts, parts.ordinary, parts.lean, 1e-11)
    parts = Parts()
    parts.conv.__class__ = Tripled
    assert_same(parts, parts.ordinary, parts.lean, 1e-11)


class Adapter(nn.Sequential):
    def forward(self, x):
        return super().forward(x) * 1.5


def test_sequences_are_called_where_they_do_more():
    torch.manual_seed(0)
    layers = nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU()
    x = torch.randn(2, 4, 5, 6)
    adapter, plain = Adapter(*layers).eval(), nn.Sequential(*layers).eval()
    assert_near(sequence(x, adapter), adapter(x), 1e-5)
    calls = []
    for place in (plain, plain[0], plain[1], plain[2]):
        handle = place.register_forward_hook(lambda *_: calls.append(1))
        assert_near(sequence(x, plain), plain(x), 1e-5)
        handle.remove()
    assert len(calls) == 8  # ours, and that of the comparison


def test_pools_that_do_more_are_called():
    pool = nn.MaxPool2d(2, return_indices=True)
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    values, indices = relu_max_pool(x * 1.0, nn.ReLU(), pool)
    assert torch.equal(values, pool(torch.relu(x))[0]) and indices.shape == values.shape
    calls = []
    for layer in (nn.ReLU(), nn.MaxPool2d(2)):
        layers = {'relu': nn.ReLU(), 'pool': nn.MaxPool2d(2)}
        layers['relu' if isinstance(layer, nn.ReLU) else 'pool'] = layer
        layer.register_forward_hook(lambda *_: calls.append(1))
        relu_max_pool(x * 1.0, layers['relu'], layers['pool'])
    assert len(calls) == 2


@pytest.mark.parametrize(
    'shape',
    [(2, 12, 5, 6), (2, 12, 1, 30), (2, 12, 3, 10), (1, 12, 6, 4), (2, 6, 6, 5)],
)
@pytest.mark.parametrize('gate', ['eca', 'none'])
@pytest.mark.parametrize('kind', ['1x1', '3x3'])
@pytest.mark.parametrize('grad', [False, True])
def test_shortcuts_of_another_shape_are_refused(kind, gate, shape, grad):
    parts = Parts(kind, gate)
    parts.shortcut = torch.randn(shape, dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        for run in (parts.ordinary, parts.lean):
            with pytest.raises(RuntimeError):
                run()


@pytest.mark.parametrize(
    'shape', [(2, 12, 1, 1), (2, 12, 1, 5), (1, 12, 6, 5), (12, 6, 5)]
)
@pytest.mark.parametrize('gate', ['eca', 'none'])
@pytest.mark.parametrize('kind', ['1x1', '3x3'])
def test_shortcuts_that_broadcast_do(kind, gate, shape):
    parts = Parts(kind, gate)
    parts.shortcut = torch.randn(shape, dtype=torch.float64)
    assert_same(parts, parts.ordinary, parts.lean, 1e-11)


def test_shortcuts_of_another_dtype_promote():
    for kind in ('1x1', '3x3'):
        for gate in ('eca', 'none'):
            parts = Parts(kind, gate, dtype=torch.float32)
            parts.shortcut = parts.shortcut.double()
            expected = parts.ordinary()
            assert expected.dtype == parts.lean().dtype == torch.float64
            assert_near(parts.lean(), expected, 1e-6, kind)
            with torch.no_grad():
                assert parts.lean().dtype == torch.float64
                assert_near(parts.lean(), expected, 1e-6, kind)


BROKEN = {
    'dtype of x': lambda parts: setattr(parts, 'x', parts.x.float()),
    'dimensions of x': lambda parts: setattr(parts, 'x', parts.x[0]),
    'channels of x': lambda parts: setattr(parts, 'x', parts.x[:, :3]),
    'norm of 1': lambda parts: setattr(
        parts, 'norm', nn.BatchNorm2d(1).double().eval()
    ),
    'norm of others': lambda parts: setattr(
        parts, 'norm', nn.BatchNorm2d(5).double().eval()
    ),
    'norm of 1-D': lambda parts: setattr(
        parts, 'norm', nn.BatchNorm1d(12).double().eval()
    ),
    'whole numbers': lambda parts: setattr(parts, 'x', parts.x.byte()),
}


@pytest.mark.parametrize('kind', ['1x1', '3x3'])
@pytest.mark.parametrize('fault', BROKEN)
def test_what_the_layers_refuse_is_refused(kind, fault):
    parts = Parts(kind)
    BROKEN[fault](parts)
    for run in (parts.ordinary, parts.lean, lambda: conv_norm_relu(parts)):
        with pytest.raises((RuntimeError, ValueError)):
            run()


def test_numbers_for_pairs():
    """``conv.stride = 2`` after construction, which PyTorch's convolution takes."""
    for kind in ('1x1 stride 2', '3x3 stride 2', '1x1', '3x3'):
        parts = Parts(kind)
        for name in ('stride', 'padding', 'dilation'):
            setattr(parts.conv, name, getattr(parts.conv, name)[0])
        assert_same(parts, parts.ordinary, parts.lean, 1e-11)


def test_function_transforms_take_the_layers():
    parts = Parts()

    def total(x):
        parts.x = x
        return parts.lean().sum()

    x = parts.x
    gradient = torch.func.grad(total)(x)
    expected = torch.autograd.grad(total(x.requires_grad_()), x)[0]
    assert_near(gradient, expected, 1e-12, 'x')


def test_folded_vectors_are_float32_or_wider():
    """Whatever the weights are: half precision would lose the small differences."""
    for dtype in (torch.float16, torch.bfloat16):
        parts = Parts(dtype=dtype)
        with torch.no_grad():
            pair = (parts.conv, parts.norm)
            folded = fold(parts.x, [pair], parts.conv)[parts.conv]
            norm = parts.norm.double()
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            shift = norm.bias - norm.running_mean * scale
        assert folded.kernel.dtype == folded.shift.dtype == torch.float32
        kernel = parts.conv.weight.double() * scale[:, None, None, None]
        assert_near(folded.kernel.double(), kernel, 1e-6, 'kernel')
        assert_near(folded.shift.double(), shift, 1e-6, 'shift')


def test_float64_stays_under_autocast():
    for kind in ('1x1', '3x3'):
        parts = Parts(kind)
        expected = parts.lean()
        with torch.autocast('cpu', dtype=torch.bfloat16):
            got = conv_norm_relu(parts)
        assert got.dtype == torch.float64
        assert_near(got, conv_norm_relu(parts), 1e-12, kind)
        assert expected.dtype == torch.float64


def test_sums_over_pixels_are_float32():
    """Under autocast the gradient of beta counts the pixels, which bfloat16 cannot."""
    parts = Parts(size=(2, 8, 23, 21), dtype=torch.float32)
    with torch.no_grad():
        parts.norm.bias.fill_(100)
    parts.x = parts.x.bfloat16()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = conv_norm(parts.x, parts.conv, parts.norm, parts.relu)
    out.float().sum().backward()
    assert parts.norm.bias.grad.tolist() == [2 * 23 * 21] * 12


def test_means_over_pixels_are_float32():
    parts = Parts(dtype=torch.float32)
    pooled = []
    factors = parts.gate.factors
    parts.gate.factors = lambda means: pooled.append(means) or factors(means)
    parts.x, parts.shortcut = parts.x.bfloat16(), parts.shortcut.bfloat16()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        parts.lean()
    with torch.no_grad():
        x = parts.x.double().mean((2, 3))[..., None, None]
        expected = parts.norm.double()(parts.conv.double()(x))[:, :, 0, 0]
    assert_near(pooled[0].double(), expected, 1e-6, 'pooled')


def overflow(kind, gamma, run):
    """Return the least power of two of a loss scale at which gradients overflow."""
    for power in range(24):
        parts = Parts(kind, size=(2, 16, 48, 48), dtype=torch.float32)
        with torch.no_grad():
            parts.norm.weight.fill_(gamma)
            parts.norm.bias.fill_(1)
            parts.x, parts.shortcut = parts.x.abs().half(), parts.shortcut.half()
        leaves = list(parts.leaves().values())
        for one in leaves:
            one.requires_grad_()
        with torch.autocast('cpu', dtype=torch.float16):
            out = run(parts)
        loss = out.float().sum() * 2.0**power
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        if not all(one is None or torch.isfinite(one).all() for one in grads):
            return power
    return power


@pytest.mark.parametrize('gamma', [0, 1e-2, 1])
@pytest.mark.parametrize('kind', ['1x1', '3x3'])
def test_float16_overflows_no_earlier_than_the_layers(kind, gamma):
    tail = overflow(kind, gamma, Parts.ordinary)
    assert overflow(kind, gamma, Parts.lean) >= tail > 0
    layers = overflow(
        kind, gamma, lambda parts: torch.relu(parts.norm(parts.conv(parts.x)))
    )
    assert overflow(kind, gamma, conv_norm_relu) >= layers > 0
