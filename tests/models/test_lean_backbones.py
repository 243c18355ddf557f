"""Backbones with memory='lean' beside the same with 'plain', in every way of use."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess

import pytest
import torch
from torch import nn

from tests.conftest import PYTHON, REPOSITORY
from tests.tolerances import assert_near, assert_near_gradients

SE = dict(cfg=dict(type='SqueezeExcite', ratio=4), position='after_conv3')
SE_BASIC = dict(SE, position='after_conv2')
NON_LOCAL = dict(
    cfg=dict(type='NonLocal2d'),
    stages=(False, False, True, False),
    position='before_last_block',
)
CONTEXT = dict(cfg=dict(type='ContextBlock', ratio=0.25), position='after_conv3')
INNER = dict(
    cfg=dict(type='ECALayer', kernel_size=5, postfix='_inner'), position='after_conv2'
)
TINY = dict(base_channels=8, stem_channels=8, frozen_stages=-1)
ARCH = dict(stem=(8, 8, 16), depths=(1, 2, 1, 1), base_channels=8)
BACKBONES = {
    'eca50': ('ECAResNet', dict(depth=50, kernel_sizes=3)),
    'eca18': ('ECAResNet', dict(depth=18, kernel_sizes=3)),
    'se50': ('PluginResNet', dict(depth=50, plugins=[SE])),
    'se18': ('PluginResNet', dict(depth=18, plugins=[SE_BASIC])),
    'none50': ('PluginResNet', dict(depth=50)),
    'none18': ('PluginResNet', dict(depth=18)),
    'several': ('ECAResNet', dict(depth=50, kernel_sizes=3, plugins=[CONTEXT, INNER])),
    'context': ('PluginResNet', dict(depth=50, plugins=[CONTEXT])),
    'caffe': ('ECAResNet', dict(depth=50, kernel_sizes=3, style='caffe')),
    'deep stem': (
        'ECAResNet',
        dict(depth=50, kernel_sizes=3, deep_stem=True, avg_down=True),
    ),
    'dilated': (
        'ECAResNet',
        dict(depth=50, kernel_sizes=3, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
    ),
    'group norm': (
        'ECAResNet',
        dict(depth=50, kernel_sizes=3, norm_cfg=dict(type='GN', num_groups=4)),
    ),
    'non-local': ('PluginResNet', dict(depth=50, plugins=[NON_LOCAL])),
    'd': ('ECAResNetD', dict(arch=ARCH)),
}
COMMON = ('eca50', 'eca18', 'se50', 'none50', 'd')


@pytest.fixture
def build(mmdet_ready):
    """Return a function that makes a backbone with values that show a mistake."""
    import eca_mmdet

    def build(name, memory='lean', norm_eval=True, evaluate=False, seed=1, **more):
        kind, arguments = BACKBONES[name]
        tiny = {} if kind == 'ECAResNetD' else TINY
        arguments = copy.deepcopy({**tiny, **arguments, **more})
        torch.manual_seed(seed)
        model = getattr(eca_mmdet, kind)(
            memory=memory, norm_eval=norm_eval, init_cfg=[], **arguments
        )
        for tensor in model.parameters():
            if tensor.dim() == 1:
                nn.init.normal_(tensor, 1, 0.5)
        for layer in model.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.running_mean.normal_(0, 0.5)
                layer.running_var.uniform_(0.5, 2)
        model.double()
        model.train(not evaluate)  # mmdet's returns None
        return model

    return build


def image(batch=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(batch, 3, 64, 96, generator=generator, dtype=torch.float64)
    return x.to(dtype)


def loss_of(features):
    total = 0
    for one in features:
        weights = torch.linspace(-1, 2, one.numel(), dtype=one.dtype)
        total = total + (one * weights.view_as(one)).sum()
    return total


def step(model, x):
    """Return the features and every gradient, the input's too."""
    model.zero_grad()
    x = x.clone().requires_grad_()
    features = model(x)
    loss_of(features).backward()
    gradients = {name: one.grad for name, one in model.named_parameters()}
    return [one.detach() for one in features], {**gradients, 'x': x.grad}


def assert_equal_steps(expected, got, tolerance=1e-10):
    for one, other in zip(expected[0], got[0], strict=True):
        assert one.dtype == other.dtype
        assert_near(other, one, tolerance, 'features')
    assert_near_gradients(got[1], expected[1], tolerance)


