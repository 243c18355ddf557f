"""ECA and SE layers against plain numpy loops."""

import numpy as np
import pytest
import torch
import torch._dynamo.testing

from eca_mmdet import ECALayer, SqueezeExcite, eca_kernel_size
from tests.tolerances import assert_near


def eca_loop(x, weight):
    """Gate every channel by hand: mean, zero-padded correlation, sigmoid."""
    n, c, h, w = x.shape
    k = len(weight)
    out = np.empty_like(x)
    for i in range(n):
        means = [x[i, j].sum() / (h * w) for j in range(c)]
        for j in range(c):
            u = 0.0
            for t in range(k):
                source = j + t - k // 2
                if 0 <= source < c:
                    u += weight[t] * means[source]
            out[i, j] = x[i, j] / (1 + np.exp(-u))
    return out


@pytest.mark.parametrize('kernel_size', [1, 3, 5, 7, 9])
@pytest.mark.parametrize('shape', [(2, 16, 5, 7), (1, 4, 1, 1), (3, 64, 2, 3)])
def test_layer_equals_numpy_loop(kernel_size, shape):
    layer = ECALayer(shape[1], kernel_size).double()
    x = torch.randn(shape, dtype=torch.float64)
    expected = eca_loop(x.numpy(), layer.conv.weight.detach().numpy().ravel())
    assert_near(layer(x), expected, 1e-12)
    assert_near(layer.float()(x.float()), expected, 1e-6)


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


@pytest.mark.parametrize('kernel_size', [0, 2, -3, 4, 3.0, True, '3'])
def test_layer_refuses_bad_kernel_sizes(kernel_size):
    with pytest.raises(ValueError, match='positive odd integer'):
        ECALayer(64, kernel_size)


def test_kernel_size_formula_refuses_no_channels():
    with pytest.raises(ValueError, match='at least 1'):
        eca_kernel_size(0)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_layer_keeps_dtype_and_memory_format(dtype):
    layer = ECALayer(16, 3).to(dtype)
    x = torch.randn(2, 16, 4, 6).to(dtype, memory_format=torch.channels_last)
    y = layer(x)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('layer_type', [ECALayer, SqueezeExcite])
def test_layers_keep_float32_under_autocast(layer_type):
    layer = layer_type(32)
    x = torch.randn(2, 32, 4, 4)
    with torch.autocast('cpu', torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.float32
    assert_near(y, layer(x), 1e-2)


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


def test_squeeze_excite_by_hand():
    layer = SqueezeExcite(32, ratio=4).double()
    x = torch.randn(2, 32, 3, 5, dtype=torch.float64)
    first, second = (layer.fc[i].weight.detach().numpy() for i in (0, 2))
    assert first.shape == (8, 32)
    pooled = x.numpy().mean(axis=(2, 3))
    gate = 1 / (1 + np.exp(-np.maximum(pooled @ first.T, 0) @ second.T))
    expected = x.numpy() * gate[:, :, None, None]
    assert_near(layer(x), expected, 1e-12)


def test_squeeze_excite_has_no_bias():
    names = [name for name, _ in SqueezeExcite(64).named_parameters()]
    assert names == ['fc.0.weight', 'fc.2.weight']
    assert sum(p.numel() for p in SqueezeExcite(64).parameters()) == 2 * 64**2 // 16


@pytest.mark.parametrize('ratio', [0, -1, 65])
def test_squeeze_excite_refuses_ratios_without_hidden_unit(ratio):
    with pytest.raises(ValueError, match='ratio'):
        SqueezeExcite(64, ratio)
