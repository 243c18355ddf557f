"""The kernels for CUDA, in Triton's interpreter, beside the eager operators."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import subprocess
import types

import pytest
import torch
from torch.utils._pytree import tree_leaves

from eca_mmdet.models.lean import kernels
from tests.conftest import PYTHON, REPOSITORY

SCRIPT = """
import itertools, sys, torch
from torch import nn
from eca_mmdet.models.lean import kernels as ops
from tests.support.lean_parts import FORMATS

torch.manual_seed(0)
ops.implement('CPU')
eager = ops.is_fused


def both(function, *args):
    '''Return the results of a function by eager operators, and by Triton.'''
    results = []
    for fused in (eager, lambda x: True):
        ops.is_fused = fused
        copies = [a.clone() if isinstance(a, torch.Tensor) else a for a in args]
        made = function(*copies)
        made = made if isinstance(made, (tuple, list)) else [made]
        flat = []
        for one in (*made, copies[0]):
            flat += one if isinstance(one, (tuple, list)) else [one]
        results.append([one for one in flat if isinstance(one, torch.Tensor)])
    ops.is_fused = eager
    assert len(results[0]) == len(results[1])
    return zip(*results)


def check(name, function, *args):
    for eagerly, fused in both(function, *args):
        assert eagerly.dtype == fused.dtype and eagerly.shape == fused.shape, name
        finite = eagerly[eagerly.isfinite()].abs()
        largest = finite.max().item() if finite.numel() else 1
        torch.testing.assert_close(
            fused, eagerly, rtol=0, atol=ROUNDING[name[1]] * largest, equal_nan=True,
            msg=str(name),
        )


DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROUNDING = dict(zip(DTYPES, (1e-5, 2**-5, 2**-8)))
SHAPES = [(2, 3, 5, 7), (1, 70, 2, 11), (1, 2, 50, 90), (0, 4, 3, 3)]
for dtype, shape, form in itertools.product(DTYPES, SHAPES, FORMATS.values()):
    n, c = shape[:2]
    y, shortcut, grad = (
        torch.randn(shape).to(dtype).to(memory_format=form) for _ in range(3)
    )
    if y.numel():
        y[0, 0, 0, 0] = shortcut[-1, -1, -1, -1] = float('nan')
        y[-1, 0, 0, 0] = 0
    shift, factors, extra = torch.randn(c), torch.rand(n, c), torch.randn(n, c)
    for options in [(None,) * 2 + (0, 0), (factors, None, 0, 1), (None, shortcut, 1, 0),
                    (factors, shortcut, 1, 1)]:
        check(
            ('epilogue', dtype, shape, form, options),
            lambda y, shift, *more: [
                part.sum(2) for part in [ops.epilogue_(y, shift, *more)]
            ],
            *(y, shift, *options[:2], *map(bool, options[2:])),
        )
    out = y.relu()
    for options in [(None, None, 0), (extra, torch.rand(c), 0), (extra, None, 1)]:
        check(
            ('masked', dtype, shape, form, options),
            lambda out, grad, *more: ops.masked(grad, out, *more),
            *(out, grad, *options[:2], bool(options[2])),
        )

for form, ranged, half in itertools.product(FORMATS.values(), (0, 1), DTYPES):
    layers = [(8, 3, 1), (5, 16, 3), (6, 70, 3), (4, 6, 1)]
    weights = [
        torch.randn(c, k, s, s).to(memory_format=form) for c, k, s in layers
    ]
    norms = [torch.randn(c) for _ in range(3) for c, *_ in layers]
    norms += [torch.rand(c) for c, *_ in layers]
    norms[0][:3] = torch.tensor([0, 1e-9, -3e4])
    dtypes, epsilons = [half, torch.float32, half, half], [1e-5, 1e-3, 1e-5, 1e-5]
    check(
        ('fold', half, form, ranged), ops.fold,
        *(weights, norms, epsilons, dtypes, bool(ranged)),
    )
    grads = [torch.randn_like(w, dtype=d) for w, d in zip(weights, dtypes)]
    shifts = [torch.randn(c) for c, *_ in layers]
    for missing in (None, 1):
        if missing:
            grads[missing] = shifts[missing] = None
        check(
            ('fold_backward', half, form), ops.fold_backward,
            *(grads, shifts, weights, norms, epsilons, [True] * 8),
        )

for half, (n, c, k) in itertools.product(DTYPES, [(2, 8, 70), (1, 3, 1), (3, 2, 600)]):
    check(
        ('gated_gradients', half), ops.gated_gradients,
        *(torch.randn(n, c, k).to(half), torch.randn(c, k), torch.rand(n, c)),
        *(torch.randn(c), torch.randn(n, c)),
    )

