"""Narrow detectors with numbered rows, and trainings that stop before they begin."""

import contextlib
import copy

import pytest
import torch

from eca_mmdet.checkpoints.io import Checkpoint
from eca_mmdet.checkpoints.transfer import RowLayout
from eca_mmdet.demo.run import compose
from tests.support.in_process import fresh_mmengine

EIGHTY = tuple(f'thing {index}' for index in range(80))


def labels(kind, names):
    """What each row of a layer is for, by the loops of mmdet's heads."""
    rows = []
    if kind == 'fc_cls':
        for name in names:
            rows.append(name)
        rows.append(0)  # background
    elif kind in ('conv_logits', 'gfl_cls', 'label_embedding'):
        for name in names:
            rows.append(name)
    elif kind == 'fc_reg':
        for name in names:
            for side in range(4):
                rows.append((name, side))
    elif kind in ('retina_cls', 'cls_score'):
        for anchor in range(9):
            for name in names:
                rows.append((anchor, name))
    elif kind in ('cls_convs.2.0', 'conv_cls'):  # softmax: SSD, YOLACT
        for anchor in range(4):
            for name in names:
                rows.append((anchor, name))
            rows.append((anchor, 0))
    elif kind == 'convs_pred.1':
        for anchor in range(3):
            for part in range(5):
                rows.append((anchor, part))
            for name in names:
                rows.append((anchor, name))
    return rows


# A model of two layers: 2 classes of the names below; the file has 3.
LAYERS = {
    'head.fc_cls.weight': RowLayout(after=1),
    'head.fc_reg.weight': RowLayout(1, 0, 4),
}


OWN = {
    'head.fc_cls.weight': torch.zeros(3, 2),
    'head.fc_reg.weight': torch.zeros(8, 2),
    'backbone.a': torch.zeros(2),
}


STATE = {
    'head.fc_cls.weight': torch.arange(4.0)[:, None].expand(4, 2) + 1,
    'head.fc_reg.weight': torch.arange(12.0)[:, None].expand(12, 2) + 1,
    'backbone.a': torch.ones(2),
}


def of(state=STATE, names=('cat', 'dog', 'owl')):
    extras = {'meta': {'dataset_meta': {'classes': names}}} if names else {}
    return Checkpoint(dict(state), 'state_dict', path='x.pth', extras=extras)


def tiny(detector, shapes, work_dir, classes=None):
    cfg = compose(detector, 'eca', 18, shapes, 0)
    cfg.merge_from_dict(
        {
            'model.backbone.base_channels': 8,
            'model.neck.in_channels': [8, 16, 32, 64],
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'val_dataloader.num_workers': 0,
            'val_dataloader.persistent_workers': False,
            'test_dataloader.num_workers': 0,
            'train_dataloader.dataset.serialize_data': False,
            'val_dataloader.dataset.serialize_data': False,
            'test_dataloader.dataset.serialize_data': False,
            'test_dataloader.persistent_workers': False,
        }
    )
    if detector != 'retinanet':
        cfg.model.roi_head.bbox_head.fc_out_channels = 32
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=1, val_interval=10)
    cfg.param_scheduler = []
    cfg.default_hooks.checkpoint = dict(
        type='CheckpointHook', interval=1, by_epoch=False
    )
    cfg.work_dir = str(work_dir)
    if classes:
        set_classes(cfg.model, classes)
    return cfg


def set_classes(model, count):
    heads = [model.bbox_head] if 'bbox_head' in model else []
    if 'roi_head' in model:
        heads = [model.roi_head.bbox_head, model.roi_head.get('mask_head')]
    for head in heads:
        if head:
            head.num_classes = count


def save(path, cfg, names=EIGHTY, **meta):
    """A checkpoint as mmengine writes it, with random numbers in every tensor."""
    from mmdet.registry import MODELS

    state = MODELS.build(cfg.model).state_dict()
    state = {
        key: torch.rand(value.shape) if value.is_floating_point() else value
        for key, value in state.items()
    }
    if names:
        meta['dataset_meta'] = {'classes': names}
    hub = dict(log_scalars={}, runtime_info={}, resumed_keys={})
    average = {f'module.{key}': value + 1 for key, value in state.items()}
    content = {'state_dict': state, 'meta': meta, 'message_hub': hub}
    torch.save(content | {'ema_state_dict': average}, path)
    return state


@contextlib.contextmanager
def quick():
    """Without what takes a Runner a second: describing machine and config."""
    from mmengine.runner import Runner

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, '_log_env', lambda *_: None)
        patch.setattr(Runner, 'dump_config', lambda *_: None)
        yield


class Seen(Exception):
    """Training would begin."""


def before_training(cfg, steps=0, again=False):
    """The runner's tensors, and its moving average's, when training begins."""
    from mmengine.hooks import EMAHook, Hook
    from mmengine.runner import Runner

    class Look(Hook):
        def before_train(self, runner):
            if again:
                runner.load_checkpoint(cfg.load_from)
            for name, model in models(runner).items():
                state = model.state_dict()
                seen[name] = {key: value.clone() for key, value in state.items()}
            if not steps:
                raise Seen

    def models(runner):
        found = {'model': runner.model}
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                found['average'] = hook.ema_model.module
        return found

    seen = {}
    with fresh_mmengine(), quick():
        runner = Runner.from_cfg(copy.deepcopy(cfg))
        runner.register_hook(Look(), priority='LOWEST')
        log, seen['lines'] = runner.logger.info, []
        runner.logger.info = lambda line: (seen['lines'].append(line), log(line))
        try:
            runner.train()
        except Seen:
            pass
    return seen


def is_class_layer(key):
    parts = key.split('.')
    layer = parts[-2]
    return layer in ('fc_cls', 'fc_reg', 'conv_logits', 'retina_cls')
