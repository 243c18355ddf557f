"""Faults found in the attention layers; each test passes when its fault is mended."""

import pytest

from tests.attention_cases import plain


@pytest.mark.xfail(reason='1 == True and 4 == 4.0 pass the check', strict=True)
@pytest.mark.parametrize(
    ('name', 'kwargs'),
    [
        ('FcaNet', dict(frequencies=True)),
        ('FcaNet', dict(frequencies=4.0)),
        ('GEThetaMinus', dict(extent=2.0)),
        ('GETheta', dict(extent=2.0)),
        ('GEThetaPlus', dict(extent=2.0)),
        ('BAM', dict(dilation=True)),
        ('CBAM', dict(kernel_size=True)),
    ],
    ids=str,
)
def test_booleans_and_floats_are_refused(name, kwargs):
    try:
        plain(name, 48, **kwargs)
    except ValueError:
        return
    except (TypeError, AttributeError):
        pass
    pytest.fail('no ValueError')


@pytest.mark.xfail(reason='the second replaces the first, and runs twice', strict=True)
def test_one_name_twice_in_a_basic_block_is_refused(mmdet_ready):
    """As mmdet's bottleneck refuses it; SEGC1 and SEGC2 share a name, too."""
    from mmdet.registry import MODELS

    plugins = [
        dict(cfg=dict(type=layer), position='after_conv2')
        for layer in ('SEGC1', 'SEGC2')
    ]
    with pytest.raises((AssertionError, ValueError)):
        MODELS.build(
            dict(type='PluginResNet', depth=18, base_channels=16, plugins=plugins)
        )