@pytest.mark.sweep(fast=8)
@pytest.mark.openmmlab
@pytest.mark.parametrize('form', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('norm_eval', [True, False])
@pytest.mark.parametrize('name', BACKBONES)
def test_lean_is_plain(build, name, norm_eval, form):
    """Features, gradients, running statistics, and inference after the step."""
    plain, lean = (build(name, memory, norm_eval) for memory in ('plain', 'lean'))
    assert list(lean.state_dict()) == list(plain.state_dict())
    x = image().to(memory_format=form)
    for model in (plain, lean):
        model.to(memory_format=form)
    assert_equal_steps(step(plain, x), step(lean, x))
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(lean.state_dict()[key], value, msg=key)
    with torch.no_grad():
        for model in (plain, lean):
            model.eval()
        for one, other in zip(plain(x), lean(x), strict=True):
            assert_near(other, one, 1e-10, 'inference')


@pytest.mark.parametrize('name', COMMON)
def test_float32(build, name):
    plain = build(name, 'plain')
    exact = step(plain, image())
    lean = build(name).float()
    features, gradients = step(lean, image(dtype=torch.float32))
    for one, other in zip(exact[0], features, strict=True):
        assert_near(other.double(), one, 1e-5, 'features')
    for key, value in exact[1].items():
        error = (gradients[key].double() - value).norm() / value.norm()
        assert error <= 1e-5, (key, error)


@pytest.mark.openmmlab
def test_bytes_kept(build):
    """Half of what plain layers keep; batch statistics keep no more than plain."""
    from eca_mmdet.analysis.exact_cost import SavedBytes

    def kept(name, memory, norm_eval, dtype=torch.float64):
        model = build(name, memory, norm_eval).to(dtype)
        with SavedBytes(model) as saved:
            model(image(batch=4, dtype=dtype))
        return saved.total

    for name in ('eca50', 'se50', 'none50'):
        assert kept(name, 'lean', True) < 0.57 * kept('none50', 'plain', True)
        assert kept(name, 'lean', False) < kept('none50', 'plain', False)
    assert kept('eca18', 'lean', True) < 0.80 * kept('none18', 'plain', True)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast('cpu', dtype=dtype):
            plain = kept('none50', 'plain', True, torch.float32)
            assert kept('eca50', 'lean', True, torch.float32) < 0.57 * plain
    assert kept('none18', 'lean', True) < 0.57 * kept('none18', 'plain', True)


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('name', [*COMMON, 'deep stem', 'several'])
def test_folded_at_once(build, monkeypatch, name, with_cp):
    """The way of CUDA: a block's norms at once, epilogues after convolutions."""
    from eca_mmdet.models.lean import kernels

    monkeypatch.setattr(kernels, 'is_cuda', lambda x: True)
    plain = build(name, 'plain')
    options = {} if name == 'd' and not with_cp else dict(with_cp=with_cp)
    lean = build(name, 'lean', **options)
    assert_equal_steps(step(plain, image()), step(lean, image()))
    with torch.no_grad():
        for one, other in zip(plain(image()), lean(image()), strict=True):
            assert_near(other, one, 1e-10, 'inference')


@pytest.mark.openmmlab
@pytest.mark.parametrize('norm_eval', [True, False])
@pytest.mark.parametrize('name', COMMON)
def test_with_checkpointing(build, name, norm_eval):
    plain = build(name, 'plain', norm_eval)
    lean = build(name, 'lean', norm_eval, with_cp=True)
    assert_equal_steps(step(plain, image()), step(lean, image()))


@pytest.mark.openmmlab
@pytest.mark.parametrize('name', ['eca50', 'eca18', 'd'])
def test_frozen_stages(build, name):
    plain, lean = (build(name, m, frozen_stages=2) for m in ('plain', 'lean'))
    expected, got = step(plain, image()), step(lean, image())
    assert_equal_steps(expected, got)
    assert got[1]['layer1.0.conv1.weight'] is None
    assert got[1]['layer2.0.conv1.weight'] is None
    assert got[1]['layer3.0.conv1.weight'] is not None
    for model in (plain, lean):  # as a detector runs it: the image needs no gradient
        model.zero_grad()
        loss_of(model(image())).backward()
    for (key, one), other in zip(
        plain.named_parameters(), lean.parameters(), strict=True
    ):
        assert (one.grad is None) == (other.grad is None), key
        if one.grad is not None:
            assert_near(other.grad, one.grad, 1e-10, key)


@pytest.mark.parametrize('name', COMMON)
def test_used_twice_and_accumulated(build, name):
    """Two calls in one loss, then a second backward on top, against plain."""
    gradients = []
    for memory in ('plain', 'lean'):
        model = build(name, memory)
        loss = loss_of(model(image())) + loss_of(model(image().flip(3)))
        loss.backward()
        loss_of(model(image().flip(2))).backward()
        gradients.append({key: one.grad for key, one in model.named_parameters()})
    for key, one in gradients[0].items():
        assert_near(gradients[1][key], one, 1e-10, key)


def autocast_errors(model, dtype, exact):
    """Median relative error of the gradients, and that of the last features."""
    with torch.autocast('cpu', dtype=dtype):
        features = model.float()(image(dtype=torch.float32))
    assert {one.dtype for one in features} == {dtype}
    loss_of([one.double() for one in features]).backward()
    assert {one.grad.dtype for one in model.parameters()} == {torch.float32}
    found = [
        ((one.grad.double() - exact[1][key]).norm() / exact[1][key].norm()).item()
        for key, one in model.named_parameters()
    ]
    last = (features[-1].double() - exact[0][-1]).norm() / exact[0][-1].norm()
    return torch.stack([torch.tensor(found).median(), last.detach().float()])


@pytest.mark.sweep(fast=2)
@pytest.mark.parametrize('name', ['eca50', 'se50', 'eca18'])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast(build, name, dtype):
    """As near to float64 as plain layers come, on average over seeds."""
    logs = []
    for seed in range(6):
        exact = step(build(name, 'plain', seed=seed), image())
        plain, lean = (
            autocast_errors(build(name, memory, seed=seed), dtype, exact)
            for memory in ('plain', 'lean')
        )
        logs.append((lean / plain).log())
    ratios = torch.stack(logs).mean(0).exp()
    assert (ratios <= 1.25).all(), ratios


@pytest.mark.slow
@pytest.mark.parametrize('name', ['eca50', 'se18'])  # each gate, each block
def test_compile(build, name):
    model = build(name)
    expected = step(model, image())
    torch._dynamo.reset()
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
    model.zero_grad()
    x = image().requires_grad_()
    features = compiled(x)
    loss_of(features).backward()
    got = {key: one.grad for key, one in model.named_parameters()}
    assert_equal_steps(expected, ([f.detach() for f in features], {**got, 'x': x.grad}))
    with torch.no_grad():
        for one, other in zip(expected[0], compiled(image()), strict=True):
            assert_near(other, one, 1e-10, 'inference')


@pytest.mark.slow
@pytest.mark.parametrize('dynamo', [False, True])
@pytest.mark.parametrize('name', ['eca50', 'se18'])
def test_onnx(build, name, dynamo):
    """The exported graph is the plain one; onnxruntime gives the same features."""
    onnx = pytest.importorskip('onnx')
    runtime = pytest.importorskip('onnxruntime')
    model = build(name, evaluate=True).float()
    file = io.BytesIO()
    x = image(dtype=torch.float32)
    torch.onnx.export(model, (x,), file, dynamo=dynamo, verbose=False)
    graph = onnx.load_from_string(file.getvalue()).graph
    kinds = [node.op_type for node in graph.node]
    convolutions = [one for one in model.modules() if isinstance(one, nn.Conv2d)]
    assert kinds.count('Conv') >= len(convolutions)
    session = runtime.InferenceSession(file.getvalue())
    got = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        for one, other in zip(model(x), got, strict=True):
            assert_near(torch.from_numpy(other), one, 1e-4, 'features')


@pytest.mark.sweep(fast=2)
@pytest.mark.parametrize('name', [*COMMON, 'group norm'])
def test_traced(build, name):
    model = build(name, evaluate=True)
    traced = torch.jit.trace(model, image())
    for one, other in zip(model(image(1)), traced(image(1)), strict=True):
        assert_near(other, one, 1e-10, 'features')
    if name != 'group norm':
        assert 'aten::batch_norm' in str(traced.inlined_graph)


@pytest.mark.parametrize('name', ['eca50', 'se18', 'none50'])
def test_traced_symbolically(build, name):
    """torch.fx records the plain layers."""
    model = build(name, evaluate=True)
    traced = torch.fx.symbolic_trace(model)
    assert any(node.target == 'bn1' for node in traced.graph.nodes)
    with torch.no_grad():
        for one, other in zip(model(image()), traced(image()), strict=True):
            assert_near(other, one, 1e-10, 'features')


@pytest.mark.openmmlab
@pytest.mark.parametrize('name', ['eca50', 'se50', 'none50', 'eca18', 'caffe'])
def test_fused_for_inference(build, name):
    from mmcv.cnn import fuse_conv_bn

    model = build(name, evaluate=True)
    with torch.no_grad():
        expected = model(image())
        fused = fuse_conv_bn(copy.deepcopy(model))
        kinds = {type(one) for one in fused.modules()}
        assert nn.BatchNorm2d not in kinds
        for one, other in zip(expected, fused(image()), strict=True):
            assert_near(other, one, 1e-10, 'fused')


@pytest.mark.parametrize('name', COMMON)
def test_copies(build, name):
    model = build(name)
    expected = step(model, image())
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = build(name)
    for one in other.parameters():
        nn.init.normal_(one)
    other.load_state_dict(torch.load(file, weights_only=True))
    for twin in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_equal_steps(expected, step(twin, image()), 1e-13)


@pytest.mark.parametrize('name', COMMON)
def test_weights_that_change_are_followed(build, name):
    """Nothing derived from the weights is kept from one call to the next."""
    model = build(name, evaluate=True)
    with torch.no_grad():
        before = model(image())
        for one in model.parameters():
            one.data.mul_(1.1)  # unseen by autograd's version counters
        after = model(image())
        expected = build(name, 'plain', evaluate=True)
        expected.load_state_dict(model.state_dict())
        assert not torch.allclose(before[-1], after[-1])
        for one, other in zip(expected(image()), after, strict=True):
            assert_near(other, one, 1e-10, 'features')


@pytest.mark.openmmlab
def test_unknown_formulation_is_refused(build):
    for name in ('eca50', 'none18', 'd', 'non-local'):
        with pytest.raises(ValueError, match="'lean'.*'plain'.*'leen'"):
            build(name, 'leen')


WORKER = """
import contextlib, sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import eca_mmdet
from eca_mmdet.models.lean import kernels
kernels.is_cuda = lambda x: True  # a block's norms at once
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group(
    'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2
)
saved = torch.load(f'{folder}/in.pth')
gradients = []
for options in saved['options']:
    model = eca_mmdet.ECAResNet(50, kernel_sizes=3, init_cfg=[], **saved['tiny'])
    model.double().load_state_dict(saved['state'])
    for block in model.layer3:
        block.with_cp = 'static_graph' in options
    model.train()
    parallel = DistributedDataParallel(model, **options)
    for _ in range(2):
        model.zero_grad()
        with contextlib.ExitStack() as stack:
            if not options:  # accumulated, then reduced with the second half
                stack.enter_context(parallel.no_sync())
                features = parallel(saved['x'][rank : rank + 1])
                sum(one.square().sum() for one in features).backward()
        features = parallel(saved['x'][rank : rank + 1])
        sum(one.square().sum() for one in features).backward()
    gradients.append({key: one.grad for key, one in model.named_parameters()})
if rank == 0:
    torch.save(gradients, f'{folder}/out.pth')
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes(build, tmp_path):
    """DDP averages the gradients of the halves of a batch, however it is set."""
    model = build('eca50')
    options = [{}, dict(static_graph=True), dict(find_unused_parameters=True)]
    saved = dict(tiny=TINY, state=model.state_dict(), x=image(), options=options)
    torch.save(saved, tmp_path / 'in.pth')
    commands = [[PYTHON, '-c', WORKER, str(rank), str(tmp_path)] for rank in (0, 1)]
    workers = [
        subprocess.Popen(one, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
        for one in commands
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=180)
        assert worker.returncode == 0, errors
    sum(one.square().sum() for one in model(image())).backward()
    for got, setting in zip(torch.load(tmp_path / 'out.pth'), options, strict=True):
        times = 2 if setting else 1  # without options, accumulated twice
        for key, one in model.named_parameters():
            assert_near(times * got[key], one.grad, 1e-10, key)


@pytest.mark.parametrize(
    'layer, draws',
    [
        (nn.ReLU(), False),
        (nn.Dropout2d(0.1), True),
        (nn.RReLU(), True),
        (nn.MultiheadAttention(8, 2), False),
        (nn.MultiheadAttention(8, 2, dropout=0.1), True),
    ],
)
def test_recomputation_repeats_what_layers_draw(mmdet_ready, layer, draws):
    """``with_cp`` restores the generator only for blocks with such layers."""
    from eca_mmdet.models.backbones.resnet import recompute

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def run(self, x):
            return x * torch.rand(()) if draws else x * x

    Block.__module__ = 'eca_mmdet.models.test'
    x = torch.ones(1, requires_grad=True)
    out = recompute(Block().run, x, True)
    torch.rand(3)
    out.backward()
    assert x.grad == (out if draws else 2)
