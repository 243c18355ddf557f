"""Checks before long work: what is wrong is said in the first seconds.

mmdet finds most of these faults too, but after minutes, or as an assertion deep in a
data loader, or (a class name that the file does not have) not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eca_mmdet.errors import UserError


def check_backbone(cfg: Any) -> Any:
    """Build the backbone without memory, so that its arguments are checked.

    Returns:
        The backbone on the meta device; None where the model has no part of that name
        or where it cannot be built so (some compute with values in the constructor).

    Raises:
        UserError: depth, kernel sizes or another argument is refused.
    """
    import torch
    from mmdet.registry import MODELS

    if not cfg.model.get('backbone'):
        return None
    try:
        with torch.device('meta'):
            return MODELS.build(cfg.model.backbone)
    except (RuntimeError, NotImplementedError):
        return None
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise UserError(f'model.backbone: {_unwrap(error)}') from error


def _unwrap(error: BaseException) -> str:
    """Return the message; KeyError shows a repr of it otherwise."""
    return str(error.args[0]) if error.args else type(error).__name__


def check_backbone_weights(cfg: Any, backbone: Any) -> None:
    """Look for the file of pretrained weights, and hold it against the backbone.

    An address is downloaded here, before anything else is loaded.

    Args:
        cfg: a detector config.
        backbone: from :func:`check_backbone`; None leaves the comparison out.

    Raises:
        UserError: with what to get and where to put it, or what does not fit.
    """
    from eca_mmdet.backbones.loud_weights import as_list, check_init_cfg

    init_cfg = (cfg.model.get('backbone') or {}).get('init_cfg')
    try:
        if backbone is not None:
            check_init_cfg(backbone, init_cfg)
            _check_detector_init(backbone, cfg.model.get('init_cfg'))
    except ValueError as error:
        raise UserError(f'model.backbone: {error}') from error
    for path, part in _parts(cfg.model, 'model'):
        for one in as_list(part.get('init_cfg')):
            own = path == 'model.backbone'
            _check_initializer(one, f'{path}.init_cfg', backbone if own else None)


def _check_detector_init(backbone: Any, init_cfg: Any) -> None:
    """Refuse a detector's own 'Pretrained', which loads gates as silently."""
    from eca_mmdet.backbones.loud_weights import check_init_cfg

    try:
        check_init_cfg(backbone, init_cfg)
    except ValueError:
        raise UserError(
            "model.init_cfg of type 'Pretrained' would leave gates random without an "
            'error. Give a whole detector as load_from=FILE, a backbone as '
            'model.backbone.init_cfg.'
        ) from None


