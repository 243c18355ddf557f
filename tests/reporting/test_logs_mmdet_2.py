"""MMDetection 2.x's training logs: written by hand, and simulated ones."""

import math
import random
import shutil

import pytest

from eca_mmdet.reporting.logs import read_logs
from tests.support.log_cases import LOGS, STAMPS, checked, points, write_lines


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
