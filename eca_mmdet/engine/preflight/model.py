"""Checks of a model's config and pretrained weights, in the first seconds of a run.

mmdet finds most of these faults too, but after minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from eca_mmdet.engine.config import class_heads, parts
from eca_mmdet.utils.errors import UserError


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
    _check_plugins(cfg.model.backbone)
    try:
        with torch.device('meta'):
            if cfg.model.get('neck'):
                _check_neck(cfg.model.neck)
            return MODELS.build(cfg.model.backbone)
    except (RuntimeError, NotImplementedError):
        return None
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise _invalid('model.backbone', error) from error


def _check_neck(neck: Any) -> None:
    """Build a neck, to check its arguments, if it can be built without memory."""
    from mmdet.registry import MODELS

    try:
        MODELS.build(neck)
    except (RuntimeError, NotImplementedError):
        return
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise _invalid('model.neck', error) from error


def _check_plugins(backbone: Any) -> None:
    """Check the plugins of mmdet's own ResNets, which assert without a message."""
    from eca_mmdet.models.backbones.plugins import BOTTLENECK_POSITIONS, check_plugins

    plain = backbone.get('type') in ('ResNet', 'ResNetV1d', 'ResNeXt', 'Res2Net')
    if not plain or not backbone.get('plugins'):
        return
    try:
        stages = backbone.get('num_stages', 4)
        check_plugins(backbone.plugins, BOTTLENECK_POSITIONS, stages, of_stages=())
    except ValueError as error:
        raise _invalid('model.backbone', error) from error


def _invalid(path: str, error: BaseException) -> UserError:
    """Return a part's own error with its path in the config."""
    # A KeyError would show the repr of its message.
    message = str(error.args[0]) if error.args else type(error).__name__
    return UserError(f'{path}: {message}', code='config-invalid')


def check_backbone_weights(cfg: Any, backbone: Any) -> None:
    """Find the file of pretrained weights, and compare it with the backbone.

    A URL is downloaded here, before anything else is loaded.

    Args:
        cfg: a detector config.
        backbone: from :func:`check_backbone`; None leaves the comparison out.

    Raises:
        UserError: with what to get and where to put it, or what does not fit.
    """
    from eca_mmdet.models.backbones.init_guard import as_list, check_init_cfg

    try:
        if backbone is not None:
            check_init_cfg(backbone, cfg.model.backbone.get('init_cfg'))
            _check_detector_init(backbone, cfg.model.get('init_cfg'))
    except ValueError as error:
        raise _invalid('model.backbone', error) from error
    for path, part in parts(cfg.model, 'model'):
        for init_cfg in as_list(part.get('init_cfg')):
            own = path == 'model.backbone'
            _check_initializer(init_cfg, f'{path}.init_cfg', backbone if own else None)


def _check_detector_init(backbone: Any, init_cfg: Any) -> None:
    """Reject a detector's own 'Pretrained', which leaves gates random silently."""
    from eca_mmdet.models.backbones.init_guard import check_init_cfg

    try:
        check_init_cfg(backbone, init_cfg)
    except ValueError:
        raise UserError(
            "model.init_cfg of type 'Pretrained' would leave gates random without an "
            'error. Give a whole detector as load_from=FILE, a backbone as '
            'model.backbone.init_cfg.',
            code='config-invalid',
        ) from None


def _check_initializer(init_cfg: Any, path: str, backbone: Any) -> None:
    """Read the file of one initializer, and compare it with the backbone if given.

    URLs of mmengine's 'Pretrained' are left to mmengine.
    """
    from eca_mmdet.checkpoints.download import fetch, is_address
    from eca_mmdet.checkpoints.initializer import ECAPretrained
    from eca_mmdet.checkpoints.io import read_weights

    if init_cfg.get('type') != 'ECAPretrained':
        checkpoint = init_cfg.get('checkpoint')
        if checkpoint and not is_address(str(checkpoint)):
            read_weights(fetch(str(checkpoint)))
        return
    arguments = {key: value for key, value in init_cfg.items() if key != 'type'}
    try:
        initializer = ECAPretrained(**arguments)
    except TypeError as error:
        raise _invalid(path, error) from error
    if backbone is None:
        read_weights(fetch(initializer.checkpoint))
    else:
        initializer.fit(backbone)


def check_operators(cfg: Any) -> None:
    """Check that every mmcv operator that the model needs is available.

    Raises:
        UserError: with the part, the operator and how to get it.
    """
    from eca_mmdet.mmcv_ops import extension as mmcv_ext

    if not mmcv_ext.is_supplied():
        return
    for path, kind in _entries(cfg.model, 'model', 'type'):
        operator = mmcv_ext.UNSUPPLIED_TYPES.get(kind)
        if operator:
            raise UserError(
                f'{path}={kind!r} needs the mmcv operator {operator!r}, and this mmcv '
                'has no compiled extension; eca_mmdet does not supply that one. To '
                f'build it: {mmcv_ext.how_to_compile()}',
                code='unsupported-model',
            )


def check_num_classes(cfg: Any, classes: int, name: str) -> None:
    """Compare ``num_classes`` of the box and mask heads with the data.

    Raises:
        UserError: naming each entry to change.
    """
    if 'language_model' in cfg.model:  # there it counts text tokens
        return
    entries = {
        '.'.join(('model', *path, 'num_classes')): head['num_classes']
        for path, head in class_heads(cfg.model)
    }
    wrong = {key: value for key, value in entries.items() if value != classes}
    if wrong:
        counts = ', '.join(f'{key} is {value}' for key, value in wrong.items())
        options = ' '.join(f'{key}={classes}' for key in wrong)
        raise UserError(
            f'{name} has {classes} classes, but {counts}. Set them: --cfg-options '
            f'{options}',
            code='class-mismatch',
        )


def _entries(node: Any, path: str, key: str) -> Iterator[tuple[str, str]]:
    """Yield (config path, value) of every string under ``key``, at any depth."""
    for where, part in parts(node, path):
        if isinstance(part.get(key), str):
            yield f'{where}.{key}', part[key]
