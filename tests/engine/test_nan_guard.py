"""What a step costs the host, and what a batch without a finite loss leaves behind."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import RuntimeInfoHook
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from eca_mmdet.engine import nan_guard
from eca_mmdet.engine.failures import Interrupts
from eca_mmdet.utils.errors import RunError

pytestmark = pytest.mark.openmmlab

READS = ('item', 'tolist', 'numpy', '__bool__', '__float__', '__int__', '__index__')


class Line(BaseModel):
    """Two norms around a convolution, and two losses."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)
        )

    def forward(self, inputs, mode):
        out = self.body(inputs)
        return {'loss_a': out.square().mean(), 'loss_b': [out.mean(), out[0].max()]}


class OwnStep(Line):
    """With mmengine's step in a method of its own, so that it is called."""

    def train_step(self, data, optim_wrapper):
        return super().train_step(data, optim_wrapper)


def guarded(kind=Line, skip=True, **options):
    model = kind()
    wrapper = OptimWrapper(
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), **options
    )
    runner = SimpleNamespace(
        model=model,
        optim_wrapper=wrapper,
        seed=0,
        iter=0,
        nan_limit=10 if skip else None,
        interrupts=Interrupts(),
        message_hub=MessageHub.get_instance('guard'),
        logger=SimpleNamespace(warning=lambda line: None),
    )
    return nan_guard.GuardedOptimizer(runner), runner


def batches(*bad):
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(2, 2, 4, 4, generator=generator) for _ in range(6)]
    for step in bad:
        images[step][0, 0, 0, 0] = float('nan')
    return [{'inputs': image} for image in images]


def state_of(runner):
    optimizer = runner.optim_wrapper.optimizer.state_dict()['state']
    momentum = {f'momentum {k}': v['momentum_buffer'] for k, v in optimizer.items()}
    return {**runner.model.state_dict(), **momentum}


def assert_same(found, expected):
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert found.keys() == expected.keys()


@pytest.mark.parametrize('kind', [Line, OwnStep])
@pytest.mark.parametrize('counts', [1, 3])
def test_nothing_is_learned_from_a_bad_batch(kind, counts):
    """Neither weights nor accumulated gradients, counts or logged values differ."""
    guard, runner = guarded(kind, accumulative_counts=counts)
    plain, expected = guarded(kind, accumulative_counts=counts)
    outputs = [guard.train_step(batch) for batch in batches(1, 4)]
    assert [output is None for output in outputs] == [0, 1, 0, 0, 1, 0]
    for step, batch in enumerate(batches()):
        if step not in (1, 4):
            logged = expected.model.train_step(batch, expected.optim_wrapper)
            assert {k: v.item() for k, v in outputs[step].items()} == {
                k: v.item() for k, v in logged.items()
            }
    assert_same(state_of(runner), state_of(expected))
    counted = [one.optim_wrapper.inner_count for one in (runner, expected)]
    assert counted == [4, 4]
    for found, wanted in zip(
        runner.model.parameters(), expected.model.parameters(), strict=True
    ):
        assert (found.grad is None) == (wanted.grad is None) == (counts == 1)
        assert counts == 1 or torch.equal(found.grad, wanted.grad)


@pytest.mark.filterwarnings('ignore:Error detected in:UserWarning')
def test_a_backward_pass_that_refuses_nan():
    """Gradients of a backward pass that did not end are of no later step."""
    guard, runner = guarded()
    plain, expected = guarded()
    with torch.autograd.set_detect_anomaly(True):
        results = [guard.train_step(batch) for batch in batches(1)[:3]]
    assert results[1] is None and results[2] is not None
    for step in (0, 2):
        plain.train_step(batches()[step])
    assert_same(state_of(runner), state_of(expected))


class Host(torch.Tensor):
    """A tensor that has been copied to the host."""


