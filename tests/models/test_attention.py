"""Every attention layer against its paper in numpy, and its number of weights."""

import pytest
import torch
from torch import nn

from tests.references import attention as references
from tests.support.attention_cases import (
    LAYERS,
    build,
    expected,
    image,
    plain,
)
from tests.tolerances import assert_near

ARGUMENTS = [
    ('ECALayer', dict(kernel_size=9)),
    ('ECALayer', dict(kernel_size=1)),
    ('ECALayer', dict(gamma=1, b=3)),
    ('ECALayer', dict(kernel_size=5, circular=True)),
    ('ECALayer', dict(kernel_size=31, circular=True)),
    ('ECALayer', dict(kernel_size=1, circular=True)),
    ('SqueezeExcite', dict(ratio=4)),
    ('SqueezeExcite', dict(ratio=2, bias=True)),
    ('SEGC1', dict(groups=4)),
    ('SEGC2', dict(group_size=2)),
    ('SEGC3', dict(group_size=32)),
    ('ECANS', dict(kernel_size=7)),
    ('ECANS', dict(gamma=1)),
    ('CBAM', dict(ratio=4)),
    ('CBAM', dict(kernel_size=3)),
    ('CBAM', dict(kernel_size=5, bias=True)),
    ('BAM', dict(ratio=4)),
    ('BAM', dict(dilation=1)),
    ('BAM', dict(dilation=2, ratio=8)),
    ('GEThetaMinus', dict(extent=2)),
    ('GEThetaMinus', dict(extent=4)),
    ('GEThetaMinus', dict(extent=8)),
    ('GETheta', dict(extent=2)),
    ('GETheta', dict(extent=4)),
    ('GEThetaPlus', dict(extent=2, ratio=4)),
    ('GEThetaPlus', dict(extent=4)),
    ('DoubleAttention', dict(ratio=8)),
    ('DoubleAttention', dict(ratio=1)),
    ('GSoP', dict(reduced=5)),
    ('GSoP', dict(reduced=32)),
    ('FcaNet', dict(frequencies=1)),
    ('FcaNet', dict(frequencies=2, ratio=4)),
    ('FcaNet', dict(frequencies=4, size=14)),
    ('FcaNet', dict(frequencies=8, size=21)),
    ('FcaNet', dict(size=28)),
    ('ContextBlock', dict(ratio=1 / 4)),
    ('NonLocal2d', dict(reduction=4)),
]

WITH_NORM = [
    name
    for name in LAYERS
    if any('running' in key for key in plain(name, 32).state_dict())
]


def check(name, channels, shape, batch, **kwargs):
    layer = build(name, channels, **kwargs)
    x = image(channels, shape, batch)
    wanted = expected(name, layer, x, **kwargs)
    assert_near(layer(x), wanted, 1e-5)
    assert_near(layer.double()(x.double()), wanted, 1e-10)


@pytest.mark.parametrize(
    ('channels', 'size', 'batch'),
    [
        (16, (5, 9), 3),
        (32, (7, 7), 1),
        (48, (9, 5), 2),
        (64, (13, 8), 1),
        (64, (6, 11), 3),
    ],
)
@pytest.mark.parametrize('name', LAYERS)
def test_equals_the_paper(name, channels, size, batch):
    check(name, channels, size, batch)


@pytest.mark.parametrize(('name', 'kwargs'), ARGUMENTS, ids=str)
def test_arguments_equal_the_paper(name, kwargs):
    check(name, 32, (6, 9), 2, **kwargs)


@pytest.mark.parametrize('size', [(1, 1), (1, 9), (5, 1), (7, 7), (14, 15), (17, 29)])
@pytest.mark.parametrize('name', ['FcaNet', 'GEThetaMinus'])
def test_sizes_below_and_above_the_grid(name, size):
    check(name, 16, size, 2)


@pytest.mark.parametrize('extent', [2, 4, 8])
@pytest.mark.parametrize('name', ['GEThetaMinus', 'GETheta', 'GEThetaPlus'])
@pytest.mark.parametrize('size', [(5, 5), (16, 10), (1, 17), (25, 19)])
def test_extents_on_sizes_they_do_not_divide(name, extent, size):
    check(name, 16, size, 1, extent=extent)


@pytest.mark.parametrize('name', WITH_NORM)
def test_batch_statistics(name):
    """In training, which also moves the running statistics."""
    layer = build(name, 32).train()
    # Small variances beside the norm's eps would show rounding, not formulas.
    x = 3 * image(32, (6, 7), 4)
    wanted = expected(name, layer, x)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    assert_near(layer(x), wanted, 5e-5)
    moved = [
        key
        for key, value in layer.state_dict().items()
        if not torch.equal(value, before[key])
    ]
    assert moved == [key for key in before if 'running' in key or 'tracked' in key]
    assert_near(layer.double()(x.double()), wanted, 1e-10)


@pytest.mark.parametrize(('channels', 'size'), [(256, 56), (512, 28), (1024, 14)])
def test_fca_filters(channels, size):
    """The published filters: an orthonormal cosine basis."""
    layer = plain('FcaNet', channels, size=size)
    wanted = torch.from_numpy(references.fca_filters(channels, size, 16))
    assert_near(layer.filters(), wanted, 1e-7)
    distinct = wanted[:: channels // 16].flatten(1)
    assert_near(distinct @ distinct.T, torch.eye(16), 1e-6)


def test_fca_of_one_frequency_is_squeeze_excite():
    """Of the mean times the size, as the docstring says."""
    fca = build('FcaNet', 32, frequencies=1, size=14)
    se = build('SqueezeExcite', 32)
    se.fc[0].weight.data = 14 * fca.fc[0].weight.data
    se.fc[2].weight.data = fca.fc[2].weight.data
    x = image(32, (14, 14))
    assert_near(fca(x), se(x), 1e-5)


def test_double_attention_starts_as_the_identity():
    x = image(32)
    assert torch.equal(plain('DoubleAttention', 32).eval()(x), x)


def test_se_var2_starts_as_se_var1_and_is_gather_excite():
    x = image(32)
    one = plain('SEVar1', 32)(x)
    assert torch.equal(plain('SEVar2', 32)(x), one)
    assert torch.equal(plain('GEThetaMinus', 32)(x), one)


@pytest.mark.parametrize('channels', [64, 128, 256, 512, 1024, 2048])
@pytest.mark.parametrize('name', LAYERS)
def test_published_parameter_counts(name, channels):
    """Weights without biases and norms, as the papers count."""
    with torch.device('meta'):
        layer = plain(name, channels)
    norms = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)
    weights = [
        module.weight.numel()
        for module in layer.modules()
        if isinstance(getattr(module, 'weight', None), nn.Parameter)
        and not isinstance(module, norms)
    ]
    assert sum(weights) == references.LAYERS[name].weights(channels)
