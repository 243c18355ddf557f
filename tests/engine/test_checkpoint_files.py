"""Whole-detector checkpoints: read safely, refused where they do not fit."""

import os

import pytest
import torch

from eca_mmdet.utils.errors import UserError
from tests.faults.pickles import Call

pytestmark = pytest.mark.openmmlab

CONFIG = 'mask-rcnn_eca-r18-w16_fpn_shapes'


@pytest.fixture
def backbone(mmdet_ready):
    from eca_mmdet import ECAResNet

    def build(**changes):
        arguments = dict(depth=18, kernel_sizes=(3, 5, 7, 7), base_channels=8)
        return ECAResNet(**{**arguments, **changes})

    return build


@pytest.mark.parametrize(
    ('changes', 'part'),
    [
        (dict(depth=34), 'tensors of the model are not in the file: layer1.2'),
        (dict(kernel_sizes=9), '8 tensors have another shape: layer1.0.eca'),
        (
            dict(
                num_stages=3,
                strides=(1, 2, 2),
                dilations=(1, 1, 1),
                out_indices=(2,),
                kernel_sizes=(3, 5, 7),
            ),
            'tensors of the file are not in the model: layer4',
        ),
    ],
)
def test_another_detectors_checkpoint_is_refused(backbone, changes, part):
    from eca_mmdet.checkpoints.transfer import require_fit

    state = backbone().state_dict()
    require_fit(state, torch.nn.parallel.DataParallel(backbone()), 'x.pth')
    with pytest.raises(UserError, match=f'x.pth is not a checkpoint.*{part}'):
        require_fit(state, backbone(**changes), 'x.pth')


@pytest.fixture
def config(tmp_path, monkeypatch, shapes, mmdet_ready):
    """The demo's config on the tiny data set, in a folder of its own."""
    from mmengine.config import Config

    from eca_mmdet.catalog.configs import shipped_configs

    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(shipped_configs()[CONFIG])
    for name in ('train', 'val', 'test'):
        cfg[f'{name}_dataloader'].dataset.data_root = str(shapes)
    for name in ('val', 'test'):
        cfg[f'{name}_evaluator'].ann_file = f'{shapes}/annotations/val.json'
    cfg.work_dir = 'run'
    return cfg


def run(command, cfg, *words):
    cfg.dump('config.py')
    return command(words[0], 'config.py', *words[1:])


BOMB = dict(state_dict={}, x=Call(open, 'exploded', 'w'))


@pytest.mark.parametrize('place', ['load_from', 'resume', 'backbone', 'neck', 'list'])
def test_a_planted_command_does_not_run_in_training(command, config, place):
    torch.save(BOMB, 'bomb.pth')
    words = ['train']
    silent = dict(type='Pretrained', checkpoint='bomb.pth')
    if place == 'load_from':
        config.load_from = 'bomb.pth'
    elif place == 'resume':
        words += ['--resume', 'bomb.pth']
    elif place == 'backbone':
        config.model.backbone.init_cfg = dict(silent, type='ECAPretrained')
    elif place == 'neck':
        config.model.neck.init_cfg = silent
    else:
        head = config.model.roi_head.bbox_head
        head.init_cfg = [dict(type='Normal', std=0.1, layer='Linear'), silent]
    code, out, err = run(command, config, *words)
    assert code == 2 and 'io.open' in err, out + err
    assert len(err.strip().splitlines()) == 1
    assert not os.path.exists('exploded')


@pytest.fixture
def unset(monkeypatch):
    """Start without PyTorch's switches, and leave none behind."""
    for name in ('', 'NO_'):
        monkeypatch.setenv(f'TORCH_FORCE_{name}WEIGHTS_ONLY_LOAD', '0')


