"""Trainings that meet NaN, broken images, dead workers and full disks."""

import os
import re
import shutil

import pytest
import torch

from eca_mmdet.checkpoints.io import read_weights
from eca_mmdet.datasets.shapes import write_shapes
from tests.support import training_runs

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope='module')
def shapes(mmdet_ready, tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'shapes'
    return write_shapes(root, sizes={'train': 6, 'val': 2}, side=64)


@pytest.fixture
def config(shapes, tmp_path):
    """A config on a data set of its own, which tests may break."""
    root = shutil.copytree(shapes, tmp_path / 'shapes')
    return training_runs.write_config(tmp_path / 'config.py', root)


def images(config):
    return sorted((config.parent / 'shapes' / 'train').iterdir())


def one_line(err, command='train'):
    """The single line of stderr."""
    assert err.count('\n') == 1 and err.startswith(f'eca-mmdet {command}: '), err
    return err


@pytest.mark.openmmlab
def test_a_weight_that_is_nan(train, config, tmp_path):
    """The layer is named, and the images; the checkpoint before it is good."""
    name = 'backbone.layer2.0.conv1.weight'
    code, _, err = train(config, tmp_path / 'w', sabotage=('poison', 3, name)).end()
    assert code == 1
    line = one_line(err)
    assert 'the loss of step 4 is not finite (loss_' in line
    assert re.search(r'on images \d+ \(\d+\.(png|jpg)\), \d+ \(\d+', line), line
    assert (
        'First output that is not: backbone.layer2.0.conv1 (its weight is not finite: '
        'an earlier update was too large)' in line
    )
    assert 'a smaller learning rate (now 0.0005;' in line
    last = tmp_path / 'w' / 'iter_2.pth'
    assert f'Last good checkpoint: {last}; resume it: ' in line
    assert all(t.isfinite().all() for t in read_weights(last).state.values())


def test_a_learning_rate_that_is_far_too_large(train, config, tmp_path):
    """No checkpoint ever holds NaN, whatever the moment at which the weights do."""
    words = ['--no-scale-lr', '--cfg-options', 'optim_wrapper.optimizer.lr=1e37']
    words += ['optim_wrapper.clip_grad=None', 'default_hooks.checkpoint.interval=1']
    code, _, err = train(config, tmp_path / 'w', *words).end()
    assert code == 1
    assert 'not finite' in one_line(err)
    for path in (tmp_path / 'w').glob('*.pth'):
        state = read_weights(path).state
        assert all(t.isfinite().all() for t in state.values())


def test_batches_without_a_loss_are_left_out(train, config, tmp_path):
    """What is learned from the others is what would be without them."""
    words = ['--on-nan', 'skip', '--nan-limit', '2']
    # Without decay and momentum of earlier steps nothing but the schedule moves on.
    words += ['--cfg-options', 'default_hooks.checkpoint.interval=1']
    words += ['default_hooks.checkpoint.max_keep_ckpts=-1']
    work = tmp_path / 'w'
    with config.open('a') as file:  # mmdet's hook reads the loss, which is not there
        file.write("custom_hooks.append(dict(type='CheckInvalidLossHook'))\n")
    code, out, err = train(config, work, *words, sabotage=('lose', 1, 4)).end()
    assert code == 0 and err.startswith('Next:\n'), err
    found = re.findall(
        r'the loss of step (\d) is not finite, .* left out \((\d) of', out
    )
    assert found == [('2', '1'), ('5', '2')]
    states = {n: read_weights(work / f'iter_{n}.pth').state for n in range(1, 7)}
    for n in range(2, 7):
        same = [torch.equal(t, states[n][key]) for key, t in states[n - 1].items()]
        assert (
            all(same)
            if n in (2, 5)
            else not any(
                torch.equal(states[n][key], t)
                for key, t in states[n - 1].items()
                if key.startswith('backbone.conv1') or 'running_mean' in key
            )
        )
    code, out, err = train(
        config, tmp_path / 'w3', *words, sabotage=('lose', 1, 2, 4)
    ).end()
    assert code == 1
    assert 'the loss of step 5 is not finite' in one_line(err)
    assert 'training has stopped after 2 were left out' in err


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.openmmlab
def test_images_that_cannot_be_read(train, config, tmp_path, workers):
    """Cut off, empty, no image, gone while training: named; or listed and replaced."""
    cut, empty, text, gone = images(config)[:4]
    cut.write_bytes(cut.read_bytes()[:300])
    empty.write_bytes(b'')
    text.write_text('<html>not found</html>')
    words = ['--cfg-options', f'train_dataloader.num_workers={workers}']
    code, _, err = train(config, tmp_path / 'w', *words).end()
    assert code == 1
    line = one_line(err)
    assert re.search(r'image \S+/train/\d+\.\w+ cannot be read: ', line), line
    assert '--skip-bad-images N' in line and 'No checkpoint was written yet.' in line

    words = ['--skip-bad-images', '4', *words]
    sabotage = ('remove', 0, str(gone))
    code, out, err = train(config, tmp_path / 'x', *words, sabotage=sabotage).end()
    assert code == 0 and err.startswith('Next:\n'), err
    (listed,) = (tmp_path / 'x').glob('*/bad_images.txt')
    assert (
        f'4 broken images were replaced by others; they are listed in {listed}' in out
    )
    found = dict(one.split('\t') for one in listed.read_text().splitlines())
    assert found.keys() == {str(one) for one in (cut, empty, text, gone)}
    assert found[str(empty)] == 'it is empty'
    assert found[str(gone)] == 'No such file or directory'

    gone.write_bytes(b'is back')
    words[1] = '2'
    code, _, err = train(config, tmp_path / 'y', *words).end()
    assert code == 1
    assert '3 images cannot be read, and --skip-bad-images allows 2: /' in one_line(err)


def test_images_that_are_mixed_into_others(config, tmp_path, mmdet_ready):
    """A mosaic of four: the broken one is named, or replaced, whoever it is for."""
    from mmengine.config import Config

    from eca_mmdet.engine.data_loading import BadImageError, FaultTolerantDataset

    broken = images(config)[2]
    broken.write_bytes(b'')
    inner = Config.fromfile(config).train_dataloader.dataset
    inner.pipeline = [inner.pipeline[0], dict(type='LoadAnnotations', with_bbox=True)]
    mosaic = dict(
        type='MultiImageMixDataset',
        dataset=inner,
        pipeline=[dict(type='Mosaic', img_scale=(64, 64)), dict(type='PackDetInputs')],
    )
    listed = tmp_path / 'bad.txt'
    tolerant = FaultTolerantDataset(mosaic, seed=0, tolerated=1, bad_images=str(listed))
    assert len([tolerant[index] for index in range(6)]) == 6
    assert listed.read_text() == f'{broken}\tit is empty\n'
    strict = FaultTolerantDataset(mosaic, seed=0)
    with pytest.raises(BadImageError, match=f'image {broken} cannot be read'):
        for index in range(6):
            strict[index]


def test_images_that_cannot_be_read_in_a_test(train, command, config, tmp_path):
    """The test of a detector names them too; leaving any out would change the AP."""
    assert train(config, tmp_path / 'w').end()[0] == 0
    broken = sorted((config.parent / 'shapes' / 'val').iterdir())[1]
    broken.write_bytes(broken.read_bytes()[:300])
    checkpoint = tmp_path / 'w' / 'iter_6.pth'
    code, _, err = command('test', config, checkpoint, '--work-dir', tmp_path / 't')
    assert code == 1
    assert f'image {broken} cannot be read: ' in one_line(err, 'test')
    assert '--skip-bad-images' not in err


def test_a_worker_that_is_killed(train, config, tmp_path):
    words = ['--cfg-options', 'train_dataloader.num_workers=1']
    code, _, err = train(
        config, tmp_path / 'w', *words, sabotage=('kill_worker', 7)
    ).end()
    assert code == 1
    line = one_line(err)
    named = re.search(
        r'a data loader worker was killed while it read one of: (\S+)\. ', line
    )
    assert named and named[1] in map(str, images(config)), line
    assert 'memory ran out' in line


@pytest.mark.openmmlab
def test_a_disk_that_fills_up(train, config, tmp_path):
    """One line; the checkpoint before stays, whole; nothing half-written is left."""
    work = tmp_path / 'w'
    code, _, err = train(config, work, sabotage=('fill_disk', 3)).end()
    assert code == 1
    line = one_line(err)
    assert 'a file may not become that large here' in line
    assert f'Last good checkpoint: {work / "iter_2.pth"}; resume it: ' in line
    assert [path.name for path in work.glob('*.pth')] == ['iter_2.pth']
    assert not list(work.rglob('*.partial'))
    assert read_weights(work / 'iter_2.pth').extras['meta']['iter'] == 2
    code, _, err = train(config, work, '--resume').end()
    assert code == 0 and err.startswith('Next:\n'), err


@pytest.mark.parametrize(
    ('name', 'known'),
    [
        ('backbone.conv1.weight', 'backbone.conv1 (its weight is not finite'),
        ('backbone.layer3.1.bn2.bias', 'backbone.layer3.1.'),
        ('neck.lateral_convs.1.conv.weight', 'neck.lateral_convs.1.conv (its weight'),
        ('rpn_head.rpn_cls.bias', 'rpn_head.rpn_cls (its bias'),
        (
            'roi_head.mask_head.conv_logits.weight',
            'roi_head.mask_head.conv_logits (its',
        ),
    ],
)
def test_the_first_layer_that_loses_numbers(detector, name, known):
    from eca_mmdet.engine.nan_guard import first_not_finite

    model, batch = detector
    assert first_not_finite(model, batch) == ('', [])
    weight = model.get_parameter(name)
    with torch.no_grad():
        kept = weight.view(-1)[0].item()
        weight.view(-1)[0] = float('inf')
        found, losses = first_not_finite(model, batch)
        weight.view(-1)[0] = kept
    assert found.startswith(known), found
    assert all(name.startswith('loss') for name in losses)
    assert first_not_finite(model, batch) == ('', [])


def test_an_image_that_is_not_finite(detector):
    from eca_mmdet.engine.nan_guard import first_not_finite

    model, batch = detector
    inputs = [one.float() for one in batch['inputs']]
    inputs[1][0, 0, 0] = float('nan')
    found, _ = first_not_finite(model, {**batch, 'inputs': inputs})
    assert found == 'data_preprocessor (its input is not finite)'


@pytest.fixture(scope='module')
def detector(train, shapes, tmp_path_factory):
    """The model of these trainings, and one batch."""
    from mmdet.registry import DATASETS, MODELS
    from mmengine.config import Config
    from mmengine.dataset import pseudo_collate

    path = tmp_path_factory.mktemp('detector') / 'config.py'
    cfg = Config.fromfile(training_runs.write_config(path, shapes))
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.train()
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    return model, pseudo_collate([dataset[0], dataset[1]])


@pytest.mark.parametrize(
    ('error', 'line'),
    [
        (
            RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB'),
            'of the GPU ran',
        ),
        (RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED'), 'of the GPU ran'),
        (
            RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `f()`'),
            'of the GPU ran',
        ),
        (
            RuntimeError('InductorError: No working C++ compiler found in cpp.cxx: g'),
            'torch.compile finds no compiler',
        ),
        (MemoryError(), 'of this machine ran out'),
        (
            RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: 9"
            ),
            'of this machine ran out',
        ),
        (OSError(28, os.strerror(28), '/runs/x'), 'the disk is full, at /runs/x'),
        (OSError(122, os.strerror(122)), 'quota is used up'),
        (
            RuntimeError('DataLoader worker (pid(s) 7) exited unexpectedly'),
            'a data loader worker died. A decoder that crashes',
        ),
        (
            RuntimeError('unable to write to file </torch_7>: No space left on device'),
            '/dev/shm is full',
        ),
    ],
)
def test_failures_are_told_in_a_line(mmdet_ready, error, line):
    from eca_mmdet.engine.failures import as_user_error
    from eca_mmdet.utils.errors import RunError

    with pytest.raises(RunError, match=re.escape(line)), as_user_error(object()):
        raise error


@pytest.mark.parametrize(
    ('part', 'line'),
    [
        (
            dict(type='FPN', in_channel=[8]),
            "FPN.__init__() got an unexpected keyword argument 'in_channel'.",
        ),
        (dict(type='FPM'), 'FPM is not in the mmdet::model registry.'),
    ],
)
def test_a_misspelt_entry_of_a_config_is_told_in_a_line(mmdet_ready, part, line):
    from mmdet.registry import MODELS

    from eca_mmdet.engine.failures import as_user_error
    from eca_mmdet.utils.errors import UserError

    with pytest.raises(UserError, match=re.escape(line)) as raised, as_user_error(None):
        MODELS.build(part)
    assert raised.value.code == 'config-invalid'


@pytest.mark.parametrize(
    'error',
    [
        RuntimeError('a bug'),
        OSError(22, 'x'),
        KeyError(1),
        TypeError("A.__init__() got an unexpected keyword argument 'b'"),
    ],
)
def test_bugs_keep_their_stack_trace(mmdet_ready, error):
    from eca_mmdet.engine.failures import as_user_error

    with pytest.raises(type(error)) as raised, as_user_error(object()):
        raise error
    assert raised.value is error


@pytest.mark.parametrize(
    ('argv', 'expected'),
    [
        ('train a.py', 'train a.py --resume'),
        ('train a.py --resume', 'train a.py --resume'),
        ('train a.py --resume --amp', 'train a.py --amp --resume'),
        ('train a.py --resume b.pth --amp', 'train a.py --amp --resume'),
        ('train a.py --resume=b.pth', 'train a.py --resume'),
        (
            'train a.py --cfg-options a=1 b=2',
            'train a.py --resume --cfg-options a=1 b=2',
        ),
        ('train a.py --work-dir a\tb', "train a.py --work-dir 'a\tb' --resume"),
    ],
)
def test_the_command_to_go_on_with(monkeypatch, argv, expected):
    from eca_mmdet.cli.train import resume_command

    monkeypatch.setattr('sys.argv', ['/bin/eca-mmdet', *argv.split(' ')])
    assert resume_command() == f'eca-mmdet {expected}'
