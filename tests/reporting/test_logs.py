"""mmengine's training logs: recorded ones, and simulated ones against plain loops."""

import math
import random
import shutil
import subprocess

import pytest

from eca_mmdet.reporting.logs import read_logs
from eca_mmdet.utils.errors import UserError
from tests.conftest import PYTHON, REPOSITORY
from tests.support.log_cases import (
    BEGUN,
    LOGS,
    RECORDED_STAMP,
    RESUMED,
    STAMPS,
    checked,
    lines_of,
    points,
    start,
    write_lines,
)

# What was recorded. Steps are worked by hand: 23 iterations an epoch, a line every 10
# within it.


RECORDED = [
    ('onedl/epochs', (10, 20, 33, 43, 56, 66), (1, 1, 2, 2, 3, 3), (23, 46, 69)),
    (
        'onedl/epochs_resumed',
        (10, 20, 33, 43, 56, 66),
        (1, 1, 2, 2, 3, 3),
        (23, 46, 69),
    ),
    ('openmmlab/epochs_resumed', (10, 20, 33, 43, 56, 66), None, (23, 46, 69)),
    ('onedl/iterations_resumed', (10, 20, 30, 40, 50), (None,) * 5, (25, 50, 55)),
    ('onedl/one_epoch', (10, 20), (1, 1), (23,)),
]


@pytest.mark.parametrize(('folder', 'steps', 'epochs', 'validated'), RECORDED)
def test_recorded_steps(folder, steps, epochs, validated):
    log = checked(read_logs(LOGS / folder))
    assert log.by_epoch == (epochs is None or epochs[0] is not None)
    assert log.iterations_per_epoch == (23 if log.by_epoch else None)
    for name in ('loss', 'loss_line', 'lr', 'grad_norm', 'time', 'data_time'):
        assert log.train[name].steps == steps
        assert epochs is None or log.train[name].epochs == epochs
    for name in ('coco/bbox_mAP', 'coco/traffic light_precision', 'time'):
        assert log.val[name].steps == validated
    if log.by_epoch:
        assert log.val['time'].epochs == tuple(range(1, len(validated) + 1))
    assert set(log.train).isdisjoint({'iter', 'epoch', 'step'})


@pytest.mark.parametrize('folder', [case[0] for case in RECORDED])
def test_recorded_values_are_those_of_the_last_file_that_has_them(folder):
    log = read_logs(LOGS / folder)
    expected = {}
    for path in sorted((LOGS / folder).glob('*/vis_data/2*.json')):
        expected |= {one['iter']: one for one in lines_of(path) if 'iter' in one}
    for name, curve in log.train.items():
        assert points(curve) == {step: one[name] for step, one in expected.items()}


def test_recorded_validation_of_the_resumed_run():
    first, second = (
        [one for one in lines_of(path) if 'iter' not in one]
        for path in sorted(LOGS.glob('onedl/iterations_resumed/*/vis_data/2*.json'))
    )
    log = read_logs(LOGS / 'onedl' / 'iterations_resumed')
    name = 'coco/bbox_mAP'
    assert len(first) == 2 and len(second) == 3
    # The first start's at 25 was done again, its one at 40 is not of this run.
    assert log.val[name].values == tuple(one[name] for one in second)
    assert log.notes == ('resumed after iteration 20 (20240103_110000)',)
    assert [path.parent.parent.name for path in log.configs] == [
        '20240103_100000',
        '20240103_110000',
    ]


@pytest.mark.parametrize(
    'name', ['', 'vis_data', 'vis_data/20240101_100000.json', 'vis_data/scalars.json']
)
def test_every_name_of_a_run_gives_the_same_curves(name, tmp_path):
    whole = read_logs(LOGS / 'onedl' / 'epochs')
    shutil.copytree(LOGS / 'onedl' / 'epochs', tmp_path / 'demo' / 'train')
    for path in (LOGS / 'onedl' / 'epochs' / RECORDED_STAMP / name, tmp_path / 'demo'):
        log = read_logs(path)
        assert (log.train, log.val) == (whole.train, whole.val)
        assert log.source == str(path)
        assert [one.name for one in log.configs] == ['config.py']


def test_a_renamed_folder_is_read(tmp_path):
    whole = LOGS / 'onedl' / 'epochs'
    copy = shutil.copytree(whole / RECORDED_STAMP, tmp_path / 'my run')
    assert read_logs(copy).train == read_logs(whole).train
    (copy / 'vis_data' / f'{RECORDED_STAMP}.json').unlink()
    assert read_logs(copy).train == read_logs(whole).train  # of scalars.json
    (copy / 'vis_data' / 'scalars.json').write_text('rubbish')
    log = read_logs(copy)
    assert log.train == {}
    assert log.notes[-1] == (
        '1 line could not be read (first: scalars.json line 1: it was not written to '
        'its end)'
    )


