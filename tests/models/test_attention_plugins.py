"""Attention layers in the plugin slots of mmdet's backbones and this package's."""

import pytest
import torch

from tests.support.attention_cases import (
    LAYERS,
    NAMES_IN_BLOCKS,
    NEEDED,
    expected,
    image,
    randomise,
)
from tests.tolerances import assert_near, assert_near_gradients

SIDE = 160  # so that the deepest map is 5 x 5
STAGES = (False, True, False, True)
BACKBONES = {
    'ResNet-50': dict(type='ResNet', depth=50),
    'ResNeXt-50': dict(type='ResNeXt', depth=50, groups=4, base_width=4),
    'Res2Net-50': dict(type='Res2Net', depth=50, scales=4, base_width=4),
    'PluginResNet-18': dict(type='PluginResNet', depth=18),
    'PluginResNet-34': dict(type='PluginResNet', depth=34),
    'PluginResNet-50': dict(type='PluginResNet', depth=50),
    'PluginResNet-50 plain': dict(type='PluginResNet', depth=50, memory='plain'),
}


def slots(backbone):
    count = 2 if BACKBONES[backbone]['depth'] < 50 else 3
    return [f'after_conv{i}' for i in range(1, count + 1)]


def plugin(layer, position, stages=STAGES, **kwargs):
    """An entry of ``plugins=``."""
    cfg = {'type': layer, **NEEDED.get(layer, {}), **kwargs}
    return dict(cfg=cfg, stages=stages, position=position)


@pytest.fixture
def backbone(mmdet_ready):
    from mmdet.registry import MODELS

    def build(name, plugins, seed=0, **kwargs):
        torch.manual_seed(seed)
        cfg = dict(BACKBONES[name], base_channels=16, plugins=plugins, **kwargs)
        model = MODELS.build(cfg).double()
        model.eval()  # mmdet's returns None
        randomise_plugins(model)
        return model

    return build


def randomise_plugins(model):
    for index, (_, _, layer) in enumerate(plugged(model)):
        randomise(layer, seed=index)


def plugged(model):
    """(block, the plugin's name in it, layer) of every plugin, in order."""
    return [
        (block, name, layer)
        for stage in model.res_layers
        for block in getattr(model, stage)
        for name, layer in block.named_children()
        if name.startswith(tuple(NAMES_IN_BLOCKS.values()))
    ]


def by_hand(model, x, order):
    """What a ResNet computes whose plugins of each position are named in ``order``."""
    x = model.maxpool(model.relu(model.norm1(model.conv1(x))))
    outputs = []
    for stage in model.res_layers:
        for block in getattr(model, stage):
            out = x
            count = 3 if hasattr(block, 'conv3') else 2
            for i in range(1, count + 1):
                out = getattr(block, f'conv{i}')(out)
                out = getattr(block, f'norm{i}')(out)
                out = torch.relu(out) if i < count else out
                for name in order.get(f'after_conv{i}', []):
                    out = getattr(block, name)(out) if hasattr(block, name) else out
            shortcut = x if block.downsample is None else block.downsample(x)
            x = torch.relu(out + shortcut)
        outputs.append(x)
    return outputs


def picture():
    return image(3, (SIDE, SIDE), 1, dtype=torch.float64)


def forward(model):
    with torch.no_grad():
        return model(picture())


def same(got, wanted):
    """In float64: features of random weights are small."""
    assert_near(got, wanted, 1e-9)


