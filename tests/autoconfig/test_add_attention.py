"""Attention added to configs: the network and its weights stay."""

import copy
import re

import pytest
import torch
from torch import nn

from eca_mmdet.autoconfig.plan import add_attention
from eca_mmdet.catalog.mechanisms import MECHANISMS, find_mechanism
from eca_mmdet.checkpoints.io import read_weights
from eca_mmdet.datasets.shapes import write_shapes
from eca_mmdet.engine import preflight
from eca_mmdet.engine.config import build_model, load_config
from eca_mmdet.models.attention.gate import is_attention
from eca_mmdet.models.backbones.resnet import attention_entries
from eca_mmdet.utils.errors import UserError
from tests.support.in_process import fresh_mmengine
from tests.support.training_runs import write_config

pytestmark = pytest.mark.openmmlab

DETECTORS = [
    'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
    'detr/detr_r50_8xb2-150e_coco.py',
    'mask_rcnn/mask-rcnn_x101-32x4d_fpn_1x_coco.py',
    'retinanet/retinanet_r18_fpn_1x_coco',
    'faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py',
]
NARROW = dict(base_channels=8, stem_channels=8)
BACKBONES = {
    'ResNet': dict(depth=50, **NARROW),
    'ResNet-18': dict(type='ResNet', depth=18, **NARROW),
    'ResNetV1d': dict(depth=50, **NARROW),
    'PluginResNet': dict(depth=18, **NARROW),
    'ResNeXt': dict(depth=50, groups=4, base_width=4, **NARROW),
    'Res2Net': dict(depth=50, scales=2, base_width=26, **NARROW),
    'ResNeSt': dict(depth=50, radix=2, reduction_factor=4, **NARROW),
    'RegNet': dict(
        arch=dict(w0=8, wa=8.0, wm=2.0, group_w=8, depth=6, bot_mul=1.0),
        stem_channels=8,
        base_channels=8,
    ),
    'TridentResNet': dict(
        depth=50,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(2,),
        num_branch=3,
        test_branch_idx=1,
        trident_dilations=(1, 2, 3),
        **NARROW,
    ),
}


def backbone_of(name):
    return {'type': name, 'frozen_stages': 1, **copy.deepcopy(BACKBONES[name])}


def build(cfg):
    from mmdet.registry import MODELS

    return MODELS.build(copy.deepcopy(cfg))


def narrow(name):
    """Return a mechanism for few channels, with its layer's arguments."""
    row = find_mechanism(name)
    return row, {**row.layer, **row.narrow, **({'ratio': 4} if row.narrow else {})}


@pytest.mark.parametrize('name', BACKBONES)
def test_the_network_and_its_weights_stay(mmdet_ready, tmp_path, name):
    """Without its gates the new backbone computes what the old one does."""
    old = build(backbone_of(name))
    for parameter in old.parameters():  # no branch ends with a norm of 0
        nn.init.uniform_(parameter, 0.5, 1)
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter)
    for layer in old.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    path = tmp_path / 'imagenet.pth'
    classifier = {'fc.weight': torch.zeros(1000, 8), 'fc.bias': torch.zeros(1000)}
    torch.save({**old.state_dict(), **classifier}, path)
    backbone = backbone_of(name)
    backbone['init_cfg'] = dict(type='Pretrained', checkpoint=str(path))
    entries = attention_entries(backbone, *narrow('cbam'))
    assert entries['frozen_stages'] == 0 and entries['init_cfg']['random_gates']
    del entries['init_cfg']['_delete_']  # it is for inheriting
    new = build({**backbone, **entries})
    new.init_weights()
    gates = [key for key, layer in new.named_modules() if is_attention(layer)]
    block = re.compile(r'\.\d+\.conv1\.weight')
    assert len(gates) == len([*filter(block.search, new.state_dict())]) > 3
    before, after = old.state_dict(), new.state_dict()
    added = {key for key in after if any(key.startswith(f'{g}.') for g in gates)}
    assert added and after.keys() - added == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
    old.eval(), new.eval()
    image = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        expected = old(image)
        gated = new(image)
        for key in gates:
            parent, _, child = key.rpartition('.')
            setattr(new.get_submodule(parent), child, nn.Identity())
        found = new(image)
    scale = max(one.abs().max() for one in expected)
    for one, other, with_gates in zip(expected, found, gated, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * float(scale))
        assert (with_gates - one).abs().max() > 1e-3 * scale