def test_fewer_iterations_than_the_interval():
    log = read_logs(LOGS / 'onedl' / 'short')
    assert log.train == {}
    assert log.val['coco/bbox_mAP'].steps == (5,)
    assert 'no iteration was logged' in log.notes[0]


def test_a_test_is_no_training(tmp_path):
    folder = LOGS / 'onedl' / 'iterations_resumed' / '20240103_120000'
    for path in (folder, folder / f'{folder.name}.json'):
        with pytest.raises(UserError) as error:
            read_logs(path)
        assert error.value.code == 'no-log'
    # As of ``runner.val()``: scalars at step 0.
    start(tmp_path, STAMPS[0], [{'coco/bbox_mAP': 0.5, 'time': 0.1, 'step': 0}])
    with pytest.raises(UserError, match='no training in'):
        read_logs(tmp_path)


# mmengine's JSON simulated: where it writes lines is in its LoggerHook and loops.


def epochs_by_mmengine(per_epoch, interval, first, last, tag):
    """Yield (step, line) of training and validation, epochs ``first`` to ``last``."""
    for epoch in range(first, last + 1):
        for inner in range(1, per_epoch + 1):
            step = (epoch - 1) * per_epoch + inner
            short = inner == per_epoch <= interval
            if inner % interval == 0 or short:
                yield (
                    step,
                    {'loss': tag + step, 'epoch': epoch, 'iter': step, 'step': step},
                )
        yield (
            epoch * per_epoch,
            {'coco/bbox_mAP': tag + epoch, 'time': 0.1, 'step': epoch},
        )


def expected_of(pairs, cut=math.inf):
    """(train, val) by step, of what is not after ``cut``."""
    train, val = {}, {}
    for step, line in pairs:
        if step <= cut:
            kind, name = (train, 'loss') if 'loss' in line else (val, 'coco/bbox_mAP')
            kind[step] = line[name]
    return train, val


@pytest.mark.parametrize('seed', range(60))
def test_simulated_epochs(seed, tmp_path):
    choose = random.Random(seed)
    per_epoch, interval = choose.randint(1, 130), choose.choice([1, 5, 10, 50])
    epochs, resume = choose.randint(2, 5), choose.randint(1, 3)
    first = list(epochs_by_mmengine(per_epoch, interval, 1, epochs, 0))
    # Killed somewhere after the checkpoint that the second start goes on from.
    resume = min(resume, epochs - 1)
    done = next(i for i, one in enumerate(first) if one[1]['step'] == resume) + 1
    if per_epoch == 1:
        done = [one[0] for one in first].index(resume) + 2
    first = first[: choose.randint(done, len(first))]
    second = list(epochs_by_mmengine(per_epoch, interval, resume + 1, epochs, 1000))
    epoch = f'mmengine - INFO - Epoch(train)  [1][{interval}/{per_epoch}]  loss: 1.0'
    start(tmp_path, STAMPS[0], [line for _, line in first], [BEGUN, epoch])
    resumed = RESUMED.replace('1, iter: 20', f'{resume}, iter: {resume * per_epoch}')
    start(tmp_path, STAMPS[1], [line for _, line in second], [resumed, BEGUN])
    log = checked(read_logs(tmp_path))
    assert log.iterations_per_epoch == per_epoch
    before, after = expected_of(first, resume * per_epoch), expected_of(second)
    assert points(log.train['loss']) == before[0] | after[0]
    assert points(log.val['coco/bbox_mAP']) == before[1] | after[1]
    assert f'resumed after iteration {resume * per_epoch}' in log.notes[0]


def iterations_by_mmengine(interval, every, first, last, tag, epoch_steps, length=99):
    for step in range(first, last + 1):
        if step % interval == 0 or step == length <= interval:
            yield step, {'loss': tag + step, 'iter': step, 'step': step}
        if step % every == 0 or step == last:
            logged = 0 if epoch_steps else step
            yield step, {'coco/bbox_mAP': tag + step, 'time': 0.1, 'step': logged}


