"""Training settings by name, on any config: epochs, batch size, lr, image size, ..."""

from __future__ import annotations

import copy
import logging
import math
import os
from typing import Any

from eca_mmdet.engine.config import evaluators, parts, require_sections, type_name
from eca_mmdet.evaluation.coco_eval import COCO_METRICS
from eca_mmdet.utils.errors import UserError

logger = logging.getLogger(__name__)

_RESIZES = {'Resize': 'scale', 'RandomResize': 'scale', 'RandomChoiceResize': 'scales'}
_LENGTHS = ('T_max', 'total_iters', 'total_steps', 'step_size')
_FIXED_SIZES = ('img_scale', 'crop_size', 'size', 'random_size_range')
_AVERAGE = {  # as mmdet's RTMDet; the momentum is larger in the first steps
    'ema_type': 'ExpMomentumEMA',
    'momentum': 0.0002,
    'update_buffers': True,
}
_LEAST_GAIN = 0.001  # of a score, 0-1, that early stopping counts as better
_WARMUPS = ('LinearLR', 'ConstantLR', 'LinearParamScheduler', 'ConstantParamScheduler')


def apply_settings(
    cfg: Any,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    image_size: tuple[int, ...] | None = None,
    workers: int | None = None,
    patience: int | None = None,
    ema: bool = False,
) -> None:
    """Write settings into a loaded config, and log each change in one line.

    They are those of :func:`eca_mmdet.train`; None leaves the config's own.

    Raises:
        UserError: a setting is out of range, the config has no place for it, or it is
            resumed with another learning rate.
    """
    side = None if image_size is None else min(image_size, default=0)
    counts = dict(
        epochs=epochs,
        batch_size=batch_size,
        image_size=side,
        workers=workers,
        patience=patience,
    )
    if lr is None and not ema and not any(n is not None for n in counts.values()):
        return
    for name, value in counts.items():
        least = int(name != 'workers')
        if value is not None and value < least:
            raise UserError(
                f'{name} must be at least {least}; got {value}.', code='option-invalid'
            )
    if lr is not None and not 0 < lr < math.inf:
        raise UserError(
            f'lr must be a positive number; got {lr}.', code='option-invalid'
        )
    require_sections(cfg, training=True)
    loop, loader = cfg.train_cfg, cfg.train_dataloader
    before = loop.get('max_epochs'), loader.get('batch_size')
    if epochs is not None:
        _set_epochs(cfg, epochs)
    if batch_size is not None:
        loader.batch_size = batch_size
        logger.info(f'batch size {before[1]} -> {batch_size} per process')
    sizes = (*before, loop.get('max_epochs'), loader.get('batch_size'))
    if not cfg.get('resume') and all(isinstance(n, int) and n > 0 for n in sizes):
        ratio = loop.max_epochs / before[0]
        _rescale_schedule(cfg, ratio, ratio * before[1] / loader.batch_size)
    if lr is not None:
        _set_lr(cfg, lr)
    if image_size is not None:
        _set_image_size(cfg, image_size)
    if workers is not None:
        for loader in _loaders(cfg):
            loader.num_workers = workers
            loader.persistent_workers = workers > 0
            if not workers:
                loader.pop('prefetch_factor', None)
        logger.info(f'{workers} data loading processes for each loader')
    if patience is not None:
        _stop_early(cfg, patience)
    if ema:
        logger.info('moving average of the weights, for validations and checkpoints')
        _set_hook(cfg, dict(type='EMAHook', priority=49, **_AVERAGE))