@pytest.mark.parametrize('row', MECHANISMS, ids=lambda row: row.key)
@pytest.mark.parametrize(('depth', 'stages'), [(18, 4), (50, 4), (50, 3)])
def test_layers_are_where_the_mechanism_has_them(mmdet_ready, row, depth, stages):
    """Also in the three stages of a C4 detector."""
    backbone = dict(type='ResNet', depth=depth, frozen_stages=1, num_stages=stages)
    shapes = dict(strides=(1, 2, 2, 2), dilations=(1,) * 4, out_indices=(0, 1, 2, 3))
    backbone |= {name: values[:stages] for name, values in shapes.items()}
    entries = attention_entries(backbone, row)
    plugin = row.plugin(depth)
    assert (
        plugin['cfg'] == entries.get('attention')
        or plugin.items()
        >= {key: entries['plugins'][0][key] for key in ('cfg', 'position')}.items()
    )
    with torch.device('meta'):
        new = build({**backbone, **entries})
    layers = [key for key, layer in new.named_modules() if is_attention(layer)]
    having = {int(key.removeprefix('layer')[0]) for key in layers}
    places = (row.stages or (True,) * 4)[:stages]
    assert having == {at for at, has in enumerate(places, 1) if has}
    frozen = entries.get('frozen_stages', 1)
    trains = any(True for key in layers for _ in new.get_submodule(key).parameters())
    assert trains == row.has_parameters
    assert not trains or frozen < min(having)
    assert 'init_cfg' not in entries  # there was no file


def without_scopes(node):
    """Drop the scope that mmengine notes in what is inherited from mmdet."""
    if isinstance(node, (list, tuple)):
        return [without_scopes(item) for item in node]
    if isinstance(node, dict):
        return {k: without_scopes(v) for k, v in node.items() if k != '_scope_'}
    return node


@pytest.mark.parametrize('config', DETECTORS)
def test_config_of_mmdet(command, tmp_path, config):
    code, out, err = command('attention', 'add', f'mmdet::{config}', 'ECA')
    assert code == 0 and 'Traceback' not in err
    path = tmp_path / 'new.py'
    path.write_text(out)
    old, new = (load_config(name) for name in (f'mmdet::{config}', path))
    # All but the backbone and the kind of metric is as it was.
    for use in ('val', 'test'):
        assert old[f'{use}_evaluator'].pop('type') == 'CocoMetric'
        assert new[f'{use}_evaluator'].pop('type') == 'CocoTableMetric'
    for cfg in (old, new):
        cfg.model.backbone, backbone = None, cfg.model.backbone
        cfg.pop('custom_imports', None)
    assert without_scopes(old.to_dict()) == without_scopes(new.to_dict())
    start = backbone.init_cfg.checkpoint
    assert f'the rest of it: {start}' in err
    assert backbone.init_cfg.type == 'ECAPretrained' and backbone.init_cfg.random_gates
    assert 'neck and heads: random, as before' in err
    assert 'metrics.json' not in err
    cfg = load_config(path)
    gates = [*filter(is_attention, build_model(cfg, 'meta').backbone.modules())]
    count = sum(p.numel() for gate in gates for p in gate.parameters())
    assert f'{len(gates)} ECALayer layers, whose {count:,} parameters' in err


@pytest.fixture
def plain(mmdet_ready, tmp_path):
    """A config of a tiny detector without attention, on six images; its checkpoint."""
    shapes = write_shapes(tmp_path / 'shapes', sizes={'train': 6, 'val': 2}, side=64)
    file = write_config(tmp_path / 'plain.py', shapes)
    cfg = load_config(file)
    own = cfg.model.backbone
    del own.kernel_sizes
    own.type, own.frozen_stages = 'ResNet', 1
    file.write_text(cfg.pretty_text)
    model = build_model(cfg)
    model.init_weights()
    path = tmp_path / 'detector.pth'
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, path)
    return file, path


@pytest.mark.parametrize('name', ['eca', 'gc'])
def test_training_starts_from_a_whole_detector(plain, tmp_path, capfd, name):
    """A rate of 0: what is in the last checkpoint is what training began with."""
    import eca_mmdet

    config, detector = plain
    text = add_attention(str(config), name, str(detector)).text
    new = tmp_path / 'new.py'
    new.write_text(text)
    assert load_config(new).load_from == str(detector)
    options = ['optim_wrapper.optimizer.lr=0.0', 'train_cfg.max_iters=1']
    with fresh_mmengine():
        trained = eca_mmdet.train(new, tmp_path / 'work', options=options)
    before = torch.load(detector)['state_dict']
    after = read_weights(tmp_path / 'work' / 'iter_1.pth').state
    added = {key for key in after if f'.{find_mechanism(name).abbr}.' in key}
    assert added and after.keys() - added == before.keys()
    for key, value in before.items():
        assert torch.equal(after[key], value) or 'running' in key or 'batches' in key
    assert trained.checkpoint.name == 'iter_1.pth'


def test_a_detector_of_another_backbone_is_still_refused(plain, tmp_path):
    config, detector = plain
    file = torch.load(detector)
    del file['state_dict']['backbone.layer2.0.conv1.weight']
    torch.save(file, detector)
    new = tmp_path / 'new.py'
    new.write_text(add_attention(str(config), 'eca', str(detector)).text)
    with pytest.raises(UserError) as caught:
        preflight.check(load_config(new), training=True)
    assert caught.value.code == 'checkpoint-mismatch'
    assert 'does not fit this PluginResNet' in str(caught.value)
    assert '\n' not in str(caught.value)  # the block is right


