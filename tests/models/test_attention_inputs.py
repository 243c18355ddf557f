"""What the attention layers refuse, and what they say."""

import pytest
import torch

from tests.support.attention_cases import NAMES_IN_BLOCKS, build, image, plain

RATIOS = ('SqueezeExcite', 'CBAM', 'BAM', 'GEThetaPlus', 'DoubleAttention', 'FcaNet')


@pytest.mark.parametrize('ratio', [33, 0, -1, True, False, 16.0, 0.5, None, '16'])
@pytest.mark.parametrize('name', RATIOS)
def test_ratios(name, ratio):
    message = (
        r'ratio must be an integer between 1 and in_channels \(32\), so that a hidden '
        rf'unit is left; got {ratio!r}\.'
    )
    with pytest.raises(ValueError, match=message):
        plain(name, 32, ratio=ratio)


@pytest.mark.parametrize('name', RATIOS)
def test_ratio_of_one_hidden_unit(name):
    layer = build(name, 32, ratio=32)
    assert layer(image(32)).isfinite().all()


@pytest.mark.parametrize('name', RATIOS)
def test_ratio_that_does_not_divide(name):
    with pytest.raises(ValueError, match='ratio must divide the 48 channels; got 5'):
        plain(name, 48, ratio=5)


ARGUMENTS = [
    *(
        ('SEGC1', dict(groups=groups), 'groups must divide the 48 channels; got ')
        for groups in (5, 0, -4, 96, True, 4.0)
    ),
    *(
        (name, dict(group_size=size), 'group_size must divide the 48 channels; got ')
        for name in ('SEGC2', 'SEGC3')
        for size in (5, 0, -4, 96, True, 4.0)
    ),
    *(
        (name, dict(kernel_size=size), 'kernel size must be a positive odd integer')
        for name in ('ECALayer', 'ECANS')
        for size in (2, 0, -3, 3.0, True, '3')
    ),
    *(
        (name, dict(gamma=gamma), 'gamma positive; got 48')
        for name in ('ECALayer', 'ECANS')
        for gamma in (0, -1)
    ),
    *(
        ('CBAM', dict(kernel_size=size), 'must be a positive odd integer.*uses 7')
        for size in (2, 0, -7, 7.0, True, None)
    ),
    *(
        ('BAM', dict(dilation=dilation), 'dilation must be a positive integer.*uses 4')
        for dilation in (0, -1, 4.0, True, None)
    ),
    *(
        ('GEThetaMinus', dict(extent=extent), 'one of 0, 2, 4, 8; got .*whole map')
        for extent in (1, 3, 16, -2, 2.0, True, False, None)
    ),
    *(
        (name, dict(extent=extent), r'one of 2, 4, 8; got .*GEThetaMinus\(extent=0\)')
        for name in ('GETheta', 'GEThetaPlus')
        for extent in (0, 1, 3, 16, -2, 2.0, True, False, None)
    ),
    *(
        ('GSoP', dict(reduced=reduced), r'between 1 and in_channels \(48\); got ')
        for reduced in (0, -1, 49, True, 8.0)
    ),
    *(
        ('FcaNet', dict(size=size), 'size must be a multiple of 7; got ')
        for size in (8, 0, -7, 7.0, True)
    ),
    *(
        ('FcaNet', dict(frequencies=frequencies), 'must be 1, 2, 4, 8 or 16 and divide')
        for frequencies in (3, 0, -1, 32, 4.0, True, None)
    ),
]


@pytest.mark.parametrize(('name', 'kwargs', 'message'), ARGUMENTS, ids=str)
def test_arguments(name, kwargs, message):
    """The message names what was given."""
    with pytest.raises(ValueError, match=message) as caught:
        plain(name, 48, **kwargs)
    ((_, value),) = kwargs.items()
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ('name', 'channels', 'message'),
    [
        ('SEGC1', 24, 'groups must divide the 24 channels; got 16'),
        ('SEGC2', 24, 'group_size must divide the 24 channels; got 16'),
        ('SEGC3', 20, 'group_size must divide the 20 channels; got 8'),
        ('FcaNet', 24, 'ratio must divide the 24 channels; got 16'),
        ('SqueezeExcite', 8, r'in_channels \(8\)'),
    ],
)
def test_channels_that_a_default_does_not_fit(name, channels, message):
    with pytest.raises(ValueError, match=message):
        plain(name, channels)


def test_a_circular_kernel_goes_round_once_at_most():
    assert build('ECALayer', 9, kernel_size=9, circular=True)(image(9)).isfinite().all()
    with pytest.raises(ValueError, match='kernel of 9 goes round all 8 channels'):
        plain('ECALayer', 8, kernel_size=9, circular=True)


MAPS = [
    ('BAM', {}, 5, 'smaller dilation'),
    ('BAM', dict(dilation=2), 3, 'smaller dilation'),
    ('CBAM', {}, 4, 'smaller kernel_size'),
    ('CBAM', dict(kernel_size=3), 2, 'smaller kernel_size'),
    ('GEThetaMinus', dict(extent=8), 5, 'smaller extent'),
    ('GEThetaMinus', dict(extent=2), 2, 'smaller extent'),
    ('GETheta', {}, 5, 'smaller extent'),
    ('GETheta', dict(extent=4), 3, 'smaller extent'),
    ('GEThetaPlus', {}, 5, 'smaller extent'),
    ('GEThetaPlus', dict(extent=2), 2, 'smaller extent'),
]


@pytest.mark.parametrize(('name', 'kwargs', 'least', 'advice'), MAPS, ids=str)
def test_maps_too_small(name, kwargs, least, advice):
    """The larger side counts."""
    layer = build(name, 32, **kwargs)
    for size in ((least - 1, least - 1), (1, least - 1), (least - 1, 1)):
        message = (
            rf'^{name} needs a map of {least} pixels or more in height or width; got '
            rf'{size[0]} x {size[1]}\. Enlarge the images, or use a {advice}'
        )
        with pytest.raises(ValueError, match=message):
            layer(image(32, size))
    for size in ((least, least), (1, least), (least, 1)):
        assert layer(image(32, size)).isfinite().all()


@pytest.mark.parametrize(('name', 'kwargs', 'least', 'advice'), MAPS[:4], ids=str)
def test_the_smallest_map_reaches_every_weight(name, kwargs, least, advice):
    """That is what the limit is for in BAM and CBAM."""
    layer = build(name, 32, **kwargs).double()
    x = image(32, (least, least), 2, dtype=torch.float64)
    (layer(x) * image(32, (least, least), 2, 9, torch.float64)).sum().backward()
    for key, one in layer.named_parameters():
        taps = one.grad.abs().reshape(-1, *one.shape[2:]).amax(0) if one.ndim > 2 else 1
        assert (torch.as_tensor(taps) > 0).all(), key


def test_registered_names():
    """As a config's ``type`` and the keys of a checkpoint have them."""
    from mmcv.cnn.bricks.plugin import infer_abbr

    for name, short in NAMES_IN_BLOCKS.items():
        assert infer_abbr(type(plain(name, 64))) == short
