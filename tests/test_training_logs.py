"""Training logs: recorded ones, simulated ones against plain loops, and broken ones."""

import json
import math
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from eca_mmdet.errors import UserError
from eca_mmdet.report.log_lines import LONGEST
from eca_mmdet.report.logs import read_logs
from tests.conftest import PYTHON, REPOSITORY

LOGS = Path(__file__).parent / 'data' / 'logs'
STAMPS = ('20240109_235959', '20240110_000000', '20240120_100000', '20250101_000000')
RECORDED_STAMP = '20240101_100000'

BEGUN = '2024/01/01 10:00:00 - mmengine - INFO - Checkpoints will be saved to work_dir.'
RESUMED = '2024/01/01 10:00:00 - mmengine - INFO - resumed epoch: 1, iter: 20'


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def points(series):
    return dict(zip(series.steps, series.values, strict=True))


def checked(log):
    """The log, whose curves must be ascending without repeats and of equal lengths."""
    for curve in [*log.train.values(), *log.val.values()]:
        assert list(curve.steps) == sorted(set(curve.steps))
        assert len(curve.steps) == len(curve.epochs) == len(curve.values) > 0
        assert all((one is not None) == log.by_epoch for one in curve.epochs)
    return log


def write_lines(path, lines, end='\n'):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = [one if isinstance(one, str) else json.dumps(one) for one in lines]
    path.write_text(''.join(f'{one}\n' for one in text[:-1]) + text[-1] + end)
    return path


def start(work_dir, stamp, lines, text=None, config=None):
    """Write the folder of one start of mmengine."""
    folder = work_dir / stamp
    write_lines(folder / 'vis_data' / f'{stamp}.json', lines or [''])
    if text is not None:
        write_lines(folder / f'{stamp}.log', text)
    if config is not None:
        write_lines(folder / 'vis_data' / 'config.py', [config])
    return folder


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
    assert log.framework == 'mmengine'
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
    assert log.notes == (
        'resumed after iteration 20 (20240103_110000)',
        'no training in, left out: 20240103_120000',
    )
    assert [path.parent.parent.name for path in log.configs] == [
        '20240103_100000',
        '20240103_110000',
    ]


@pytest.mark.parametrize('folder', [case[0] for case in RECORDED])
def test_text_gives_the_curves_of_the_json(folder, tmp_path):
    log = read_logs(LOGS / folder)
    copy = shutil.copytree(LOGS / folder, tmp_path / 'work_dir')
    for path in copy.glob('*/vis_data/*.json'):
        path.unlink()
    text = checked(read_logs(copy))
    for kind in ('train', 'val'):
        exact, rounded = getattr(log, kind), getattr(text, kind)
        assert set(exact) == set(rounded)
        for name, curve in exact.items():
            assert rounded[name].steps == curve.steps
            assert rounded[name].epochs == curve.epochs
            assert rounded[name].values == pytest.approx(curve.values, abs=5.1e-5)
    assert text.notes == log.notes


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
    log = read_logs(copy)  # of the text
    assert log.train['loss'].steps == (10, 20, 33, 43, 56, 66)
    assert log.notes == (
        '1 line could not be read (first: scalars.json line 1: it was not written to '
        'its end)',
    )


def test_fewer_iterations_than_the_interval():
    log = read_logs(LOGS / 'onedl' / 'short')
    assert log.train == {}
    assert log.val['coco/bbox_mAP'].steps == (5,)
    assert 'no iteration was logged' in log.notes[0]


def test_a_test_is_no_training(tmp_path):
    folder = LOGS / 'onedl' / 'iterations_resumed' / '20240103_120000'
    for path in (folder, folder / f'{folder.name}.json', folder / f'{folder.name}.log'):
        with pytest.raises(UserError, match='no training in'):
            read_logs(path)
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
    start(tmp_path, STAMPS[0], [line for _, line in first])
    start(tmp_path, STAMPS[1], [line for _, line in second])
    log = checked(read_logs(tmp_path))
    assert log.iterations_per_epoch == per_epoch
    before, after = expected_of(first, resume * per_epoch), expected_of(second)
    assert points(log.train['loss']) == before[0] | after[0]
    assert points(log.val['coco/bbox_mAP']) == before[1] | after[1]
    assert f'resumed after iteration {resume * per_epoch}' in log.notes[0]


