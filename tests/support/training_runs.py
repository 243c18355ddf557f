"""Tiny trainings for the tests that kill them."""

from pathlib import Path

from eca_mmdet.catalog.configs import resolve_config

STEPS = 6
DEMO = 'mask-rcnn_eca-r18-w16_fpn_shapes'


def write_config(path, root, by_epoch=False, **changes):
    """Write a config that trains six steps on the six images below ``root``.

    It inherits nothing, since every ``mmdet::`` base costs a process 0.3 s.

    Args:
        path: of the file.
        root: what ``write_shapes`` made, with images of 96 px.
        by_epoch: three epochs of two steps, else six steps of two images.
        changes: entries by their path, '__' for each dot.
    """
    from mmengine.config import Config

    cfg = Config.fromfile(resolve_config('mask-rcnn_eca-r18-w16_fpn_shapes'))
    small = dict(bbox_head=dict(fc_out_channels=32), mask_head=dict(num_convs=1))
    cfg.merge_from_dict(dict(model=dict(roi_head=small)))
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=STEPS, val_interval=3)
    # Warm-up and decay, both under way all the time.
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=3),
        dict(type='CosineAnnealingLR', by_epoch=False, begin=3, end=6, T_max=3),
    ]
    cfg.train_dataloader.batch_size = 2
    cfg.default_hooks.checkpoint.interval = 2
    cfg.default_hooks.logger.interval = 1
    for loader in ('train', 'val', 'test'):
        cfg[f'{loader}_dataloader'].dataset.data_root = f'{root}/'
        cfg[f'{loader}_dataloader'].num_workers = 0
        cfg[f'{loader}_dataloader'].persistent_workers = False
    for name in ('val_evaluator', 'test_evaluator'):
        cfg[name].ann_file = f'{root}/annotations/val.json'
    if by_epoch:
        cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=3, val_interval=1)
        cfg.train_dataloader.batch_size = 3
        cfg.train_dataloader.sampler.type = 'DefaultSampler'
        cfg.train_dataloader.batch_sampler = dict(type='AspectRatioBatchSampler')
        cfg.default_hooks.checkpoint.merge(dict(by_epoch=True, interval=1))
        cfg.log_processor.by_epoch = True
    cfg.merge_from_dict({key.replace('__', '.'): v for key, v in changes.items()})
    Path(path).write_text(cfg.pretty_text)
    return path


def train(ranks, config, work, *words, sabotage=()):
    """Start a training in a process of its own; return the job.

    Args:
        ranks: the server that forks (a fixture).
        config: from ``write_config``.
        work: its work folder.
        words: more arguments.
        sabotage: a function of ``tests.support.sabotage`` and its arguments.
    """
    words = ['train', config, '--work-dir', work, '--verbose', *words]
    return ranks.start(*words, ranks=[{}], before=sabotage)


def shapes_options(root):
    """Options that point the demo's config at a small data set, for two steps."""
    options = [
        'train_cfg.max_iters=2',
        'train_cfg.val_interval=2',
        'param_scheduler=None',
        'default_hooks.checkpoint.interval=2',
        'train_dataloader.batch_size=2',
        f'val_evaluator.ann_file={root}/annotations/val.json',
        f'test_evaluator.ann_file={root}/annotations/val.json',
        'default_hooks.logger.interval=1',
    ]
    for loader in ('train', 'val', 'test'):
        options += [
            f'{loader}_dataloader.dataset.data_root={root}/',
            f'{loader}_dataloader.num_workers=0',
            f'{loader}_dataloader.persistent_workers=False',
        ]
    return ['--cfg-options', *options]
