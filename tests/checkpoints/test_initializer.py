"""``ECAPretrained`` loads everything, or says why not and changes nothing."""

import logging

import pytest
import torch
import torchvision

from eca_mmdet.checkpoints.download import SOURCES, missing_file_message
from eca_mmdet.utils.errors import MissingWeightsError, WeightsError
from tests.references.networks import (
    AuthorsMobileNetV2,
    AuthorsResNet,
    detector_state,
    randomise,
    save_as_the_authors,
)
from tests.support.initializing import init, refuses
from tests.tolerances import assert_near

pytestmark = pytest.mark.openmmlab

SIZES = (3, 5, 7, 7)


@pytest.fixture
def backbone(mmdet_ready):
    from eca_mmdet import ECAResNet

    def build(**changes):
        arguments = dict(depth=18, kernel_sizes=SIZES, base_channels=8, stem_channels=8)
        return ECAResNet(**{**arguments, **changes})

    return build


@pytest.fixture
def authors_file(tmp_path):
    model = randomise(AuthorsResNet(18, SIZES))
    return save_as_the_authors(model, tmp_path / 'eca_resnet18_k3577.pth.tar')


@pytest.fixture
def plain_file(tmp_path):
    """ResNet-18 without gates, in torchvision's names."""
    state = randomise(AuthorsResNet(18, SIZES)).state_dict()
    plain = {k: v for k, v in state.items() if '.eca.' not in k}
    torch.save(plain, tmp_path / 'plain.pth')
    return tmp_path / 'plain.pth'


@pytest.mark.parametrize(
    ('depth', 'sizes'), [(18, (3, 5, 7, 7)), (34, (3, 3, 5, 7)), (50, (3, 5, 5, 7))]
)
def test_features_are_those_of_the_authors_network(backbone, tmp_path, depth, sizes):
    reference = randomise(AuthorsResNet(depth, sizes, width=16))
    file = save_as_the_authors(reference, tmp_path / 'x.pth.tar')
    model = backbone(
        depth=depth, kernel_sizes=sizes, base_channels=16, stem_channels=16
    )
    init(model, file).double().eval()
    reference.double()
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        for ours, theirs in zip(model(x), reference.features(x), strict=True):
            assert_near(ours, theirs, 1e-9)


def test_every_tensor_comes_from_the_file(backbone, authors_file, log):
    state = torch.load(authors_file)['state_dict']
    loaded = init(backbone(), authors_file).state_dict()
    for key, value in loaded.items():
        assert torch.equal(value, state[f'module.{key}']), key
    line = '120/120 tensors, 8/8 gates from eca_resnet18_k3577 (authors, ImageNet)'
    assert log == [(logging.INFO, line)]


def test_old_files_do_not_count_batches(backbone, tmp_path, log):
    state = AuthorsResNet(18, SIZES).state_dict()
    old = {k: v for k, v in state.items() if not k.endswith('num_batches_tracked')}
    torch.save(old, tmp_path / 'old.pth')
    init(backbone(), tmp_path / 'old.pth', strict='all')
    assert log[0] == (
        logging.INFO,
        '100/100 tensors, 8/8 gates from old (authors, ImageNet)',
    )


def test_no_layer_initialises_itself_over_the_file(backbone, tmp_path):
    """A deformable convolution does so in mmengine's order of initialisation."""
    arguments = dict(
        depth=50,
        dcn=dict(type='DCNv2', deform_groups=1),
        stage_with_dcn=(False, False, False, True),
        kernel_sizes=3,
    )
    source = backbone(**arguments)
    torch.save(source.state_dict(), tmp_path / 'dcn.pth')
    model = init(backbone(**arguments), tmp_path / 'dcn.pth', strict='all')
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_new_layers_that_no_file_has_start_new(backbone, tmp_path, log):
    """Offsets of a deformable convolution: 'gates' names them, 'all' refuses them."""
    torch.save(backbone(depth=50).state_dict(), tmp_path / 'x.pth')
    dcn = dict(
        depth=50,
        dcn=dict(type='DCNv2', deform_groups=1),
        stage_with_dcn=(False, False, False, True),
    )
    model = init(backbone(**dcn), tmp_path / 'x.pth')
    level, line = log[0]
    assert level == logging.WARNING
    assert '6 new: layer4.0.conv2.conv_offset.weight' in line
    assert model.layer4[0].conv2.conv_offset.weight.abs().max() == 0
    with pytest.raises(WeightsError, match='6 tensors of the backbone are not in'):
        init(backbone(**dcn), tmp_path / 'x.pth', strict='all')


