"""Trainings that are killed or stopped, and end as if they had not been."""

import json
import re
import shutil
import signal

import pytest
import torch

from eca_mmdet.checkpoints.io import read_weights
from eca_mmdet.datasets.shapes import write_shapes
from eca_mmdet.engine.checkpointing import locked_folder
from tests.support import training_runs

pytestmark = pytest.mark.slow
both_lines = pytest.mark.openmmlab

HELD = (
    'stopping when this step or validation is done, with a checkpoint; once more '
    'stops at once, without'
)
LAST = {'iter': 'iter_6.pth', 'epoch': 'epoch_3.pth'}


@pytest.fixture(scope='module')
def configs(mmdet_ready, tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    shapes = write_shapes(root / 'shapes', sizes={'train': 6, 'val': 2}, side=64)
    return {
        unit: training_runs.write_config(
            root / f'{unit}.py', shapes, by_epoch=unit == 'epoch'
        )
        for unit in LAST
    }


@pytest.fixture(scope='module')
def uninterrupted(train, configs, tmp_path_factory):
    """The end of a training by iterations, and of one by epochs."""
    root = tmp_path_factory.mktemp('uninterrupted')
    runs = {unit: train(path, root / unit) for unit, path in configs.items()}
    for run in runs.values():
        code, _, err = run.end()
        assert code == 0 and err.startswith('Next:\n'), err
    return {unit: end_of(root / unit, LAST[unit]) for unit in runs}


def end_of(work, name):
    """Everything that a training ends with, but times."""
    file = read_weights(work / name)
    metrics = json.loads(max(work.glob('*/metrics.json')).read_text())
    optimizer = file.extras['optimizer']
    return {
        **file.state,
        'steps': file.extras['meta']['iter'],
        'moments': [list(one.values()) for one in optimizer['state'].values()],
        'lr': [group['lr'] for group in optimizer['param_groups']],
        'schedulers': file.extras['param_schedulers'],
        'metrics': metrics['results'],
    }


def assert_equal(found, expected, name=''):
    """Bit for bit, through nested containers."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), name
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), name
        for key in expected:
            assert_equal(found[key], expected[key], f'{name}.{key}')
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), name
        for index, one in enumerate(expected):
            assert_equal(found[index], one, f'{name}.{index}')
    else:
        assert found == expected, name


def resume(train, config, work, expected, last, *words):
    code, out, err = train(config, work, '--resume', *words).end()
    assert code == 0 and err.startswith('Next:\n'), err
    assert_equal(end_of(work, last), expected)
    return out


def checkpoints(work):
    files = [*work.glob('*.pth'), work / 'last_checkpoint']
    return {path.name: path.read_bytes() for path in files}


def leftovers(work):
    return [path.name for path in work.rglob('*.partial')]


@pytest.mark.sweep
@pytest.mark.parametrize(
    ('unit', 'sabotage', 'left'),
    [
        ('iter', ('kill_at_step', 1), []),
        ('iter', ('kill_at_step', 3), ['iter_2.pth']),
        pytest.param(
            'iter', ('kill_in_checkpoint', 4, 0.5), ['iter_2.pth'], marks=both_lines
        ),
        pytest.param(
            'iter', ('kill_in_validation', 2), ['iter_6.pth'], marks=both_lines
        ),
        pytest.param('epoch', ('kill_at_step', 3), ['epoch_1.pth'], marks=both_lines),
        ('epoch', ('kill_in_checkpoint', 2, 0), ['epoch_1.pth']),
        ('epoch', ('kill_after_checkpoint', 2), ['epoch_2.pth']),
        (
            'epoch',
            ('kill_in_validation', 3),
            ['epoch_3.pth'],
        ),
    ],
)
def test_killed_training_ends_as_the_uninterrupted_one(
    train, configs, uninterrupted, tmp_path, unit, sabotage, left
):
    work = tmp_path / 'work'
    code, _, err = train(configs[unit], work, sabotage=sabotage).end()
    assert (code, err) == (-signal.SIGKILL, '')
    assert sorted(path.name for path in work.glob('*.pth')) == left
    out = resume(train, configs[unit], work, uninterrupted[unit], LAST[unit])
    assert 'terminated unexpectedly: killed, or out of memory' in out
    assert ('starting from the beginning' in out) == (not left)
    assert not leftovers(work)


VARIANTS = {
    'averaged': (
        ('interrupt_in_validation',),
        dict(custom_hooks=[dict(type='EMAHook', momentum=0.2)]),
    ),
    'accumulated': (('kill_at_step', 5), dict(optim_wrapper__accumulative_counts=3)),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', VARIANTS)
def test_state_that_is_not_in_the_model(train, configs, tmp_path, name):
    """Averages that a validation lends the model; gradients that wait for others.

    Both by epochs of two steps, so that a checkpoint comes in between.
    """
    sabotage, changes = VARIANTS[name]
    config = training_runs.write_config(
        tmp_path / 'config.py', configs['epoch'].parent / 'shapes', True, **changes
    )
    runs = [
        train(config, tmp_path / 'a'),
        train(config, tmp_path / 'b', sabotage=sabotage),
    ]
    assert [run.end()[0] for run in runs] in ([0, 130], [0, -signal.SIGKILL])
    resume(
        train,
        config,
        tmp_path / 'b',
        end_of(tmp_path / 'a', LAST['epoch']),
        LAST['epoch'],
    )
    averages = [
        read_weights(tmp_path / work / LAST['epoch']).extras.get('ema_state_dict')
        for work in 'ab'
    ]
    assert_equal(*averages)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ('sabotage', 'kept'),
    [
        # In the middle of a step nothing can be kept of it.
        (('interrupt_twice_at_step', 3), 'iter_2.pth'),
        (('interrupt_and_terminate', 2), 'iter_3.pth'),
    ],
)
def test_two_signals(train, configs, uninterrupted, tmp_path, sabotage, kept):
    work = tmp_path / 'work'
    code, _, err = train(configs['iter'], work, sabotage=sabotage).end()
    assert code == 130
    assert f'{work / kept}' in err.splitlines()[-1] and 'Traceback' not in err
    resume(train, configs['iter'], work, uninterrupted['iter'], LAST['iter'])


@pytest.mark.slow
def test_interrupted_while_it_resumes(train, configs, uninterrupted, tmp_path):
    work = tmp_path / 'work'
    assert train(configs['epoch'], work, sabotage=('interrupt_at_step', 2)).end()[0]
    before = checkpoints(work)
    code, _, err = train(
        configs['epoch'], work, '--resume', sabotage=('interrupt_while_resuming',)
    ).end()
    assert code == 130 and f'{work / "epoch_1_iter_3.pth"}' in err
    assert checkpoints(work) == before
    resume(train, configs['epoch'], work, uninterrupted['epoch'], LAST['epoch'])


@pytest.mark.slow
def test_ctrl_c_never_points_to_an_older_file(train, configs, tmp_path):
    """Two ways from one checkpoint, stopped at the same step: the later is kept."""
    work, stop = tmp_path / 'work', ('interrupt_at_step', 2)
    assert train(configs['iter'], work, sabotage=stop).end()[0] == 130
    first = read_weights(work / 'iter_3.pth').state
    words = ['--resume', work / 'iter_2.pth', '--cfg-options']
    words += ['model.rpn_head.loss_cls.loss_weight=7.0']
    # The checkpoint of step 2 was removed for that of step 3: make another.
    shutil.rmtree(work)
    assert train(configs['iter'], work, sabotage=('kill_at_step', 2)).end()[0] < 0
    (work / 'iter_3.pth').write_bytes(b'of another way')
    assert train(configs['iter'], work, *words, sabotage=stop).end()[0] == 130
    second = read_weights(work / 'iter_3.pth').state
    assert any(not torch.equal(first[key], second[key]) for key in first)


@pytest.mark.sweep
@pytest.mark.parametrize('unit', ['epoch', pytest.param('iter', marks=both_lines)])
def test_workers_change_nothing(train, configs, uninterrupted, tmp_path, unit):
    """Two of them, killed and resumed: the weights of a training without any."""
    work = tmp_path / 'work'
    words = ['--cfg-options', 'train_dataloader.num_workers=2']
    words += [f'train_dataloader.persistent_workers={unit == "iter"}']
    sabotage = ('kill_at_step', 3)
    run = train(configs[unit], work, *words, sabotage=sabotage)
    assert run.end()[0] == -signal.SIGKILL
    assert run.ends_whole(), 'a worker outlives the training that was killed'
    resume(train, configs[unit], work, uninterrupted[unit], LAST[unit], *words)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ('unit', 'sabotage', 'code', 'checkpoint'),
    [
        pytest.param(
            'iter', ('interrupt_at_step', 2), 130, 'iter_3.pth', marks=both_lines
        ),
        ('iter', ('interrupt_in_validation',), 130, 'iter_3.pth'),
        # In the middle of the second epoch; and where Slurm or docker ends a job.
        pytest.param(
            'epoch',
            ('interrupt_at_step', 2, int(signal.SIGTERM)),
            143,
            'epoch_1_iter_3.pth',
            marks=both_lines,
        ),
        ('epoch', ('interrupt_at_step', 3), 130, 'epoch_1_iter_4.pth'),
        ('epoch', ('interrupt_in_validation',), 130, 'epoch_1.pth'),
    ],
)
def test_interrupted_training_loses_no_step(
    train, configs, uninterrupted, tmp_path, unit, sabotage, code, checkpoint
):
    work = tmp_path / 'work'
    words = ['--cfg-options', 'train_dataloader.num_workers=1']
    found, out, err = train(configs[unit], work, *words, sabotage=sabotage).end()
    assert found == code, err
    *told, line = err.splitlines()
    assert told in (
        [],
        [HELD],
    )
    assert f'all of it is in {work / checkpoint}. Resume: eca-mmdet train ' in line
    assert f'--work-dir {work} --verbose --resume --cfg-options train_data' in line
    assert 'Traceback' not in out + err
    done = read_weights(work / checkpoint).extras['meta']['iter']
    assert steps_of(out, unit) in ([*range(1, done + 1)], [*range(1, done)])
    out = resume(train, configs[unit], work, uninterrupted[unit], LAST[unit], *words)
    assert 'terminated unexpectedly' not in out
    assert steps_of(out, unit) == [*range(done + 1, 7)]


def steps_of(log, unit):
    """The steps that a log tells of, counted from 1."""
    if unit == 'iter':
        return [int(step) for step in re.findall(r'Iter\(train\) +\[(\d)/6\]', log)]
    found = re.findall(r'Epoch\(train\) +\[(\d)\]\[(\d)/2\]', log)
    return [2 * (int(epoch) - 1) + int(step) for epoch, step in found]


@pytest.mark.slow
def test_weights_to_start_from_are_no_place_to_go_on(train, configs, tmp_path):
    """A checkpoint written within an epoch, as load_from: every step is trained."""
    sabotage = ('interrupt_at_step', 2)
    assert train(configs['epoch'], tmp_path / 'a', sabotage=sabotage).end()[0] == 130
    start = f'load_from={tmp_path / "a" / "epoch_1_iter_3.pth"}'
    code, out, err = train(
        configs['epoch'], tmp_path / 'b', '--cfg-options', start
    ).end()
    assert code == 0 and err.startswith('Next:\n'), err
    assert steps_of(out, 'epoch') == [1, 2, 3, 4, 5, 6]


def test_interrupted_before_the_first_step(train, configs, tmp_path):
    sabotage = ('interrupt_at_start',)
    code, _, err = train(configs['iter'], tmp_path / 'work', sabotage=sabotage).end()
    assert code == 130
    assert err.endswith('stopped at once. No checkpoint was written yet.\n')
    assert not list((tmp_path / 'work').glob('*.pth'))


@both_lines
def test_two_trainings_in_one_folder(train, configs, tmp_path):
    work = tmp_path / 'work'
    with locked_folder(work):
        code, _, err = train(configs['iter'], work).end()
    assert code == 2
    assert f'{work} is the work folder of a training that runs now' in err
    work.mkdir(exist_ok=True)
    (work / 'iter_4.pth').write_bytes(b'of an earlier one')
    code, _, err = train(configs['iter'], work).end()
    assert code == 2 and 'which a new one would overwrite' in err
    code, _, err = train(configs['iter'], work, '--resume').end()
    assert code == 2 and f'no checkpoint in {work} can be resumed from' in err
    assert (work / 'iter_4.pth').read_bytes() == b'of an earlier one'
