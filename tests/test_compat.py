"""Private names of mmengine, mmdet and torch: each function of ``compat`` works.

After an upgrade of one of them, run this file first. The name of a failing test says
which library and which function.
"""

import importlib
import inspect
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from eca_mmdet import compat

pytestmark = pytest.mark.openmmlab

CHECKS = {}


def check(library, *functions):
    """Register a test of some functions of ``compat`` that use a library."""

    def register(test):
        CHECKS[f'{library}: {", ".join(one.__name__ for one in functions)}'] = test
        return test

    return register


def test_every_function_is_checked():
    named = {name for title in CHECKS for name in title.partition(': ')[2].split(', ')}
    own = inspect.getmembers(compat, inspect.isfunction)
    assert named == {name for name, one in own if one.__module__ == compat.__name__}


def pytest_generate_tests(metafunc):
    if 'check_of' in metafunc.fixturenames:
        metafunc.parametrize('check_of', CHECKS.values(), ids=CHECKS)


def test_compat(check_of, mmdet_ready, tmp_path):
    check_of(tmp_path)


def runner_in(folder, **config):
    """A Runner of mmengine with a model of one layer and two images."""
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    class Model(BaseModel):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, inputs, mode='tensor'):
            return {'loss': self.layer(inputs).sum()}

    loader = dict(
        dataset=[torch.ones(2), torch.zeros(2)],
        sampler=dict(type='DefaultSampler', shuffle=False),
        batch_size=1,
        num_workers=1,
        persistent_workers=True,
        collate_fn=dict(type='default_collate'),
    )
    return Runner(
        Model(),
        work_dir=str(folder),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        log_level='ERROR',
        **config,
    )


@check('no library', compat.replaced)
def attributes(folder):
    owner = SimpleNamespace(a=1, b=2)
    with pytest.raises(KeyError), compat.replaced(owner, a=3):
        assert (owner.a, owner.b) == (3, 2)
        raise KeyError
    assert (owner.a, owner.b) == (1, 2)
    with pytest.raises(AttributeError), compat.replaced(owner, a=3, c=4):
        pass
    assert owner == SimpleNamespace(a=1, b=2)


@check(
    'mmengine',
    compat.skipping_metafiles,
    compat.external_config,
    compat.formatting_once,
)
def configs(folder):
    from mmengine.config import Config, utils
    from yapf.yapflib import yapf_api

    path = folder / 'config.py'
    path.write_text("_base_ = 'mmdet::_base_/schedules/schedule_1x.py'")
    expected = Config.fromfile(path)
    read, utils._get_cfg_metainfo = utils._get_cfg_metainfo, None
    try:
        with compat.skipping_metafiles():
            assert Config.fromfile(path).to_dict() == expected.to_dict()
        name = '_base_/schedules/schedule_1x.py'
        file = compat.external_config(f'mmdet::{name}')
        assert file.is_file() and file.as_posix().endswith(name)
    finally:
        utils._get_cfg_metainfo = read
    with compat.formatting_once():
        text, format_code = expected.pretty_text, yapf_api.FormatCode
        assert expected.pretty_text is text
        expected.train_cfg.max_epochs = 99
        assert expected.pretty_text != text
    assert yapf_api.FormatCode is not format_code


@check('mmengine', compat.train_loop, compat.built_loops)
def loops(folder):
    runner = runner_in(folder)
    assert compat.train_loop(runner)['max_epochs'] == 1  # its config
    assert compat.built_loops(runner) == []
    loop = runner.train_loop
    assert compat.train_loop(runner) is loop and compat.built_loops(runner) == [loop]


@check('mmengine', compat.load_path, compat.set_load_path)
def load_path(folder):
    runner = runner_in(folder, load_from='a.pth')
    assert compat.load_path(runner) == 'a.pth'
    torch.save({'state_dict': runner.model.state_dict()}, folder / 'b.pth')
    compat.set_load_path(runner, str(folder / 'b.pth'))
    runner.load_or_resume()  # not a.pth, which does not exist


@check('mmengine', compat.is_resuming)
def resuming(folder):
    assert not compat.is_resuming(runner_in(folder, experiment_name='a'))
    assert compat.is_resuming(runner_in(folder, experiment_name='b', resume=True))


@check('mmengine', compat.remove_hooks)
def hooks(folder):
    from mmengine.hooks import IterTimerHook

    runner = runner_in(folder)
    before = runner.hooks
    compat.remove_hooks(runner, IterTimerHook)
    removed = [hook for hook in before if hook not in runner.hooks]
    assert [type(hook) for hook in removed] == [IterTimerHook]


@check('mmengine', compat.differs_by_rank)
def seeds(folder):
    assert not compat.differs_by_rank(runner_in(folder, experiment_name='c'))
    randomness = dict(seed=0, diff_rank_seed=True)
    runner = runner_in(folder, experiment_name='d', randomness=randomness)
    assert compat.differs_by_rank(runner)