@pytest.mark.sweep(fast=5)
@pytest.mark.parametrize('layer', LAYERS)
@pytest.mark.parametrize('name', BACKBONES)
def test_in_every_slot(backbone, name, layer):
    positions = slots(name)
    model = backbone(
        name,
        [plugin(layer, slot, postfix=f'_{i}') for i, slot in enumerate(positions)],
    )
    names = [f'{NAMES_IN_BLOCKS[layer]}_{i}' for i in range(len(positions))]
    blocks = [block for stage in (model.layer2, model.layer4) for block in stage]
    assert [one[1] for one in plugged(model)] == names * len(blocks)
    keys = {
        f'{stage}.{index}.{name}.{key}'
        for stage in ('layer2', 'layer4')
        for index, block in enumerate(getattr(model, stage))
        for name in names
        for key in getattr(block, name).state_dict()
    }
    plain = backbone(name, None)
    assert {*model.state_dict()} - {*plain.state_dict()} == keys
    captured = {}

    def keep(layer, inputs, output):
        # Cloned, because mmdet adds the shortcut to the last one's output in place.
        captured[layer] = inputs[0].clone(), output.clone()

    for _, _, one in plugged(model):
        one.register_forward_hook(keep)
    outputs = forward(model)
    for index, out in enumerate(outputs):
        assert out.isfinite().all()
        assert out.shape[2:] == (SIDE // 4 // 2**index,) * 2
    for one, (x, y) in captured.items():
        same(y, one.forward(x))
    if name == 'Res2Net-50':  # whose blocks are not a chain of three convolutions
        assert len(captured) == len(names) * len(blocks)
    else:
        with torch.no_grad():
            order = {slot: [one] for slot, one in zip(positions, names, strict=True)}
            wanted = by_hand(model, picture(), order)
        for out, other in zip(outputs, wanted, strict=True):
            same(out, other)


@pytest.mark.parametrize('layer', LAYERS)
def test_a_plugin_of_a_backbone_equals_the_paper(backbone, layer):
    """The features that the deepest plugin got and gave, against numpy."""
    model = backbone('ResNet-50', [plugin(layer, 'after_conv2')])
    captured = []
    _, _, last = plugged(model)[-1]
    last.register_forward_hook(
        lambda m, x, y: captured.append((x[0].clone(), y.clone()))
    )
    forward(model)
    ((x, y),) = captured
    assert x.shape == (1, 128, 5, 5)
    same(y, expected(layer, last, x))


@pytest.mark.sweep(fast=3)
@pytest.mark.parametrize('name', ['ResNet-50', 'PluginResNet-50', 'PluginResNet-34'])
@pytest.mark.parametrize(
    ('one', 'two'),
    [('CBAM', 'ECANS'), ('SEVar2', 'CBAM'), ('ECALayer', 'SqueezeExcite')],
)
def test_two_layers_at_one_position(backbone, name, one, two):
    """In the order of the list."""
    for position in slots(name):
        model = backbone(name, [plugin(one, position), plugin(two, position)])
        outputs = forward(model)
        results = []
        for order in ((one, two), (two, one)):
            names = [NAMES_IN_BLOCKS[layer] for layer in order]
            with torch.no_grad():
                results.append(by_hand(model, picture(), {position: names})[-1])
        same(outputs[-1], results[0])
        with pytest.raises(AssertionError):
            same(outputs[-1], results[1])


@pytest.mark.parametrize('name', ['ResNet-50', 'PluginResNet-50', 'PluginResNet-18'])
def test_one_layer_twice(backbone, name):
    """At one position, with postfixes and parameters of their own."""
    position = slots(name)[-1]
    twice = [plugin('GSoP', position, postfix=postfix) for postfix in (1, 2)]
    model = backbone(name, twice)
    block = model.layer4[0]
    assert not torch.equal(block.gsop1.fc.weight, block.gsop2.fc.weight)
    with torch.no_grad():
        order = {position: ['gsop1', 'gsop2']}
        wanted = by_hand(model, picture(), order)[-1]
    same(forward(model)[-1], wanted)


@pytest.mark.sweep(fast=6)
@pytest.mark.filterwarnings('ignore:torch.utils.checkpoint')  # mmdet's call
@pytest.mark.parametrize('name', ['ResNet-50', 'PluginResNet-50'])
@pytest.mark.parametrize('layer', LAYERS)
def test_checkpointed_gradients(backbone, layer, name):
    """``with_cp`` runs the plugins again in backward and gives the same gradients."""
    results = []
    for with_cp in (False, True):
        model = backbone(
            name,
            [plugin(layer, slots(name)[-1])],
            with_cp=with_cp,
            norm_eval=True,
        )
        model.train()
        calls = []
        _, _, last = plugged(model)[-1]
        last.register_forward_hook(lambda m, x, y, calls=calls: calls.append(m))
        x = picture().requires_grad_()
        outputs = model(x)
        weights = [image(out.shape[1], out.shape[2:], 1) for out in outputs]
        sum((a * b).mean() for a, b in zip(outputs, weights, strict=True)).backward()
        assert len(calls) == 1 + with_cp
        results.append({key: one.grad for key, one in model.named_parameters()})
        results[-1]['x'] = x.grad
    assert_near_gradients(results[1], results[0], 1e-9)