def test_a_backbone_file_replaces_the_configs_detector(plain, tmp_path):
    config, detector = plain
    with_start = tmp_path / 'with_start.py'
    with_start.write_text(
        f'_base_ = {str(config)!r}\nload_from = {str(detector)!r}\n'
        "custom_imports = dict(imports='json')\n"
    )
    text = add_attention(str(with_start), 'eca').text
    assert 'load_from' not in text and f'checkpoint={str(detector)!r}' in text
    assert "imports=['json', 'eca_mmdet']" in text
    state = torch.load(detector)['state_dict']
    file = tmp_path / 'backbone.pth'
    own = {k.removeprefix('backbone.'): v for k, v in state.items() if 'backbone.' in k}
    torch.save(own, file)
    new = tmp_path / 'new.py'
    new.write_text(add_attention(str(with_start), 'eca', str(file)).text)
    cfg = load_config(new)
    assert cfg.load_from is None and cfg.model.backbone.init_cfg.checkpoint == str(file)
    preflight.check(cfg, training=True)


@pytest.mark.parametrize(
    ('config', 'mechanism', 'code', 'words'),
    [
        ('mask-rcnn_r50_fpn_4xb2-1x_coco', 'cbma', 'unknown-mechanism', 'mean cbam'),
        ('mask-rcnn_cbam-r50_fpn_4xb2-1x_coco', 'eca', 'unsupported-model', 'already'),
        ('mask-rcnn_eca-r50_fpn_4xb2-1x_coco', 'se', 'unsupported-model', 'already'),
        (
            'mmdet::gcnet/mask-rcnn_r50-gcb-r4-c3-c5_fpn_1x_coco.py',
            *('eca', 'unsupported-model', 'already'),
        ),
        (
            'mmdet::empirical_attention/faster-rcnn_r50-attn1111_fpn_1x_coco.py',
            *('eca', 'unsupported-model', 'other plugins'),
        ),
        (  # it cannot be built on the meta device
            'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco',
            *('eca', 'unsupported-model', 'SwinTransformer is not a ResNet'),
        ),
        (
            'mmdet::detectors/detectors_cascade-rcnn_r50_1x_coco.py',
            *('eca', 'unsupported-model', 'DetectoRS_ResNet is not a'),
        ),
        (
            'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco',
            *('eca', 'unsupported-model', 'the model has no backbone'),
        ),
        (
            'mmdet::mask_rcnn/mask-rcnn_x101-32x4d_fpn_1x_coco.py',
            *('bam', 'unsupported-model', 'between blocks or stages'),
        ),
        ('mmdet::fcos/nothing.py', 'eca', 'config-not-found', 'nothing.py'),
        ('nowhere::fcos/nothing.py', 'eca', 'config-not-found', 'nowhere'),
    ],
)
def test_refusals(command, config, mechanism, code, words):
    status, out, err = command('attention', 'add', config, mechanism)
    assert status == 2 and out == ''
    assert words in err and err.endswith(f'[{code}]\n')


@pytest.mark.parametrize('kind', ['ResNet', 'ResNetV1d', 'ResNeXt', 'PluginResNet'])
def test_the_first_refusal_shows_all_that_works(mmdet_ready, kind):
    cfg = load_config('mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py')
    cfg.model.backbone.merge(dict(type=kind, attention=dict(type='CBAM', ratio=8)))
    with pytest.raises(UserError) as caught:
        preflight.check(cfg, training=True)
    assert caught.value.code == 'config-invalid'
    text = str(caught.value)
    (block,) = re.findall(r'^custom_imports = .*?^\)$', text, re.DOTALL | re.MULTILINE)
    scope = {}
    exec(block, scope)
    cfg.model.backbone.pop('attention')
    cfg.merge_from_dict({key: scope[key] for key in ('custom_imports', 'model')})
    assert 'eca_mmdet' in cfg.custom_imports['imports']
    layers = [*filter(is_attention, preflight.check_backbone(cfg).modules())]
    assert len(layers) == 16
    assert {p.shape[0] for p in layers[0].parameters()} >= {256 // 8, 256}
    assert cfg.model.backbone.init_cfg == dict(
        type='ECAPretrained', checkpoint='torchvision://resnet50', random_gates=True
    )


@pytest.mark.parametrize(
    'changes',
    [
        dict(attention=dict(type='CBMA')),  # no such layer
        dict(attention=dict(type='CBAM'), depth=49),
        dict(attention=dict(type='CBAM', ratio=7)),
        dict(depth=49),
    ],
)
def test_other_faults_of_a_backbone_are_shown_alone(mmdet_ready, changes):
    cfg = load_config('mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py')
    cfg.model.backbone.merge(changes)
    with pytest.raises(UserError) as caught:
        preflight.check(cfg, training=True)
    assert '\n' not in str(caught.value)
