"""State dicts are renamed without loss: each tensor is mapped or listed as dropped."""

import pytest
import torch
import torchvision

from eca_mmdet.checkpoints import convert, key_maps
from eca_mmdet.checkpoints.inspection import identify
from eca_mmdet.utils.errors import WeightsError
from tests.references.networks import (
    AuthorsMobileNetV2,
    AuthorsResNet,
    detector_state,
    randomise,
)

pytestmark = pytest.mark.openmmlab


def same(left, right):
    """Equal names in equal order, types and bytes."""
    assert list(left) == list(right)
    for key in left:
        assert left[key].dtype == right[key].dtype and torch.equal(
            left[key], right[key]
        ), key


def complete(state, converted, report):
    """Every source name is mapped or dropped; every target name has a source."""
    assert report.mapped.keys() | report.dropped.keys() == state.keys()
    assert not report.mapped.keys() & report.dropped.keys()
    assert list(report.mapped.values()) == list(converted)


def resnet(depth=18, sizes=(3, 5, 7, 7), **kwargs):
    return randomise(AuthorsResNet(depth, sizes, **kwargs)).state_dict()


def timm_state(name):
    timm = pytest.importorskip('timm')
    return randomise(timm.create_model(name)).state_dict()


def test_authors_to_mmdet():
    state = {f'module.{k}': v for k, v in resnet().items()}
    converted, report = convert(state)
    complete(state, converted, report)
    assert report.network == 'ECA-ResNet-18' and report.kernel_sizes == (3, 5, 7, 7)
    assert (report.source, report.target) == ('authors', 'mmdet')
    assert report.dropped == {
        'module.fc.weight': 'classifier: a backbone has none',
        'module.fc.bias': 'classifier: a backbone has none',
    }
    for key, value in converted.items():
        assert torch.equal(value, state[f'module.{key}'])


@pytest.mark.parametrize(
    ('name', 'there', 'renamed'),
    [
        ('ecaresnet26t', 'mmdet', 8 + 3 + 3 * 5),  # gates, stem: convolutions, norms
        ('ecaresnet50d_pruned', 'mmdet', 16 + 3 + 3 * 5),
        ('ecaresnetlight', 'mmdet', 16),
        ('seresnet18', 'mmdet', 8 * 4),
        ('seresnet18', 'authors', 8 * 4),
    ],
)
def test_timm_and_back(name, there, renamed):
    state = {k: v for k, v in timm_state(name).items() if not k.startswith('fc.')}
    converted, report = convert(state, there)
    complete(state, converted, report)
    assert not report.dropped
    assert sum(old != new for old, new in report.mapped.items()) == renamed
    back, _ = convert(converted, 'timm')
    same(back, state)


def test_authors_and_timm_keep_the_classifier():
    state = resnet(50, (3, 5, 5, 7))
    converted, report = convert(state, 'timm')
    complete(state, converted, report)
    assert not report.dropped
    assert converted['layer1.0.se.conv.weight'] is not None
    assert 'layer1.0.eca.conv.weight' not in converted and 'fc.weight' in converted
    same(convert(converted, 'authors')[0], state)


def test_mobilenet_and_back():
    state = randomise(AuthorsMobileNetV2()).state_dict()
    converted, report = convert(state)
    complete(state, converted, report)
    assert list(report.dropped) == ['classifier.1.weight', 'classifier.1.bias']
    for old, new in {
        'features.0.0.weight': 'conv1.conv.weight',
        'features.1.conv.0.0.weight': 'layer1.0.depthwise_conv.conv.weight',
        'features.1.conv.2.running_mean': 'layer1.0.linear_conv.bn.running_mean',
        'features.1.conv.3.conv.weight': 'layer1.0.eca.conv.weight',
        'features.2.conv.0.1.bias': 'layer2.0.expand_conv.bn.bias',
        'features.17.conv.4.conv.weight': 'layer7.0.eca.conv.weight',
        'features.18.0.weight': 'conv2.conv.weight',
    }.items():
        assert report.mapped[old] == new
    back, _ = convert(converted, 'authors')
    same(back, {k: v for k, v in state.items() if not k.startswith('classifier')})
    whole, report = convert(state, 'authors')
    same(whole, state)
    assert not report.dropped


