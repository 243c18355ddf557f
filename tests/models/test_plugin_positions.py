"""Where plugin layers go in our ResNets and behind a neck, and what is refused."""

import pytest
import torch
from torch import nn

from tests.tolerances import assert_near

pytestmark = pytest.mark.openmmlab

TINY = dict(base_channels=16)


@pytest.fixture
def make(mmdet_ready):
    import eca_mmdet

    def make(kind='PluginResNet', depth=50, seed=0, **kwargs):
        torch.manual_seed(seed)
        model = getattr(eca_mmdet, kind)(depth, **TINY, **kwargs)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1, 0.3)
                nn.init.normal_(module.running_mean, 0, 0.3)
        model.eval()
        return model

    return make


def picture():
    return torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize('memory', ['lean', 'plain'])
@pytest.mark.parametrize('depth', [18, 34, 50])
@pytest.mark.parametrize('kind', ['PluginResNet', 'ECAResNet'])
def test_attention_is_a_plugin_at_the_end_of_the_block(make, kind, depth, memory):
    layer = dict(type='CBAM', ratio=4)
    position = 'after_conv2' if depth < 50 else 'after_conv3'
    short = make(kind, depth, attention=layer, memory=memory)
    plugins = [dict(cfg=layer, position=position)]
    long = make('PluginResNet', depth, plugins=plugins, memory=memory)
    assert short.state_dict().keys() == long.state_dict().keys()
    blocks = {18: 8, 34: 16, 50: 16}[depth]
    assert sum(k.endswith('cbam.conv.weight') for k in short.state_dict()) == blocks
    long.load_state_dict(short.state_dict())
    with torch.no_grad():
        for ours, theirs in zip(short(picture()), long(picture()), strict=True):
            assert torch.equal(ours, theirs)


def test_attention_comes_before_plugins_of_its_position(make):
    plugin = dict(cfg=dict(type='BAM', dilation=1), position='after_conv3')
    model = make(attention=dict(type='SEVar2'), plugins=[plugin])
    block = model.layer1[0]
    assert block.after_conv3_plugin_names == ['se_var2', 'bam']


def test_kernel_sizes_beside_attention_are_refused(make):
    with pytest.raises(ValueError, match='which attention replaces'):
        make('ECAResNet', kernel_sizes=3, attention=dict(type='CBAM'))


@pytest.mark.parametrize('memory', ['lean', 'plain'])
@pytest.mark.parametrize('depth', [18, 50])
def test_layers_of_a_stage(make, depth, memory):
    """Before the last block and after it, and the names of the blocks stay."""
    plugins = [
        dict(
            cfg=dict(type='SEVar2', postfix='_inside'),
            stages=(False, True, False, False),
            position='before_last_block',
        ),
        dict(
            cfg=dict(type='BAM', ratio=4),
            stages=(True, True, True, False),
            position='after_stage',
        ),
        dict(cfg=dict(type='SEVar3'), position='after_stage'),
    ]
    model = make(depth=depth, plugins=plugins, memory=memory)
    plain = make(depth=depth, memory=memory)
    extra = model.state_dict().keys() - plain.state_dict().keys()
    assert plain.state_dict().keys() <= model.state_dict().keys()
    layers = {key.split('.')[0] + '.' + key.split('.')[1] for key in extra}
    assert layers == {
        'layer2.se_var2_inside',
        *(f'layer{i}.bam' for i in (1, 2, 3)),
        *(f'layer{i}.se_var3' for i in (1, 2, 3, 4)),
    }
    nn.init.normal_(model.layer2.se_var2_inside.weight)
    plain.load_state_dict(model.state_dict(), strict=False)
    stages = []
    with torch.no_grad():
        x = plain.maxpool(plain.relu(plain.norm1(plain.conv1(picture()))))
        for number in (1, 2, 3, 4):
            theirs, own = (
                getattr(plain, f'layer{number}'),
                getattr(model, f'layer{number}'),
            )
            for index, block in enumerate(theirs):
                if number == 2 and index == len(theirs) - 1:
                    x = own.se_var2_inside(x)
                x = block(x)
            x = own.bam(x) if number < 4 else x
            x = own.se_var3(x)
            stages.append(x)
        for ours, wanted in zip(model(picture()), stages, strict=True):
            assert_near(ours, wanted, 1e-5)


def test_layers_of_a_stage_are_frozen_with_it_and_keep_their_norms(make):
    plugins = [dict(cfg=dict(type='BAM', ratio=4), position='after_stage')]
    model = make(plugins=plugins, frozen_stages=1, norm_eval=True)
    model.train()
    frozen = [p.requires_grad for p in model.layer1.bam.parameters()]
    trained = [p.requires_grad for p in model.layer2.bam.parameters()]
    assert not any(frozen) and all(trained)
    assert not model.layer2.bam.positions[-1].training