@check(
    'mmengine',
    compat.steps_counted,
    compat.set_steps_counted,
    compat.is_accumulating,
    compat.updates_each_step,
)
def accumulation(folder):
    from mmengine.optim import OptimWrapper

    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    wrapper = OptimWrapper(optimizer, accumulative_counts=2)
    wrapper.initialize_count_status(nn.Linear(1, 1), 0, 5)
    states = []
    for _ in range(5):
        wrapper.update_params(weight.sum())
        states.append((compat.steps_counted(wrapper), compat.is_accumulating(wrapper)))
    # The last step of all is applied although it is the first of two.
    assert states == [(1, True), (2, False), (3, True), (4, False), (5, False)]
    compat.set_steps_counted(wrapper, 1)
    assert compat.is_accumulating(wrapper) and compat.steps_counted(wrapper) == 1
    assert compat.updates_each_step(OptimWrapper(optimizer))
    assert not compat.updates_each_step(wrapper)

    class Own(OptimWrapper):
        def update_params(self, loss):
            super().update_params(loss)

    assert not compat.updates_each_step(Own(optimizer))


@check('mmengine', compat.has_plain_train_step, compat.forward_losses)
def training_step(folder):
    model = runner_in(folder, experiment_name='e').model
    assert compat.has_plain_train_step(model)
    losses = compat.forward_losses(model, {'inputs': torch.ones(1, 2)})
    assert torch.equal(losses['loss'], model.layer(torch.ones(1, 2)).sum())
    model.train_step = torch.compile(model.train_step, backend='eager')
    assert not compat.has_plain_train_step(model)
    assert not compat.has_plain_train_step(nn.Linear(1, 1))


@check('torch', compat.not_compiled)
def compiled_parts(folder):
    model = nn.Sequential(nn.Sequential(nn.Linear(1, 1)))
    frames = []
    model[0].compile(backend=lambda graph, _: frames.append(1) or graph.forward)
    with compat.not_compiled(model):
        model(torch.ones(1, 1))
        assert frames == []
    model(torch.ones(1, 1))
    assert frames == [1]


@check('torch', compat.compile_any_size)
def compiled_for_any_size(folder):
    from torch._functorch import config

    model = nn.Linear(1, 1)
    before = config.enable_autograd_cache
    try:
        compat.compile_any_size(model)
        assert not config.enable_autograd_cache
    finally:
        config.enable_autograd_cache = before
    assert model._compiled_call_impl is not None


@check('torch', compat.version_of)
def versions(folder):
    values = torch.zeros(4)
    before = compat.version_of(values)
    values[1:].add_(1)
    assert compat.version_of(values) == before + 1 == compat.version_of(values[:2])


@check('torch', compat.no_dispatch_modes)
def modes(folder):
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    with FakeTensorMode():
        with compat.no_dispatch_modes():
            assert not isinstance(torch.ones(1), FakeTensor)
        assert isinstance(torch.ones(1), FakeTensor)


@check('torch', compat.copy_tensors)
def copies(folder):
    targets = [torch.zeros(2), torch.zeros(3)]
    compat.copy_tensors(targets, [torch.ones(2), torch.arange(3.0)])
    assert [t.tolist() for t in targets] == [[1, 1], [0, 1, 2]]


def test_mmengine_scheduler_rates(mmdet_ready):
    from mmengine.optim import LinearLR

    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.5)
    state = LinearLR(optimizer, start_factor=0.5, end=3).state_dict()
    assert [state[name] for name in compat.SCHEDULER_RATES] == [[0.5], [0.25]]


@check('mmengine', compat.is_inside_init_weights, compat.mark_initialized)
def initialisation(folder):
    from mmengine.model import BaseModule

    seen = []

    class Part(BaseModule):
        def init_weights(self):
            seen.append(compat.is_inside_init_weights(self))
            super().init_weights()

    class Marked(nn.Module):
        is_init = False

    whole = BaseModule()
    whole.part = Part()
    whole.init_weights()
    assert seen == [True] and not compat.is_inside_init_weights(whole)
    part = BaseModule(init_cfg=dict(type='Constant', val=3.0, layer='Linear'))
    part.layer = nn.Linear(1, 1, bias=False)
    before = part.layer.weight.item()
    compat.mark_initialized(part)
    part.init_weights()
    assert part.layer.weight.item() == before


@check('mmdet', compat.box_forward)
def box_head(folder):
    from mmdet.models.roi_heads import StandardRoIHead
    from mmengine.registry import init_default_scope

    init_default_scope('mmdet')
    extractor = dict(
        type='SingleRoIExtractor',
        roi_layer=dict(type='RoIAlign', output_size=7),
        out_channels=4,
        featmap_strides=[4],
    )
    head = dict(
        type='Shared2FCBBoxHead', in_channels=4, fc_out_channels=8, num_classes=3
    )
    roi_head = StandardRoIHead(bbox_roi_extractor=extractor, bbox_head=head)
    regions = torch.tensor([[0.0, 0, 0, 16, 16], [0, 4, 4, 30, 30]])
    found = compat.box_forward(roi_head, [torch.rand(1, 4, 8, 8)], regions)
    assert found['cls_score'].shape == (2, 4)


