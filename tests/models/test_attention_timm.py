"""Attention layers against timm's, with the same weights."""

import contextlib
import importlib
import types

import pytest
from torch import nn

from tests.support.attention_cases import build, image
from tests.tolerances import assert_near


def copied(to, source, names):
    """``to`` with the parameters and statistics of ``source``, in its own shapes."""
    state, own = source.state_dict(), to.state_dict()
    for theirs, ours in names.items():
        for key in list(own):
            if key.rsplit('.', 1)[0] == theirs:
                value = state.pop(f'{ours}.{key.rsplit(".", 1)[1]}')
                own[key] = value.reshape(own[key].shape)
    assert not state, f'not compared: {list(state)}'
    to.load_state_dict(own)
    return to.eval()


@contextlib.contextmanager
def mended_gather_excite():
    """timm's GatherExcite, which gives its layers '*dd', the keys, for '**dd'."""
    from timm.layers import gather_excite as module

    def without_keys(function):
        return lambda *args, **kwargs: function(
            *(one for one in args if not isinstance(one, str)), **kwargs
        )

    layers = types.SimpleNamespace(**vars(nn))
    layers.BatchNorm2d = without_keys(nn.BatchNorm2d)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, 'nn', layers)
        for name in ('create_conv2d', 'ConvMlp'):
            patch.setattr(module, name, without_keys(getattr(module, name)))
        yield module.GatherExcite


def gather_excite(**kwargs):
    with mended_gather_excite() as module:
        return module(32, extra_params=True, extent=4, **kwargs)


GATHER = {'gather.conv1': 'gather.0', 'gather.norm1': 'gather.1'} | {
    'gather.conv2': 'gather.3',
    'gather.norm2': 'gather.4',
}
CONTEXT = {'fc1': '0', 'norm': '1', 'fc2': '3'}


def context_block(kind):
    """Keys of timm's to mmcv's global context."""
    theirs = {'add': 'mlp_add', 'scale': 'mlp_scale'}[kind]
    ours = {'add': 'channel_add_conv', 'scale': 'channel_mul_conv'}[kind]
    return {f'{theirs}.{a}': f'{ours}.{b}' for a, b in CONTEXT.items()}


def with_relu(theirs):
    """Put the ReLU of the authors' network before the two layers; timm has none."""
    theirs.mlp = nn.Sequential(nn.ReLU(), theirs.mlp)
    return theirs


TIMM = {
    'se': lambda t: (
        ('SqueezeExcite', dict(ratio=4)),
        t.SEModule(32, rd_channels=8, bias=False),
        {'fc1': 'fc.0', 'fc2': 'fc.2'},
    ),
    'se with biases': lambda t: (
        ('SqueezeExcite', dict(ratio=4, bias=True)),
        t.SEModule(32, rd_channels=8),
        {'fc1': 'fc.0', 'fc2': 'fc.2'},
    ),
    'eca': lambda t: (
        ('ECALayer', dict(kernel_size=5)),
        t.EcaModule(kernel_size=5),
        {'conv': 'conv'},
    ),
    'eca of adaptive size': lambda t: (
        ('ECALayer', dict(gamma=1)),
        t.EcaModule(32, gamma=1),
        {'conv': 'conv'},
    ),
    'circular eca': lambda t: (
        ('ECALayer', dict(kernel_size=5, circular=True)),
        t.CecaModule(kernel_size=5),
        {'conv': 'conv'},
    ),
    'cbam': lambda t: (
        ('CBAM', dict(ratio=4)),
        t.cbam.CbamModule(32, rd_channels=8),
        {'channel.fc1': 'fc.0', 'channel.fc2': 'fc.2'}
        | {'spatial.conv.conv': 'conv', 'spatial.conv.bn': 'bn'},
    ),
    'gc': lambda t: (
        ('ContextBlock', dict(ratio=1 / 4)),
        t.GlobalContext(32, fuse_add=True, fuse_scale=False, rd_channels=8),
        {'conv_attn': 'conv_mask'} | context_block('add'),
    ),
    'gc of the mean': lambda t: (
        ('ContextBlock', dict(ratio=1 / 4, pooling_type='avg')),
        t.GlobalContext(
            32, use_attn=False, fuse_add=True, fuse_scale=False, rd_channels=8
        ),
        context_block('add'),
    ),
    'gc that scales': lambda t: (
        ('ContextBlock', dict(ratio=1 / 4, fusion_types=('channel_mul',))),
        t.GlobalContext(32, rd_channels=8),
        {'conv_attn': 'conv_mask'} | context_block('scale'),
    ),
    'ge of the whole map': lambda t: (
        ('GEThetaMinus', {}),
        t.GatherExcite(32, use_mlp=False),
        {},
    ),
    'ge of means': lambda t: (
        ('GEThetaMinus', dict(extent=4)),
        t.GatherExcite(32, extent=4, use_mlp=False),
        {},
    ),
    'ge': lambda t: (
        ('GETheta', dict(extent=4)),
        gather_excite(use_mlp=False),
        GATHER,
    ),
    'ge plus': lambda t: (
        ('GEThetaPlus', dict(extent=4, ratio=4)),
        with_relu(gather_excite(rd_channels=8)),
        GATHER | {'mlp.1.fc1': 'gather.5.1', 'mlp.1.fc2': 'gather.5.3'},
    ),
}


@pytest.mark.parametrize('case', TIMM)
def test_equals_timm(case):
    timm = pytest.importorskip('timm')
    importlib.import_module('timm.layers.cbam')
    (name, kwargs), theirs, names = TIMM[case](timm.layers)
    layer = build(name, 32, **kwargs)
    copied(theirs, layer, names)
    for module in theirs.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5  # mmcv's; timm has 1e-6
    x = image(32, (6, 9))
    assert_near(layer.double()(x.double()), theirs.double()(x.double()), 1e-10)
