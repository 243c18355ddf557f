"""Checks of the model before long work: what is wrong is said in the first seconds.

mmdet finds most of these faults too, but after minutes. The data have their own module,
:mod:`eca_mmdet.engine.preflight.data`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
        raise UserError(f'model.backbone: {_unwrap(error)}') from error


def _check_neck(neck: Any) -> None:
    """Build a neck, for its arguments; those that cannot be built so are left."""
    from mmdet.registry import MODELS

    try:
        MODELS.build(neck)
    except (RuntimeError, NotImplementedError):
        return
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise UserError(f'model.neck: {_unwrap(error)}') from error


def _check_plugins(backbone: Any) -> None:
    """Check the plugins of mmdet's own ResNets, which assert without a word."""
    from eca_mmdet.models.backbones.plugins import BOTTLENECK_POSITIONS, check_plugins

    plain = backbone.get('type') in ('ResNet', 'ResNetV1d', 'ResNeXt', 'Res2Net')
    if not plain or not backbone.get('plugins'):
        return
    try:
        stages = backbone.get('num_stages', 4)
        check_plugins(backbone.plugins, BOTTLENECK_POSITIONS, stages, of_stages=())
    except ValueError as error:
        raise UserError(f'model.backbone: {error}') from error


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
    from eca_mmdet.models.backbones.init_guard import as_list, check_init_cfg

    init_cfg = (cfg.model.get('backbone') or {}).get('init_cfg')
    try:
        if backbone is not None:
            check_init_cfg(backbone, init_cfg)
            _check_detector_init(backbone, cfg.model.get('init_cfg'))
    except ValueError as error:
        raise UserError(f'model.backbone: {error}') from error
    for path, part in parts(cfg.model, 'model'):
        for one in as_list(part.get('init_cfg')):
            own = path == 'model.backbone'
            _check_initializer(one, f'{path}.init_cfg', backbone if own else None)


def _check_detector_init(backbone: Any, init_cfg: Any) -> None:
    """Refuse a detector's own 'Pretrained', which loads gates as silently."""
    from eca_mmdet.models.backbones.init_guard import check_init_cfg

    try:
        check_init_cfg(backbone, init_cfg)
    except ValueError:
        raise UserError(
            "model.init_cfg of type 'Pretrained' would leave gates random without an "
            'error. Give a whole detector as load_from=FILE, a backbone as '
            'model.backbone.init_cfg.'
        ) from None


def parts(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield (config path, dict) of every dict, at any depth."""
    if isinstance(node, (list, tuple)):
        for index, item in enumerate(node):
            yield from parts(item, f'{path}.{index}')
    elif isinstance(node, dict):
        yield path, node
        for name, value in node.items():
            yield from parts(value, f'{path}.{name}')


def _check_initializer(init_cfg: Any, path: str, backbone: Any) -> None:
    """Read the file of one initializer, and hold it against the backbone if it is its.

    Addresses of mmengine's 'Pretrained' are left to mmengine.
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
    from eca_mmdet.mmcv_ops import extension as mmcv_ext

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
    for where, part in parts(node, path):
        if isinstance(part.get(key), str):
            yield f'{where}.{key}', part[key]


def evaluators(cfg: Any, use: str) -> list[Any]:
    """Return the configs of the metrics of 'val' or 'test', however they are nested."""
    entry = cfg.get(f'{use}_evaluator') or []
    if not isinstance(entry, list):
        entry = entry['metrics'] if 'metrics' in entry else [entry]
    return list(entry) if isinstance(entry, list) else [entry]