def iterations_by_mmengine(interval, every, first, last, tag, epoch_steps):
    for step in range(first, last + 1):
        if step % interval == 0:
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
    first = list(iterations_by_mmengine(*case, 1, last, 0, epoch_steps))
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


def test_iterations_resumed_without_a_text_log(tmp_path):
    first = iterations_by_mmengine(10, 1000, 1, 60, 0, True)
    second = iterations_by_mmengine(10, 1000, 38, 80, 1000, True)
    start(tmp_path, STAMPS[0], [line for _, line in first])
    start(tmp_path, STAMPS[1], [line for _, line in second])
    log = checked(read_logs(tmp_path))
    assert log.train['loss'].steps == (10, 20, 30, 40, 50, 60, 70, 80)
    assert log.train['loss'].values[2:4] == (30, 1040)
    assert log.notes == (f'resumed before iteration 40 ({STAMPS[1]})',)
    # The text log knows better: it says that nothing was resumed.
    write_lines(tmp_path / STAMPS[1] / f'{STAMPS[1]}.log', [BEGUN])
    assert checked(read_logs(tmp_path)).train['loss'].steps == (40, 50, 60, 70, 80)


def test_validation_before_the_first_line_of_a_resumed_start(tmp_path):
    config = "train_cfg = dict(type='IterBasedTrainLoop', val_interval=4, max_iters=50)"
    pairs = list(iterations_by_mmengine(10, 4, 31, 50, 0, True))
    start(tmp_path, STAMPS[0], [line for _, line in pairs], None, config)
    log = checked(read_logs(tmp_path))
    assert log.val['coco/bbox_mAP'].steps == (32, 36, 40, 44, 48, 50)


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


def test_text_of_several_starts(tmp_path):
    head = 'x - mmengine - INFO - Epoch(train)  '
    once = [BEGUN, f'{head}[1][10/20]  loss: 1.0']
    twice = [BEGUN, f'{head}[1][10/20]  loss: 2.0', f'{head}[2][10/20]  loss: 3.0']
    resumed = [RESUMED, BEGUN, f'{head}[2][10/20]  loss: 4.0']
    for lines, expected, left_out in [
        (once + twice, {10: 2, 30: 3}, 1),
        (twice + resumed, {10: 2, 30: 4}, 0),
        (twice + resumed + once, {10: 1}, 1),
        (once + once + once, {10: 1}, 2),
        (twice + resumed + resumed, {10: 2, 30: 4}, 0),
        (resumed + twice[1:], {10: 2, 30: 3}, 1),
    ]:
        log = checked(read_logs(write_lines(tmp_path / 'a.log', lines)))
        assert points(log.train['loss']) == expected
        said = [note for note in log.notes if 'left out' in note]
        assert [note.split()[0] for note in said] == [str(left_out)] * bool(left_out)


def test_a_restart_is_not_spliced(tmp_path):
    def write(stamp, first, last, tag):
        lines = [one for _, one in epochs_by_mmengine(20, 10, first, last, tag)]
        start(tmp_path, stamp, lines)

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


def test_one_file_of_several_starts(tmp_path):
    parts = [
        epochs_by_mmengine(20, 10, 1, 3, 0),
        epochs_by_mmengine(20, 10, 1, 3, 100),
        epochs_by_mmengine(20, 10, 3, 4, 1000),
    ]
    path = write_lines(tmp_path / 'a.json', [one for part in parts for _, one in part])
    log = checked(read_logs(path))
    assert log.train['loss'].values == (110, 120, 130, 140, 1050, 1060, 1070, 1080)
    assert log.val['coco/bbox_mAP'].values == (101, 102, 1003, 1004)
    assert len(log.notes) == 2


