"""Kernel sizes of ECA, and what ECA and SE do under autocast and compilation."""

import pytest
import torch
import torch._dynamo.testing

from eca_mmdet import ECALayer, SqueezeExcite, eca_kernel_size
from tests.tolerances import assert_near


@pytest.mark.parametrize(
    ('channels', 'expected'),
    [(1, 1), (16, 3), (64, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (2048, 7)],
)
def test_adaptive_kernel_size(channels, expected):
    assert eca_kernel_size(channels) == expected
    assert ECALayer(channels).conv.kernel_size == (expected,)


def test_adaptive_kernel_size_takes_gamma_and_b():
    # |log2(256) / 1 + 3 / 1| = 11; |(8 - 1) / 3| = 2.33 -> 2 -> 3
    assert eca_kernel_size(256, gamma=1, b=3) == 11
    assert eca_kernel_size(256, gamma=3, b=-1) == 3


def test_kernel_size_formula_refuses_no_channels():
    with pytest.raises(ValueError, match='at least 1'):
        eca_kernel_size(0)


def test_layer_keeps_dtype_and_memory_format():
    x = torch.randn(2, 16, 4, 6).to(torch.bfloat16, memory_format=torch.channels_last)
    y = ECALayer(16, 3).bfloat16()(x)
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('layer_type', [ECALayer, SqueezeExcite])
def test_layers_keep_a_half_dtype_that_autocast_does_not_use(layer_type):
    """float16 features times a bfloat16 gate would otherwise become float32."""
    x = torch.randn(2, 32, 4, 4).half()
    with torch.autocast('cpu', torch.bfloat16):
        assert layer_type(32)(x).dtype == torch.float16


def test_layer_compiles_once_for_all_sizes():
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    layer = ECALayer(16, 3)
    compiled = torch.compile(layer, backend=counter, fullgraph=True, dynamic=None)
    for size in (8, 9, 10, 11):
        x = torch.randn(2, 16, size, size + 3)
        assert_near(compiled(x), layer(x), 1e-6)
    # One graph for the first size, one with symbolic sizes for every other.
    assert counter.frame_count <= 2


def test_squeeze_excite_has_no_bias():
    names = [name for name, _ in SqueezeExcite(64).named_parameters()]
    assert names == ['fc.0.weight', 'fc.2.weight']
    assert sum(p.numel() for p in SqueezeExcite(64).parameters()) == 2 * 64**2 // 16