@check('torch', compat.norm_base, compat.batch_norm_base)
def norms(folder):
    assert issubclass(nn.InstanceNorm2d, compat.norm_base())
    assert issubclass(nn.SyncBatchNorm, compat.batch_norm_base())
    assert not issubclass(nn.InstanceNorm2d, compat.batch_norm_base())
    assert compat.batch_norm_base().forward is nn.BatchNorm2d.forward


@check('torch', compat.conv_forward, compat.has_own_conv_forward)
def convolution(folder):
    layer = nn.Conv2d(1, 1, 1)
    assert not compat.has_own_conv_forward(layer)
    original = compat.conv_forward(nn.Conv2d)
    calls = []

    def replaced(x, weight, bias):
        calls.append(x.shape)
        return original(layer, x, weight, bias)

    layer._conv_forward = replaced
    layer(torch.ones(1, 1, 2, 2))
    assert calls and compat.has_own_conv_forward(layer)


@check('torch', compat.module_hooks, compat.global_module_hooks)
def hooks_of_modules(folder):
    from torch.nn.modules import module

    layer = nn.ReLU()
    kinds = ('forward', 'forward_pre', 'full_backward', 'full_backward_pre')
    for hooks, owner, name in (
        (compat.module_hooks(layer), layer, 'register'),
        (compat.global_module_hooks(), module, 'register_module'),
    ):
        for index, kind in enumerate(kinds):
            handle = getattr(owner, f'{name}_{kind}_hook')(lambda *_: None)
            assert [bool(found) for found in hooks] == [at == index for at in range(4)]
            handle.remove()
        assert not any(hooks)


@check('torch', compat.state_metadata, compat.set_state_metadata)
def metadata(folder):
    from collections import OrderedDict

    class Versioned(nn.BatchNorm2d):
        def _load_from_state_dict(self, state, prefix, metadata, *rest):
            seen.append(metadata.get('version'))
            super()._load_from_state_dict(state, prefix, metadata, *rest)

    seen = []
    layer = Versioned(1)
    state = layer.state_dict()
    copy = OrderedDict(state)
    assert compat.state_metadata(copy) is None
    compat.set_state_metadata(copy, compat.state_metadata(state))
    layer.load_state_dict(copy)
    assert seen == [nn.BatchNorm2d._version]


@check('torch', compat.functorch_transforms_active)
def functorch(folder):
    seen = []

    def function(x):
        seen.append(compat.functorch_transforms_active())
        return x.sum()

    function(torch.ones(1))
    torch.func.grad(function)(torch.ones(1))
    assert seen == [False, True]


@check('torch', compat.fx_tracing)
def tracing(folder):
    seen = []

    class Layer(nn.Module):
        def forward(self, x):
            seen.append(compat.fx_tracing()())
            return x

    Layer()(torch.ones(1))
    torch.fx.symbolic_trace(Layer())
    assert seen == [False, True]


@check('torch', compat.silent_onnx_log)
def onnx_log(folder):
    with compat.silent_onnx_log():  # where there is such a function, it takes anything
        getattr(torch._C, '_jit_onnx_log', print)('')


@check('torch', compat.end_workers)
def workers(folder):
    loader = torch.utils.data.DataLoader([1, 2], num_workers=1, persistent_workers=True)
    loop = SimpleNamespace(dataloader=loader)
    compat.end_workers(loop)  # there are none yet
    for _ in range(2):
        assert [batch.item() for batch in loader] == [1, 2]  # new workers
        processes = loader._iterator._workers
        assert all(process.is_alive() for process in processes)
        compat.end_workers(loop)
        assert not any(process.is_alive() for process in processes)


OVERRIDDEN = [
    ('mmengine.runner', 'EpochBasedTrainLoop', '_decide_current_val_interval'),
    ('mmengine.runner', 'IterBasedTrainLoop', '_decide_current_val_interval'),
    ('mmengine.model.weight_init', 'BaseInit', '_get_init_info'),
    ('mmdet.models.dense_heads', 'RetinaHead', '_predict_by_feat_single'),
    ('mmdet.models.dense_heads', 'RetinaHead', '_bbox_post_process'),
    ('mmdet.models.dense_heads', 'RPNHead', '_predict_by_feat_single'),
    ('mmdet.models.roi_heads.bbox_heads', 'BBoxHead', '_predict_by_feat_single'),
    ('mmdet.models.roi_heads.mask_heads', 'FCNMaskHead', '_predict_by_feat_single'),
]


@pytest.mark.parametrize(('module', 'kind', 'method'), OVERRIDDEN, ids='-'.join)
def test_methods_that_subclasses_override_or_call(mmdet_ready, module, kind, method):
    assert callable(getattr(getattr(importlib.import_module(module), kind), method))


@pytest.mark.parametrize('unit', ['epoch', 'iter'])
def test_attributes_that_our_loops_share_with_mmengines(mmdet_ready, tmp_path, unit):
    runner = runner_in(tmp_path)
    if unit == 'iter':
        runner._train_loop = dict(by_epoch=False, max_iters=2)
    loop = runner.train_loop
    assert (loop._iter, loop._epoch, loop.stop_training) == (0, 0, False)
    assert getattr(loop, f'_max_{unit}s') == (1 if unit == 'epoch' else 2)
