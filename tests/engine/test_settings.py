"""Settings by name: what they change in a config, and that a training follows them."""

import logging
import os

import pytest
import torch

from eca_mmdet.engine.config import load_config
from eca_mmdet.engine.settings import (
    apply_settings,
    choose_device,
    rescaled_milestones,
)
from eca_mmdet.utils.errors import UserError

STEPS = 1000
"""Of an epoch, with the config's own batch size."""


@pytest.fixture
def cfg(mmdet_ready):
    return load_config('faster-rcnn_eca-r50_fpn_4xb2-1x_coco')


def rates(cfg):
    """The learning rate of every step, by mmengine's own schedulers."""
    from mmengine.registry import PARAM_SCHEDULERS

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=cfg.optim_wrapper.optimizer.lr)
    steps = STEPS * 2 // cfg.train_dataloader.batch_size
    schedulers = [
        PARAM_SCHEDULERS.build(dict(one, optimizer=optimizer))
        for one in cfg.param_scheduler
    ]
    found = []
    for _ in range(cfg.train_cfg.max_epochs):
        for _ in range(steps):
            found.append(optimizer.param_groups[0]['lr'])
            optimizer.step()
            for one in schedulers:
                if not one.by_epoch:
                    one.step()
        for one in schedulers:
            if one.by_epoch:
                one.step()
    return found


@pytest.mark.parametrize('epochs, batch', [(36, 6), (24, None), (None, 8), (24, 1)])
def test_the_learning_rate_keeps_its_course(cfg, epochs, batch, caplog):
    caplog.set_level(logging.INFO)
    before = rates(cfg)
    apply_settings(cfg, epochs=epochs, batch_size=batch)
    after = rates(cfg)
    ratio = len(before) / len(after)
    assert ratio == pytest.approx(12 / (epochs or 12) * (batch or 2) / 2, rel=2e-3)
    for place in range(0, len(after), 25):
        same = round(place * ratio)
        if ratio < 0.9:  # a longer training has the same warm-up
            same = place if place < 500 else max(500, same)
        was = before[same]
        assert after[place] == pytest.approx(was, rel=2e-2), place
    assert cfg.train_cfg.val_interval == 1
    text = caplog.text
    assert (f'epochs 12 -> {epochs}' in text) == bool(epochs)
    assert (f'batch size 2 -> {batch} per process' in text) == bool(batch)
    assert ('milestones [8, 11] -> ' in text) == bool(epochs)
    assert ('end 500 -> ' in text) == (ratio > 1.1)


def test_one_epoch_is_validated_kept_and_warmed_up(cfg):
    cfg.merge_from_dict(
        {'train_cfg.val_interval': 3, 'default_hooks.checkpoint.interval': 2}
    )
    cfg.param_scheduler[0].end = 10
    apply_settings(cfg, epochs=1)
    assert cfg.train_cfg.val_interval == cfg.default_hooks.checkpoint.interval == 1
    assert rates(cfg)[:3] == pytest.approx([1e-5, 0.01, 0.01])