def test_another_batch_size_after_a_resume(tmp_path):
    head = '2024/01/01 10:00:00 - mmengine - INFO - Epoch(train)  '
    first = [BEGUN, *(f'{head}[{e}][40/80]  loss: {e}.0' for e in (1, 2, 3))]
    second = [RESUMED.replace('1, iter: 20', '2, iter: 160'), BEGUN]
    second += [f'{head}[3][{i}/40]  loss: 9.0' for i in (20, 40)]
    write_lines(tmp_path / STAMPS[0] / f'{STAMPS[0]}.log', first)
    write_lines(tmp_path / STAMPS[1] / f'{STAMPS[1]}.log', second)
    log = checked(read_logs(tmp_path))
    assert points(log.train['loss']) == {20: 1, 60: 2, 100: 9, 120: 9}
    assert log.iterations_per_epoch == 40
    assert any('differ in length (80, 40 iterations)' in note for note in log.notes)


def test_validation_by_iteration_in_a_run_of_epochs(tmp_path):
    lines = [one for _, one in epochs_by_mmengine(20, 10, 1, 3, 0)]
    for line in lines:
        if 'iter' not in line:
            line['step'] *= 20  # LoggerHook(log_metric_by_epoch=False)
    log = checked(read_logs(write_lines(tmp_path / 'a.json', lines)))
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
    log = checked(read_logs(write_lines(tmp_path / 'scalars.json', lines)))
    assert points(log.train['ema_decay']) == {12: 0.5}


# MMDetection 2.x.


def mmdet_2(per_epoch, interval, first, last, tag, val_iter):
    for epoch in range(first, last + 1):
        for inner in range(interval, per_epoch + 1, interval):
            step = (epoch - 1) * per_epoch + inner
            line = {'mode': 'train', 'epoch': epoch, 'iter': inner, 'lr': 0.1}
            yield step, line | {'loss': tag + step, 'time': 0.5}
        line = {'mode': 'val', 'epoch': epoch, 'iter': val_iter, 'lr': 0.1}
        copy = {'bbox_mAP': tag + epoch, 'bbox_mAP_copypaste': '0.1 0.2'}
        yield epoch * per_epoch, line | copy


@pytest.mark.parametrize('suffixes', [('.log', '.log.json'), ('.log',), ('.log.json',)])
def test_mmdet_2_written_by_hand(suffixes, tmp_path):
    for path in (LOGS / 'mmdet2').iterdir():
        if path.name[15:] in suffixes:
            shutil.copy(path, tmp_path)
    (tmp_path / 'faster_rcnn_r50.py').write_text('model = dict()')
    log = checked(read_logs(tmp_path))
    assert log.framework == 'mmdet 2'
    # Without the text the last logged iteration, 40 of 55, is all that is known.
    length = 40 if suffixes == ('.log.json',) else 55
    steps = [epoch * length + inner for epoch in range(3) for inner in (20, 40)]
    assert log.train['loss'].steps == tuple(steps)
    assert log.train['loss'].values == pytest.approx(
        [2 / (e + i / 55) + 0.01 * i / 55 for e in (1, 2, 3) for i in (20, 40)],
        abs=6e-5,
    )
    assert log.train['lr'].values == (0.02,) * 4 + (0.002,) * 2
    assert log.train['memory'].values == (3812,) * 6
    assert log.val['bbox_mAP'].steps == (length, 2 * length, 3 * length)
    assert log.val['bbox_mAP'].values == pytest.approx((0.1, 0.21, 0.31))
    assert len(log.val) == 6 and 'eta' not in log.train
    assert log.iterations_per_epoch == length
    assert f'resumed after iteration {length} (20210102_100000)' in log.notes
    assert any('taken to have 40' in note for note in log.notes) == (length == 40)
    assert [path.name for path in log.configs] == ['faster_rcnn_r50.py']