@pytest.mark.slow
@pytest.mark.parametrize('place', ['neck', 'detector', 'last_checkpoint'])
def test_a_planted_command_does_not_run_in_mmengine(
    command, config, server, cache, unset, place
):
    """What mmengine itself downloads or finds, after all checks of ours."""
    torch.save(BOMB, 'bomb.pth')
    with open('bomb.pth', 'rb') as file:
        server.files['/bomb.pth'] = file.read()
    silent = dict(type='Pretrained', checkpoint=f'{server.address}/bomb.pth')
    if place == 'neck':
        config.model.neck.init_cfg = silent
    elif place == 'detector':  # without gates, mmengine's initializer is its business
        config.model.backbone.type = 'PluginResNet'
        del config.model.backbone['kernel_sizes']
        config.model.init_cfg = silent
    else:
        os.mkdir('run')
        with open('run/last_checkpoint', 'w') as file:
            file.write(os.path.abspath('bomb.pth'))
        config.resume = True
    code, out, err = run(command, config, 'train')
    assert code == 2 and 'reading it would call io.open' in err, out + err
    assert not os.path.exists('exploded')


@pytest.mark.parametrize('words', [('train',), ('test', 'x.pth')])
def test_the_switch_that_allows_code_is_refused(
    command, config, unset, monkeypatch, words
):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    torch.save({'a': torch.zeros(1)}, 'x.pth')
    code, _, err = run(command, config, *words)
    assert code == 2 and 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set' in err


def detector(cfg, **changes):
    """Random weights of the config's detector, or of one that differs."""
    from mmdet.registry import MODELS

    cfg = cfg.copy()
    cfg.merge_from_dict(changes)
    return MODELS.build(cfg.model).state_dict()


def test_load_from_a_backbone_is_refused(command, config):
    state = detector(config)
    bare = {k[9:]: v for k, v in state.items() if k.startswith('backbone.')}
    torch.save(bare, 'backbone.pth')
    config.load_from = 'backbone.pth'
    code, _, err = run(command, config, 'train')
    assert code == 2 and 'load_from=backbone.pth is not a detector' in err
    assert "init_cfg=dict(type='ECAPretrained', checkpoint='backbone.pth')" in err


@pytest.mark.sweep
@pytest.mark.parametrize('other', ['without gates', 'other kernel sizes', 'deeper'])
def test_load_from_another_backbone_is_refused(command, config, other):
    state = detector(config)
    if other == 'without gates':
        state = {k: v for k, v in state.items() if '.eca.' not in k}
    elif other == 'other kernel sizes':
        state = detector(config, **{'model.backbone.kernel_sizes': 9})
    else:
        config.model.backbone.depth = 34
    torch.save({'state_dict': state}, 'x.pth')
    config.load_from = 'x.pth'
    code, _, err = run(command, config, 'train')
    assert code == 2 and 'load_from=x.pth is of another backbone' in err
    assert 'eca-mmdet weights inspect x.pth' in err


def test_load_from_another_number_of_classes_says_what_is_new(mmdet_ready, config):
    from mmdet.registry import MODELS

    from eca_mmdet.checkpoints.transfer import require_start

    classes = {
        'model.roi_head.bbox_head.num_classes': 7,
        'model.roi_head.mask_head.num_classes': 7,
    }
    model = MODELS.build(config.model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = detector(config, **classes)
    new = require_start(state, model, 'x.pth')
    changed = {line.split(' ')[0] for line in new}
    assert changed == {
        f'roi_head.{layer}.{part}'
        for layer in ('bbox_head.fc_cls', 'bbox_head.fc_reg', 'mask_head.conv_logits')
        for part in ('weight', 'bias')
    }
    assert any('(file (8, ' in line and 'model (4, ' in line for line in new)
    for key, value in model.state_dict().items():
        expected = before if key in changed else state
        assert torch.equal(value, expected[key]), key


@pytest.mark.slow
def test_a_checkpoint_at_an_address_must_fit_too(command, config, server, cache, unset):
    for name, changes in (('good', {}), ('bad', {'model.backbone.kernel_sizes': 9})):
        torch.save({'state_dict': detector(config, **changes)}, 'x.pth')
        with open('x.pth', 'rb') as file:
            server.files[f'/{name}.pth'] = file.read()
    config.model.test_cfg.rcnn.max_per_img = 3
    code, _, err = run(command, config, 'test', f'{server.address}/bad.pth')
    assert code == 2 and 'bad.pth is not a checkpoint of this config' in err
    code, out, _ = run(command, config, 'test', f'{server.address}/good.pth')
    assert code == 0 and 'AP50' in out
    assert server.gets() == ['/bad.pth', '/good.pth']
