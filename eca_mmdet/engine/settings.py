"""Training settings by name, on any config: epochs, batch size, lr, image size, ..."""

from __future__ import annotations

import copy
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from eca_mmdet.engine.config import leaf_datasets, require_sections, type_name
from eca_mmdet.utils.errors import UserError

logger = logging.getLogger(__name__)

_RESIZES = {'Resize': 'scale', 'RandomResize': 'scale', 'RandomChoiceResize': 'scales'}
_LENGTHS = ('T_max', 'total_iters', 'total_steps', 'step_size')
_FIXED_SIZES = ('img_scale', 'crop_size', 'size', 'random_size_range')
_WARMUPS = ('LinearLR', 'ConstantLR', 'LinearParamScheduler', 'ConstantParamScheduler')


@dataclass(frozen=True)
class Settings:
    """What a user asked for; None leaves the config's own.

    Attributes:
        epochs: number of epochs; milestones and warm-up change in proportion.
        batch_size: images per step and process; the learning rate follows.
        lr: learning rate, used as given, whatever the batch.
        image_size: long and short side in px of the box that images are resized to;
            a single number keeps the config's proportion.
        workers: processes that load data, for each loader; 0 loads in the main one.
    """

    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    image_size: tuple[int, ...] | None = None
    workers: int | None = None


def apply_settings(cfg: Any, settings: Settings) -> None:
    """Write the settings into a loaded config, and log each change in one line.

    Raises:
        UserError: a setting is out of range, the config has no place for it, or it is
            resumed with another learning rate.
    """
    if settings == Settings():
        return
    _require_sensible(settings)
    require_sections(cfg, training=True)
    before = (cfg.train_cfg.get('max_epochs'), cfg.train_dataloader.get('batch_size'))
    if settings.epochs is not None:
        _set_epochs(cfg, settings.epochs)
    if settings.batch_size is not None:
        cfg.train_dataloader.batch_size = settings.batch_size
        logger.info(f'batch size {before[1]} -> {settings.batch_size} per process')
    loop, loader = cfg.train_cfg, cfg.train_dataloader
    counts = (*before, loop.get('max_epochs'), loader.get('batch_size'))
    if not cfg.get('resume') and all(isinstance(n, int) and n > 0 for n in counts):
        epochs = loop.max_epochs / before[0]
        steps = epochs * before[1] / loader.batch_size
        _rescale_schedule(cfg, epochs, steps)
    if settings.lr is not None:
        _set_lr(cfg, settings.lr)
    if settings.image_size is not None:
        _set_image_size(cfg, settings.image_size)
    if settings.workers is not None:
        set_workers(cfg, settings.workers)


def _require_sensible(settings: Settings) -> None:
    size = settings.image_size
    least = {
        'epochs': (settings.epochs, 1),
        'batch_size': (settings.batch_size, 1),
        'workers': (settings.workers, 0),
        'image_size': (None if size is None else min(size, default=0), 1),
    }
    for name, (value, smallest) in least.items():
        if value is not None and value < smallest:
            raise UserError(
                f'{name} must be at least {smallest}; got {value}.',
                code='option-invalid',
            )
    if settings.lr is not None and not 0 < settings.lr < math.inf:
        raise UserError(
            f'lr must be a positive number; got {settings.lr}.', code='option-invalid'
        )


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
    by_epoch = checkpoint if checkpoint.get('by_epoch', True) else {}
    for entry, keys in (
        (loop, ('val_begin', 'val_interval')),
        (by_epoch, ('interval',)),
    ):
        for key in keys:
            if (entry.get(key) or 0) > epochs:  # nothing would be validated or kept
                entry[key] = epochs