@pytest.mark.parametrize('seed', range(20))
def test_mmdet_2_simulated(seed, tmp_path):
    choose = random.Random(seed)
    interval = choose.choice([1, 10, 50])
    per_epoch = choose.randint(interval, 130)
    resume, last = choose.randint(1, 2), choose.randint(3, 4)
    # Before 2021 validation has the epoch's last iteration, which says its length.
    first = list(mmdet_2(per_epoch, interval, 1, last, 0, per_epoch))
    second = list(mmdet_2(per_epoch, interval, resume + 1, last, 1000, per_epoch))
    meta = {'env_info': 'linux', 'config': "runner = dict(type='EpochBasedRunner')"}
    for stamp, pairs in zip(STAMPS, (first, second), strict=False):
        lines = [line for _, line in pairs]
        write_lines(tmp_path / f'{stamp}.log.json', [meta, *lines])
    log = checked(read_logs(tmp_path))
    assert log.iterations_per_epoch == per_epoch
    before = {s: o['loss'] for s, o in first if 'loss' in o and s <= resume * per_epoch}
    after = {step: one['loss'] for step, one in second if 'loss' in one}
    assert points(log.train['loss']) == before | after
    assert set(log.val) == {'bbox_mAP'}
    assert log.val['bbox_mAP'].steps == tuple(
        epoch * per_epoch for epoch in range(1, last + 1)
    )


def test_mmdet_2_losses_of_validation(tmp_path):
    """With a workflow of training and validation, a line of each has losses."""
    lines = []
    for epoch in (1, 2):
        for mode, number, loss in (('train', 20, 1.0), ('val', 5, 2.0)):
            line = {'mode': mode, 'epoch': epoch, 'iter': number, 'lr': 0.1}
            lines.append(line | {'loss_cls': loss, 'loss': loss + epoch, 'time': 0.1})
        metrics = {'bbox_mAP': 0.25 * epoch}
        lines.append({'mode': 'val', 'epoch': epoch, 'iter': 5, 'lr': 0.1} | metrics)
    log = checked(read_logs(write_lines(tmp_path / 'a.log.json', lines)))
    assert points(log.val['loss']) == {20: 3, 40: 4}
    assert points(log.val['bbox_mAP']) == {20: 0.25, 40: 0.5}
    assert points(log.train['loss']) == {20: 2, 40: 3}
    assert 'lr' not in log.val


