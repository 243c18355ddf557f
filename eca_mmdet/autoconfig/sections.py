"""Sections of the new config: what follows from the data, and why."""

from __future__ import annotations

import os
from typing import Any

from eca_mmdet.autoconfig.inputs import Base, Data, Start, innermost
from eca_mmdet.autoconfig.proposals import (
    Anchors,
    Proposal,
    Schedule,
    Statistics,
)
from eca_mmdet.engine.settings import resized
from eca_mmdet.utils.text import Commented, Name

_MOST_WORKERS = 4
_COLOURS = 80  # colours of mmdet's CocoDataset, which its drawing takes for any dataset


def images_an_epoch(base: Base, statistics: Statistics) -> tuple[int, int]:
    """Return how many images an epoch shows, and how many mmdet's filter drops.

    RepeatDataset shows each image several times.
    """
    times, dataset = 1, base.cfg.train_dataloader.dataset
    while 'dataset' in dataset:
        times *= int(dataset.get('times') or 1)
        dataset = dataset['dataset']
    empty = (dataset.get('filter_cfg') or {}).get('filter_empty_gt', False)
    lost = statistics.empty_images if empty else 0
    return max(1, len(statistics.sizes) - lost) * times, lost


def model_of(
    base: Base, classes: int, proposal: Proposal[Anchors] | None, start: Start
) -> Any:
    """Return the entries of the model that depend on the data."""
    model: dict[str, Any] = dict(start.model)
    for path in base.heads:
        *parents, name = path
        at, old = model, base.cfg.model
        for key in parents:
            at, old = at.setdefault(key, {}), old[key]
        number = {'num_classes': classes}
        at[name] = number
        if isinstance(old[name], (list, tuple)):  # a list replaces that of the base
            at[name] = [dict(head) | number for head in old[name]]
    if proposal and proposal.changed:
        new = proposal.value
        single = new.key == 'octave_base_scale'
        generator: dict[str, Any] = {new.key: new.base[0] if single else list(new.base)}
        if new.ratios != proposal.own.ratios:
            generator['ratios'] = list(new.ratios)
        head, key = base.anchor_path
        model.setdefault(head, {})[key] = Commented(generator, _sentence(proposal.why))
    return model


def pipelines(
    base: Base, data: Data, size: Proposal[tuple[int, int]] | None
) -> dict[str, Any]:
    """Return the pipelines, if image size or reading of masks differ from the config's.

    A detector of boxes reads no masks that the data do not have.
    """
    entries: dict[str, Any] = {}
    reasons = []
    for name in ('train', 'test'):
        _, dataset = innermost(base.cfg[f'{name}_dataloader'], base.path, name)
        steps = [  # without arguments that are None
            {key: value for key, value in step.items() if value is not None}
            for step in dataset.pipeline
        ]
        if size is not None and size.changed:
            steps = resized(steps, size.own, size.value)
            reasons.append(f'images: {size.why}')
        masks = [step for step in steps if step.get('with_mask')]
        if data.unmasked and masks and not base.mask_head:
            for step in masks:
                del step['with_mask']
            reasons.append('no masks are read: objects lack them')
        entries[f'{name}_pipeline'] = steps
    if not reasons:
        return {}
    why = _sentence('; '.join(dict.fromkeys(reasons)))
    return entries | {'train_pipeline': Commented(entries['train_pipeline'], why)}


def loaders(
    base: Base, data: Data, batch: int, why_batch: str, pipelines: bool
) -> dict[str, Any]:
    """Return the data loaders and evaluators."""
    entries: dict[str, Any] = {}
    classes = len(data.train.names)
    workers = min(os.cpu_count() or 1, _MOST_WORKERS)
    for name, part in (('train', data.train), ('val', data.val), ('test', data.val)):
        depth, dataset = innermost(base.cfg[f'{name}_dataloader'], base.path, name)
        new: dict[str, Any] = dict(
            data_root='',
            ann_file=part.file.as_posix(),
            data_prefix=dict(img=f'{part.images.as_posix().rstrip("/")}/'),
            metainfo=dict(classes=Name('classes')),
        )
        # Colours of other classes may be too few to draw with.
        if classes > _COLOURS or (dataset.get('metainfo') or {}).get('palette'):
            new['metainfo']['palette'] = None
        if name == 'train':
            new |= _filter(dataset, part.statistics)
        if pipelines:
            new['pipeline'] = Name(f'{"train" if name == "train" else "test"}_pipeline')
        for _ in range(depth):
            new = dict(dataset=new)
        loader: dict[str, Any] = dict(num_workers=workers, dataset=new)
        if name == 'train':
            why = f'{_sentence(why_batch)} {_rate(base.cfg, batch)}'.rstrip()
            loader = dict(batch_size=Commented(batch, why)) | loader
            if _by_iterations(base):
                loader['sampler'] = dict(type='DefaultSampler', shuffle=True)
        entries[f'{name}_dataloader'] = loader
    if entries['val_dataloader'] == entries['test_dataloader']:
        entries['test_dataloader'] = Name('val_dataloader')
    entries['val_evaluator'] = dict(ann_file=data.val.file.as_posix())
    entries['test_evaluator'] = Name('val_evaluator')
    return entries


def _by_iterations(base: Base) -> bool:
    return 'IterBased' in str(base.cfg.train_cfg.get('type'))


def _filter(dataset: Any, statistics: Statistics) -> dict[str, Any]:
    """Keep images that mmdet's filter for COCO would drop for being small."""
    least = (dataset.get('filter_cfg') or {}).get('min_size', 0)
    small = int((statistics.sizes.min(axis=1) < least).sum())
    if not small:
        return {}
    why = f'{small} images have a side under {least} px, which the config leaves out.'
    return dict(filter_cfg=dict(min_size=Commented(1, why)))


def _rate(cfg: Any, batch: int) -> str:
    """Return a sentence on the learning rate of a batch size."""
    batch *= int(cfg.optim_wrapper.get('accumulative_counts') or 1)
    base = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    lr = (cfg.optim_wrapper.get('optimizer') or {}).get('lr')
    if not base or lr is None:
        return ''
    return (
        f'The learning rate follows: {lr:g} is for {base} images a step, so that one '
        f'process trains with {lr * batch / base:g}.'
    )


def course(base: Base, course: Schedule) -> dict[str, Any]:
    """Return the loop, the learning rate's course and the checkpoints."""
    loop: dict[str, Any] = dict(
        max_epochs=Commented(course.epochs, _sentence(course.why)),
        val_interval=course.interval,
    )
    checkpoint = dict(interval=course.interval, max_keep_ckpts=2, save_best='auto')
    entries: dict[str, Any] = {}
    if _by_iterations(base):
        loop = dict(_delete_=True, type='EpochBasedTrainLoop') | loop
        checkpoint['by_epoch'] = True
        entries['log_processor'] = dict(by_epoch=True)
    warmup = dict(begin=0, end=course.warmup)
    steps = dict(milestones=list(course.milestones), gamma=0.1)
    scheduler = [
        dict(type='LinearLR', start_factor=0.001, by_epoch=False, **warmup),
        dict(type='MultiStepLR', by_epoch=True, **steps),
    ]
    why = 'Divided by ten after two thirds and eleven twelfths.'
    hooks = dict(checkpoint=checkpoint)
    return {
        'train_cfg': loop,
        'param_scheduler': Commented(scheduler, why),
        'default_hooks': Commented(hooks, 'The best, and the last two.'),
        **entries,
    }


def _sentence(text: str) -> str:
    return f'{text[0].upper()}{text[1:]}.'
