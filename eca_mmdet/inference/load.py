"""Loading of a checkpoint into the model that it belongs to."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from eca_mmdet import registration
from eca_mmdet.checkpoints.detector import require_fit
from eca_mmdet.checkpoints.download import fetch, is_address
from eca_mmdet.checkpoints.embedded_config import (
    innermost,
    parse_config,
    registered,
    require_registered,
)
from eca_mmdet.checkpoints.io import Checkpoint, read_weights
from eca_mmdet.engine import config as engine_config
from eca_mmdet.utils.errors import UserError


def load_model(
    checkpoint: str, config: str | None = None, device: str | None = None
) -> tuple[str, Any, Any, tuple[str, ...]]:
    """Build the detector of a checkpoint and load its tensors.

    Args:
        checkpoint: path or https:// address of a checkpoint saved by mmengine. Its
            embedded config is read as plain values; loading never executes code.
        config: name or path of a config to use instead; it is Python and is executed.
        device: e.g. 'cuda:0'; None selects an accelerator if there is one.

    Returns:
        The local path, mmengine's Config, mmdet's detector in evaluation mode, and the
        class names by label.

    Raises:
        UserError: a file is missing or broken, the checkpoint has no config, or its
            tensors do not fit the model.
    """
    path = str(fetch(checkpoint)) if is_address(checkpoint) else checkpoint
    file = read_weights(path)
    engine_config.forbid_code_in_files()
    registration.register()
    engine_config.silence_known_warnings()
    cfg = _embedded_config(file) if config is None else load_config(config)
    model = _build(cfg, path)
    require_fit(file.state, model, path)
    classes = class_names(file, cfg)
    _require_count(model, classes, path)
    model.dataset_meta = {'classes': classes}
    model.cfg = cfg
    _move(model, device)
    model.train(False)  # mmdet's ResNet returns None from eval()
    return path, cfg, model, classes


def load_config(name: str, options: Sequence[str] = ()) -> Any:
    """Return a config by shipped name or path, with overrides as KEY=VALUE."""
    return engine_config.load_config(
        argparse.Namespace(
            config=name, cfg_options=list(options), launcher='none', local_rank=0
        )
    )


def _embedded_config(file: Checkpoint) -> Any:
    meta = file.extras.get('meta')
    text = meta.get('cfg') if isinstance(meta, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise UserError(
            f'{file.path} has no config in it, so its architecture is unknown: only '
            'checkpoints that mmengine saves in training embed one. Name the config: '
            '--config NAME|FILE.',
            code='checkpoint-incomplete',
        )
    return plain_config(parse_config(text, file.path), file.path)


def plain_config(values: dict[str, Any], path: str) -> Any:
    """Return mmengine's Config of values that may come from anywhere.

    Args:
        values: from ``embedded_config.parse_config``; what parts
            would start from is removed from them.
        path: where they are from.

    Raises:
        UserError: they name more than parts of image detectors, or are no config.
    """
    from mmengine.config import Config

    _forget_starts(values.get('model'))  # what they name is not built
    require_registered(values, path)
    try:
        return Config(values)
    except (KeyError, TypeError) as error:  # a key that mmengine keeps for itself
        raise UserError(
            f'the config in {path} is none that mmengine reads: {error}'
        ) from error


def _build(cfg: Any, path: str) -> Any:
    """Build the model without the files that its parts would start from."""
    from mmdet.registry import MODELS
    from mmengine.registry import init_default_scope

    source = getattr(cfg, 'filename', None) or f'the config of {path}'
    if not isinstance(cfg.get('model'), dict):
        raise UserError(f'{source} has no model.')
    _forget_starts(cfg.model)
    init_default_scope('mmdet')
    try:
        model = MODELS.build(cfg.model)
        if hasattr(model, 'state_dict'):
            return model
        raise TypeError(f'{cfg.model.get("type")} is no detector')
    except Exception as error:  # a part may raise anything on wrong arguments
        raise UserError(
            f'the model that {source} describes cannot be built: '
            f'{type(error).__name__}: {error}'
        ) from error


def _forget_starts(part: Any) -> None:
    """Remove init_cfg and pretrained everywhere: the checkpoint has every tensor."""
    if isinstance(part, dict):
        for key in ('init_cfg', 'pretrained'):
            if part.get(key) is not None:
                part[key] = None
    values = part.values() if isinstance(part, dict) else part
    for one in values if isinstance(part, (dict, list, tuple)) else ():
        _forget_starts(one)


def class_names(file: Checkpoint, cfg: Any) -> tuple[str, ...]:
    """Return the names of the classes: the file's, the config's, or of the data set.

    Raises:
        UserError: none is known.
    """
    meta = file.extras.get('meta')
    data = meta.get('dataset_meta') if isinstance(meta, dict) else None
    found = _entry(data, 'classes')
    dataset = innermost(_entry(cfg.get('test_dataloader'), 'dataset'))
    found = found or _entry(_entry(dataset, 'metainfo'), 'classes')
    if not found:
        known = registered(_entry(dataset, 'type'), 'DATASETS')
        found = _entry(getattr(known, 'METAINFO', None), 'classes')
    if isinstance(found, str):
        found = (found,)
    right = isinstance(found, (list, tuple)) and len(found) > 0
    if not right or not all(isinstance(one, str) for one in found):
        raise UserError(
            f'{file.path} does not name its classes, and neither does its config: '
            'set test_dataloader.dataset.metainfo.classes there.'
        )
    return tuple(found)


def _entry(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _require_count(model: Any, classes: tuple[str, ...], path: str) -> None:
    """Refuse names that are not as many as the classes of the heads."""
    for part in model.modules():
        count = getattr(part, 'num_classes', None)
        known = hasattr(part, 'predict_by_feat') and isinstance(count, int)
        # A proposal head has one class, 'object'.
        if known and count not in (1, len(classes)):
            raise UserError(
                f'{path} names {len(classes)} classes ({", ".join(classes[:3])}, ...), '
                f'and its {type(part).__name__} has {count}. Name a config with the '
                'right test_dataloader.dataset.metainfo.classes: --config NAME|FILE.',
                code='class-mismatch',
            )


def _move(model: Any, device: str | None) -> None:
    device = device or _best_device()
    try:
        model.to(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f'device {device!r} cannot be used: {str(error).splitlines()[0]}',
            code='no-gpu',
        ) from error


def _best_device() -> str:
    from mmengine.device import get_device

    return str(get_device())