@pytest.mark.parametrize('own', [3, (3, 3, 5, 7), 'adaptive', (3, 5, 7, 9)])
def test_other_kernel_sizes(backbone, authors_file, own):
    part = r'kernel sizes: file \(3, 5, 7, 7\), .*; set kernel_sizes=\(3, 5, 7, 7\)'
    for arguments in ({}, {'random_gates': True}, {'strict': 'all'}):
        message = refuses(backbone(kernel_sizes=own), authors_file, part, **arguments)
        assert 'depth' not in message and 'stem' not in message


def test_a_file_without_gates(backbone, plain_file):
    message = refuses(backbone(), plain_file, '8 of 8 gates would stay random')
    assert 'layer1.0.eca' in message and 'random_gates=True' in message


def test_random_gates_are_allowed_where_they_train(backbone, plain_file, log):
    model = backbone()
    gates = {k: v.clone() for k, v in model.state_dict().items() if '.eca.' in k}
    init(model, plain_file, random_gates=True)
    assert log == [
        (
            logging.WARNING,
            '120/120 tensors, 0/8 gates from plain (torchvision, ImageNet); '
            '8 gates start random',
        )
    ]
    plain = torch.load(plain_file)
    for key, value in model.state_dict().items():
        assert torch.equal(value, gates[key] if '.eca.' in key else plain[key]), key


@pytest.mark.parametrize(('frozen', 'count'), [(1, 2), (2, 4), (4, 8)])
def test_random_gates_in_frozen_stages(backbone, plain_file, log, frozen, count):
    message = refuses(
        backbone(frozen_stages=frozen),
        plain_file,
        rf'{count} random gates are in frozen stages \(frozen_stages={frozen}\)',
        random_gates=True,
    )
    assert 'random_frozen_gates=True' in message
    init(backbone(frozen_stages=frozen), plain_file, random_frozen_gates=True)
    init(backbone(frozen_stages=0), plain_file, random_gates=True)
    assert len(log) == 2


def test_random_gates_in_frozen_stages_of_mobilenet(mmdet_ready, tmp_path):
    """mmdet's MobileNetV2 freezes when training starts, after this."""
    from eca_mmdet import ECAMobileNetV2

    torch.save(torchvision.models.mobilenet_v2().state_dict(), tmp_path / 'x.pth')
    refuses(
        ECAMobileNetV2(frozen_stages=2),
        tmp_path / 'x.pth',
        r'3 random gates are in frozen stages \(frozen_stages=2\)',
        random_gates=True,
    )


@pytest.mark.parametrize(
    ('stages', 'count'), [((), 8), ((False, False, True, True), 4)]
)
def test_gates_without_a_place(mmdet_ready, authors_file, stages, count):
    from eca_mmdet import PluginResNet

    layer = dict(type='ECALayer', kernel_size=7)
    gate = dict(cfg=layer, stages=stages, position='after_conv2')
    plugins = [gate] if stages else None
    model = PluginResNet(18, base_channels=8, stem_channels=8, plugins=plugins)
    part = f'ECA gates in {count} blocks where the backbone has none'
    refuses(model, authors_file, part)


@pytest.mark.parametrize(
    ('changes', 'part'),
    [
        (dict(depth=34), r'depth: file 18 \(2, 2, 2, 2\).*backbone 34 \(3, 4, 6, 3\)'),
        (dict(depth=50), 'depth: file 18 .*of basic blocks, backbone 50 .*bottleneck'),
        (dict(deep_stem=True), 'stem: file 7x7 8, backbone 3x3 4-4-8'),
        (dict(stem_channels=16), 'stem: file 7x7 8, backbone 7x7 16'),
        (dict(avg_down=True), 'shortcut: file convolution, backbone average pool'),
        (
            dict(base_channels=16),
            r'widths of the stages: file \(8, 16, 32, 64\), backbone \(16, 32,',
        ),
    ],
    ids=['34', '50', 'deep stem', 'wide stem', 'avg_down', 'wide'],
)
def test_another_network(backbone, authors_file, changes, part):
    for strict in ('gates', 'all'):
        refuses(backbone(**changes), authors_file, part, strict=strict)