def _stop_early(cfg: Any, patience: int) -> None:
    """Stop after so many validations without a better score; keep the best."""
    if not cfg.get('val_evaluator'):
        raise UserError(
            f'--patience needs validations; {cfg.filename} has no val_evaluator.',
            code='option-conflict',
        )
    checkpoint = cfg.setdefault('default_hooks', {}).setdefault(
        'checkpoint', {'type': 'CheckpointHook'}
    )
    score = checkpoint.get('save_best')
    if not isinstance(score, str) or score == 'auto':
        metric: Any = next(iter(evaluators(cfg, 'val')), {})
        if type_name(metric) not in COCO_METRICS:
            raise UserError(
                f'--patience: which score of {type_name(metric)} should rise? Name it: '
                '--cfg-options default_hooks.checkpoint.save_best=SCORE.',
                code='option-conflict',
            )
        tasks = metric.get('metric', 'bbox')
        task = tasks if isinstance(tasks, str) else tasks[0]
        score = checkpoint.save_best = f'{metric.get("prefix") or "coco"}/{task}_mAP'
    if not checkpoint.get('rule') and 'loss' not in score.lower():
        checkpoint.rule = 'greater'  # mmengine knows the rules of few names
    logger.info(f'early stopping after {patience} validations without a better {score}')
    hook = dict(type='EarlyStoppingHook', monitor=score, rule=checkpoint.get('rule'))
    _set_hook(cfg, hook | dict(patience=patience, min_delta=_LEAST_GAIN, strict=True))


def _set_hook(cfg: Any, hook: dict[str, Any]) -> None:
    """Add a hook to a config, in place of one of its type."""
    others = [h for h in cfg.get('custom_hooks') or [] if type_name(h) != hook['type']]
    cfg.custom_hooks = [*others, hook]


def _loaders(cfg: Any) -> list[Any]:
    loaders = (cfg.get(f'{use}_dataloader') for use in ('train', 'val', 'test'))
    return [loader for loader in loaders if loader]


def _set_epochs(cfg: Any, epochs: int) -> None:
    loop = cfg.train_cfg
    if loop.get('max_epochs') is None:
        raise UserError(
            f'--epochs needs a config that trains by epochs; {cfg.filename} has '
            f'{dict(loop)}: set --cfg-options train_cfg.max_iters=N.',
            code='option-conflict',
        )
    logger.info(f'epochs {loop.max_epochs} -> {epochs}')
    ratio = epochs / loop.max_epochs
    loop.max_epochs = epochs
    if loop.get('dynamic_intervals'):
        loop.dynamic_intervals = [
            (int(begin * ratio + 1e-9), interval)
            for begin, interval in loop.dynamic_intervals
        ]
    for hook in cfg.get('custom_hooks') or []:
        for key in ('switch_epoch', 'num_last_epochs'):  # of another pipeline
            if isinstance(hook.get(key), int):
                new = max(1, int(hook[key] * ratio + 1e-9))
                logger.info(f'{type_name(hook)}: {key} {hook[key]} -> {new}')
                hook[key] = new
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    limits = [(loop, 'val_begin'), (loop, 'val_interval')]
    if checkpoint.get('by_epoch', True):
        limits.append((checkpoint, 'interval'))
    for entry, key in limits:
        if (entry.get(key) or 0) > epochs:  # nothing would be validated or kept
            entry[key] = epochs


def _rescale_schedule(cfg: Any, epochs: float, steps: float) -> None:
    """Keep the shape of the learning rate's course where its length changes.

    ``epochs`` and ``steps`` are the new numbers of them, relative to the old.
    """
    schedulers = cfg.get('param_scheduler') or []
    schedulers = schedulers if isinstance(schedulers, list) else [schedulers]
    ratios, ends = [], {}
    for scheduler in schedulers:
        by_epoch = scheduler.get('by_epoch', True)
        ratio = epochs if by_epoch else steps
        # After a warm-up of one step, mmengine's rate stays at its start.
        least = 1 if scheduler.get('convert_to_iter_based') else 2
        if type_name(scheduler) in _WARMUPS and not by_epoch:
            ratio = min(1.0, ratio)  # a longer training needs no longer warm-up
        ratios.append(ratio)
        if isinstance(scheduler.get('end'), int):
            ends[by_epoch, scheduler.end] = max(least, round(scheduler.end * ratio))
    slack = 0 if steps == epochs else cfg.train_cfg.max_epochs
    for scheduler, ratio in zip(schedulers, ratios, strict=True):
        changes = []
        for key, new in _rescaled(scheduler, ratio, ends, slack).items():
            if new != scheduler[key]:
                changes.append(f'{key} {scheduler[key]} -> {new}')
                scheduler[key] = new
        if changes:
            logger.info(f'{type_name(scheduler)}: {", ".join(changes)}')