def _parts(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield (config path, dict) of every dict, at any depth."""
    if isinstance(node, (list, tuple)):
        for index, item in enumerate(node):
            yield from _parts(item, f'{path}.{index}')
    elif isinstance(node, dict):
        yield path, node
        for name, value in node.items():
            yield from _parts(value, f'{path}.{name}')


def _check_initializer(init_cfg: Any, path: str, backbone: Any) -> None:
    """Read the file of one initializer, and hold it against the backbone if it is its.

    Addresses of mmengine's 'Pretrained' are left to mmengine.
    """
    from eca_mmdet.weights.fetch import fetch, is_address
    from eca_mmdet.weights.files import read_weights
    from eca_mmdet.weights.pretrained import ECAPretrained

    if init_cfg.get('type') != 'ECAPretrained':
        checkpoint = init_cfg.get('checkpoint')
        if checkpoint and not is_address(str(checkpoint)):
            read_weights(fetch(str(checkpoint)))
        return
    arguments = {key: value for key, value in init_cfg.items() if key != 'type'}
    try:
        initializer = ECAPretrained(**arguments)
    except TypeError as error:
        raise UserError(f'{path}: {error}') from error
    if backbone is None:
        read_weights(fetch(initializer.checkpoint))
    else:
        initializer.fit(backbone)


def check_operators(cfg: Any) -> None:
    """Look for model parts that need an operator of mmcv which nobody supplies.

    Raises:
        UserError: with the part, the operator and how to get it.
    """
    from eca_mmdet.ops import mmcv_ext

    if not mmcv_ext.is_supplied():
        return
    for path, kind in _entries(cfg.model, 'model', 'type'):
        operator = mmcv_ext.UNSUPPLIED_TYPES.get(kind)
        if operator:
            raise UserError(
                f'{path}={kind!r} needs the mmcv operator {operator!r}, and this mmcv '
                'has no compiled extension; eca_mmdet does not supply that one. To '
                f'build it: {mmcv_ext.how_to_compile()}'
            )


def check_data(cfg: Any, training: bool) -> None:
    """Check annotation files, image folders, classes and heads.

    Args:
        cfg: a detector config.
        training: also look at the training set.

    Raises:
        UserError: the first fault.
    """
    names = ['train', 'val'] if training else ['test']
    seen: dict[Path, set[str]] = {}
    for name in names:
        loader = cfg.get(f'{name}_dataloader')
        for dataset in _leaf_datasets(loader.dataset) if loader else ():
            _check_dataset(cfg, f'{name}_dataloader', dataset, seen)
        evaluators = cfg.get(f'{name}_evaluator') or []
        for one in evaluators if isinstance(evaluators, list) else [evaluators]:
            ann_file = str(one.get('ann_file', ''))
            local_coco = ann_file.endswith('.json') and '://' not in ann_file
            if local_coco and Path(ann_file) not in seen:
                read_categories(Path(ann_file), f'{name}_evaluator')


def _leaf_datasets(dataset: Any) -> Iterator[Any]:
    """Yield the data sets inside RepeatDataset, ConcatDataset and the like."""
    if 'dataset' in dataset:
        yield from _leaf_datasets(dataset['dataset'])
    elif 'datasets' in dataset:
        for part in dataset['datasets']:
            yield from _leaf_datasets(part)
    else:
        yield dataset


def _check_dataset(
    cfg: Any, name: str, dataset: Any, seen: dict[Path, set[str]]
) -> None:
    ann_file = str(dataset.get('ann_file', ''))
    root = str(dataset.get('data_root') or '')
    coco = ann_file.endswith('.json') and 'Panoptic' not in str(dataset['type'])
    if not coco or '://' in root + ann_file:
        return
    path = Path(root) / ann_file
    if path not in seen:
        seen[path] = read_categories(path, f'{name}.dataset')
    folder = Path(root) / (dataset.get('data_prefix') or {}).get('img', '')
    if not folder.is_dir():
        raise UserError(
            f'image folder {str(folder)!r} of {name}.dataset does not exist. Set '
            f'{name}.dataset.data_root and .data_prefix.img.'
        )
    classes = _class_names(dataset, name)
    if classes is None:
        return
    unknown = [c for c in classes if c not in seen[path]]
    if unknown:
        raise UserError(
            f'{len(unknown)} of {len(classes)} classes of {name}.dataset are not in '
            f'{path}: {_first(unknown)}. The file has {_first(sorted(seen[path]))}. '
            f'Set {name}.dataset.metainfo.classes to names of the file (case counts).'
        )
    check_num_classes(cfg, len(classes), name)


def _first(names: list[str], count: int = 5) -> str:
    more = f' and {len(names) - count} more' if len(names) > count else ''
    return ', '.join(map(repr, names[:count])) + more


def read_categories(path: Path, owner: str) -> set[str]:
    """Read the category names of a COCO annotation file.

    Args:
        path: the file.
        owner: config entry to name in messages.

    Raises:
        UserError: missing, not JSON, or without images or named categories.
    """
    if not path.is_file():
        raise UserError(
            f'annotation file {str(path)!r} of {owner} does not exist. Put COCO there '
            f'or set {owner}.ann_file (and .data_root) with --cfg-options.'
        )
    try:
        content = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f'{path} is not JSON: {error}') from error
    for key in ('images', 'categories'):
        value = content.get(key) if isinstance(content, dict) else None
        if not isinstance(value, list) or not value:
            raise UserError(
                f'{path} is not a COCO annotation file: expected an object with a '
                f'non-empty list {key!r}; it has none.'
            )
    try:
        return {category['name'] for category in content['categories']}
    except (TypeError, KeyError):
        raise UserError(
            f"{path}: every category needs a 'name'; at least one has none."
        ) from None


def _class_names(dataset: Any, name: str) -> tuple[str, ...] | None:
    """Return the class names a data set will use, or None if it takes the file's."""
    from mmdet.registry import DATASETS

    classes = (dataset.get('metainfo') or {}).get('classes')
    if classes is None:
        known = DATASETS.get(dataset['type'])
        classes = getattr(known, 'METAINFO', {}).get('classes')
    if isinstance(classes, str):
        if Path(classes).is_file():  # mmengine reads one name a line
            return tuple(Path(classes).read_text().split('\n'))
        raise UserError(
            f'{name}.dataset.metainfo.classes must be a tuple of names; got the string '
            f"{classes!r}. One class is written ('{classes}',) with a comma."
        )
    return None if classes is None else tuple(classes)


def check_num_classes(cfg: Any, classes: int, name: str) -> None:
    """Compare ``num_classes`` of the box and mask heads with the data.

    Raises:
        UserError: naming each entry to change.
    """
    if 'language_model' in cfg.model:  # there it counts text tokens
        return
    model = cfg.model
    heads = {
        f'{path}.{key}': part[key]
        for path, part in (('model', model), ('model.roi_head', model.get('roi_head')))
        for key in ('bbox_head', 'mask_head')
        if part and part.get(key)
    }
    entries: dict[str, int] = {}
    for path, head in heads.items():
        many = isinstance(head, list)
        for index, one in enumerate(head if many else [head]):
            if 'num_classes' in one:
                where = f'{path}.{index}' if many else path
                entries[f'{where}.num_classes'] = one['num_classes']
    wrong = {key: value for key, value in entries.items() if value != classes}
    if wrong:
        found = ', '.join(f'{key} is {value}' for key, value in wrong.items())
        options = ' '.join(f'{key}={classes}' for key in wrong)
        raise UserError(
            f'{name} has {classes} classes, but {found}. Set them: --cfg-options '
            f'{options}'
        )


def _entries(node: Any, path: str, key: str) -> Iterator[tuple[str, str]]:
    """Yield (config path, value) of every string under ``key``, at any depth."""
    for where, part in _parts(node, path):
        if isinstance(part.get(key), str):
            yield f'{where}.{key}', part[key]
