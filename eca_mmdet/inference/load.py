"""Loading of a checkpoint into the model that it belongs to."""

from __future__ import annotations

from typing import Any

from eca_mmdet import registration
from eca_mmdet.checkpoints.detector import require_fit
from eca_mmdet.checkpoints.download import fetch, is_address
from eca_mmdet.checkpoints.embedded_config import (
    parse_config,
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
    cfg = _config(file, config)
    model = _build(cfg, path)
    require_fit(file.state, model, path)
    classes = class_names(file, cfg)
    _require_count(model, classes, path)
    model.dataset_meta = {'classes': classes}
    model.cfg = cfg
    _move(model, device)
    model.train(False)  # mmdet's ResNet returns None from eval()
    return path, cfg, model, classes


def _config(file: Checkpoint, config: str | None) -> Any:
    """Return the named config, or the one in the file."""
    if config is not None:
        return engine_config.load_config(config)
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

    engine_config.drop_init(values.get('model'))  # what they name is not built
    require_registered(values, path)
    try:
        return Config(values)
    except (KeyError, TypeError) as error:  # a key that mmengine keeps for itself
        raise UserError(
            f'the config in {path} is none that mmengine reads: {error}'
        ) from error


def _build(cfg: Any, path: str) -> Any:
    """Build the model without the files that its parts would start from."""
    engine_config.drop_init(cfg.get('model'))
    cfg.default_scope = 'mmdet'
    source = cfg.filename or f'the config of {path}'
    return engine_config.build_model(cfg, source=source)


def class_names(file: Checkpoint, cfg: Any) -> tuple[str, ...]:
    """Return the class names: the file's, or those of the test data in its config.

    Raises:
        UserError: none are known.
    """
    meta = file.extras.get('meta')
    data = meta.get('dataset_meta') if isinstance(meta, dict) else None
    names: Any = data.get('classes') if isinstance(data, dict) else None
    names = (names,) if isinstance(names, str) else names
    names = names or engine_config.class_names(cfg, 'test_dataloader') or ()
    right = isinstance(names, (list, tuple)) and len(names) > 0
    if not right or not all(isinstance(name, str) for name in names):
        raise UserError(
            f'{file.path} does not name its classes, and neither does its config: '
            'set test_dataloader.dataset.metainfo.classes there.',
            code='unknown-class',
        )
    return tuple(names)


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