@pytest.mark.parametrize(
    ('missing', 'part'),
    [
        ('layer4', 'no stage 4'),
        ('layer2', 'no stage 2'),
        ('layer3.1.eca', r'1 of 8 gates would stay random.*layer3\.1'),
        (
            'layer3.1.bn2.running_var',
            r'1 tensors are not in the file: layer3\.1\.bn2\.running_var',
        ),
    ],
)
def test_missing_tensors(backbone, tmp_path, missing, part):
    state = AuthorsResNet(18, SIZES).state_dict()
    rest = {k: v for k, v in state.items() if not k.startswith(missing)}
    torch.save(rest, tmp_path / 'x.pth')
    refuses(backbone(), tmp_path / 'x.pth', part)


def test_a_tensor_of_another_shape(backbone, tmp_path):
    state = AuthorsResNet(18, SIZES).state_dict()
    state['layer3.1.bn2.weight'] = torch.ones(7)
    torch.save(state, tmp_path / 'x.pth')
    part = r'another shape: layer3\.1\.bn2\.weight \(file \(7,\), backbone \(32,\)\)'
    refuses(backbone(), tmp_path / 'x.pth', part)


def test_fewer_stages_than_the_file(backbone, authors_file, log):
    three = dict(
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(2,),
        kernel_sizes=(3, 5, 7),
    )
    init(backbone(**three), authors_file)
    assert '; 32 not used: module.' not in log[0][1]
    assert '90/90 tensors, 6/6 gates' in log[0][1] and 'not used: layer4' in log[0][1]
    refuses(
        backbone(**three),
        authors_file,
        'tensors of the file are not in the backbone',
        strict='all',
    )


def test_strict_off_loads_what_fits_and_says_so(backbone, authors_file, log):
    model = init(backbone(kernel_sizes=3), authors_file, strict='off')
    state = torch.load(authors_file)['state_dict']
    for key in ('conv1.weight', 'layer1.0.eca.conv.weight'):
        assert torch.equal(model.state_dict()[key], state[f'module.{key}'])
    level, line = log[0]
    assert level == logging.WARNING
    assert '120/120 tensors, 2/8 gates' in line and '6 gates start random' in line


def test_unknown_arguments(backbone, authors_file):
    with pytest.raises(WeightsError, match="one of 'gates', 'all', 'off'; got True"):
        init(backbone(), authors_file, strict=True)


@pytest.mark.parametrize('version', [1, 2])
def test_a_detectors_backbone(backbone, tmp_path, log, version):
    reference = randomise(AuthorsResNet(50, (5, 5, 5, 5)))
    state = detector_state(reference, version, masks=True)
    torch.save({'state_dict': state, 'meta': {'epoch': 12}}, tmp_path / 'x.pth')
    model = backbone(depth=50, kernel_sizes=5)
    init(model, tmp_path / 'x.pth', strict='all')
    for key, value in model.state_dict().items():
        assert torch.equal(value, reference.state_dict()[key]), key
    names = {1: 'v1', 2: 'v2 or v3'}
    assert f'(Mask R-CNN of MMDetection {names[version]}, 80 classes)' in log[0][1]


def test_the_authors_mobilenet(mmdet_ready, tmp_path, log):
    from eca_mmdet import ECAMobileNetV2

    reference = randomise(AuthorsMobileNetV2())
    file = save_as_the_authors(reference, tmp_path / 'eca_mobilenetv2_k13.pth.tar')
    model = ECAMobileNetV2()
    init(model, file, strict='all').eval()
    assert '17/17 gates from eca_mobilenetv2_k13 (authors, ImageNet)' in log[0][1]
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        for ours, theirs in zip(model(x), reference.maps(x), strict=True):
            assert_near(ours, theirs, 1e-5)
    refuses(ECAMobileNetV2(kernel_sizes=3), file, r'kernel_sizes=\(1, 1, 1, 1, 3, 3, 3')
    from eca_mmdet import ECAResNet

    wrong = ECAResNet(18, kernel_sizes=3, base_channels=8)
    refuses(wrong, file, 'the file is a MobileNetV2, the backbone a ResNet')


def test_any_backbone_with_the_same_names(mmdet_ready, tmp_path):
    """Neither ResNet nor MobileNetV2: the names alone decide."""
    from mmdet.registry import MODELS

    config = dict(type='HRNet', extra=_small_hrnet())
    source, model = MODELS.build(config), MODELS.build(config)
    torch.save(source.state_dict(), tmp_path / 'hrnet.pth')
    init(model, tmp_path / 'hrnet.pth')
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    state = dict(list(source.state_dict().items())[3:])
    torch.save(state, tmp_path / 'part.pth')
    refuses(MODELS.build(config), tmp_path / 'part.pth', 'tensors are not in the file')