@pytest.mark.parametrize('numbered', [105, 5000, 'iteration'])
@pytest.mark.parametrize('text', [False, True])
def test_mmdet_2_by_iterations(numbered, text, tmp_path):
    lines = []
    say = '2021-01-01 10:00:00,123 - mmdet - INFO - '
    for step in range(10, 101, 10):
        line = {'mode': 'train', 'epoch': 1 + step // 33, 'iter': step, 'lr': 0.1}
        lines.append(line | {'loss': float(step)})
        if text:
            lines[-1] = f'{say}Iter [{step}/100]\tlr: 1.000e-01, loss: {step}.0000'
        if step % 50 == 0:
            number = step if numbered == 'iteration' else numbered
            line = {'mode': 'val', 'epoch': 1 + step // 33, 'iter': number, 'lr': 0.1}
            lines.append(line | {'bbox_mAP': step / 200})
            if text:
                lines[-1] = f'{say}Iter(val) [{number}]\tbbox_mAP: {step / 200:.4f}'
    log = checked(read_logs(write_lines(tmp_path / 'a.log', lines)))
    assert not log.by_epoch and log.framework == 'mmdet 2'
    assert points(log.train['loss']) == {step: step for step in range(10, 101, 10)}
    # 105 images: without the text's "/100" that may as well be an iteration.
    last = 105 if numbered == 105 and not text else 100
    assert points(log.val['bbox_mAP']) == {50: 0.25, last: 0.5}


def test_mmdet_2_validated_within_epochs(tmp_path):
    lines = []
    for epoch in (1, 2):
        for inner in (10, 20, 30):
            line = {'epoch': epoch, 'iter': inner, 'lr': 0.1}
            lines.append(line | {'mode': 'train', 'loss': 1.0})
            if inner == 20:
                lines.append(line | {'mode': 'val', 'iter': 500, 'bbox_mAP': 0.5})
    log = checked(read_logs(write_lines(tmp_path / 'a.log.json', lines)))
    assert log.val['bbox_mAP'].steps == (20, 50)


def test_mmdet_2_epochs_shorter_than_the_interval(tmp_path):
    """Then validation alone is logged, and epochs are all there is to count."""
    lines = [
        {'mode': 'val', 'epoch': epoch, 'iter': 5, 'lr': 0.1, 'bbox_mAP': epoch / 10}
        for epoch in (1, 2, 3)
    ]
    log = checked(read_logs(write_lines(tmp_path / 'a.log.json', lines)))
    assert points(log.val['bbox_mAP']) == {1: 0.1, 2: 0.2, 3: 0.3}
    assert log.iterations_per_epoch is None
    assert 'no iteration was logged' in log.notes[0]


def test_rates_of_several_optimizers(tmp_path):
    line = {'mode': 'train', 'epoch': 1, 'iter': 10, 'lr': {'g': 1e-4, 'd': 4e-4}}
    path = write_lines(tmp_path / 'a.log.json', [line | {'loss': 1.0}])
    text = 'x - mmdet - INFO - Epoch [1][10/20]\tlr_g: 1.000e-04 lr_d: 4.000e-04, '
    other = write_lines(
        tmp_path / 'b.log', [text + 'eta: 2 days, 1:00:00, loss: 1.0000']
    )
    for log in (read_logs(path), read_logs(other)):
        assert set(log.train) == {'lr_g', 'lr_d', 'loss'}
        assert log.train['lr_d'].values == (4e-4,)
    text = (
        'x - mmengine - INFO - Iter(train) [ 10/500]  base_lr: 2.0000e-02 lr: 1.0e-02  '
    )
    text += 'eta: 1 day, 0:00:01  time: 0.5000  data_time: 0.1  memory: 3000  loss: nan'
    log = read_logs(write_lines(tmp_path / 'c.log', [text]))
    assert {
        name: one.values[0] for name, one in log.train.items() if name != 'loss'
    } == {
        'base_lr': 0.02,
        'lr': 0.01,
        'time': 0.5,
        'data_time': 0.1,
        'memory': 3000,
    }
    assert math.isnan(log.train['loss'].values[0])


def test_progress_of_validation_is_no_validation(tmp_path):
    say = '2023/01/01 10:00:00 - mmengine - INFO - '
    lines = [
        f'{say}Epoch(train)   [1][ 50/60]  lr: 2.0e-02  loss: 1.0000',
        f'{say}Epoch(val)   [1][ 50/100]    eta: 0:00:03  time: 0.2  data_time: 0.1  ',
        f'{say}Epoch(val)   [1][100/100]    eta: 0:00:00  time: 0.3  data_time: 0.1  ',
        f'{say}Epoch(val) [1][100/100]    coco/bbox_mAP: 0.5000  time: 0.4000',
        f'{say}Epoch(test) [100/100]    coco/bbox_mAP: 0.9000  time: 0.4000',
    ]
    log = checked(read_logs(write_lines(tmp_path / 'a.log', lines)))
    assert {name: points(one) for name, one in log.val.items()} == {
        'coco/bbox_mAP': {60: 0.5},
        'time': {60: 0.4},
    }


# Broken, and strange.


GOOD = [{'loss': 5.0 - step / 10, 'iter': step, 'step': step} for step in (10, 20, 30)]


def test_numbers_that_are_none(tmp_path):
    lines = [json.dumps(one) for one in GOOD]
    lines[1] = '{"loss": NaN, "loss_b": -Infinity, "grad_norm": NaN, "iter": 20}'
    lines[2] = '{"loss": NaN, "loss_b": 1, "iter": 30}'
    log = checked(read_logs(write_lines(tmp_path / 'a.json', lines)))
    assert log.train['loss'].steps == (10, 20, 30)
    assert math.isnan(log.train['loss'].values[1])
    assert log.train['loss_b'].values == (-math.inf, 1)
    said = 'is infinite or not a number at'
    assert log.notes == (
        f'loss {said} 2 of 3 logged steps, first at iteration 20',
        f'loss_b {said} 1 of 2 logged steps, first at iteration 20',
        'no validation was logged',
    )


@pytest.mark.parametrize(
    ('bad', 'reason'),
    [
        ('[1, 2]', 'not a JSON object'),
        ('{"loss": 1', 'not JSON'),
        ('\x00\x01\x02 PNG \ufffd', 'not JSON'),
        ('[' * 100_000, 'not JSON'),
        ('{"a": ' * 100_000, 'not JSON'),
        ('{"loss": 1.0}', 'no step'),
        ('{"loss": 1.0, "iter": "20"}', 'iter is no count'),
        ('{"loss": 1.0, "iter": true}', 'iter is no count'),
        ('{"loss": 1.0, "iter": -5}', 'iter is no count'),
        ('{"loss": 1.0, "iter": 2.5}', 'iter is no count'),
        ('{"loss": 1.0, "iter": NaN}', 'iter is no count'),
        ('{"loss": 1.0, "iter": 1e300}', 'iter is no count'),
        ('{"loss": 1.0, "iter": [20]}', 'iter is no count'),
        ('{"loss": 1.0, "iter": 25, "epoch": null}', 'epoch is no count'),
        ('{"loss": 1.0, "iter": 25, "mode": ["train"]}', 'neither train nor val'),
        ('{"loss": 1.0, "iter": ' + '9' * 5000 + '}', ''),
        ('{"a": "' + 'x' * 3 * LONGEST + '"}', 'letters'),
    ],
)
def test_a_line_that_cannot_be_read(bad, reason, tmp_path):
    lines = [json.dumps(one) for one in GOOD]
    log = checked(
        read_logs(write_lines(tmp_path / 'a.json', [*lines[:2], bad, lines[2]]))
    )
    assert points(log.train['loss']) == {10: 4, 20: 3, 30: 2}
    assert log.notes[-1].startswith('1 line could not be read (first: a.json line 3: ')
    assert reason in log.notes[-1]


def test_values_that_are_no_numbers_are_skipped(tmp_path):
    strange = {'a': [1.0], 'b': True, 'c': '0.1 0.2', 'd': None, 'e': {'x': 1}}
    strange |= {'big': 10**400, 'Größe \x1b[31m\ud800': 1.5, 'lr': {'g': 0.1, 'h': 'x'}}
    log = checked(read_logs(write_lines(tmp_path / 'a.json', [GOOD[0] | strange])))
    assert set(log.train) == {'loss', 'big', 'Größe \\x1b[31m\\ud800', 'lr_g'}
    assert log.train['big'].values == (math.inf,)


@pytest.mark.parametrize('cut', range(1, 62, 6))
def test_killed_while_writing(cut, tmp_path):
    line = json.dumps(GOOD[2])
    lines = [*GOOD[:2], line[: min(cut, len(line) - 1)]]
    log = checked(read_logs(write_lines(tmp_path / 'a.json', lines, end='')))
    assert log.train['loss'].steps == (10, 20)
    assert log.notes[-1] == (
        '1 line could not be read (first: a.json line 3: it was not written to its end)'
    )


def test_names_of_files_are_printable(tmp_path):
    log = read_logs(write_lines(tmp_path / 'a\x1b[31m.json', ['{', *GOOD]))
    assert log.notes[-1].startswith('1 line could not be read (first: a\\x1b[31m.json')


def test_killed_while_writing_text(tmp_path):
    """A number cut short would look like one: 1.2 of 1.2345."""
    say = '2023/01/01 10:00:00 - mmengine - INFO - Iter(train) '
    lines = [f'{say}[10/30]  loss: 1.5000', f'{say}[20/30]  loss: 1.2']
    log = checked(read_logs(write_lines(tmp_path / 'a.log', lines, end='')))
    assert points(log.train['loss']) == {10: 1.5}
    assert 'a.log line 2: it was not written to its end' in log.notes[-1]


def test_encodings(tmp_path):
    say = '\x1b[37mx - mmengine\x1b[0m - \x1b[4;37mINFO\x1b[0m - '
    text = ''.join(
        f'{say}Iter(train) [{step}/30]  loss: \x1b[1m{step}.0\x1b[0m  Größe: 2.0\r\n'
        for step in (10, 20)
    )
    plain = ''.join(f'{json.dumps(one)}\r\n\r\n' for one in GOOD[:2])
    path = tmp_path / 'a.log'
    for content, encoding in [
        (text, 'utf-8-sig'),
        (text, 'utf-16'),
        (text, 'latin-1'),  # is not UTF-8
        (plain, 'utf-8-sig'),
        (plain + '\0' * 500, 'utf-8'),  # as a disk leaves it after a power cut
    ]:
        path.write_bytes(content.encode(encoding))
        log = checked(read_logs(path))
        assert log.train['loss'].steps == (10, 20)
        assert not [note for note in log.notes if 'could not be read' in note]


def test_memory_does_not_grow_with_a_line(tmp_path):
    import tracemalloc

    path = write_lines(tmp_path / 'a.json', [*GOOD[:1], 'x' * 20 * LONGEST, GOOD[1]])
    tracemalloc.start()
    log = read_logs(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert log.train['loss'].steps == (10, 20)
    assert peak < 8 * LONGEST


@pytest.mark.parametrize('content', [b'', b'\n\n', b'\x89PNG\r\n\x1a\n' * 50, b'{}'])
@pytest.mark.parametrize('name', ['a.json', 'a.log', 'a.log.json', 'a'])
def test_files_without_a_log(content, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match='no training in .*Name the work_dir'):
        read_logs(tmp_path / name)


def test_other_json_is_no_log(tmp_path):
    for content in (
        {'images': [], 'annotations': []},
        {'config': 'a.py', 'metric': {}},
    ):
        path = write_lines(tmp_path / 'a.json', [content])
        with pytest.raises(UserError, match='no training in'):
            read_logs(path)


def test_places_without_a_log(tmp_path):
    with pytest.raises(UserError, match='neither a file nor a folder'):
        read_logs(tmp_path / 'nowhere')
    (tmp_path / STAMPS[0]).mkdir()
    (tmp_path / 'metrics.json').write_text('{}')
    for path in (tmp_path, tmp_path / STAMPS[0]):
        with pytest.raises(
            UserError, match=r'looked for .*vis_data/\*\.json.*log\.json'
        ):
            read_logs(path)


@pytest.mark.skipif(os.geteuid() == 0, reason='root may read everything')
def test_a_file_that_may_not_be_read(tmp_path):
    path = write_lines(tmp_path / 'a.json', GOOD)
    path.chmod(0)
    with pytest.raises(UserError, match='cannot be read'):
        read_logs(path)


def test_a_copy_of_the_console_is_not_read_beside_the_logs(tmp_path):
    for path in (LOGS / 'mmdet2').glob('*.log'):
        shutil.copy(path, tmp_path)
        shutil.copy(path, tmp_path / 'console.log')
    log = read_logs(tmp_path)
    assert len(log.notes) == 1 and 'resumed' in log.notes[0]


def test_reading_needs_neither_torch_nor_mmengine():
    code = (
        'import sys; from eca_mmdet.report import logs; '
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
        assert log.train[name].values == pytest.approx(recorded.train[name].values)
