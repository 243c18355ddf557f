"""The lean operations against autograd on the layers called one by one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from eca_mmdet.analysis.exact import SavedBytes
from eca_mmdet.attention import ECALayer, SqueezeExcite
from eca_mmdet.ops import scaled_conv
from eca_mmdet.ops.conv_norm import conv_norm, sequence
from eca_mmdet.ops.gated_residual import gated_residual
from eca_mmdet.ops.max_pool import relu_max_pool

pytestmark = pytest.mark.openmmlab

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
        self.norm = nn.BatchNorm2d(outputs).to(dtype)
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
    weights = torch.randn(out.shape, generator=generator, dtype=torch.float64)
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
    close(got, expected, tolerance, 'output')
    for name, expected_grad in expected_grads.items():
        assert (grads[name] is None) == (expected_grad is None), name
        if expected_grad is not None:
            close(grads[name], expected_grad, tolerance, name)


def close(got, expected, tolerance, name):
    """Relative to the largest value, as the sums behind each entry are."""
    largest = expected.abs().max().item() if expected.numel() else 0.0
    assert torch.isfinite(got).all(), name
    if expected.numel():
        error = (got - expected).abs().max().item()
        assert error <= tolerance * largest + 1e-300, (name, error, largest)


@pytest.fixture(params=['matrices', 'convolutions'])
def engine(request, monkeypatch):
    """The way of a CPU for 1x1 convolutions, and that of a GPU."""
    if request.param == 'convolutions':
        settings = scaled_conv._settings
        monkeypatch.setattr(
            scaled_conv,
            '_settings',
            lambda x, conv: settings(x, conv)._replace(matrices=False),
        )
    return request.param


@pytest.mark.parametrize('form', FORMATS)
@pytest.mark.parametrize('gate', ['eca', 'se', 'none'])
@pytest.mark.parametrize('kind', CONVOLUTIONS)
def test_tail_in_float64(engine, kind, gate, form):
    parts = Parts(kind, gate, form=form)
    assert_same(parts, parts.ordinary, parts.lean, 1e-12)


@pytest.mark.parametrize(
    ('gate', 'case'),
    [
        (gate, case)
        for gate in ('eca', 'se', 'none')
        for case in CASES
        if (gate, case) != ('none', 'saturated gates')
    ],
)
@pytest.mark.parametrize('kind', ['1x1', '3x3'])
def test_tail_at_the_edges(engine, case, kind, gate):
    parts = Parts(kind, gate)
    with torch.no_grad():
        CASES[case](parts)
    assert_same(parts, parts.ordinary, parts.lean, 1e-10)


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('kind', ['1x1', '3x3'])
def test_tail_in_float32(engine, kind, case):
    """To 1e-5 of float64, or as near as the layers one by one come."""
    parts = Parts(kind, size=(2, 16, 20, 24), outputs=32)
    with torch.no_grad():
        for one in parts.leaves().values():
            one.copy_(one.float())
        CASES[case](parts)
    exact = gradients(parts, parts.ordinary)
    for layer in (parts.conv, parts.norm, parts.gate):
        layer.float()
    parts.x, parts.shortcut = (
        one.detach().float() for one in (parts.x, parts.shortcut)
    )
    plain, lean = (gradients(parts, run) for run in (parts.ordinary, parts.lean))
    assert lean[0].dtype == torch.float32
    everything = {'output': (plain[0], lean[0], exact[0])}
    for name, value in exact[1].items():
        everything[name] = (plain[1][name], lean[1][name], value)
    for name, (plain_value, lean_value, value) in everything.items():
        allowed = 1e-5 * value.abs().max()
        allowed = max(allowed, 2 * (plain_value - value).abs().max())
        assert (lean_value - value).abs().max() <= allowed, name


@pytest.mark.parametrize('gate', ['eca', 'se', 'none'])
@pytest.mark.parametrize(
    ('size', 'training'),
    [
        ((0, 8, 6, 5), False),  # of nothing, there are no statistics to train with
        *(
            (size, training)
            for size in ((1, 8, 6, 5), (3, 8, 1, 1), (1, 1, 4, 4), (5, 8, 1, 7))
            for training in (False, True)
        ),
    ],
)
@pytest.mark.parametrize('kind', ['1x1', '3x3'])
def test_tail_of_odd_sizes(engine, kind, size, gate, training):
    parts = Parts(kind, gate, size)
    parts.norm.train(training)
    assert_same(parts, parts.ordinary, parts.lean, 1e-10)


@pytest.mark.parametrize('form', FORMATS)
@pytest.mark.parametrize('gate', ['eca', 'se', 'none'])
@pytest.mark.parametrize('kind', ['1x1', '3x3'])
def test_tail_with_batch_statistics(kind, gate, form):
    parts = Parts(kind, gate, form=form)
    parts.norm.train()
    assert_same(parts, parts.ordinary, parts.lean, 1e-11)
    parts.norm.momentum = None  # cumulative averages
    assert_same(parts, parts.ordinary, parts.lean, 1e-11)


@pytest.mark.parametrize('norm', ['no statistics', 'not affine', 'group', 'instance'])
@pytest.mark.parametrize('kind', ['1x1', '3x3'])
def test_other_norms(kind, norm):
    parts = Parts(kind)
    kinds = {
        'no statistics': nn.BatchNorm2d(12, track_running_stats=False),
        'not affine': nn.BatchNorm2d(12, affine=False),
        'group': nn.GroupNorm(3, 12),
        'instance': nn.InstanceNorm2d(12),
    }
    parts.norm = kinds[norm].double().eval()
    assert_same(parts, parts.ordinary, parts.lean, 1e-11)


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('kind', CONVOLUTIONS)
@pytest.mark.parametrize('with_relu', [False, True])
@pytest.mark.parametrize('form', FORMATS)
def test_conv_norm(engine, form, with_relu, kind, training):
    parts = Parts(kind, 'none', form=form)
    parts.norm.train(training)
    relu = parts.relu if with_relu else None

    def ordinary():
        out = parts.norm(parts.conv(parts.x))
        return torch.relu(out) if with_relu else out

    assert_same(
        parts,
        ordinary,
        lambda: conv_norm(parts.x, parts.conv, parts.norm, relu),
        1e-11,
    )


@pytest.mark.parametrize('kind', ['1x1', '3x3'])
@pytest.mark.parametrize('activation', [nn.SiLU(), nn.ReLU6(inplace=True)])
def test_other_activations(kind, activation):
    parts = Parts(kind)

    def ordinary():
        return activation(parts.gate(parts.norm(parts.conv(parts.x))) + parts.shortcut)

    parts.relu = activation
    assert_same(parts, ordinary, parts.lean, 1e-11)
    assert_same(
        parts,
        lambda: activation(parts.norm(parts.conv(parts.x))),
        lambda: conv_norm(parts.x, parts.conv, parts.norm, activation),
        1e-11,
    )


def test_sequence():
    torch.manual_seed(0)
    layers = nn.Sequential(
        *(nn.AvgPool2d(2), nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6)),
        *(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
        nn.Conv2d(8, 3, 1),
    )
    layers = layers.double().eval()
    x = torch.randn(2, 4, 12, 14, dtype=torch.float64)
    torch.testing.assert_close(sequence(x, layers), layers(x), rtol=1e-12, atol=1e-12)
    alone = nn.Conv2d(4, 2, 1).double()
    assert torch.equal(sequence(x, alone), alone(x))


POOLS = {
    'resnet': dict(kernel_size=3, stride=2, padding=1),
    'ceil': dict(kernel_size=3, stride=2, ceil_mode=True),
    'dilated': dict(kernel_size=(2, 3), stride=(1, 2), dilation=(2, 1)),
    'no stride': dict(kernel_size=2),
}


@pytest.mark.parametrize('form', FORMATS)
@pytest.mark.parametrize('batch', [0, 1, 3])
@pytest.mark.parametrize('pool', POOLS)
def test_relu_max_pool(pool, batch, form):
    """With ties among values, and windows without a positive one."""
    torch.manual_seed(0)
    x = torch.randint(-3, 3, (batch, 5, 11, 8)).double()
    if batch:
        x[0, :2] = -1
    x = x.to(memory_format=FORMATS[form]).requires_grad_()
    layers = nn.ReLU(inplace=True), nn.MaxPool2d(**POOLS[pool])
    expected = layers[1](torch.relu(x))
    got = relu_max_pool(x.clone(), *layers)
    assert torch.equal(got, expected)
    weights = torch.randn_like(expected)
    gradient = torch.autograd.grad((expected * weights).sum(), x)[0]
    assert torch.equal(torch.autograd.grad((got * weights).sum(), x)[0], gradient)
    with torch.no_grad():
        assert torch.equal(relu_max_pool(x.clone(), *layers), expected)


def test_relu_max_pool_keeps_its_result_alone():
    layers = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
    x = torch.randn(2, 4, 8, 10, requires_grad=True)
    with SavedBytes(nn.ModuleList(layers)) as saved:
        out = relu_max_pool(x * 1.0, *layers)
    assert saved.total == out.numel() * (4 + 8)  # values, and indices of 8 bytes
    out = relu_max_pool(x * 1.0, *layers)
    out.add_(1)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        out.sum().backward()
    out = relu_max_pool(x * 1.0, *layers)
    with pytest.raises(RuntimeError, match="memory='plain'"):
        torch.autograd.grad(out.sum(), x, create_graph=True)
    other = relu_max_pool(x * 1.0, nn.SiLU(), layers[1])
    assert torch.equal(other, layers[1](nn.SiLU()(x)))


def test_non_contiguous_inputs(engine):
    for kind in ('1x1', '3x3'):
        parts = Parts(kind, size=(2, 8, 12, 10))
        parts.x = parts.x[:, :, ::2, ::2].detach()
        parts.shortcut = parts.shortcut.transpose(2, 3).contiguous().transpose(2, 3)
        parts.shortcut = parts.shortcut[:, :, ::2, ::2].detach()
        assert_same(parts, parts.ordinary, parts.lean, 1e-11)


@pytest.mark.parametrize('kind', ['1x1', '3x3', '3x3 stride 2'])
@pytest.mark.parametrize('gate', ['eca', 'se', 'none'])
@pytest.mark.parametrize('training', [False, True])
def test_gradcheck(engine, kind, gate, training):
    parts = Parts(kind, gate, (2, 4, 3, 4), outputs=8)
    parts.norm.train(training)
    leaves = parts.leaves()
    for one in leaves.values():
        one.requires_grad_()
    assert torch.autograd.gradcheck(lambda *_: parts.lean(), tuple(leaves.values()))


@pytest.mark.parametrize('frozen', ['conv', 'norm', 'gate', 'x', 'shortcut'])
def test_only_what_needs_a_gradient_gets_one(engine, frozen):
    for kind in ('1x1', '3x3'):
        parts = Parts(kind)
        for one in parts.leaves().values():
            one.requires_grad_()
        getattr(parts, frozen).requires_grad_(False)
        gradient = {}
        for run in (parts.ordinary, parts.lean):
            run().square().sum().backward()
            for name, one in parts.leaves().items():
                assert (one.grad is not None) == one.requires_grad, name
                if one.grad is not None and name in gradient:
                    close(one.grad, gradient[name], 1e-11, name)
                gradient[name], one.grad = one.grad, None


def test_without_gradients_nothing_given_changes(engine):
    for kind in ('1x1', '3x3'):
        for training in (False, True):
            parts = Parts(kind)
            parts.norm.train(training)
            x, shortcut = parts.x.clone(), parts.shortcut.clone()
            with torch.no_grad():
                expected = parts.ordinary()
            for mode in (torch.no_grad, torch.inference_mode):
                with mode():
                    close(parts.lean(), expected, 1e-12, kind)
            assert torch.equal(parts.x, x) and torch.equal(parts.shortcut, shortcut)


def test_bytes_kept_by_hand():
    """A folded convolution keeps input and result; a gate, vectors alone."""
    n, k, c, h, w = 2, 8, 12, 6, 5
    parts = Parts()
    parts.x.requires_grad_()
    layers = nn.ModuleList([parts.conv, parts.norm, parts.gate])
    with SavedBytes(layers) as saved:
        conv_norm(parts.x, parts.conv, parts.norm, parts.relu)
    vectors = 8 * c * 4
    assert 0 <= saved.total - 8 * n * h * w * (k + c) <= vectors
    with SavedBytes(layers) as saved:
        parts.lean()
    vectors = 8 * n * (k + 8 * c)
    assert 0 <= saved.total - 8 * n * h * w * (k + c) <= vectors
    parts.norm.train()
    with SavedBytes(layers) as saved:
        parts.lean()
    # Batch statistics need the convolution's output as well.
    assert 0 <= saved.total - 8 * n * h * w * (k + c + c) <= vectors


def test_writing_into_the_result_is_noticed(engine):
    for kind in ('1x1', '3x3'):
        for training in (False, True):
            parts = Parts(kind)
            parts.norm.train(training)
            parts.x.requires_grad_()
            out = parts.lean()
            out.add_(1)
            with pytest.raises(RuntimeError, match='modified by an inplace operation'):
                out.sum().backward()
        parts = Parts(kind)
        parts.x.requires_grad_()
        out = conv_norm(parts.x, parts.conv, parts.norm, parts.relu)
        out.mul_(2)
        with pytest.raises(RuntimeError, match='modified by an inplace operation'):
            out.sum().backward()


def test_second_derivatives_are_refused(engine):
    for kind in ('1x1', '3x3'):
        for training in (False, True):
            parts = Parts(kind)
            parts.norm.train(training)
            parts.x.requires_grad_()
            out = parts.lean().square().sum()
            with pytest.raises(RuntimeError, match="memory='plain'"):
                torch.autograd.grad(out, parts.x, create_graph=True)


def test_backward_twice(engine):
    parts = Parts()
    parts.x.requires_grad_()
    out = parts.lean().square().sum()
    first = torch.autograd.grad(out, parts.x, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(out, parts.x)[0])


@pytest.mark.parametrize('listener', ['conv', 'norm', 'gate', 'relu', 'all'])
@pytest.mark.parametrize('kind', ['1x1', '3x3'])
def test_hooks_are_called(kind, listener):
    parts = Parts(kind)
    seen = []
    expected = parts.lean()

    def hook(module, inputs, output):
        seen.append(type(module).__name__)

    if listener == 'all':
        handle = nn.modules.module.register_module_forward_hook(hook)
    else:
        handle = getattr(parts, listener).register_forward_hook(hook)
    try:
        close(parts.lean(), expected, 1e-12, listener)
        out = conv_norm(parts.x, parts.conv, parts.norm, parts.relu)
        close(out, torch.relu(parts.norm(parts.conv(parts.x))), 1e-12, listener)
    finally:
        handle.remove()
    names = {'conv': 'Conv2d', 'norm': 'BatchNorm2d', 'gate': 'ECALayer'}
    for name in names.values() if listener == 'all' else [names.get(listener, 'ReLU')]:
        assert name in seen
    before = len(seen)
    parts.lean()
    assert len(seen) == before


def test_a_replaced_forward_is_called():
    parts = Parts()
    conv = parts.conv.forward
    parts.conv.forward = lambda x: conv(x) + 1
    close(parts.lean(), parts.ordinary(), 1e-12, 'output')
    assert not torch.allclose(parts.norm(conv(parts.x)), parts.norm(conv(parts.x) + 1))


@pytest.mark.parametrize('kind', ['1x1', '3x3'])
def test_what_the_layers_refuse_is_refused(kind):
    parts = Parts(kind)
    wrong = [parts.x.float(), parts.x[0]]
    for x in wrong:
        parts.x = x
        for run in (parts.ordinary, parts.lean):
            with pytest.raises((RuntimeError, ValueError)):
                run()


def errors(parts, dtype, exact, run):
    """Relative errors of output and gradients under autocast."""
    with torch.autocast('cpu', dtype=dtype):
        got, grads = gradients(parts, run)
    assert got.dtype == dtype
    exact_out, exact_grads = exact
    found = {'output': error(got, exact_out)}
    for name, value in grads.items():
        assert value.dtype == parts.leaves()[name].dtype, name
        found[name] = error(value, exact_grads[name])
    return found


def error(got, exact):
    return ((got.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('kind', ['1x1', '3x3'])
@pytest.mark.parametrize('training', [False, True])
def test_autocast_is_no_worse_than_the_layers(engine, training, kind, dtype):
    """Against float64, over seeds: no gradient errs more than with the layers."""
    logs = {}
    for seed in range(12):
        parts = Parts(kind, size=(2, 32, 24, 20), outputs=64, seed=seed)
        parts.norm.train(training)
        with torch.no_grad():
            parts.x.copy_(parts.x.relu().to(dtype))
            parts.shortcut.copy_(parts.shortcut.relu().to(dtype))
        exact = gradients(parts, parts.ordinary)
        for layer in (parts.conv, parts.norm, parts.gate):
            layer.float()
        parts.x, parts.shortcut = (
            one.detach().to(dtype) for one in (parts.x, parts.shortcut)
        )
        plain = errors(parts, dtype, exact, parts.ordinary)
        lean = errors(parts, dtype, exact, parts.lean)
        for name in plain:
            logs.setdefault(name, []).append((plain[name], lean[name]))
    for name, pairs in logs.items():
        plain, lean = torch.tensor(pairs).log().mean(0).exp().tolist()
        assert lean <= 1.25 * plain, (name, plain, lean)


def test_half_precision_weights():
    parts = Parts(dtype=torch.float32)
    with torch.no_grad():
        expected = parts.ordinary()
        for one in (parts.conv, parts.norm, parts.gate):
            one.bfloat16()
        parts.x, parts.shortcut = parts.x.bfloat16(), parts.shortcut.bfloat16()
        got = parts.lean()
    assert got.dtype == torch.bfloat16
    close(got.float(), expected, 2e-2, 'output')