def _small_hrnet():
    def stage(branches):
        return dict(
            num_modules=1,
            num_branches=branches,
            block='BASIC',
            num_blocks=(1,) * branches,
            num_channels=tuple(4 << i for i in range(branches)),
        )

    first = dict(stage(1), block='BOTTLENECK', num_channels=(8,))
    return dict(stage1=first, stage2=stage(2), stage3=stage(3), stage4=stage(4))


def test_something_else_for_a_resnet(backbone, tmp_path):
    torch.save({'patch_embed.weight': torch.zeros(3)}, tmp_path / 'x.pth')
    refuses(backbone(), tmp_path / 'x.pth', 'the file is no ResNet.*patch_embed')


def test_missing_file(backbone):
    with pytest.raises(MissingWeightsError, match="'no/such.pth' not found"):
        init(backbone(), 'no/such.pth')
    with pytest.raises(FileNotFoundError):
        init(backbone(), 'no/such.pth')


def test_message_for_a_documented_and_for_an_unknown_file():
    for name, source in SOURCES.items():
        command = f'eca-mmdet weights download {name}.'
        told = command if '://' in source else f'Put it there: {source}.'
        assert told in missing_file_message(f'checkpoints/{name}')
    name = 'eca_resnet50_k3557.pth.tar'
    told = missing_file_message(f'/a/{name}')
    assert f'eca-mmdet weights download {name} --dir /a.' in told
    assert 'init_cfg.checkpoint=FILE' in missing_file_message('mine.pth')


def se_backbone(bias, frozen_stages=-1):
    from eca_mmdet import PluginResNet

    gate = dict(
        cfg=dict(type='SqueezeExcite', ratio=4, bias=bias), position='after_conv2'
    )
    return PluginResNet(
        18,
        base_channels=8,
        stem_channels=8,
        plugins=[gate],
        frozen_stages=frozen_stages,
    )


def test_half_a_gate_is_refused(mmdet_ready, tmp_path):
    state = se_backbone(bias=False).state_dict()
    del state['layer1.0.se.fc.2.weight']
    torch.save(state, tmp_path / 'x.pth')
    for arguments in ({}, {'random_gates': True}):
        refuses(
            se_backbone(bias=False),
            tmp_path / 'x.pth',
            r'1 tensors are not in the file: layer1\.0\.se\.fc\.2\.weight',
            **arguments,
        )


def test_biases_of_gates_are_not_lost_or_made_up(mmdet_ready, tmp_path):
    for there, here, part in (
        (True, False, '16 tensors of layers that both have are not in the backbone'),
        (False, True, '16 tensors are not in the file: layer1.0.se.fc.0.bias'),
    ):
        torch.save(se_backbone(bias=there).state_dict(), tmp_path / 'x.pth')
        refuses(se_backbone(bias=here), tmp_path / 'x.pth', part)


def test_another_norm_is_refused(backbone, mmdet_ready, tmp_path, authors_file):
    from eca_mmdet import ECAResNetD

    group = dict(type='GN', num_groups=2)
    refuses(backbone(norm_cfg=group), authors_file, 'tensors are not in the file: gn1')
    small = dict(stem=(8, 8, 16), depths=(1, 1, 1, 1), base_channels=8)
    torch.save(ECAResNetD(arch=small).state_dict(), tmp_path / 'd.pth')
    model = ECAResNetD(arch=small, norm_cfg=group)
    part = 'of layers that both have are not in the backbone: .*running_mean'
    refuses(model, tmp_path / 'd.pth', part)


def test_values_that_cannot_be_weights(backbone, tmp_path):
    state = AuthorsResNet(18, SIZES).state_dict()
    whole = {k: v.to(torch.int8) for k, v in state.items()}
    torch.save(whole, tmp_path / 'int8.pth')
    refuses(backbone(), tmp_path / 'int8.pth', r'no floating-point numbers: .*\(int8\)')
    state['layer2.0.conv1.weight'][0, 0, 0, 0] = float('nan')
    torch.save(state, tmp_path / 'nan.pth')
    refuses(backbone(), tmp_path / 'nan.pth', 'hold NaN or infinity: layer2.0.conv1')


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_load(backbone, tmp_path, dtype):
    state = AuthorsResNet(18, SIZES).state_dict()
    narrow = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    torch.save(narrow, tmp_path / 'x.pth')
    model = init(backbone(), tmp_path / 'x.pth', strict='all')
    key = 'layer1.0.conv1.weight'
    assert model.state_dict()[key].dtype == torch.float32
    assert torch.equal(model.state_dict()[key], narrow[key].float())