def _rescale_schedule(cfg: Any, epochs: float, steps: float) -> None:
    """Keep the shape of the learning rate's course where its length changes.

    ``epochs`` and ``steps`` are the new numbers of them, relative to the old.
    """
    schedulers = cfg.get('param_scheduler') or []
    schedulers = schedulers if isinstance(schedulers, list) else [schedulers]
    ratios, ends = [], {}
    for one in schedulers:
        by_epoch = one.get('by_epoch', True)
        ratio = epochs if by_epoch else steps
        # After a warm-up of one step, mmengine's rate stays at its start.
        least = 1 if one.get('convert_to_iter_based') else 2
        if type_name(one) in _WARMUPS and not by_epoch:
            ratio = min(1.0, ratio)  # a longer training needs no longer warm-up
        ratios.append(ratio)
        if isinstance(one.get('end'), int):
            ends[by_epoch, one.end] = max(least, round(one.end * ratio))
    slack = 0 if steps == epochs else cfg.train_cfg.max_epochs
    for one, ratio in zip(schedulers, ratios, strict=True):
        changes = []
        for key, new in _rescaled(one, ratio, ends, slack).items():
            if new != one[key]:
                changes.append(f'{key} {one[key]} -> {new}')
                one[key] = new
        if changes:
            logger.info(f'{type_name(one)}: {", ".join(changes)}')


def _rescaled(
    one: Any, ratio: float, ends: dict[tuple[bool, int], int], slack: int
) -> dict[str, Any]:
    """Return the numbers of a scheduler that change with the training's length.

    ``ends`` are the new places of all schedulers' ends: what began at one still does.
    ``slack`` are the steps by which rounding may make epochs longer.
    """
    new: dict[str, Any] = {}
    by_epoch, begin = one.get('by_epoch', True), one.get('begin', 0)
    new_begin = ends.get((by_epoch, begin), max(1, round(begin * ratio)))
    if begin:
        new['begin'] = new_begin
    else:
        new_begin = 0
    if isinstance(one.get('end'), int):
        new['end'] = max(new_begin + 1, ends[by_epoch, one.end])
    for key in _LENGTHS:
        if not isinstance(one.get(key), int):
            continue
        new[key] = max(1, round(one[key] * ratio))
        if 'end' in new and one[key] == one.end - begin:
            new[key] = new['end'] - new_begin
        elif key == 'total_steps' and ratio != 1:  # more are an error
            new[key] = math.ceil(one[key] * ratio) + (0 if by_epoch else slack)
    if one.get('milestones') and ratio != 1:
        new['milestones'] = rescaled_milestones(one.milestones, ratio)
    if one.get('periods'):
        new['periods'] = [max(1, round(period * ratio)) for period in one.periods]
    return new


def rescaled_milestones(milestones: Any, ratio: float) -> list[int]:
    """Return the milestones of a longer or shorter training, distinct whole epochs.

    They are rounded down: a last milestone at the end would never take effect.
    """
    found: list[int] = []
    for one in milestones:
        least = found[-1] + 1 if found else 1
        found.append(max(least, int(one * ratio + 1e-9)))
    return found


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
    new = (size[0], size[1] if len(size) > 1 else round(size[0] * own[1] / own[0]))
    seen: set[int] = set()
    fixed: set[str] = set()
    for use in ('train', 'val', 'test'):
        loader = cfg.get(f'{use}_dataloader')
        nodes, leaves = _with_pipelines(loader), list(map(id, leaf_datasets(loader)))
        outer = any(_resizes(n.pipeline) for n in nodes if id(n) not in leaves)
        for node in nodes:
            if id(node) not in seen and not (outer and not _resizes(node.pipeline)):
                steps = copy.deepcopy(list(node.pipeline))  # others may share them
                node.pipeline = resized(steps, own, new)
            seen.add(id(node))
            fixed |= _fixed_sizes(node.pipeline)
    for hook in cfg.get('custom_hooks') or []:
        if hook.get('switch_pipeline'):  # of the last epochs
            steps = copy.deepcopy(list(hook.switch_pipeline))
            hook.switch_pipeline = resized(steps, own, new)
    fixed |= _fixed_sizes(
        (cfg.model.get('data_preprocessor') or {}).get('batch_augments')
    )
    texts = ('{} x {}'.format(*scale) for scale in (own, new))
    logger.info(f'image size {" -> ".join(texts)}')
    if fixed:
        logger.warning(
            f'image size: {", ".join(sorted(fixed))} keep the sizes that the config '
            'gives them'
        )