def _rescaled(
    scheduler: Any, ratio: float, ends: dict[tuple[bool, int], int], slack: int
) -> dict[str, Any]:
    """Return the numbers of a scheduler that change with the training's length.

    ``ends`` are the new places of all schedulers' ends: what began at one still does.
    ``slack`` are the steps by which rounding may make epochs longer.
    """
    new: dict[str, Any] = {}
    by_epoch, begin = scheduler.get('by_epoch', True), scheduler.get('begin', 0)
    if begin:
        new['begin'] = ends.get((by_epoch, begin), max(1, round(begin * ratio)))
    new_begin = new.get('begin', 0)
    if isinstance(scheduler.get('end'), int):
        new['end'] = max(new_begin + 1, ends[by_epoch, scheduler.end])
    for key in _LENGTHS:
        length = scheduler.get(key)
        if not isinstance(length, int):
            continue
        new[key] = max(1, round(length * ratio))
        if 'end' in new and length == scheduler.end - begin:
            new[key] = new['end'] - new_begin
        elif key == 'total_steps' and ratio != 1:  # more are an error
            new[key] = math.ceil(length * ratio) + (0 if by_epoch else slack)
    if scheduler.get('milestones') and ratio != 1:
        new['milestones'] = rescaled_milestones(scheduler.milestones, ratio)
    if scheduler.get('periods'):
        new['periods'] = [max(1, round(n * ratio)) for n in scheduler.periods]
    return new


def rescaled_milestones(milestones: Any, ratio: float) -> list[int]:
    """Return the milestones of a longer or shorter training, distinct whole epochs.

    They are rounded down: a last milestone at the end would never take effect.
    """
    found = [0]
    for milestone in milestones:
        found.append(max(found[-1] + 1, int(milestone * ratio + 1e-9)))
    return found[1:]


def _set_lr(cfg: Any, lr: float) -> None:
    if cfg.get('resume'):
        raise UserError(
            f'--lr {lr:g}: a resumed training continues with the learning rate of its '
            'checkpoint. Leave --lr out, or start a new training from those weights: '
            '--cfg-options load_from=CHECKPOINT.',
            code='option-conflict',
        )
    optimizer: Any = cfg.optim_wrapper.get('optimizer') or {}
    if optimizer.get('lr') is None:
        raise UserError(
            f'--lr: {cfg.filename} has no optim_wrapper.optimizer.lr.',
            code='option-conflict',
        )
    optimizer.lr = lr


def _set_image_size(cfg: Any, size: tuple[int, ...]) -> None:
    own = _own_scale(cfg)
    new = (size[0], size[-1])
    fixed = _steps((cfg.model.get('data_preprocessor') or {}).get('batch_augments'))
    pipelines: list[tuple[Any, str]] = []
    for loader in _loaders(cfg):
        nodes = _with_pipelines(loader)
        fixed += [step for node in nodes for step in _steps(node.pipeline)]
        outer = any(n.get('dataset') and _sizes(n.pipeline) for n in nodes)
        pipelines += [
            (node, 'pipeline')
            for node in nodes
            if not outer or _sizes(node.pipeline)  # a wrapper resizes what it gets
        ]
    for hook in cfg.get('custom_hooks') or []:
        if hook.get('switch_pipeline'):  # of the last epochs
            pipelines.append((hook, 'switch_pipeline'))
    # Loaders may share a dataset, and datasets their steps.
    for node, key in {id(node): (node, key) for node, key in pipelines}.values():
        node[key] = resized(copy.deepcopy(list(node[key])), own, new)
    logger.info('image size {} x {} -> {} x {}'.format(*own, *new))
    names = {type_name(step) for step in fixed if any(map(step.get, _FIXED_SIZES))}
    if names:
        logger.warning(
            f'image size: {", ".join(sorted(names))} keep the sizes that the config '
            'gives them'
        )


