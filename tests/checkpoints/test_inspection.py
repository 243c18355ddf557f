"""A file of weights is recognised from names and shapes alone."""

import json

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import eca_mmdet
from eca_mmdet.catalog.architectures import RELEASED_KERNEL_SIZES
from eca_mmdet.checkpoints import inspect
from tests.conftest import REPOSITORY
from tests.references.networks import (
    AuthorsMobileNetV2,
    AuthorsResNet,
    detector_state,
    retinanet_state,
    save_as_the_authors,
)

pytestmark = pytest.mark.openmmlab

TIMM = {
    # name: (arch, stem, blocks, shortcut, output channels)
    'ecaresnet26t': ('26t', '3x3, 24-32-64', (2, 2, 2, 2), (256, 512, 1024, 2048)),
    'ecaresnet50t': ('50t', '3x3, 24-32-64', (3, 4, 6, 3), (256, 512, 1024, 2048)),
    'ecaresnet50d': ('50d', '3x3, 32-32-64', (3, 4, 6, 3), (256, 512, 1024, 2048)),
    'ecaresnet101d': ('101d', '3x3, 32-32-64', (3, 4, 23, 3), (256, 512, 1024, 2048)),
    'ecaresnet269d': ('269d', '3x3, 32-32-64', (3, 30, 48, 8), (256, 512, 1024, 2048)),
    'ecaresnetlight': ('light', '7x7, 64', (1, 1, 11, 3), (256, 512, 1024, 2048)),
    'ecaresnet50d_pruned': (
        '50d_pruned',
        '3x3, 32-32-64',
        (3, 4, 6, 3),
        (19, 171, 818, 2022),
    ),
    'ecaresnet101d_pruned': (
        '101d_pruned',
        '3x3, 32-32-64',
        (3, 4, 23, 3),
        (26, 142, 278, 2042),
    ),
}


def on_meta(make, *args, **kwargs):
    with torch.device('meta'):
        return make(*args, **kwargs)


def cheap(state):
    """Give meta tensors a byte of memory each: inspection reads shapes."""
    return {k: torch.zeros((), dtype=v.dtype).expand(v.shape) for k, v in state.items()}


def look(state, tmp_path, name='some_file.pth'):
    torch.save(cheap(state), tmp_path / name)
    return inspect(tmp_path / name)


@pytest.mark.parametrize('depth', [18, 34, 50, 101])
def test_the_authors_imagenet_files(tmp_path, depth):
    sizes = RELEASED_KERNEL_SIZES[depth]
    # The name and 'arch' lie; the tensors do not.
    file = save_as_the_authors(
        AuthorsResNet(depth, sizes, width=8), tmp_path / 'se_resnet152.pth.tar'
    )
    found = inspect(file)
    assert (found.known, found.kind, found.origin) == (True, 'classifier', 'authors')
    assert found.network == f'ECA-ResNet-{depth}' and found.depth == depth
    assert found.kernel_sizes == sizes and found.uniform
    assert found.gates == sum(found.blocks)
    assert found.stem == '7x7, 8' and found.shortcut == 'convolution'
    assert found.classes == 1000
    assert found.wrapped == "under 'state_dict', 'module.' before every name"
    assert found.beside == (
        'epoch 100',
        "arch 'se_resnet50'",
        'best_prec1 70.9',
        'optimizer (2 entries)',
    )
    assert f'kernel_sizes={sizes}' in found.backbone
    assert json.loads(json.dumps(found.to_dict()))['kernel_sizes'] == list(sizes)


def test_numbers_of_a_file(tmp_path):
    file = save_as_the_authors(AuthorsResNet(18, (3, 5, 7, 7)), tmp_path / 'x.pth')
    found = inspect(file)
    # 20 convolutions, 20 norms of 5 tensors, 8 gates, fc
    assert found.tensors == 20 + 100 + 8 + 2
    assert found.dtypes == ('float32', 'int64')
    assert len(found.sha256) == 64 and found.container == 'PyTorch'
    assert found.out_channels == (8, 16, 32, 64) and found.block == 'basic'


def test_the_authors_mobilenet(tmp_path):
    file = save_as_the_authors(AuthorsMobileNetV2(), tmp_path / 'x.pth.tar')
    found = inspect(file)
    assert found.network == 'ECA-MobileNetV2' and found.origin == 'authors'
    assert found.kernel_sizes == (1, 1, 1, 1, 3, 3, 3) and found.gates == 17
    assert found.out_channels == (16, 24, 32, 64, 96, 160, 320)
    assert "type='ECAMobileNetV2'" in found.backbone
    assert 'in_channels=[24, 32, 96, 1280]' in found.backbone
    assert found.command == (
        'eca-mmdet train faster-rcnn_eca-mobilenetv2_fpn_4xb2-1x_coco --cfg-options '
        f'model.backbone.init_cfg.checkpoint={file}'
    )