REFUSED = [
    ('a dict', dict(type='ECALayer'), 'must be a list'),
    ('no position', [dict(cfg=dict(type='ECALayer'))], 'a dict with cfg, position'),
    (
        'misspelt',
        [dict(cfg=dict(type='ECALayer'), position='after_conv3', stage=(True,))],
        'a dict with cfg, position',
    ),
    (
        'unknown layer',
        [dict(cfg=dict(type='CBMA'), position='after_conv3')],
        "no layer 'CBMA' is registered. Did you mean CBAM",
    ),
    (
        "another package's name",
        [dict(cfg=dict(type='squeezeexcitation'), position='after_conv3')],
        'Did you mean SqueezeExcite',
    ),
    (
        'nothing near',
        [dict(cfg=dict(type='Xyzzy'), position='after_conv3')],
        "no layer 'Xyzzy' is registered. The attention layers: BAM, CBAM",
    ),
    ('no type', [dict(cfg={}, position='after_conv3')], 'a layer is a dict with its'),
    (
        'unknown position',
        [dict(cfg=dict(type='ECALayer'), position='after_conv4')],
        'one of after_conv1, after_conv2, after_conv3, before_last_block, after_stage; '
        "got 'after_conv4'",
    ),
    (
        'too few stages',
        [dict(cfg=dict(type='ECALayer'), position='after_conv3', stages=(True, False))],
        'stages must be 4 of True or False',
    ),
    (
        'numbers of stages',
        [dict(cfg=dict(type='ECALayer'), position='after_conv3', stages=(1, 2, 3, 4))],
        'stages must be 4 of True or False',
    ),
]


@pytest.mark.parametrize(('name', 'plugins', 'message'), REFUSED, ids=lambda v: str(v))
def test_refused_plugins(make, name, plugins, message):
    with pytest.raises(ValueError) as caught:
        make(plugins=plugins)
    assert message in str(caught.value)


def test_position_of_another_depth(make):
    plugin = dict(cfg=dict(type='ECALayer'), position='after_conv3')
    with pytest.raises(ValueError, match='have two convolutions'):
        make(depth=34, plugins=[plugin])


@pytest.mark.parametrize('position', ['after_conv1', 'after_conv2', 'after_stage'])
@pytest.mark.parametrize('depth', [18, 50])
def test_one_name_twice_needs_a_postfix(make, depth, position):
    plugins = [dict(cfg=dict(type='SEVar2'), position=position) for _ in range(2)]
    with pytest.raises(ValueError, match=r"two plugins are called 'se_var2'.*postfix"):
        make(depth=depth, plugins=plugins)
    plugins[1]['cfg']['postfix'] = '_2'
    names = [key for key in make(depth=depth, plugins=plugins).state_dict()]
    assert sum('.se_var2.' in key for key in names) == sum(
        '.se_var2_2.' in key for key in names
    )


def test_a_class_is_a_layer(make):
    from eca_mmdet.models.attention import SEVar2

    model = make(attention=dict(type=SEVar2))
    assert isinstance(model.layer1[0].se_var2, SEVar2)


def neck(**changes):
    from mmdet.registry import MODELS

    arguments = dict(in_channels=16, num_levels=5, attention=dict(type='CBAM', ratio=4))
    return MODELS.build(
        [
            dict(type='FPN', in_channels=[64, 128], out_channels=16, num_outs=5),
            dict(type='AttentionNeck', **{**arguments, **changes}),
        ]
    )


def test_attention_on_the_maps_of_a_neck(mmdet_ready):
    both = neck()
    both.eval()
    maps = [torch.randn(1, 64, 80, 80), torch.randn(1, 128, 40, 40)]
    with torch.no_grad():
        before = both[0](maps)
        after = both(maps)
    layers = [getattr(both[1], f'cbam_{level}') for level in range(5)]
    assert len({id(layer) for layer in layers}) == 5
    for layer, x, y in zip(layers, before, after, strict=True):
        with torch.no_grad():
            assert torch.equal(layer(x), y)
    assert len(list(both[1].parameters())) == 5 * len(list(layers[0].parameters()))


def test_neck_refuses(mmdet_ready):
    with pytest.raises(ValueError, match='has 4 levels and got 5 maps'):
        neck(num_levels=4)([torch.randn(1, 64, 80, 80), torch.randn(1, 128, 40, 40)])
    with pytest.raises(ValueError, match='Did you mean CBAM'):
        neck(attention=dict(type='CBMA'))
    with pytest.raises(ValueError, match='made for 8 channels and got maps of 16'):
        neck(in_channels=8)([torch.randn(1, 64, 80, 80), torch.randn(1, 128, 40, 40)])
    with pytest.raises(ValueError, match='num_levels must be 1 or more'):
        neck(num_levels=0)


def test_a_detector_with_attention_behind_its_neck_trains(mmdet_ready, shapes):
    from mmdet.registry import MODELS
    from mmengine.runner import Runner

    from eca_mmdet.demo import run as demo

    cfg = demo.compose('retinanet', 'none', 18, shapes, seed=0)
    demo.shorten(cfg)
    cfg.train_dataloader.batch_size = 2
    fpn = cfg.model.neck
    attention = dict(
        type='AttentionNeck',
        in_channels=fpn.out_channels,
        num_levels=fpn.num_outs,
        attention=dict(type='SEVar2'),
    )
    cfg.model.neck = [fpn, attention]
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    data = next(iter(Runner.build_dataloader(cfg.train_dataloader)))
    data = model.data_preprocessor(data, training=True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    assert loss.isfinite()
    for level in range(fpn.num_outs):
        gradient = getattr(model.neck[1], f'se_var2_{level}').weight.grad
        assert gradient.isfinite().all() and gradient.any()