@pytest.mark.parametrize('counts', [1, 2])
@pytest.mark.parametrize('skip', [True, False])
def test_a_step_reads_the_device_once(monkeypatch, skip, counts):
    """The losses that mmengine logs come with what is asked about them."""
    guard, runner = guarded(skip=skip, accumulative_counts=counts)
    transfers, reads = [], []
    plain_to = torch.Tensor.to
    for name in READS:
        method = getattr(torch.Tensor, name)

        def read(self, *args, name=name, method=method):
            if not isinstance(self, Host):
                reads.append(name)
            return method(self, *args)

        monkeypatch.setattr(torch.Tensor, name, read)

    def to(self, *args, **options):
        moved = plain_to(self, *args, **options)
        if args[:1] != ('cpu',):
            return moved
        assert options == {'non_blocking': True}
        transfers.append(1)
        return moved.as_subclass(Host)

    monkeypatch.setattr(torch.Tensor, 'to', to)
    for step, batch in enumerate(batches()[:3], 1):
        outputs = guard.train_step(batch)
        RuntimeInfoHook().after_train_iter(runner, 0, outputs=outputs)
        assert (len(transfers), reads) == (step, [])
    monkeypatch.undo()
    for name in ('loss', 'loss_a', 'loss_b'):
        logged = runner.message_hub.get_scalar(f'train/{name}').current()
        assert logged == outputs[name].item()


def test_what_is_logged_from_another_device_stays_there():
    """Some heads log a number that they computed elsewhere."""
    guard, _ = guarded()
    elsewhere = torch.zeros((), device='meta')
    guard._logged = {'accuracy': elsewhere, 'loss': torch.tensor(2.0)}
    guard.update_params(torch.tensor(2.0, requires_grad=True))
    assert guard._logged['accuracy'] is elsewhere
    assert guard._logged['loss'] == 2


def test_the_backward_pass_is_queued_before_the_host_waits(monkeypatch):
    """On CUDA; the update comes after, and the copy before."""
    guard, runner = guarded()
    order = []

    class Event:
        queries = 0

        def record(self):
            order.append('copied')

        def query(self):
            self.queries += 1
            order.append('asked')
            return self.queries > 2

    wrapper = runner.optim_wrapper
    for name in ('backward', 'step', 'zero_grad'):
        method = getattr(wrapper, name)
        monkeypatch.setattr(
            wrapper,
            name,
            lambda *args, name=name, method=method: order.append(name) or method(*args),
        )
    monkeypatch.setattr(torch.cuda, 'Event', Event)
    images = batches(1)
    on_cuda = property(lambda tensor: tensor.ndim == 0)  # the loss
    monkeypatch.setattr(torch.Tensor, 'is_cuda', on_cuda, raising=False)
    asked = ['copied', 'backward', 'asked', 'asked', 'asked']
    assert guard.train_step(images[0])
    assert order == [*asked, 'step', 'zero_grad']
    order.clear()
    assert guard.train_step(images[1]) is None
    assert order == [*asked, 'zero_grad']


class _Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(function.overloadpacket._qualified_op_name)
        return function(*args, **(kwargs or {}))


def test_statistics_are_kept_in_two_operators():
    """One for each dtype, whatever the number of norms; buffers are made once."""
    guard, runner = guarded()
    counts = []
    for batch in batches()[:2]:
        with _Operators() as mode:
            guard.train_step(batch)
        counts.append([mode.seen.count(f'aten::{name}') for name in COPIES])
    assert counts == [[2, 6], [2, 0]]


COPIES = ('_foreach_copy_', 'empty_like')


def test_the_block_is_named_whose_layers_are_finite_by_themselves():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(2, 3, 1))

        def forward(self, x):
            watched = self.layers[0]._forward_hooks
            return self.layers(x) * (1 if watched else float('nan'))

    class Detector(Line):
        def __init__(self):
            super().__init__()
            self.body = Block()

    guard, runner = guarded(Detector, skip=False)
    with pytest.raises(RunError) as stop:
        guard.train_step(batches()[0])
    assert stop.value.code == 'not-finite'
    assert 'that is not: body (its input and weights are finite)' in str(stop.value)


def test_the_search_waits_for_no_other_process(monkeypatch):
    """Layers and losses that would talk, in mmengine's way or PyTorch's, do not."""
    from mmengine import dist

    class Talking(Line):
        asked = []

        def forward(self, inputs, mode):
            self.asked.append(
                (torch.distributed.is_initialized(), dist.is_distributed())
            )
            return super().forward(inputs, mode)

    guard, runner = guarded(Talking)
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
    monkeypatch.setattr(nan_guard, 'get_rank', lambda: 0)
    assert (
        guard._locate(batches(0)[0])[0] == 'data_preprocessor (its input is not finite)'
    )
    assert Talking.asked == [(False, False)]
    assert torch.distributed.is_initialized()
