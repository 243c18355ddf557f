"""The lean operations against autograd on the layers called one by one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from eca_mmdet.analysis.exact_cost import SavedBytes
from eca_mmdet.models.lean import kernels
from eca_mmdet.models.lean.fused import conv_norm, relu_max_pool, sequence
from tests.support.lean_parts import (
    CASES,
    CONVOLUTIONS,
    FORMATS,
    Parts,
    assert_same,
    gradients,
)
from tests.tolerances import assert_near


@pytest.fixture(params=['matrices', 'convolutions'])
def engine(request, monkeypatch):
    """The way of a CPU for 1x1 convolutions, and that of a GPU."""
    if request.param == 'convolutions':
        monkeypatch.setattr(kernels, 'is_cuda', lambda x: True)
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
    assert_near(sequence(x, layers), layers(x), 1e-12)
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
                    assert_near(one.grad, gradient[name], 1e-11, name)
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
                    assert_near(parts.lean(), expected, 1e-12, kind)
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


@pytest.mark.parametrize('part', ['conv.weight', 'norm.weight', 'norm.running_var'])
def test_changed_weights_are_noticed(engine, part):
    """Backward makes the folded weights again: it refuses those of another forward."""
    for kind in ('1x1', '3x3'):
        parts = Parts(kind, 'none')
        parts.x.requires_grad_()
        out = parts.lean()
        layer, name = part.split('.')
        with torch.no_grad():
            getattr(getattr(parts, layer), name).add_(1)
        with pytest.raises(RuntimeError, match='modified by an inplace operation'):
            out.sum().backward()


def test_gradients_have_the_memory_format_of_weights(engine):
    for kind in ('1x1', '3x3'):
        parts = Parts(kind, 'none', form='nhwc')
        parts.conv.to(memory_format=torch.channels_last)
        strides = []
        parts.conv.weight.register_hook(
            lambda grad, strides=strides: strides.append(grad.stride())
        )
        parts.lean().sum().backward()
        assert strides == [parts.conv.weight.stride()]


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
@pytest.mark.parametrize('ratio', [0, 2])
def test_autocast_is_no_worse_than_the_layers(engine, ratio, training, kind, dtype):
    """Against float64, over seeds: no gradient errs more than with the layers.

    With statistics that are the features' own, and means as large as ``ratio``. In
    float16 one pixel on the other side of a ReLU makes most of the error of a seed,
    so that the mean of squares needs more seeds.
    """
    logs = {}
    for seed in range(128 if (dtype, kind, ratio) == (torch.float16, '1x1', 2) else 32):
        parts = Parts(kind, size=(2, 16, 18, 16), outputs=32, seed=seed)
        parts.norm.train(training)
        with torch.no_grad():
            parts.x.copy_((parts.x.relu() + ratio).to(dtype))
            parts.shortcut.copy_(parts.shortcut.relu().to(dtype))
            y = parts.conv(parts.x)
            parts.norm.running_mean.copy_(y.mean((0, 2, 3)))
            parts.norm.running_var.copy_(y.var((0, 2, 3)))
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
        plain, lean = torch.tensor(pairs).square().mean(0).sqrt().tolist()
        assert lean <= 1.25 * plain, (name, plain, lean)


def test_backward_under_autocast(engine):
    """``backward`` called inside of the context gives what it gives outside of it."""
    for kind in ('1x1', '3x3'):
        for training in (False, True):
            gradients_of = []
            for inside in (False, True):
                # PyTorch's own backward of a gate's layers does change in there.
                parts = Parts(kind, 'none', dtype=torch.float32)
                parts.norm.train(training)
                parts.x.requires_grad_()
                loss = parts.lean().square().sum()
                with torch.autocast('cpu', dtype=torch.bfloat16, enabled=inside):
                    loss.backward()
                leaves = parts.leaves().items()
                gradients_of.append({name: one.grad for name, one in leaves})
            for name, one in gradients_of[0].items():
                if one is not None:
                    assert_near(gradients_of[1][name], one, 1e-6, name)


def test_half_precision_weights():
    parts = Parts(dtype=torch.float32)
    with torch.no_grad():
        expected = parts.ordinary()
        for one in (parts.conv, parts.norm, parts.gate):
            one.bfloat16()
        parts.x, parts.shortcut = parts.x.bfloat16(), parts.shortcut.bfloat16()
        got = parts.lean()
    assert got.dtype == torch.bfloat16
    assert_near(got.float(), expected, 2e-2, 'output')


@pytest.mark.parametrize('fault', ['none', 'raises', 'wrong'])
def test_kernels_are_compared_before_they_are_used(fault, monkeypatch, caplog):
    from eca_mmdet.models.lean import kernels

    real, calls = kernels.masked, []

    def second_is_faulty(*args):
        calls.append(args)
        grad, sums = real(*args)
        if len(calls) == 2 and fault == 'raises':
            raise RuntimeError('no kernel image\nmore lines')
        return (2 * grad if len(calls) == 2 and fault == 'wrong' else grad), sums

    monkeypatch.setattr(kernels, 'masked', second_is_faulty)
    assert kernels._works_on(torch.device('cpu')) == (fault == 'none')
    assert ('do not work on cpu' in caplog.text) == (fault != 'none')
    assert ('no kernel image' in caplog.text) == (fault == 'raises')
    assert 'more lines' not in caplog.text