@pytest.mark.parametrize('name', sorted(TIMM))
def test_timm(tmp_path, name):
    timm = pytest.importorskip('timm')
    arch, stem, blocks, channels = TIMM[name]
    state = on_meta(timm.create_model, name).state_dict()
    found = look(state, tmp_path, 'resnet50.pth')
    assert (found.origin, found.kind) == ('timm', 'classifier')
    assert found.network == f'ECA-ResNet-{arch}'
    assert (found.stem, found.blocks) == (stem, blocks)
    assert found.shortcut == 'average pool + convolution'
    assert found.out_channels == channels
    assert found.kernel_sizes == (5, 5, 5, 7) and found.uniform
    assert f"type='ECAResNetD',\n    arch='{arch}'" in found.backbone


def test_timm_safetensors(tmp_path):
    timm = pytest.importorskip('timm')
    state = on_meta(timm.create_model, 'ecaresnet26t').state_dict()
    state = {k: torch.zeros(v.shape, dtype=torch.int8) for k, v in state.items()}
    save_file(state, tmp_path / 'x.bin')
    found = inspect(tmp_path / 'x.bin')
    assert (found.network, found.container) == ('ECA-ResNet-26t', 'safetensors')
    assert found.dtypes == ('int8',) and found.tensors == len(state)


def test_plain_resnets(tmp_path):
    found = look(on_meta(torchvision.models.resnet50).state_dict(), tmp_path)
    assert found.what == 'ResNet-50 ImageNet classifier, in the names of torchvision'
    assert found.gate == '' and found.kernel_sizes == ()
    assert 'train faster-rcnn_r50_fpn_4xb2-1x_coco --cfg-opt' in found.command
    state = on_meta(torchvision.models.resnext50_32x4d).state_dict()
    found = look(state, tmp_path)
    assert found.network == 'ResNeXt-50'
    assert 'groups=32,\n    base_width=4' in found.backbone
    found = look(on_meta(torchvision.models.wide_resnet50_2).state_dict(), tmp_path)
    assert found.known and found.backbone == ''  # mmdet has no such backbone
    state = on_meta(torchvision.models.mobilenet_v2).state_dict()
    found = look(state, tmp_path)
    assert (found.network, found.origin) == ('MobileNetV2', 'torchvision')