def test_an_initializer_after_it_is_refused(backbone, authors_file):
    load = dict(type='ECAPretrained', checkpoint=str(authors_file))
    kaiming = dict(type='Kaiming', layer='Conv2d')
    model = backbone(init_cfg=[load, kaiming])
    with pytest.raises(ValueError, match="'Kaiming' would overwrite.*last"):
        model.init_weights()
    model = backbone(init_cfg=[kaiming, load])
    model.init_weights()
    state = torch.load(authors_file)['state_dict']
    key = 'conv1.weight'
    assert torch.equal(model.state_dict()[key], state[f'module.{key}'])


def test_new_layers_keep_their_own_initialisation(mmdet_ready, tmp_path):
    """As under mmengine's 'Pretrained': a plugin that starts at zero stays there."""
    from mmdet.registry import MODELS
    from mmengine.model import BaseModule
    from torch import nn

    from eca_mmdet import PluginResNet

    @MODELS.register_module(name='ZeroStart', force=True)
    class ZeroStart(BaseModule):
        _abbr_ = 'zero_start'

        def __init__(self, in_channels):
            super().__init__(init_cfg=dict(type='Constant', val=0, layer='Conv2d'))
            self.conv = nn.Conv2d(in_channels, in_channels, 1)

        def forward(self, x):
            return x + self.conv(x)

    torch.save(
        PluginResNet(18, base_channels=8, stem_channels=8).state_dict(),
        tmp_path / 'x.pth',
    )
    plugin = dict(cfg=dict(type='ZeroStart'), position='after_conv2')
    model = PluginResNet(18, base_channels=8, stem_channels=8, plugins=[plugin])
    init(model, tmp_path / 'x.pth')
    assert model.layer1[0].zero_start.conv.weight.abs().max() == 0
    saved = torch.load(tmp_path / 'x.pth')
    for key in saved:
        assert torch.equal(model.state_dict()[key], saved[key]), key


@pytest.mark.parametrize(
    'kind', ['Pretrained', 'PretrainedInit', 'mmengine.Pretrained', 'class']
)
def test_mmengines_silent_initializer_is_refused(backbone, authors_file, kind):
    from mmengine.model import PretrainedInit

    kind = PretrainedInit if kind == 'class' else kind
    model = backbone(init_cfg=dict(type=kind, checkpoint=str(authors_file)))
    part = "'Pretrained' loads what fits.*type='ECAPretrained', checkpoint='.*k3577.pth"
    with pytest.raises(ValueError, match=part):
        model.init_weights()


def test_plugins_of_another_kind_may_use_mmengines(mmdet_ready, tmp_path):
    from eca_mmdet import PluginResNet

    plain = PluginResNet(18, base_channels=8, stem_channels=8)
    torch.save(plain.state_dict(), tmp_path / 'x.pth')
    model = PluginResNet(
        18,
        base_channels=8,
        stem_channels=8,
        init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'x.pth')),
    )
    model.init_weights()
    assert torch.equal(model.conv1.weight, plain.conv1.weight)
    silent = dict(type='Pretrained', checkpoint='x.pth')
    gated = se_backbone(bias=False)
    gated.init_cfg = silent
    with pytest.raises(ValueError, match='PluginResNet has gates'):
        gated.init_weights()


def test_not_for_a_whole_detector(mmdet_ready, authors_file):
    from torch import nn

    from eca_mmdet import ECAPretrained

    model = nn.Module()
    model.backbone = nn.Conv2d(1, 1, 1)
    with pytest.raises(WeightsError, match=r'Set model\.backbone\.init_cfg'):
        ECAPretrained(str(authors_file))(model)


@pytest.mark.parametrize('checkpoint', [None, 3, ['x.pth']])
def test_checkpoints_that_are_no_path(mmdet_ready, checkpoint):
    from eca_mmdet import ECAPretrained

    with pytest.raises(WeightsError, match='checkpoint must be a path or an address'):
        ECAPretrained(checkpoint)