def _with_pipelines(loader: Any) -> list[Any]:
    """Return the datasets of a loader that have a pipeline, wrappers included."""
    return [node for _, node in parts(loader, '') if node.get('pipeline')]


def _steps(pipeline: Any) -> list[Any]:
    """Return the steps of a pipeline, and those that are chosen from inside one."""
    return [step for _, step in parts(pipeline, '') if 'type' in step]


def _sizes(pipeline: Any) -> list[Any]:
    return [pair for step in _steps(pipeline) for pair in resize_scales(step)]


def _own_scale(cfg: Any) -> tuple[int, int]:
    """Return the long and short side that images are resized to for testing."""
    for loader in (cfg.get('test_dataloader'), cfg.get('train_dataloader')):
        for node in _with_pipelines(loader):
            for pair in _sizes(node.pipeline):
                return int(max(pair)), int(min(pair))
    raise UserError(
        f'--imgsz: no pipeline of {cfg.filename} has one of the steps '
        f'{", ".join(_RESIZES)} with a size.',
        code='option-conflict',
    )


def resize_scales(step: Any) -> list[Any]:
    """Return the sizes of a resizing step of a pipeline, two sides each."""
    value = step.get(_RESIZES.get(type_name(step), ''))
    if not value or isinstance(value, int):
        return []
    return [value] if isinstance(value[0], (int, float)) else list(value)


def resized(
    steps: list[dict[str, Any]], own: tuple[int, int], new: tuple[int, int]
) -> list[dict[str, Any]]:
    """Return a pipeline whose resizing steps go to another size than their config's.

    Several sizes (multi-scale training) change in proportion. A pipeline without such a
    step gets one, after the annotations are loaded. ``own`` and ``new`` are long and
    short sides; the steps are changed in place.
    """
    if not _sizes(steps):
        for at in reversed(range(len(steps))):
            if type_name(steps[at]).startswith('Load'):
                resize = dict(type='Resize', scale=new, keep_ratio=True)
                return [*steps[: at + 1], resize, *steps[at + 1 :]]
    for step in _steps(steps):
        changed = []
        for pair in resize_scales(step):
            long, short = max(pair) * new[0] / own[0], min(pair) * new[1] / own[1]
            sides = (round(long), round(short))
            changed.append(sides if pair[0] >= pair[1] else sides[::-1])
        if changed:
            key = _RESIZES[type_name(step)]
            single = isinstance(step[key][0], (int, float))
            step[key] = changed[0] if single else changed
    return steps


def choose_device(name: str | None, launcher: str) -> None:
    """Let this process compute on 'cpu', 'cuda' or 'cuda:N'; None takes the best.

    Raises:
        UserError: there is no such device, or a launcher distributes the devices.
    """
    if name is None:
        return
    import torch

    kind, _, number = name.partition(':')
    if kind not in ('cpu', 'cuda') or (number and not number.isdecimal()):
        raise UserError(
            f'--device takes cpu, cuda or cuda:N; got {name!r}.', code='option-invalid'
        )
    if launcher != 'none':
        raise UserError(
            '--device goes with one process; a launcher gives each process its own '
            '(choose with CUDA_VISIBLE_DEVICES).',
            code='option-conflict',
        )
    if kind == 'cuda':
        there = torch.cuda.device_count()
        if int(number or 0) >= there:
            raise UserError(
                f'--device {name}: PyTorch sees {there} GPUs.', code='no-gpu'
            )
        torch.cuda.set_device(int(number or 0))
        return
    from mmengine.device import get_device

    before = os.environ.get('CUDA_VISIBLE_DEVICES')
    os.environ['CUDA_VISIBLE_DEVICES'] = ''  # before CUDA is initialised
    if get_device() != 'cpu':
        del os.environ['CUDA_VISIBLE_DEVICES']
        if before is not None:
            os.environ['CUDA_VISIBLE_DEVICES'] = before
        raise UserError(
            f'--device cpu: {get_device()} is in use in this process already. Start '
            'Python with CUDA_VISIBLE_DEVICES= in its environment.',
            code='option-conflict',
        )