@pytest.mark.parametrize('seed', range(60))
def test_simulated_iterations(seed, tmp_path):
    choose = random.Random(seed)
    interval, every = choose.choice([1, 5, 10]), choose.choice([3, 10, 25, 40])
    last, epoch_steps = choose.randint(90, 200), bool(seed % 2)
    resume, killed = choose.randint(21, 50), choose.randint(55, 89)
    case = (interval, every)
    length = choose.randint(1, 12)  # of an epoch, whose first end may have a line
    first = list(iterations_by_mmengine(*case, 1, last, 0, epoch_steps, length))
    first = [one for one in first if one[0] <= killed]
    second = list(iterations_by_mmengine(*case, resume + 1, last, 1000, epoch_steps))
    config = f"train_cfg = dict(max_iters={last}, type='IterBasedTrainLoop', "
    config += f'val_interval={every})'
    resumed = RESUMED.replace('1, iter: 20', f'0, iter: {resume}')
    start(tmp_path, STAMPS[0], [line for _, line in first], [BEGUN], config)
    start(tmp_path, STAMPS[1], [line for _, line in second], [resumed, BEGUN], config)
    log = checked(read_logs(tmp_path))
    assert not log.by_epoch and log.iterations_per_epoch is None
    before, after = expected_of(first, resume), expected_of(second)
    assert points(log.train['loss']) == before[0] | after[0]
    assert points(log.val['coco/bbox_mAP']) == before[1] | after[1]
    assert log.notes == (f'resumed after iteration {resume} ({STAMPS[1]})',)


def test_a_restart_of_short_epochs_is_no_resume(tmp_path):
    for index, tag in enumerate((0, 1000)):
        pairs = iterations_by_mmengine(10, 1000, 1, 60, tag, True, length=9)
        start(tmp_path, STAMPS[index], [line for _, line in pairs])
    log = checked(read_logs(tmp_path))
    assert log.train['loss'].values[:3] == (1009, 1010, 1020)
    assert STAMPS[0] in log.notes[0] and 'left out' in log.notes[0]


def test_validation_before_the_first_line_of_a_resumed_start(tmp_path):
    config = "train_cfg = dict(type='IterBasedTrainLoop', val_interval=4, max_iters=50)"
    pairs = list(iterations_by_mmengine(10, 4, 31, 50, 0, True))
    resumed = RESUMED.replace('1, iter: 20', '0, iter: 30')
    start(tmp_path, STAMPS[0], [line for _, line in pairs], [resumed], config)
    log = checked(read_logs(tmp_path))
    assert log.val['coco/bbox_mAP'].steps == (32, 36, 40, 44, 48, 50)
    assert log.notes[0].endswith('what was logged until then is not here')


def test_validation_off_the_interval_of_the_config(tmp_path):
    config = "train_cfg = dict(type='IterBasedTrainLoop', val_interval=100)"
    pairs = list(iterations_by_mmengine(10, 20, 1, 60, 0, True))
    start(tmp_path, STAMPS[0], [line for _, line in pairs][:-1], None, config)
    log = checked(read_logs(tmp_path))
    assert log.val['coco/bbox_mAP'].steps == (20, 40)


def test_iterations_logged_as_one_epoch(tmp_path):
    """With a log_processor that was left at epochs, all lines are of epoch 1."""
    config = "train_cfg = dict(type='IterBasedTrainLoop', val_interval=25)"
    pairs = list(iterations_by_mmengine(10, 25, 1, 50, 0, True))
    lines = [one | ({'epoch': 1} if 'loss' in one else {}) for _, one in pairs]
    start(tmp_path, STAMPS[0], lines, None, config)
    log = checked(read_logs(tmp_path))
    assert not log.by_epoch
    assert log.val['coco/bbox_mAP'].steps == (25, 50)


def test_a_restart_is_not_spliced(tmp_path):
    def write(stamp, first, last, tag):
        lines = [one for _, one in epochs_by_mmengine(20, 10, first, last, tag)]
        done = RESUMED.replace('1, iter: 20', f'{first - 1}, iter: {20 * first - 20}')
        start(tmp_path, stamp, lines, [done] if first > 1 else [BEGUN])

    write(STAMPS[0], 1, 4, 0)
    write(STAMPS[1], 1, 1, 1000)
    log = checked(read_logs(tmp_path))
    assert points(log.train['loss']) == {10: 1010, 20: 1020}
    assert log.notes == (
        f'1 other training was left out ({STAMPS[0]}): started from the first '
        'iteration, not resumed',
    )
    # The older one, which alone came as far as epoch 3, is resumed.
    write(STAMPS[2], 4, 5, 2000)
    log = checked(read_logs(tmp_path))
    assert log.train['loss'].values[4:8] == (50, 60, 2070, 2080)
    assert 'left out' in log.notes[-1] and STAMPS[1] in log.notes[-1]
    # A start that was stopped before it logged does not hide the others.
    start(tmp_path, STAMPS[3], [], [BEGUN])
    assert read_logs(tmp_path).train == log.train
    lines = [{'coco/bbox_mAP': 0.5, 'time': 0.1, 'step': 0}]
    start(tmp_path, STAMPS[3], lines, [BEGUN])
    assert read_logs(tmp_path).train == log.train