transposed = torch.randn(70, 8).T[:, :, None, None].flatten(1)  # no rows of 70
check(
    ('gated_gradients', torch.float32), ops.gated_gradients,
    *(torch.randn(70, 8, 2).T, transposed, torch.rand(2, 8)),
    *(torch.randn(8), torch.randn(2, 8)),
)

import eca_mmdet

grads = {}
for memory in ('plain', 'lean'):
    torch.manual_seed(1)
    small = dict(num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,))
    model = eca_mmdet.ECAResNet(
        50, kernel_sizes=3, memory=memory, init_cfg=[], base_channels=4,
        stem_channels=4, **small,
    )
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.5, 2)
            nn.init.normal_(layer.weight, 1, 0.5)
    model.train()
    ops.is_cuda = ops.is_fused = lambda x: True
    torch.manual_seed(2)
    x = torch.randn(2, 3, 24, 40, requires_grad=True)
    out, = model(x)
    (out * torch.randn_like(out)).sum().backward()
    made = {name: one.grad for name, one in model.named_parameters()}
    grads[memory] = {**made, 'x': x.grad, 'out': out.detach()}
for name, plain in grads['plain'].items():
    error = (grads['lean'][name] - plain).norm() / plain.norm()
    assert error < 1e-4, (name, error)
print('equal')
"""


pytestmark = pytest.mark.skipif(
    importlib.util.find_spec('triton') is None,
    reason='Triton is not installed: builds of PyTorch for CPUs lack it',
)


@pytest.mark.slow
def test_interpreted_kernels():
    """Values, NaN, both memory formats, empty batches, dtypes; then a whole step."""
    environment = {**os.environ, 'TRITON_INTERPRET': '1'}
    done = subprocess.run(
        [PYTHON, '-c', SCRIPT],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == 'equal'


def test_kernels_run_on_the_device_of_their_tensors(monkeypatch):
    """As in ``init_detector(..., device='cuda:1')``: the current one is another."""
    entered = []

    @contextlib.contextmanager
    def device_of(tensor):
        entered.append(tensor)
        yield
        entered.append('left')

    def kernel(*_):
        assert 'left' not in entered
        assert len(entered) == 1

    names = ('epilogue_', 'masked', 'fold', 'fold_backward', 'gated_gradients')
    monkeypatch.setattr(torch.cuda, 'device_of', device_of)
    fake = types.SimpleNamespace(**dict.fromkeys(names, kernel))
    monkeypatch.setattr(kernels, '_triton', lambda: fake)
    x, one, weight = torch.ones(1, 2, 3, 3), torch.ones(2), torch.ones(2, 2, 1, 1)
    norms, rows, epsilons = [one] * 4, torch.ones(1, 2), [1e-5]
    calls = {
        'epilogue_': (x, one, None, None, True, True),
        'masked': (x, x, None, None, True),
        'fold': ([weight], norms, epsilons, torch.float32, [True], False),
        'fold_backward': ([weight], [one], [weight], norms, epsilons),
        'gated_gradients': (torch.ones(1, 2, 2), torch.ones(2, 2), rows, one, rows),
    }
    for name in names:
        entered.clear()
        kernels._RUNS[name](*calls[name])
        first = next(a for a in tree_leaves(calls[name]) if isinstance(a, torch.Tensor))
        assert entered[0] is first and entered[1] == 'left'


def test_first_use_whatever_is_active(monkeypatch, caplog):
    """The comparison ignores default devices and types, and fake tensors."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    def reject(*_):
        raise AssertionError('not in the interpreter')

    monkeypatch.setattr(kernels, 'is_fused', lambda x: False)
    with FakeTensorMode(), torch.device('meta'), kernels.compat.no_dispatch_modes():
        assert kernels._works_on(torch.device('cpu'))
    monkeypatch.setattr(kernels, 'masked', reject)
    assert not kernels._works_on(torch.device('cpu'))
    assert 'not in the interpreter' in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize('dtype', ['fp32', 'bf16', 'fp16'])
def test_counted_cost(mmdet_ready, monkeypatch, dtype):
    """Operators, bytes moved and bytes kept on CUDA, beside plain ResNet-50."""
    monkeypatch.syspath_prepend(str(REPOSITORY / 'benchmarks'))
    cost = importlib.import_module('gpu_cost')
    for training, operators, moved in ((True, 1.44, 0.8), (False, 1, 0.75)):
        plain, lean = (
            cost.measure(name, 50, 2, dtype, training, (800, 1344))
            for name in ('mmdet ResNet', 'ECA, lean')
        )
        assert len(lean.operators) <= operators * len(plain.operators)
        assert lean.gigabytes <= moved * plain.gigabytes
        assert lean.kept <= 0.52 * plain.kept
