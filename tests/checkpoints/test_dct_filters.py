"""Files in the layout of cfzd/FcaNet."""

import json
import math

import pytest
import torch

from eca_mmdet.checkpoints.conversion import convert
from eca_mmdet.checkpoints.inspection import inspect
from eca_mmdet.utils.errors import WeightsError
from tests.tolerances import assert_near

TINY = dict(base_channels=16, stem_channels=16)
X = (0, 0, 6, 0, 0, 1, 1, 4, 5, 1, 3, 0, 0, 0, 3, 2)
Y = (0, 1, 0, 5, 2, 0, 2, 0, 0, 6, 0, 4, 6, 3, 5, 2)
SIZES = (56, 28, 14, 7)  # by stage


def cosine(position, frequency, size):
    value = math.cos(math.pi * frequency * (position + 0.5) / size) / math.sqrt(size)
    return value * math.sqrt(2) if frequency else value


def authors_filters(channels, size):
    """(C, size, size), worked out value by value."""
    filters = torch.zeros(channels, size, size)
    share = channels // 16
    for index, (u, v) in enumerate(zip(X, Y, strict=True)):
        u, v = u * (size // 7), v * (size // 7)
        rows = torch.tensor([cosine(i, u, size) for i in range(size)])
        columns = torch.tensor([cosine(i, v, size) for i in range(size)])
        filters[index * share : (index + 1) * share] = rows[:, None] * columns
    return filters


@pytest.fixture
def backbone(mmdet_ready):
    import eca_mmdet

    def build(seed=0, attention=None, depth=50, **kwargs):
        torch.manual_seed(seed)
        return eca_mmdet.PluginResNet(
            depth, attention=attention or dict(type='FcaNet'), **TINY, **kwargs
        )

    return build


def authors_state(model, sizes=SIZES):
    """The model's weights under the authors' names, with their buffers and a head."""
    state = {}
    for key, tensor in model.state_dict().items():
        state[key.replace('.fca.', '.att.')] = tensor.clone()
        if key.endswith('fca.fc.0.weight'):
            name = key.replace('fca.fc.0', 'att.dct_layer')
            stage = int(key[len('layer')]) - 1
            state[name] = authors_filters(tensor.shape[1], sizes[stage])
    state['fc.weight'], state['fc.bias'] = torch.randn(1000, 512), torch.randn(1000)
    return state


@pytest.fixture
def saved(backbone, tmp_path):
    def save(depth=50, **changes):
        path = tmp_path / 'fca.pth'
        state = authors_state(backbone(seed=1, depth=depth))
        state.update(changes)
        torch.save({'state_dict': state}, path)
        return path

    return save


def load(path, model, **more):
    from eca_mmdet import ECAPretrained

    ECAPretrained(str(path), **more)(model)


def test_filters_are_the_authors(mmdet_ready):
    from eca_mmdet.models.attention import FcaNet

    for channels, size in ((256, 56), (1024, 14), (2048, 7)):
        filters = FcaNet(channels, size=size).filters()
        assert_near(filters, authors_filters(channels, size), 1e-6)


@pytest.mark.sweep(fast=2)
@pytest.mark.parametrize('depth', [18, 34, 50, 101])
def test_every_tensor_is_loaded(backbone, saved, depth):
    model, source = backbone(seed=0, depth=depth), backbone(seed=1, depth=depth)
    load(saved(depth), model)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[key]), key


def test_other_filters_are_refused(backbone, saved):
    name = 'layer1.0.att.dct_layer.weight'
    wrong = saved(**{name: -authors_filters(64, 56)})
    with pytest.raises(WeightsError, match='layer1.0.fca.filters: other frequencies'):
        load(wrong, backbone())
    found = inspect(wrong)
    assert found.backbone == found.command == ''
    assert 'other frequencies than the best 16' in found.notes[-1]
    with pytest.raises(WeightsError, match=r'file \(64, 14, 14\).*set size=14'):
        load(saved(**{name: authors_filters(64, 14)}), backbone())


@pytest.mark.parametrize('sizes', [(28, 14, 7, 7), (7, 7, 7, 7)])
def test_other_sizes_are_those_of_the_arguments(backbone, tmp_path, sizes):
    state = authors_state(backbone(seed=1), sizes)
    torch.save(state, tmp_path / 'fca.pth')
    plugins = [
        dict(
            cfg=dict(type='FcaNet', size=size),
            stages=tuple(stage == other for other in range(4)),
            position='after_conv3',
        )
        for stage, size in enumerate(sizes)
    ]
    import eca_mmdet

    load(tmp_path / 'fca.pth', eca_mmdet.PluginResNet(50, plugins=plugins, **TINY))
    with pytest.raises(WeightsError, match=f'set size={sizes[0]}'):
        load(tmp_path / 'fca.pth', backbone())
    with pytest.raises(WeightsError, match='a converted file cannot say so'):
        convert(state, 'mmdet')


def test_wrong_filters_are_named_where_nothing_is_refused(backbone, saved):
    from eca_mmdet import ECAPretrained

    name = 'layer1.0.att.dct_layer.weight'
    path = str(saved(**{name: -authors_filters(64, 56)}))
    line = ECAPretrained(path, strict='off').fit(backbone()).line
    assert '16 not used' in line and 'att.dct_layer.weight' in line


def test_other_backbones_are_refused(backbone, saved):
    with pytest.raises(WeightsError, match='gates: file FcaNet, backbone SE'):
        load(saved(), backbone(attention=dict(type='SqueezeExcite')))
    with pytest.raises(WeightsError, match='FcaNet gates in 16 blocks where the back'):
        load(saved(), backbone(attention=dict(type='ECALayer')), random_gates=True)


def test_inspection_names_it(saved, command):
    path = saved()
    found = inspect(path)
    assert found.network == 'FcaNet-ResNet-50' and found.origin == 'FcaNet'
    assert (found.gate, found.gates, found.classes) == ('FcaNet', 16, 1000)
    assert "attention=dict(type='FcaNet')" in found.backbone
    code, out, _ = command('weights', 'inspect', path, '--json')
    assert code == 0 and json.loads(out)['gates'] == 16


def test_command_of_a_full_width_file(mmdet_ready, tmp_path):
    import eca_mmdet

    model = eca_mmdet.PluginResNet(50, attention=dict(type='FcaNet'))
    state = authors_state(model)
    torch.save(state, tmp_path / 'fca.pth')
    found = inspect(tmp_path / 'fca.pth')
    assert found.command.startswith(
        'eca-mmdet train mask-rcnn_fca-r50_fpn_4xb2-1x_coco --cfg-options '
    )


def test_conversion(backbone):
    state = authors_state(backbone(seed=1))
    converted, report = convert(state, 'mmdet')
    own = backbone(seed=1).state_dict()
    assert converted.keys() == own.keys()
    assert all(torch.equal(converted[key], own[key]) for key in own)
    dropped = {reason for reason in report.dropped.values()}
    assert dropped == {
        "fixed by the layer's arguments",
        'classifier: a backbone has none',
    }
    with pytest.raises(WeightsError, match='timm has no FcaNet gates'):
        convert(state, 'timm')
    filters = 'layer1.0.att.dct_layer.weight'
    with pytest.raises(WeightsError, match='is of other frequencies than the best 16'):
        convert({**state, filters: -state[filters]}, 'mmdet')