def test_mmpretrain():
    resnet = torchvision.models.resnet18().state_dict()
    state = {
        f'head.{k}' if k.startswith('fc.') else f'backbone.{k}': v
        for k, v in resnet.items()
    }
    converted, report = convert(state)
    complete(state, converted, report)
    same(converted, {k: v for k, v in resnet.items() if not k.startswith('fc.')})
    same(convert(state, 'timm')[0], resnet)


def test_a_detectors_backbone():
    backbone = randomise(AuthorsResNet(50, (5, 5, 5, 5)))
    state = detector_state(backbone, version=2, masks=True)
    converted, report = convert(state, 'authors')
    complete(state, converted, report)
    plain = backbone.state_dict().items()
    same(converted, {k: v for k, v in plain if not k.startswith('fc.')})
    assert report.dropped['roi_head.bbox_head.fc_cls.weight'] == (
        'detector part: a backbone has none'
    )


@pytest.mark.parametrize(
    'key',
    [
        'layer1.0.conv4.weight',
        'layer1.0.eca.conv.bias',
        'layer1.0.se.conv2.weight',
        'last_linear.weight',
        'module.conv1.weight',
        'stem.9.weight',
    ],
)
def test_unknown_names_are_an_error(key):
    state = resnet() | {key: torch.zeros(3)}
    with pytest.raises(WeightsError, match=rf'1 tensors .*: {key}\. Nothing was'):
        convert(state)


def test_two_names_of_one_tensor_are_an_error():
    state = timm_state('ecaresnet26t')
    state['layer1.0.eca.conv.weight'] = torch.zeros(1, 1, 5)
    with pytest.raises(WeightsError, match='two tensors are the same one'):
        convert(state)


@pytest.mark.parametrize(
    ('state', 'to', 'part'),
    [
        (lambda: timm_state('ecaresnet26t'), 'authors', 'three 3x3 convolutions'),
        (lambda: timm_state('ecaresnetlight'), 'authors', 'average pools'),
        (lambda: AuthorsMobileNetV2().state_dict(), 'timm', 'timm has no'),
        (resnet, 'torchvision', 'one of mmdet, authors, timm'),
        (dict, 'mmdet', 'neither a ResNet nor a MobileNetV2'),
        (lambda: {'a': torch.zeros(1)}, 'mmdet', 'got a'),
    ],
)
def test_what_cannot_be_converted(state, to, part):
    with pytest.raises(WeightsError, match=part):
        convert(state(), to)


@pytest.mark.parametrize('other', ['head.fc.weight', 'classifier.1.weight'])
def test_two_classifiers_are_an_error(other):
    state = resnet() | {other: torch.zeros(2, 3)}
    with pytest.raises(WeightsError, match='another tensor both become fc.weight'):
        convert(state, 'timm')


def test_the_source_is_left_alone():
    state = resnet()
    before = {k: v.clone() for k, v in state.items()}
    convert(state, 'timm')
    same(state, before)


def test_a_layout_is_recognised_everywhere_from_its_table_entry(monkeypatch):
    """One ``Layout`` is all that a new library's names need."""
    state = AuthorsResNet(18, (3, 5, 7, 7)).state_dict()
    theirs = {key.replace('.eca.conv.', '.local.'): t for key, t in state.items()}
    rule = key_maps.Rule('@.local.weight', '@.eca.conv.weight')
    layout = key_maps.Layout('another library', r'\.local\.', (rule,))
    monkeypatch.setattr(key_maps, 'LAYOUTS', (layout, *key_maps.LAYOUTS))
    found = identify(theirs, {}, 'x.pth')
    assert found['origin'] == 'another library' and 'ECAResNet' in found['backbone']
    converted, report = convert(theirs, 'authors')
    assert report.source == 'another library' and converted.keys() == state.keys()
