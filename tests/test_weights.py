"""Backbone weights load completely, or the reason is told."""

import pickle

import numpy as np
import pytest
import torch

from eca_mmdet.weights.sources import SOURCES, missing_file_message

pytestmark = pytest.mark.openmmlab


@pytest.fixture
def backbone(mmdet_ready):
    from eca_mmdet import ECAResNet

    def build(**changes):
        arguments = dict(depth=18, kernel_sizes=(3, 5, 7, 7), base_channels=8)
        return ECAResNet(**{**arguments, **changes})

    return build


@pytest.fixture
def authors_file(backbone, tmp_path):
    """A file as the authors published theirs: wrapped, 'module.', wrong arch, fc."""
    torch.manual_seed(7)
    source = backbone()
    state = {
        f'module.{k}': torch.rand_like(v.float()).to(v.dtype)
        for k, v in source.state_dict().items()
        if not k.endswith('num_batches_tracked')
    }
    state['module.fc.weight'] = torch.zeros(1000, 64)
    state['module.fc.bias'] = torch.zeros(1000)
    file = tmp_path / 'authors.pth.tar'
    torch.save(
        {
            'epoch': 100,
            'arch': 'se_resnet50',
            'state_dict': state,
            'best_prec1': torch.tensor(70.9),
            'optimizer': {'state': {}, 'param_groups': [{'lr': 0.1}]},
        },
        file,
        _use_new_zipfile_serialization=False,
    )
    return file, state


def init(model, checkpoint, **arguments):
    """Initialise as a detector does, through mmengine's init_cfg."""
    model.init_cfg = dict(type='ECAPretrained', checkpoint=str(checkpoint), **arguments)
    model.init_weights()


def test_every_tensor_comes_from_the_file(backbone, authors_file):
    file, state = authors_file
    model = backbone(init_cfg=dict(type='ECAPretrained', checkpoint=str(file)))
    model.init_weights()
    loaded = model.state_dict()
    compared = 0
    for key, value in state.items():
        if '.fc.' not in key:
            assert torch.equal(loaded[key.removeprefix('module.')], value), key
            compared += 1
    assert compared == sum(not k.endswith('tracked') for k in loaded)


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
    model = backbone(**arguments)
    init(model, tmp_path / 'dcn.pth')
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_other_kernel_sizes_are_refused(backbone, authors_file):
    with pytest.raises(ValueError, match=r'of another shape: layer2.0.eca'):
        init(backbone(kernel_sizes=(3, 3, 5, 7)), authors_file[0])
    with pytest.raises(ValueError, match=r'in the file, by stage: \(3, 5, 7, 7\)'):
        init(backbone(kernel_sizes=3), authors_file[0])


def test_a_file_without_gates_is_refused(backbone, tmp_path):
    state = {k: v for k, v in backbone().state_dict().items() if '.eca.' not in k}
    torch.save(state, tmp_path / 'plain.pth')
    model = backbone()
    with pytest.raises(ValueError, match='8 missing in the file: layer1.0.eca.conv'):
        init(model, tmp_path / 'plain.pth')
    init(model, tmp_path / 'plain.pth', new_layers=('eca',))


def test_gates_are_not_dropped_silently(mmdet_ready, backbone, tmp_path):
    from eca_mmdet import PluginResNet

    torch.save(backbone().state_dict(), tmp_path / 'eca.pth')
    with pytest.raises(ValueError, match='8 not in the backbone: layer1.0.eca'):
        init(PluginResNet(18, base_channels=8), tmp_path / 'eca.pth')


def test_another_depth_is_refused(backbone, authors_file):
    with pytest.raises(ValueError, match='missing in the file: layer1.2'):
        init(backbone(depth=34), authors_file[0])


def test_a_refused_file_changes_nothing(backbone, authors_file):
    model = backbone(kernel_sizes=3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError):
        init(model, authors_file[0])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_missing_file(backbone):
    with pytest.raises(FileNotFoundError, match="'no/such.pth' not found"):
        init(backbone(), 'no/such.pth')


@pytest.mark.parametrize('content', [b'', b'<!DOCTYPE html>', b'\x80\x02'])
def test_files_that_are_no_weights(backbone, tmp_path, content):
    (tmp_path / 'bad.pth').write_bytes(content)
    with pytest.raises(ValueError, match='cannot be read as PyTorch weights'):
        init(backbone(), tmp_path / 'bad.pth')


@pytest.mark.parametrize('content', [{}, {'epoch': 3}, [1, 2]])
def test_files_without_state_dict(backbone, tmp_path, content):
    torch.save(content, tmp_path / 'bad.pth')
    with pytest.raises(ValueError, match='holds no state dict'):
        init(backbone(), tmp_path / 'bad.pth')


class Bomb:
    def __reduce__(self):
        return (open, ('exploded', 'w'))


@pytest.mark.parametrize('save', ['torch', 'pickle'])
def test_a_pickle_that_runs_code_does_not_run(backbone, tmp_path, monkeypatch, save):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / 'bomb.pth'
    if save == 'torch':
        torch.save({'state_dict': Bomb()}, file)
    else:
        file.write_bytes(pickle.dumps({'state_dict': Bomb()}))
    with pytest.raises(ValueError, match='weights_only'):
        init(backbone(), file)
    assert not (tmp_path / 'exploded').exists()


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


def test_history_in_a_checkpoint_cannot_reach_other_attributes(tmp_path):
    """builtins.getattr is allowed for HistoryBuffer's statistics and nothing else."""
    from eca_mmdet.errors import UserError
    from eca_mmdet.weights.detector import read_detector

    class Reach:
        def __reduce__(self):
            return (getattr, (np.ndarray, 'tofile'))

    torch.save(
        {'state_dict': {'w': torch.zeros(1)}, 'x': Reach()}, tmp_path / 'reach.pth'
    )
    with pytest.raises(UserError, match='refused: getattr'):
        read_detector(str(tmp_path / 'reach.pth'))


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
    from eca_mmdet.errors import UserError
    from eca_mmdet.weights.detector import require_fit

    with pytest.raises(UserError, match=f'x.pth is not a checkpoint.*{part}'):
        require_fit(backbone().state_dict(), backbone(**changes), 'x.pth')


@pytest.mark.parametrize(
    ('content', 'part'),
    [
        (b'', 'cannot be read as a checkpoint'),
        (b'<!DOCTYPE html><title>Quota exceeded</title>', 'cannot be read'),
        ([1, 2], 'got a list'),
        ({'epoch': 3, 'arch': 'x'}, 'a dict with epoch, arch'),
        ({}, 'a dict with nothing'),
        ({'state_dict': Bomb()}, 'weights_only=True'),
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
    code, _, err = command('test', 'mask-rcnn_eca-r18-w16_fpn_shapes', file)
    assert code == 2 and part in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / 'exploded').exists()


def test_truncated_checkpoint(command, backbone, tmp_path, mmdet_ready):
    file = tmp_path / 'cut.pth'
    save_mmengine_checkpoint(backbone(), file)
    file.write_bytes(file.read_bytes()[:5000])
    code, _, err = command(
        'train', 'mask-rcnn_eca-r18-w16_fpn_shapes', '--resume', file
    )
    assert code == 2 and 'cannot be read as a checkpoint' in err


def test_message_for_a_documented_and_for_an_unknown_file():
    for name, source in SOURCES.items():
        assert source in missing_file_message(f'checkpoints/{name}')
    assert 'init_cfg.checkpoint=PATH' in missing_file_message('mine.pth')
