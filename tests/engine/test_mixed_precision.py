"""The type that a device computes in, and trainings that go on in theirs."""

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from eca_mmdet.engine import mixed_precision
from eca_mmdet.engine.mixed_precision import MixedPrecisionOptimWrapper, low_precision

pytestmark = pytest.mark.openmmlab

STARTED_IN_FLOAT16 = dict(
    scale=1024.0,
    growth_factor=2.0,
    backoff_factor=0.5,
    growth_interval=2000,
    _growth_tracker=7,
)


@pytest.mark.parametrize(
    ('device', 'native', 'expected'),
    [
        ('cpu', False, torch.bfloat16),
        ('cuda', True, torch.bfloat16),
        ('cuda', False, torch.float16),
        ('npu', False, torch.float16),
    ],
)
def test_low_precision(monkeypatch, device, native, expected):
    def is_supported(including_emulation):
        assert not including_emulation
        return native

    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', is_supported)
    assert low_precision(device) == expected


def wrapper_of(model, kind=MixedPrecisionOptimWrapper, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return kind(optimizer=optimizer, **options)


def train(wrapper, model, steps=3, resumed_after=0):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(steps, 2, 3, 5, 5, generator=generator)
    for image in images[resumed_after:]:
        with wrapper.optim_context(model):
            out = model(image)
            assert out.dtype == torch.bfloat16
        wrapper.update_params(out.float().square().mean())


def conv():
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 3)


def test_training_on_a_cpu():
    """It is a loop under PyTorch's autocast, and goes on from its state."""
    model, expected = conv(), conv()
    wrapper = wrapper_of(model, accumulative_counts=1, clip_grad=dict(max_norm=0.5))
    train(wrapper, model)
    plain = wrapper_of(expected, OptimWrapper, clip_grad=dict(max_norm=0.5))
    plain.optim_context = lambda _: torch.autocast('cpu', dtype=torch.bfloat16)
    train(plain, expected)
    assert torch.equal(model.weight, expected.weight)

    first, second = conv(), conv()
    wrapper = wrapper_of(first)
    train(wrapper, first, 3)
    for kind in (MixedPrecisionOptimWrapper, OptimWrapper):
        second = conv()
        second.load_state_dict(first.state_dict())
        resumed = wrapper_of(second, kind)
        resumed.load_state_dict(wrapper.state_dict())
        state = resumed.optimizer.state_dict()['state']
        expected = wrapper.optimizer.state_dict()['state']
        for key, value in expected.items():
            assert torch.equal(state[key]['momentum_buffer'], value['momentum_buffer'])


@pytest.mark.parametrize(
    ('device', 'options', 'expected'),
    [
        ('cuda', {}, torch.float16),
        ('cuda', {'dtype': 'bfloat16'}, torch.bfloat16),
        ('cpu', {}, torch.bfloat16),
    ],
)
def test_a_training_that_was_started_in_float16(monkeypatch, device, options, expected):
    """What AmpOptimWrapper of version 0.1.0 has saved; its loss scale is kept."""
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(
        torch.amp, 'GradScaler', lambda *_, **more: scaler('cpu', **more)
    )
    monkeypatch.setattr(mixed_precision, 'get_device', lambda: device)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda **_: True)
    wrapper = wrapper_of(conv(), **options)
    assert wrapper.cast_dtype == torch.bfloat16
    state = wrapper_of(conv(), OptimWrapper).state_dict()
    wrapper.load_state_dict({**state, 'loss_scaler': dict(STARTED_IN_FLOAT16)})
    assert wrapper.cast_dtype == expected
    in_float16 = expected == torch.float16
    assert wrapper.loss_scaler.get_scale() == (1024.0 if in_float16 else 1.0)


@pytest.mark.parametrize('dtype', ['float64', 'half'])
def test_other_types_are_rejected(dtype):
    with pytest.raises(ValueError, match="'bfloat16' or 'float16'"):
        wrapper_of(conv(), dtype=dtype)
