"""Whole-detector checkpoints: read safely, refused where they do not fit."""

import os

import pytest
import torch

from eca_mmdet.errors import UserError
from tests.test_weight_files import Call

pytestmark = pytest.mark.openmmlab

CONFIG = 'mask-rcnn_eca-r18-w16_fpn_shapes'


@pytest.fixture
def backbone(mmdet_ready):
    from eca_mmdet import ECAResNet

    def build(**changes):
        arguments = dict(depth=18, kernel_sizes=(3, 5, 7, 7), base_channels=8)
        return ECAResNet(**{**arguments, **changes})

    return build


def save_mmengine_checkpoint(model, file):
    """A file as mmengine's CheckpointHook writes it, loss history included."""
    from mmengine.logging import HistoryBuffer

    history = HistoryBuffer([1.0, 2.0], [1, 1])
    hub = {'log_scalars': {'train/loss': history}, 'runtime_info': {'iter': 2}}
    torch.save(
        {'meta': {'iter': 2}, 'state_dict': model.state_dict(), 'message_hub': hub},
        file,
    )


def test_read_detector_returns_the_tensors(backbone, tmp_path):
    from eca_mmdet.weights.detector import read_detector, require_fit

    model = backbone()
    save_mmengine_checkpoint(model, tmp_path / 'epoch_1.pth')
    state = read_detector(str(tmp_path / 'epoch_1.pth'))
    assert state.keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(state[key], value)
    require_fit(state, model, 'epoch_1.pth')
    require_fit(state, torch.nn.parallel.DataParallel(model), 'epoch_1.pth')


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
    from eca_mmdet.weights.detector import require_fit

    with pytest.raises(UserError, match=f'x.pth is not a checkpoint.*{part}'):
        require_fit(backbone().state_dict(), backbone(**changes), 'x.pth')


@pytest.mark.parametrize(
    ('content', 'part'),
    [
        (b'', 'is empty'),
        (b'<!DOCTYPE html><title>Quota exceeded</title>', 'is a web page'),
        ([1, 2], 'got list'),
        ({'epoch': 3, 'arch': 'x'}, 'a dict with epoch, arch'),
        ({}, 'a dict with nothing'),
        ({'state_dict': Call(open, 'exploded', 'w')}, 'would call io.open'),
    ],
    ids=['empty', 'html', 'list', 'no tensors', 'empty dict', 'bomb'],
)
def test_files_that_are_no_checkpoint(
    command, tmp_path, monkeypatch, mmdet_ready, content, part
):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / 'bad.pth'
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    code, _, err = command('test', CONFIG, file)
    assert code == 2 and part in err
    assert len(err.strip().splitlines()) == 1
    assert os.listdir() == ['bad.pth']


def test_truncated_checkpoint(command, backbone, tmp_path, mmdet_ready):
    file = tmp_path / 'cut.pth'
    save_mmengine_checkpoint(backbone(), file)
    file.write_bytes(file.read_bytes()[:5000])
    code, _, err = command('train', CONFIG, '--resume', file)
    assert code == 2 and 'damaged, cut off' in err


BOMB = dict(state_dict={}, x=Call(open, 'exploded', 'w'))


@pytest.mark.parametrize(
    ('place', 'kind'),
    [
        ('load_from', ''),
        ('resume', ''),
        ('backbone', 'ECAPretrained'),
        ('neck', 'Pretrained'),  # nothing of ours is asked: mmengine loads it
        ('detector', 'Pretrained'),
    ],
)
def test_a_planted_command_does_not_run_in_training(
    command, tmp_path, monkeypatch, shapes, mmdet_ready, place, kind
):
    from mmengine.config import Config

    from eca_mmdet.paths import shipped_configs

    monkeypatch.chdir(tmp_path)
    torch.save(BOMB, 'bomb.pth')
    cfg = Config.fromfile(shipped_configs()[CONFIG])
    for name in ('train', 'val', 'test'):
        cfg[f'{name}_dataloader'].dataset.data_root = str(shapes)
    for name in ('val', 'test'):
        cfg[f'{name}_evaluator'].ann_file = f'{shapes}/annotations/val.json'
    init_cfg = dict(type=kind, checkpoint='bomb.pth')
    options = ['--work-dir', 'run']
    if place == 'load_from':
        cfg.load_from = 'bomb.pth'
    elif place == 'resume':
        options += ['--resume', 'bomb.pth']
    elif place == 'detector':
        cfg.model.init_cfg = init_cfg
    else:
        cfg.model[place].init_cfg = init_cfg
    cfg.dump('config.py')
    code, out, err = command('train', 'config.py', *options)
    assert code == 2 and 'io.open' in err, out + err
    assert len(err.strip().splitlines()) == 1
    assert not os.path.exists('exploded')