def test_milestones_are_in_proportion_and_before_the_end():
    for epochs in range(1, 200):
        first, last = rescaled_milestones([8, 11], epochs / 12)
        assert first == max(1, epochs * 8 // 12)
        assert last == max(first + 1, epochs * 11 // 12)
        assert last < epochs or epochs < 4


def test_image_size_and_workers(cfg):
    train = cfg.train_dataloader.dataset.pipeline
    scales = [(1333, 640), (1333, 800)]
    train[2] = dict(type='RandomChoiceResize', scales=scales, keep_ratio=True)
    apply_settings(cfg, image_size=(640,), workers=0)
    for use in ('val', 'test'):
        pipeline = cfg[f'{use}_dataloader'].dataset.pipeline
        assert [s.scale for s in pipeline if s.type == 'Resize'] == [(640, 640)]
    pipeline = cfg.train_dataloader.dataset.pipeline
    assert pipeline[2].scales == [(640, 512), (640, 640)]
    for use in ('train', 'val', 'test'):
        loader = cfg[f'{use}_dataloader']
        assert (loader.num_workers, loader.persistent_workers) == (0, False)
    apply_settings(cfg, image_size=(512, 512))
    assert cfg.test_dataloader.dataset.pipeline[1].scale == (512, 512)


@pytest.mark.parametrize('epochs', [3, 10, 30, 600])
def test_courses_in_several_parts(cfg, epochs):
    """As of YOLOX and RTMDet: parts stay together, and hooks switch in proportion."""
    from mmengine.registry import PARAM_SCHEDULERS

    cfg.train_cfg.update(max_epochs=300, dynamic_intervals=[(285, 1)])
    cfg.custom_hooks = [
        dict(type='PipelineSwitchHook', switch_epoch=285),
        dict(type='YOLOXModeSwitchHook', num_last_epochs=15),
    ]
    parts = [
        dict(type='LinearLR', begin=0, end=5, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', T_max=280, begin=5, end=285),
        dict(type='ConstantLR', factor=1, begin=285, end=300),
        dict(type='OneCycleLR', eta_max=1, total_steps=300),
        dict(type='StepLR', step_size=100),
        dict(
            type='CosineRestartLR',
            periods=[100, 200],
            restart_weights=[1, 1],
            eta_min=0,
        ),
    ]
    cfg.param_scheduler = [dict(part, by_epoch=True) for part in parts]
    apply_settings(cfg, epochs=epochs)
    warm_up, cosine, constant, cycle, steps, restarts = cfg.param_scheduler
    assert warm_up.end == cosine.begin == max(1, round(5 * epochs / 300))
    assert cosine.end == constant.begin > cosine.begin
    assert cosine.T_max == cosine.end - cosine.begin
    assert (cycle.total_steps, steps.step_size) == (epochs, round(epochs / 3))
    assert sum(restarts.periods) == epochs
    switch, mode = cfg.custom_hooks
    assert switch.switch_epoch == int(epochs * 0.95)
    assert cfg.train_cfg.dynamic_intervals == [(switch.switch_epoch, 1)]
    assert mode.num_last_epochs == max(1, epochs // 20)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    for one in cfg.param_scheduler:
        length = {'epoch_length': 2} if one.get('convert_to_iter_based') else {}
        scheduler = PARAM_SCHEDULERS.build(dict(one, optimizer=optimizer, **length))
        for _ in range(epochs):
            optimizer.step()
            scheduler.step()


def test_a_cycle_by_steps_is_never_too_short(cfg):
    """More steps than its number are an error in mmengine."""
    cycle = dict(type='OneCycleLR', by_epoch=False, eta_max=1, total_steps=12 * 501)
    cfg.param_scheduler = [cycle]
    apply_settings(cfg, batch_size=4)  # of 1001 images
    assert 12 * 251 <= cfg.param_scheduler[0].total_steps <= 12 * 252


def test_sizes_inside_of_other_steps(cfg, caplog):
    """As of DETR, of a mosaic, and of a size that is higher than wide."""
    load, flip = dict(type='LoadImageFromFile'), dict(type='RandomFlip', prob=0.5)
    choice = dict(
        type='RandomChoice',
        transforms=[
            [dict(type='RandomChoiceResize', scales=[(400, 1333), (500, 1333)])],
            [dict(type='RandomCrop', crop_size=(384, 600))],
        ],
    )
    branches = dict(
        type='MultiBranch',
        branch_field=['sup'],
        sup=[dict(type='RandomResize', scale=[(1333, 400), (1333, 1200)])],
    )
    data = cfg.train_dataloader.dataset
    data.pipeline = [load, choice, flip, branches]
    cfg.val_dataloader.dataset.pipeline = [load, dict(type='Resize', scale=(400, 666))]
    cfg.test_dataloader = cfg.val_dataloader  # one object
    cfg.custom_hooks = [dict(type='PipelineSwitchHook', switch_pipeline=[load, choice])]
    apply_settings(cfg, image_size=(333, 200))
    found = cfg.train_dataloader.dataset.pipeline
    kinds = [load['type'], 'RandomChoice', flip['type'], 'MultiBranch']
    assert [step.type for step in found] == kinds
    assert found[3].sup[0].scale == [(666, 200), (666, 600)]
    last = cfg.custom_hooks[0].switch_pipeline
    for step in (found[1], last[1]):
        assert step.transforms[0][0].scales == [(200, 666), (250, 666)]
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.pipeline[1].scale == (200, 333)
    assert 'RandomCrop keep the sizes' in caplog.text


def test_the_size_of_a_wrapped_dataset(cfg):
    """Where its wrapper resizes, it does not; a wrapper need not load images."""
    data = cfg.train_dataloader.dataset
    load = [dict(type='LoadImageFromFile')]
    resize = dict(type='Resize', scale=(1333, 800), keep_ratio=True)
    for outer, inner in (([resize], load), ([dict(type='CopyPaste')], [*load, resize])):
        cfg.train_dataloader.dataset = dict(
            type='MultiImageMixDataset',
            dataset=dict(data, pipeline=inner),
            pipeline=outer,
        )
        cfg.test_dataloader.dataset.pipeline = [*load, resize]
        apply_settings(cfg, image_size=(640,))
        whole = cfg.train_dataloader.dataset
        steps = [*whole.pipeline, *whole.dataset.pipeline]
        assert [s.scale for s in steps if s.type == 'Resize'] == [(640, 640)]


@pytest.mark.parametrize(
    'section, entry, value',
    [('train_dataloader', 'batch_size', 'x'), ('train_cfg', 'max_epochs', 0)],
)
def test_a_number_that_is_none_is_left_to_the_checks(cfg, section, entry, value):
    """They name it; here is no schedule to keep the shape of."""
    cfg[section][entry] = value
    before = cfg.param_scheduler
    apply_settings(cfg, image_size=(64,))
    assert cfg.param_scheduler == before


def _by_steps(cfg):
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=9)


def _resumed(cfg):
    cfg.resume = True


def _without_lr(cfg):
    cfg.optim_wrapper.optimizer.pop('lr')


def _without_resize(cfg):
    for use in ('train', 'val', 'test'):
        dataset = cfg[f'{use}_dataloader'].dataset
        dataset.pipeline = [s for s in dataset.pipeline if s.type != 'Resize']


@pytest.mark.parametrize(
    'change, settings, words',
    [
        (_by_steps, dict(epochs=3), 'train_cfg.max_iters=N'),
        (_resumed, dict(lr=0.1), 'continues with the learning rate'),
        (_without_lr, dict(lr=0.1), 'no optim_wrapper.optimizer.lr'),
        (_without_resize, dict(image_size=(64,)), 'Resize'),
    ],
)
def test_what_a_config_has_no_place_for(cfg, change, settings, words):
    change(cfg)
    with pytest.raises(UserError, match=words) as caught:
        apply_settings(cfg, **settings)
    assert caught.value.code == 'option-conflict'


@pytest.mark.parametrize(
    'settings',
    [
        dict(epochs=0),
        dict(batch_size=0),
        dict(workers=-1),
        dict(image_size=()),
        dict(image_size=(640, 0)),
        dict(lr=float('nan')),
        dict(lr=0.0),
    ],
)
def test_values_out_of_range(cfg, settings):
    before = cfg.to_dict()
    with pytest.raises(UserError) as caught:
        apply_settings(cfg, **settings)
    assert caught.value.code == 'option-invalid'
    assert cfg.to_dict() == before


def test_a_device_in_use_leaves_the_environment(monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '1')
    monkeypatch.setattr('mmengine.device.get_device', lambda: 'cuda')
    with pytest.raises(UserError) as caught:
        choose_device('cpu', 'none')
    assert caught.value.code == 'option-conflict'
    assert os.environ['CUDA_VISIBLE_DEVICES'] == '1'


def test_a_resumed_training_keeps_its_schedule(cfg):
    cfg.resume = True
    before = cfg.param_scheduler
    apply_settings(cfg, epochs=24, batch_size=4)
    assert cfg.param_scheduler == before
    assert cfg.train_cfg.max_epochs == 24


@pytest.mark.parametrize(
    'name, launcher, code',
    [
        ('gpu', 'none', 'option-invalid'),
        ('cuda:x', 'none', 'option-invalid'),
        ('cuda:99', 'none', 'no-gpu'),
        ('cpu', 'pytorch', 'option-conflict'),
    ],
)
def test_devices_that_there_are_not(name, launcher, code):
    with pytest.raises(UserError) as caught:
        choose_device(name, launcher)
    assert caught.value.code == code


def test_train_with_settings(command, shapes, tmp_path, monkeypatch):
    """The run's own record of config and log shows them."""
    from mmengine.config import Config

    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    words = ('--epochs', 2, '--batch-size', 3, '--imgsz', '64', '--lr', 0.004)
    config = tmp_path / 'mine.py'
    code, text, _ = command(
        *('init', '--train', shapes, '--model', 'retinanet_eca-r18-w16', '--epochs', 1)
    )
    assert code == 0
    config.write_text(text)
    work = tmp_path / 'work'
    code, out, err = command(
        *('train', config, *words, '--workers', 0, '--device', 'cpu'),
        *('--work-dir', work, '--seed', 0),
    )
    assert code == 0, err
    assert 'lr 0.004 as written' in out
    cfg = Config.fromfile(work / 'mine.py')
    assert cfg.train_dataloader.batch_size == 3
    assert cfg.test_dataloader.dataset.pipeline[1].scale == (64, 64)
    meta = torch.load(work / 'epoch_2.pth', weights_only=True)['meta']
    assert (meta['epoch'], meta['iter']) == (2, 4)