def test_another_batch_size_after_a_resume(tmp_path):
    """mmengine counts on from the iteration of the checkpoint."""

    def line(epoch, step, loss):
        return {'loss': loss, 'epoch': epoch, 'iter': step, 'step': step}

    validation = {'coco/bbox_mAP': 0.5, 'time': 0.1, 'step': 3}
    head = '2024/01/01 10:00:00 - mmengine - INFO - Epoch(train)  '
    resumed = RESUMED.replace('1, iter: 20', '2, iter: 160')
    texts = [
        [BEGUN, f'{head}[1][40/80]  loss: 1.0'],
        [resumed, BEGUN, f'{head}[3][20/40]  loss: 9.0'],
    ]
    first = [line(1, 40, 1), line(2, 120, 2), line(3, 200, 3)]
    second = [line(3, 180, 9), line(3, 200, 9), validation]
    start(tmp_path, STAMPS[0], first, texts[0])
    start(tmp_path, STAMPS[1], second, texts[1])
    log = checked(read_logs(tmp_path))
    assert points(log.train['loss']) == {40: 1, 120: 2, 180: 9, 200: 9}
    assert points(log.val['coco/bbox_mAP']) == {200: 0.5}
    assert log.iterations_per_epoch == 40


def test_validation_by_iteration_in_a_run_of_epochs(tmp_path):
    lines = [one for _, one in epochs_by_mmengine(20, 10, 1, 3, 0)]
    for line in lines:
        if 'iter' not in line:
            line['step'] *= 20  # LoggerHook(log_metric_by_epoch=False)
    epoch = 'mmengine - INFO - Epoch(train)  [1][10/20]  loss: 1.0'
    start(tmp_path, STAMPS[0], lines, [BEGUN, epoch])
    log = checked(read_logs(tmp_path))
    assert log.val['coco/bbox_mAP'].steps == (20, 40, 60)
    assert log.val['coco/bbox_mAP'].epochs == (1, 2, 3)


def test_one_epoch_of_unknown_length(tmp_path):
    lines = [one for _, one in epochs_by_mmengine(23, 10, 1, 1, 0)]
    log = checked(read_logs(write_lines(tmp_path / 'a.json', lines)))
    assert log.iterations_per_epoch is None
    assert log.val['coco/bbox_mAP'].steps == (20,)  # the last that is known


def test_names_with_a_hierarchy_and_numbers_of_hooks(tmp_path):
    lines = [
        {'train/loss': 1.0, 'train/lr': 0.1, 'epoch': 1, 'iter': 10, 'step': 10},
        {'ema_decay': 0.5, 'step': 12},
        {'val/coco/bbox_mAP': 0.5, 'val/loss': 2.0, 'val/time': 0.1, 'step': 1},
    ]
    log = checked(
        read_logs(write_lines(tmp_path / 'scalars.json', lines[:1] + lines[2:]))
    )
    assert set(log.train) == {'loss', 'lr'}
    assert set(log.val) == {'coco/bbox_mAP', 'loss', 'time'}
    both = [one for _, one in epochs_by_mmengine(20, 10, 1, 2, 0)]
    path = write_lines(
        tmp_path / 'scalars.json', [*both, {'ema_decay': 0.5, 'step': 22}]
    )
    log = checked(read_logs(path))
    assert points(log.train['ema_decay']) == {22: 0.5}
    assert log.train['ema_decay'].epochs == (2,)
    del lines[0]['epoch']
    lines[0]['train/mode'] = lines[0]['mode'] = 2.0
    log = checked(read_logs(write_lines(tmp_path / 'scalars.json', lines)))
    assert points(log.train['mode']) == {10: 2.0}
    assert points(log.train['ema_decay']) == {12: 0.5}


def test_reading_needs_neither_torch_nor_mmengine():
    code = (
        'import sys; from eca_mmdet.reporting import logs; '
        'assert not {"torch", "mmengine", "mmdet", "numpy"} & set(sys.modules)'
    )
    subprocess.run([PYTHON, '-c', code], check=True, cwd=REPOSITORY, timeout=60)


@pytest.mark.openmmlab
def test_what_the_installed_mmengine_writes(tmp_path):
    code = (
        'from pathlib import Path; from tests.data.logs.record_logs import run; '
        'run(Path(r"%s"), "20240101_100000", '
        'dict(type="EpochBasedTrainLoop", max_epochs=3))'
    )
    subprocess.run(
        [PYTHON, '-c', code % tmp_path],
        check=True,
        capture_output=True,
        cwd=REPOSITORY,
        timeout=120,
    )
    log, recorded = read_logs(tmp_path), read_logs(LOGS / 'onedl' / 'epochs')
    assert set(log.train) == set(recorded.train) and set(log.val) == set(recorded.val)
    for name in ('loss', 'lr'):
        assert log.train[name].steps == recorded.train[name].steps
        # Recorded on another CPU: sums are added in another order there.
        expected = pytest.approx(recorded.train[name].values, rel=1e-4)
        assert log.train[name].values == expected
