"""Several processes: the weights and AP of one, a missing one, another number."""

import json
import re
import signal
import time

import numpy as np
import pytest
import torch

from eca_mmdet.checkpoints.reading import allow_mmengine_checkpoints
from tests.conftest import REPOSITORY
from tests.support.ranks import environments

# Two processes must add up to one: every anchor and every proposal counts, so that
# nothing is drawn at random and both divide their losses by the same numbers; no norm
# looks at its batch, and no proposal is suppressed, where rounding could decide.
TINY = """
_base_ = {base!r}
custom_imports = dict(imports=['eca_mmdet', 'tests.support.loss_record'])
custom_hooks = [dict(type='LossRecord')]
model = dict(
    backbone=dict(base_channels=8, norm_eval=True),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=8, norm_cfg=None),
    rpn_head=dict(in_channels=8, feat_channels=8),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=8),
        bbox_head=dict(in_channels=8, fc_out_channels=32)),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(pos_iou_thr=0.5, neg_iou_thr=0.5),
            sampler=dict(num=10**6, pos_fraction=1.0)),
        rpn_proposal=dict(nms_pre=200, max_per_img=20, nms=dict(iou_threshold=1.0)),
        rcnn=dict(
            sampler=dict(num=10**6, pos_fraction=1.0, add_gt_as_proposals=False))),
    test_cfg=dict(rcnn=dict(score_thr=0.0)))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs')]
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False,
    dataset=dict(data_root={data!r}, pipeline=train_pipeline))
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(data_root={data!r}))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file={data!r} + 'annotations/val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_iters=4, val_interval=100)
optim_wrapper = dict(
    _delete_=True, type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.5, by_epoch=False, begin=0, end=3)]
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(interval=2, max_keep_ckpts=-1))
"""
HALF = ('--launcher', 'pytorch', '--cfg-options', 'train_dataloader.batch_size=2')


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A folder with the config, and images whose number 2 does not divide."""
    from eca_mmdet.datasets.shapes import write_shapes

    root = tmp_path_factory.mktemp('job')
    data = write_shapes(root / 'shapes', sizes={'train': 7, 'val': 5}, side=96)
    base = str(REPOSITORY / 'configs/demo/faster-rcnn_eca-r18-w16_fpn_shapes.py')
    (root / 'tiny.py').write_text(TINY.format(base=base, data=f'{data}/'))
    return root


@pytest.fixture(scope='module')
def one(place, ranks):
    """The run of one process with the whole batch."""
    ranks.run('train', place / 'tiny.py', '--work-dir', place / 'one')
    return place / 'one'


@pytest.fixture(scope='module')
def two(place, ranks):
    """Two processes with half the batch each."""
    words = ('train', place / 'tiny.py', '--work-dir', place / 'two', *HALF)
    job = ranks.run(*words, ranks=environments(2))
    assert 'lr 0.02 -> 0.02: 4 of 4 images a step' in job.output(0)
    assert 'images a step' not in job.output(1)
    assert 'Warning' not in job.output(0) + job.output(1)
    return place / 'two'


def weights(folder, step):
    allow_mmengine_checkpoints()
    state = torch.load(folder / f'iter_{step}.pth', weights_only=True)['state_dict']
    return {name: value for name, value in state.items() if value.is_floating_point()}


def distance(a, b):
    """The largest difference of two sets of weights."""
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def losses(folder, rank=0):
    return np.array(json.loads((folder / f'losses-{rank}.json').read_text()))


@pytest.mark.slow
@pytest.mark.openmmlab
def test_two_processes_train_as_one_with_twice_the_batch(place, ranks, one, two):
    """Within what another order of the same additions makes of float32."""
    options = 'custom_hooks.0.reverse=True'
    words = ('train', place / 'tiny.py', '--work-dir', place / 'turned')
    ranks.run(*words, '--cfg-options', options)
    noise = distance(weights(one, 4), weights(place / 'turned', 4))
    assert 0 < noise < 1e-4 * distance(weights(one, 2), weights(one, 4))

    found = (losses(two, 0) + losses(two, 1)) / 2
    np.testing.assert_allclose(found, losses(one), rtol=1e-5)
    assert np.abs(losses(two, 0) - losses(two, 1)).max() > 0.01  # not the same images
    for step in (2, 4):
        assert distance(weights(one, step), weights(two, step)) < 10 * noise


@pytest.mark.slow
@pytest.mark.openmmlab
def test_resumed_with_another_number_of_processes(place, ranks, one, two):
    """1 -> 2 and 2 -> 1 processes end where those end that never stopped."""
    end = weights(one, 4)
    noise = 1e-4 * distance(weights(one, 2), end)
    more, fewer = place / 'more', place / 'fewer'
    words = ('train', place / 'tiny.py', '--work-dir', more)
    resume = ('--resume', one / 'iter_2.pth')
    job = ranks.run(*words, *resume, *HALF, ranks=environments(2))
    assert 'resumed: 4 images a step as before' in job.output(0)
    assert distance(weights(more, 4), end) < noise
    np.testing.assert_allclose(
        (losses(more, 0) + losses(more, 1)) / 2, losses(one)[2:], rtol=1e-5
    )
    words = ('train', place / 'tiny.py', '--work-dir', fewer)
    ranks.run(*words, '--resume', two / 'iter_2.pth')
    assert distance(weights(fewer, 4), end) < noise


@pytest.mark.slow
def test_resumed_with_another_batch_the_rate_follows(place, ranks, one):
    words = ('train', place / 'tiny.py', '--verbose', '--resume', one / 'iter_2.pth')
    batch = ('--cfg-options', 'train_dataloader.batch_size=1', 'train_cfg.max_iters=3')
    job = ranks.run(*words, '--work-dir', place / 'quarter', *batch)
    assert 'resumed: 1 images a step, not 4: lr x 0.25' in job.output(0)
    assert 'lr: 5.0000e-03' in job.output(0)  # 0.02 after the warm-up, a quarter


def test_set(place, images, detections):
    """Annotations of the first images, with every third detection as an object."""
    truth = json.loads((place / 'shapes/annotations/val.json').read_text())
    truth['images'] = truth['images'][:images]
    kept = {image['id'] for image in truth['images']}
    chosen = [one for one in detections[::3] if one['image_id'] in kept]
    truth['annotations'] = [
        {
            **{key: one[key] for key in ('image_id', 'category_id', 'bbox')},
            'segmentation': [[x, y, x + w, y, x + w, y + h, x, y + h]],
            'area': w * h,
            'iscrowd': 0,
            'id': number,
        }
        for number, one in enumerate(chosen, 1)
        for x, y, w, h in [one['bbox']]
    ]
    path = place / f'val{images}.json'
    path.write_text(json.dumps(truth))
    return path


test_set.__test__ = False


def measure(place, ranks, checkpoint, world, path=None):
    """Run ``test`` and return its metrics, its metrics.json and its detections."""
    folder = place / f'test-{path and path.stem}-{world}'
    words = ['test', place / 'tiny.py', checkpoint, '--json', '--work-dir', folder]
    words += ['--save-results', folder / 'results']
    words += ['--launcher', 'pytorch'] if world == 2 else []
    if path:
        words += ['--cfg-options', f'test_dataloader.dataset.ann_file={path}']
        words += [f'test_evaluator.ann_file={path}']
    text = ranks.run(*words, ranks=environments(world)).logs[0].read_text()
    [record] = folder.glob('*/metrics.json')  # rank 0 alone writes one
    [results] = (folder / 'results').glob('*.bbox.json')
    return (
        json.loads(text),
        json.loads(record.read_text())['results']['bbox'],
        json.loads(results.read_text()),
    )


@pytest.mark.slow
def test_two_processes_measure_the_ap_of_one(place, ranks, one):
    """With padding for the second process (5 images), and nothing but padding (1).

    The AP of one is pycocotools', of what one process finds.
    """
    from eca_mmdet.datasets.detections import detections_of
    from eca_mmdet.datasets.ground_truth import read_ground_truth
    from eca_mmdet.evaluation.coco_eval import evaluate

    checkpoint = one / 'iter_4.pth'
    found = measure(place, ranks, checkpoint, world=1)[2]
    assert len(found) == 500
    for images in (5, 1):
        path = test_set(place, images, found)
        truth = read_ground_truth(path)
        kept = [one for one in found if one['image_id'] in truth.image_ids]
        detections = detections_of(kept, truth)['bbox']
        alone = evaluate(truth, detections, 'bbox', backend='pycocotools').metrics
        metrics, record, both = measure(place, ranks, checkpoint, 2, path)
        assert 0.1 < alone['AP'] < 0.9
        for name, value in alone.items():
            value = -1 if value is None else value
            assert metrics[f'coco/bbox_{name}'] == pytest.approx(value, abs=1e-6)
        assert record['counts']['images'] == images
        # The file of two has rank 0's images first.
        both = sorted(both, key=lambda one: one['image_id'])
        for a, b in zip(kept, both, strict=True):
            assert a['image_id'] == b['image_id']
            assert a['score'] == pytest.approx(b['score'], abs=1e-6)


@pytest.mark.slow
def test_the_flexible_runner_trains_as_the_runner(place, ranks, one):
    """Through mmengine's strategies, of which the one for one device runs here."""
    (place / 'flexible.py').write_text(
        "_base_ = './tiny.py'\n"
        "runner_type = 'FlexibleRunner'\n"
        "strategy = dict(type='SingleDeviceStrategy')\n"
        'train_cfg = dict(max_iters=2)\n'
    )
    ranks.run('train', place / 'flexible.py', '--work-dir', place / 'flexible')
    np.testing.assert_array_equal(losses(place / 'flexible'), losses(one)[:2])
    assert distance(weights(place / 'flexible', 2), weights(one, 2)) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ('number', 'reason', 'seconds'),
    [
        (signal.SIGKILL, 'Connection (closed|reset) by peer', 30),
        (signal.SIGSTOP, 'Timed out waiting 5000ms', 30),
    ],
)
def test_a_missing_process_ends_the_others(place, ranks, number, reason, seconds):
    """Killed, it is noticed at once; one that hangs, after the timeout.

    By epochs of 7 images: the two ranks make as many steps all the same.
    """
    work = place / f'missing{number.value}'
    job = ranks.start(
        *('train', place / 'tiny.py', '--work-dir', work, '--dist-timeout', '5'),
        *('--verbose', *HALF),
        'train_cfg._delete_=True',
        'train_cfg.type=EpochBasedTrainLoop',
        'train_cfg.max_epochs=100000',
        'train_cfg.val_interval=100000',
        'train_dataloader.sampler.type=DefaultSampler',
        'default_hooks.checkpoint.interval=2',
        'default_hooks.checkpoint.max_keep_ckpts=1',
        'log_processor.by_epoch=True',
        ranks=environments(2),
    )
    job.wait_for(0, 'Epoch(train)      [3][2/2]')
    job.kill(1, number)
    start = time.monotonic()
    [code] = job.wait(0, seconds=seconds)
    took = time.monotonic() - start
    try:
        assert code == 1, job.output(0)[-2000:]
        line = job.output(0).strip().splitlines()[-1]
        assert line.startswith('eca-mmdet train: another process of this job is gone')
        assert re.search(reason, line)
        assert f'{work}/iter_' in line and line.endswith('--resume. [peer-lost]')
        assert 'Traceback' not in job.output(0)
        assert took > 4 if number == signal.SIGSTOP else took < 15
    finally:
        if number == signal.SIGSTOP:
            job.kill(1, signal.SIGKILL)


