"""``--patience`` and ``--ema``, and what a resumed training knows of them."""

import pytest
import torch

import eca_mmdet
from eca_mmdet.engine.settings import apply_settings
from eca_mmdet.utils.errors import UserError
from tests.support import training_runs

pytestmark = pytest.mark.openmmlab

SCORES = [0.1, 0.3, 0.2, 0.3005, 0.2, 0.4, 0.5, 0.6]
"""By epoch. With a patience of 3 the fifth is the last: 0.3005 is no better."""


@pytest.fixture(scope='module')
def config(mmdet_ready, shapes, tmp_path_factory):
    from mmengine.evaluator import BaseMetric
    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS, METRICS

    class Scripted(BaseMetric):
        """Gives the score of the epoch."""

        runner = None

        def process(self, data_batch, data_samples):
            self.results.append(None)

        def compute_metrics(self, results):
            return {'score': SCORES[self.runner.epoch - 1]}

    class ScriptHook(Hook):
        """Saves, as ctrl-C would, right after the fourth validation."""

        def before_run(self, runner):
            Scripted.runner = runner

        def before_train_epoch(self, runner):
            if runner.epoch == 4 and runner.train_loop.whole:
                runner.save_interrupted()

    METRICS.register_module(module=Scripted, force=True)
    HOOKS.register_module(module=ScriptHook, force=True)
    path = tmp_path_factory.mktemp('stopping') / 'tiny.py'
    path = training_runs.write_config(path, shapes, by_epoch=True)
    with open(path, 'a') as file:
        file.write(
            "train_cfg['max_epochs'] = 8\n"
            "custom_hooks = [dict(type='ScriptHook')]\n"
            "val_evaluator = dict(type='Scripted')\n"
            "default_hooks['checkpoint'].update(save_best='score', max_keep_ckpts=-1)\n"
        )
    yield path
    for registry, name in ((METRICS, 'Scripted'), (HOOKS, 'ScriptHook')):
        registry.module_dict.pop(name)


def stopped_at(work):
    return max(
        int(path.stem.removeprefix('epoch_')) for path in work.glob('epoch_?.pth')
    )


@pytest.fixture(scope='module')
def whole(config, tmp_path_factory):
    """A training that nothing interrupts."""
    work = tmp_path_factory.mktemp('whole')
    result = eca_mmdet.train(config, work, patience=3, ema=True, seed=0)
    return work, result


def test_it_stops_and_keeps_the_best(whole):
    work, result = whole
    assert stopped_at(work) == 5
    assert result.best == work / 'best_score_epoch_4.pth'
    assert result.best_score == pytest.approx(0.3005)
    # The average and the weights as trained are two things.
    content = torch.load(work / 'epoch_5.pth', weights_only=True)
    name = 'backbone.layer4.0.conv1.weight'
    average, trained = content['state_dict'], content['ema_state_dict']
    assert not torch.equal(average[name], trained[f'module.{name}'])


@pytest.mark.parametrize('epoch', [3, 4])
def test_a_resumed_training_stops_where_the_whole_one_did(
    epoch, config, whole, tmp_path
):
    """Epoch 4's checkpoint is of after its validation, which is then done again."""
    work, _ = whole
    eca_mmdet.train(
        config,
        tmp_path,
        patience=3,
        ema=True,
        seed=0,
        resume=str(work / f'epoch_{epoch}.pth'),
    )
    assert stopped_at(tmp_path) == 5
    last, expected = (
        torch.load(folder / 'epoch_5.pth', weights_only=True)
        for folder in (tmp_path, work)
    )
    key = 'eca_mmdet_early_stopping'
    assert last['meta'][key] == expected['meta'][key] == [[pytest.approx(0.3), 2]]
    for part in ('state_dict', 'ema_state_dict'):
        for name, tensor in expected[part].items():
            assert torch.equal(last[part][name], tensor), name


def test_the_score_is_that_of_the_evaluator(mmdet_ready):
    cfg = eca_mmdet.load_config('mask-rcnn_eca-r18-w16_fpn_shapes')
    apply_settings(cfg, patience=4)
    hook = cfg.custom_hooks[-1]
    assert (hook.type, hook.monitor, hook.patience, hook.rule) == (
        *('EarlyStoppingHook', 'coco/bbox_mAP', 4, 'greater'),
    )
    assert cfg.default_hooks.checkpoint.save_best == 'coco/bbox_mAP'
    apply_settings(cfg, patience=2, ema=True)  # in place of the first
    types = [hook.type for hook in cfg.custom_hooks]
    assert types == ['MetricsFileHook', 'EarlyStoppingHook', 'EMAHook']
    assert cfg.custom_hooks[1].patience == 2
    cfg.val_evaluator = dict(type='VOCMetric')
    cfg.default_hooks.checkpoint.save_best = 'auto'
    with pytest.raises(UserError, match='which score of VOCMetric should rise'):
        apply_settings(cfg, patience=2)
    cfg.val_evaluator = cfg.val_cfg = cfg.val_dataloader = None
    with pytest.raises(UserError, match='--patience needs validations'):
        apply_settings(cfg, patience=2)
    with pytest.raises(UserError, match='patience must be at least 1; got 0'):
        apply_settings(cfg, patience=0)