def _flat(steps: Any) -> Iterator[Any]:
    """Return the steps of a pipeline, and those that are chosen from inside one."""
    for step in steps or ():
        if isinstance(step, (list, tuple)):
            yield from _flat(step)
        elif isinstance(step, dict):
            yield step
            yield from _flat(step.get('transforms'))


def _resizes(steps: Any) -> bool:
    return any(map(resize_scales, _flat(steps)))


def _fixed_sizes(steps: Any) -> set[str]:
    return {
        type_name(step) for step in _flat(steps) if any(map(step.get, _FIXED_SIZES))
    }


def _own_scale(cfg: Any) -> tuple[int, int]:
    """Return the long and short side that images are resized to for testing."""
    for use in ('test', 'train'):
        for node in _with_pipelines(cfg.get(f'{use}_dataloader')):
            for scale in (
                pair for step in _flat(node.pipeline) for pair in resize_scales(step)
            ):
                return int(max(scale)), int(min(scale))
    raise UserError(
        f'--imgsz: no pipeline of {cfg.filename} has one of the steps '
        f'{", ".join(_RESIZES)} with a size.',
        code='option-conflict',
    )


def _with_pipelines(loader: Any) -> list[Any]:
    """Return the datasets of a loader that have a pipeline, wrappers included."""
    found, node = leaf_datasets(loader or {}), (loader or {}).get('dataset')
    while isinstance(node, dict) and isinstance(node.get('dataset'), dict):
        found = [node, *found]
        node = node['dataset']
    return [node for node in found if node.get('pipeline')]


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
    if not _resizes(steps):
        loads = [
            n for n, step in enumerate(steps) if type_name(step).startswith('Load')
        ]
        if not loads:
            return steps
        resize = dict(type='Resize', scale=new, keep_ratio=True)
        return [*steps[: loads[-1] + 1], resize, *steps[loads[-1] + 1 :]]
    for step in _flat(steps):
        if pairs := resize_scales(step):
            key = _RESIZES[type_name(step)]
            changed = [_scaled(pair, own, new) for pair in pairs]
            single = isinstance(step[key][0], (int, float))
            step[key] = changed[0] if single else changed
    return steps


def _scaled(pair: Any, own: tuple[int, int], new: tuple[int, int]) -> tuple[int, ...]:
    long, short = max(pair) * new[0] / own[0], min(pair) * new[1] / own[1]
    sides = (round(long), round(short))
    return sides if pair[0] >= pair[1] else sides[::-1]


def set_workers(cfg: Any, workers: int) -> None:
    """Set the number of loading processes of each loader."""
    for use in ('train', 'val', 'test'):
        loader = cfg.get(f'{use}_dataloader')
        if loader:
            loader.num_workers = workers
            loader.persistent_workers = workers > 0
            if not workers:
                loader.pop('prefetch_factor', None)
    logger.info(f'{workers} data loading processes for each loader')


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
    before = os.environ.get('CUDA_VISIBLE_DEVICES')
    os.environ['CUDA_VISIBLE_DEVICES'] = ''  # before CUDA is initialised
    from mmengine.device import get_device

    if get_device() != 'cpu':
        os.environ.pop('CUDA_VISIBLE_DEVICES')
        os.environ |= {} if before is None else {'CUDA_VISIBLE_DEVICES': before}
        raise UserError(
            f'--device cpu: {get_device()} is in use in this process already. Start '
            'Python with CUDA_VISIBLE_DEVICES= in its environment.',
            code='option-conflict',
        )