@pytest.mark.slow
def test_ctrl_c_stops_all_processes_at_one_step(place, ranks):
    """The signal to one of them; rank 0 writes the checkpoint, and the line."""
    work = place / 'stopped'
    job = ranks.start(
        *('train', place / 'tiny.py', '--work-dir', work, '--verbose', *HALF),
        *('train_cfg.max_iters=100000', 'default_hooks.checkpoint.interval=100000'),
        'custom_hooks.0.saving_takes=3',
        ranks=environments(2),
    )
    job.wait_for(0, 'Iter(train) [     3/')
    job.kill(1, signal.SIGINT)
    # A launcher ends the job once its first process has: rank 1 waits for the file.
    assert job.wait(1, seconds=30) == [130], job.output(1)[-2000:]
    assert list(work.glob('iter_*.pth'))
    assert job.wait(seconds=30) == [130, 130], job.output(0)[-2000:]
    line = job.errors[0].read_text().splitlines()[-1]
    step = re.search(rf'stopped after step (\d+); all of it is in {work}/iter_', line)
    assert step and [path.name for path in work.glob('*.pth')] == [
        f'iter_{step[1]}.pth'
    ]
    assert weights(work, int(step[1]))
    assert job.errors[1].read_text().count('\n') == 1  # that it stops after this step


@pytest.mark.slow
def test_a_loss_that_is_nan_in_one_process_is_skipped_by_both(place, ranks, two):
    """Neither learns from that step, and both go on together."""
    work = place / 'skipped'
    words = ('train', place / 'tiny.py', '--work-dir', work, '--on-nan', 'skip', *HALF)
    options = ('custom_hooks.0.nan_at=3', 'default_hooks.checkpoint.interval=1')
    job = ranks.run(*words, *options, 'train_cfg.max_iters=5', ranks=environments(2))
    line = (
        r'step 4 is not finite in process 1 \(loss.*\), on images \d.* The batch is '
        r'left out \(1 of at most 10'
    )
    assert re.search(line, job.output(0), re.DOTALL), job.output(0)[-3000:]
    assert distance(weights(work, 2), weights(two, 2)) == 0
    assert distance(weights(work, 3), weights(work, 4)) == 0
    assert distance(weights(work, 4), weights(work, 5)) > 0