def se_state(names, bias, convolution):
    """ResNet-18 of torchvision with squeeze-and-excitation, r = 16."""
    state = dict(on_meta(torchvision.models.resnet18).state_dict())
    for stage in range(4):
        c = 64 << stage
        for block in range(2):
            for name, shape in ((names[0], (c // 16, c)), (names[1], (c, c // 16))):
                key = f'layer{stage + 1}.{block}.{name}'
                shape = (*shape, 1, 1) if convolution else shape
                state[f'{key}.weight'] = torch.zeros(shape, device='meta')
                if bias:
                    state[f'{key}.bias'] = torch.zeros(shape[0], device='meta')
    return state


@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize(
    ('names', 'convolution', 'origin'),
    [
        (('se.fc.0', 'se.fc.2'), False, 'senet.pytorch'),
        (('se.fc1', 'se.fc2'), True, 'timm'),
        (('se_layer.conv1.conv', 'se_layer.conv2.conv'), True, 'mmpretrain'),
    ],
    ids=['moskomule', 'timm', 'mmpretrain'],
)
def test_squeeze_and_excitation(tmp_path, names, convolution, origin, bias):
    found = look(se_state(names, bias, convolution), tmp_path)
    assert (found.network, found.origin) == ('SE-ResNet-18', origin)
    assert (found.gate, found.gates) == ('SE', 8)
    plugin = "dict(type='SqueezeExcite', ratio=16" + (', bias=True)' if bias else ')')
    assert plugin in found.backbone and "position='after_conv2'" in found.backbone


def test_mmpretrain(tmp_path):
    state = {
        f'backbone.{k}' if not k.startswith('fc.') else f'head.{k}': v
        for k, v in on_meta(torchvision.models.resnet50).state_dict().items()
    }
    found = look(state, tmp_path)
    assert (found.kind, found.origin) == ('classifier', 'mmpretrain')
    assert (found.network, found.classes) == ('ResNet-50', 1000)


BACKBONE = AuthorsResNet(50, (5, 5, 5, 5))


@pytest.mark.parametrize('version', [1, 2])
@pytest.mark.parametrize(
    ('masks', 'cascade', 'detector'),
    [
        (False, False, 'Faster R-CNN'),
        (True, False, 'Mask R-CNN'),
        (False, True, 'Cascade R-CNN'),
        (True, True, 'Cascade Mask R-CNN'),
    ],
)
@pytest.mark.parametrize('classes', [80, 1, 20])
def test_two_stage_detectors(tmp_path, version, masks, cascade, detector, classes):
    state = detector_state(BACKBONE, version, masks, cascade, classes)
    found = look(state, tmp_path)
    versions = {1: 'v1', 2: 'v2 or v3'}
    assert found.kind == 'detector' and found.classes == classes
    assert found.origin == f'MMDetection {versions[version]}'
    assert found.what == (
        f'{detector} of MMDetection {versions[version]} on ECA-ResNet-50'
    )
    assert found.kernel_sizes == (5, 5, 5, 5)
    assert any('v1' in note for note in found.notes) == (version == 1)


def test_detectors_name_a_command_with_what_it_needs(tmp_path):
    wide = AuthorsResNet(50, (5, 5, 5, 5), 64)
    state = detector_state(wide, 2, masks=True, classes=20)
    assert look(state, tmp_path, 'my file.pth').command == (
        f"eca-mmdet test mask-rcnn_eca-r50_fpn_4xb2-1x_coco '{tmp_path}/my file.pth' "
        "--cfg-options 'model.backbone.kernel_sizes=(5,5,5,5)' "
        'model.roi_head.bbox_head.num_classes=20 '
        'model.roi_head.mask_head.num_classes=20'
    )
    state = detector_state(AuthorsResNet(50, (3, 5, 5, 7), 64), 2)
    assert look(state, tmp_path, 'x.pth').command == (
        f'eca-mmdet test faster-rcnn_eca-r50_fpn_4xb2-1x_coco {tmp_path}/x.pth'
    )


@pytest.mark.parametrize(
    ('state', 'reason'),
    [
        (AuthorsResNet(50, (3, 5, 5, 7), 8).state_dict(), 'other widths'),
        (retinanet_state(AuthorsResNet(50, (3, 5, 5, 7), 64)), 'maybe v1'),
    ],
    ids=['width', 'maybe v1'],
)
def test_no_command_where_the_config_would_not_fit(tmp_path, state, reason):
    found = look(state, tmp_path)
    assert found.command == '' and found.backbone, reason


def test_no_config_for_se_gates_of_another_kind(tmp_path):
    timm = pytest.importorskip('timm')
    state = on_meta(timm.create_model, 'seresnet50').state_dict()
    assert look(state, tmp_path).command == ''  # the config's gates have no biases
    plain = {k: v for k, v in state.items() if '.se.' not in k or 'bias' not in k}
    assert 'faster-rcnn_se-r50_fpn' in look(plain, tmp_path).command


def test_d_variants_without_gates_are_mmdets(tmp_path):
    timm = pytest.importorskip('timm')
    found = look(on_meta(timm.create_model, 'resnet50d').state_dict(), tmp_path)
    assert "type='ResNetV1d',\n    depth=50" in found.backbone
    found = look(on_meta(timm.create_model, 'resnet26t').state_dict(), tmp_path)
    assert found.known and found.backbone == ''


@pytest.mark.parametrize('old_towers', [True, False])
def test_retinanet_says_what_the_names_cannot_tell(tmp_path, old_towers):
    state = retinanet_state(BACKBONE, classes=3, old_towers=old_towers)
    found = look(state, tmp_path)
    version = 'v1' if old_towers else 'v1, v2 or v3'
    assert found.what == f'RetinaNet of MMDetection {version} on ECA-ResNet-50'
    assert found.classes == 3


@pytest.mark.parametrize('detector', ['faster_rcnn', 'mask_rcnn', 'retinanet'])
def test_names_recorded_from_mmdetection_v1(tmp_path, detector):
    source = REPOSITORY.parent / 'shared' / 'golden' / f'{detector}_v1_keys.json'
    if not source.is_file():
        pytest.skip(f'the recorded names are not here: {source}')
    recorded = json.loads(source.read_text())['state_dict']
    state = {
        key: torch.zeros(shape, dtype=getattr(torch, dtype), device='meta')
        for key, shape, dtype in recorded
    }
    found = look(state, tmp_path)
    sizes = (5, 5, 5, 5) if detector == 'faster_rcnn' else (3, 3, 7, 7)
    assert found.network == 'ECA-ResNet-50' and found.kernel_sizes == sizes
    assert found.classes == 80
    version = 'v1, v2 or v3' if detector == 'retinanet' else 'v1'
    assert found.origin == f'MMDetection {version}'


def test_kernel_sizes_that_differ_inside_a_stage(tmp_path):
    model = AuthorsResNet(18, (3, 5, 7, 7))
    model.layer2[1].eca.conv = nn.Conv1d(1, 1, 9, bias=False)
    found = look(model.state_dict(), tmp_path)
    assert not found.uniform and found.kernel_sizes is None
    assert found.block_kernel_sizes == ((3, 3), (5, 9), (7, 7), (7, 7))
    assert found.backbone == '' and 'differ inside a stage' in found.notes[0]


def test_widths_of_no_public_model_are_printed(tmp_path):
    timm = pytest.importorskip('timm')
    state = on_meta(timm.create_model, 'ecaresnet50d_pruned').state_dict()
    state = dict(state)
    shape = (20, *state['layer1.1.conv2.weight'].shape[1:])
    state['layer1.1.conv2.weight'] = torch.zeros(shape, device='meta')
    found = look(state, tmp_path)
    assert found.network == 'ECA-ResNet'
    assert 'arch=dict(stem=(32, 32, 64), widths=(((47, 18, 19), (52, 20, 19)' in (
        found.backbone
    )


@pytest.mark.parametrize(
    'state',
    [
        {'weight': torch.zeros(3)},
        {'features.0.weight': torch.zeros(8, 3, 3, 3)},
        {'backbone.patch_embed.proj.weight': torch.zeros(8, 3, 4, 4)},
        {'conv1.weight': torch.zeros(8, 3, 7, 7)},
        {'layer1.0.conv1.weight': torch.zeros(8, 8, 3, 3)},
        {'conv1.weight': torch.tensor(1.0), 'layer1.0.conv1.weight': torch.tensor(1)},
        {
            'conv1.weight': torch.zeros(8, 3, 7, 7),
            f'layer1.{"9" * 5000}.conv1.weight': torch.zeros(8, 8, 3, 3),
        },
        {
            'conv1.weight': torch.zeros(8, 3, 7, 7),
            'layer987654321.0.conv1.weight': torch.zeros(8, 8, 3, 3),
        },
        {
            'conv1.weight': torch.zeros(8, 3, 7, 7),
            'layer1.0.something_conv.weight': torch.zeros(8, 8, 3, 3),
        },
    ],
    ids=[
        'one',
        'VGG',
        'Swin',
        'stem only',
        'no stem',
        'scalars',
        'digits',
        'huge',
        'other',
    ],
)
def test_unknown_files(tmp_path, state):
    torch.save(state, tmp_path / 'x.pth')
    found = inspect(tmp_path / 'x.pth')
    assert not found.known and found.kind == 'unknown' and found.backbone == ''
    name = next(iter(state)).removeprefix('backbone.')
    assert name in found.notes[0] and 'expected names like' in found.notes[1]


def test_scalars_where_convolutions_should_be(tmp_path):
    state = {k: torch.tensor(1.0) for k in AuthorsResNet(18, (3, 3, 3, 3)).state_dict()}
    state['conv1.weight'] = torch.zeros(8, 3, 7, 7)
    torch.save(state, tmp_path / 'x.pth')
    assert inspect(tmp_path / 'x.pth').backbone == ''


def test_public_name():
    assert eca_mmdet.weights.inspect is inspect


@pytest.mark.parametrize(
    'name', ['AuthorsResNet', 'timm', 'resnet50d', 'SE', 'torchvision']
)
def test_the_suggested_backbone_builds_and_loads(mmdet_ready, tmp_path, name):
    """The text is a config: mmdet builds it, and every tensor finds its place."""
    from mmdet.registry import MODELS

    if name == 'AuthorsResNet':
        state = AuthorsResNet(50, (3, 5, 5, 7), width=8).state_dict()
    elif name == 'timm':
        timm = pytest.importorskip('timm')
        state = timm.create_model('ecaresnet50d_pruned').state_dict()
    elif name == 'resnet50d':
        timm = pytest.importorskip('timm')
        state = timm.create_model('resnet50d').state_dict()
    elif name == 'SE':
        state = se_state(('se.fc1', 'se.fc2'), True, True)
        state = {k: torch.rand(v.shape).to(v.dtype) for k, v in state.items()}
    else:
        state = torchvision.models.resnet18().state_dict()
    torch.save(state, tmp_path / 'x.pth')
    found = inspect(tmp_path / 'x.pth')
    options = eval(f'dict({found.backbone})')
    options['backbone']['init_cfg']['strict'] = 'all'
    model = MODELS.build(options['backbone'])
    model.init_weights()
    key = 'layer1.0.conv1.weight'
    assert torch.equal(model.state_dict()[key], state[key])
    model.eval()
    maps = model(torch.randn(1, 3, 64, 64))
    if 'neck' in options:
        assert [m.shape[1] for m in maps] == options['neck']['in_channels']
