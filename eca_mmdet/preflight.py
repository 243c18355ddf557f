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
from eca_mmdet.weights.sources import missing_file_message


def check_backbone(cfg: Any) -> None:
    """Build the backbone without memory, so that its arguments are checked.

    Raises:
        UserError: depth, kernel sizes or another argument is refused.
    """
    import torch
    from mmdet.registry import MODELS

    try:
        with torch.device('meta'):
            MODELS.build(cfg.model.backbone)
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise UserError(f'model.backbone: {_unwrap(error)}') from error


def _unwrap(error: BaseException) -> str:
    """Return the message; KeyError shows a repr of it otherwise."""
    return str(error.args[0]) if error.args else type(error).__name__


def check_backbone_weights(cfg: Any) -> None:
    """Look for the file of pretrained weights, unless a whole detector is loaded.

    Raises:
        UserError: with what to get and where to put it.
    """
    if cfg.get('load_from') or cfg.get('resume'):
        return
    init_cfg = cfg.model.backbone.get('init_cfg') or {}
    for one in init_cfg if isinstance(init_cfg, list) else [init_cfg]:
        checkpoint = one.get('checkpoint')
        if checkpoint and '://' not in checkpoint and not Path(checkpoint).is_file():
            raise UserError(missing_file_message(checkpoint))


def check_data(cfg: Any, training: bool) -> None:
    """Check annotation files, image folders, classes and heads.

    Args:
        cfg: a detector config.
        training: also look at the training set.

    Raises:
        UserError: the first fault.
    """
    names = ['train_dataloader', 'val_dataloader'] if training else ['test_dataloader']
    seen: dict[Path, dict[str, Any]] = {}
    for name in names:
        loader = cfg.get(name)
        for dataset in _leaf_datasets(loader.dataset) if loader else ():
            _check_dataset(cfg, name, dataset, seen)


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
    cfg: Any, name: str, dataset: Any, seen: dict[Path, dict[str, Any]]
) -> None:
    if not str(dataset.get('ann_file', '')).endswith('.json'):
        return  # not a COCO-format data set
    root = dataset.get('data_root') or ''
    path = Path(root) / dataset['ann_file']
    if path not in seen:
        seen[path] = read_annotations(path, f'{name}.dataset')
    folder = Path(root) / (dataset.get('data_prefix') or {}).get('img', '')
    if not folder.is_dir():
        raise UserError(
            f'image folder {str(folder)!r} of {name}.dataset does not exist. Set '
            f'{name}.dataset.data_root and .data_prefix.img.'
        )
    classes = _class_names(dataset, name)
    if classes is None:
        return
    in_file = {category['name'] for category in seen[path]['categories']}
    unknown = [c for c in classes if c not in in_file]
    if unknown:
        raise UserError(
            f'{len(unknown)} of {len(classes)} classes of {name}.dataset are not in '
            f'{path}: {_first(unknown)}. The file has {_first(sorted(in_file))}. Set '
            f'{name}.dataset.metainfo.classes to names of the file (case counts).'
        )
    check_num_classes(cfg, len(classes), name)


def _first(names: list[str], count: int = 5) -> str:
    more = f' and {len(names) - count} more' if len(names) > count else ''
    return ', '.join(map(repr, names[:count])) + more


def read_annotations(path: Path, owner: str) -> dict[str, Any]:
    """Read a COCO annotation file.

    Args:
        path: the file.
        owner: config entry to name in messages.

    Raises:
        UserError: missing, not JSON, or without images and categories.
    """
    if not path.is_file():
        raise UserError(
            f'annotation file {str(path)!r} of {owner} does not exist. Put COCO there '
            f'or set {owner}.data_root and .ann_file (--cfg-options).'
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
    return content  # type: ignore[no-any-return]


def _class_names(dataset: Any, name: str) -> tuple[str, ...] | None:
    """Return the class names a data set will use, or None if it takes the file's."""
    from mmdet.registry import DATASETS

    classes = (dataset.get('metainfo') or {}).get('classes')
    if classes is None:
        known = DATASETS.get(dataset['type'])
        classes = getattr(known, 'METAINFO', {}).get('classes')
    if isinstance(classes, str):
        raise UserError(
            f'{name}.dataset.metainfo.classes must be a tuple of names; got the string '
            f"{classes!r}. One class is written ('{classes}',) with a comma."
        )
    return None if classes is None else tuple(classes)


def check_num_classes(cfg: Any, classes: int, name: str) -> None:
    """Compare ``num_classes`` of every head with the data.

    Raises:
        UserError: naming each entry to change.
    """
    entries = dict(_num_classes_entries(cfg.model, 'model'))
    wrong = {key: value for key, value in entries.items() if value != classes}
    if wrong:
        found = ', '.join(f'{key} is {value}' for key, value in wrong.items())
        options = ' '.join(f'{key}={classes}' for key in wrong)
        raise UserError(
            f'{name} has {classes} classes, but {found}. Set them: --cfg-options '
            f'{options}'
        )


def _num_classes_entries(node: Any, path: str) -> Iterator[tuple[str, int]]:
    """Yield (config key, value) of every head's num_classes; the RPN has one class."""
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from _num_classes_entries(item, f'{path}.{index}')
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == 'num_classes' and isinstance(value, int):
                yield f'{path}.num_classes', value
            elif key != 'rpn_head':
                yield from _num_classes_entries(value, f'{path}.{key}')
