"""Checks before work: the config, the model and its pretrained weights."""

from __future__ import annotations

from typing import Any

from eca_mmdet.checkpoints.download import fetch, is_address
from eca_mmdet.checkpoints.io import read_checkpoint
from eca_mmdet.engine.config import parts, require_sections
from eca_mmdet.engine.data_checks import check_data
from eca_mmdet.engine.distributed import is_main_process
from eca_mmdet.utils.errors import UserError


def check(cfg: Any, training: bool) -> None:
    """Run every check that reads no image; rank 0 does it for all.

    A detector that is loaded whole brings its backbone: ``init_cfg`` is then dropped,
    since mmengine would still read the backbone's own file first.
    """
    require_sections(cfg, training)
    start = cfg.get('load_from')
    if start and cfg.model.get('backbone'):
        cfg.model.backbone.init_cfg = None
    if not is_main_process():
        return
    backbone = check_backbone(cfg)
    check_operators(cfg)
    if training and not start:
        check_backbone_weights(cfg, backbone)
    elif training and not is_address(str(start)):
        read_checkpoint(start)
    check_data(cfg, training)


def check_backbone(cfg: Any) -> Any:
    """Build the backbone on the meta device, so that its arguments are checked.

    None where the model has none, or where its constructor computes with values.
    """
    if not cfg.model.get('backbone'):
        return None
    _check_plugins(cfg.model.backbone)
    if cfg.model.get('neck'):
        _build(cfg.model.neck, 'model.neck')
    return _build(cfg.model.backbone, 'model.backbone')


def _build(part: Any, path: str) -> Any:
    """Build a part of the model; None where its constructor needs values."""
    from eca_mmdet.checkpoints.class_layers import build_empty

    try:
        return build_empty(part, in_memory=False)
    except RuntimeError:  # NotImplementedError is one
        return None
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise _invalid(path, error) from error


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

    A URL is downloaded here, before anything else is loaded. Without a backbone, the
    file is only read.
    """
    from eca_mmdet.models.backbones.init_guard import as_list, check_init_cfg

    if backbone is not None:
        try:
            check_init_cfg(backbone, cfg.model.backbone.get('init_cfg'))
        except ValueError as error:
            raise _invalid('model.backbone', error) from error
        try:
            check_init_cfg(backbone, cfg.model.get('init_cfg'))
        except ValueError:
            raise UserError(
                "model.init_cfg of type 'Pretrained' would leave gates random without "
                'an error. Give a whole detector as load_from=FILE, a backbone as '
                'model.backbone.init_cfg.',
                code='config-invalid',
            ) from None
    for path, part in parts(cfg.model, 'model'):
        for init_cfg in as_list(part.get('init_cfg')):
            own = path == 'model.backbone'
            _check_initializer(init_cfg, f'{path}.init_cfg', backbone if own else None)


def _check_initializer(init_cfg: Any, path: str, backbone: Any) -> None:
    """Read the file of one initializer, and compare it with the backbone if given.

    URLs of mmengine's 'Pretrained' are left to mmengine.
    """
    from eca_mmdet.checkpoints.initializer import ECAPretrained

    if init_cfg.get('type') != 'ECAPretrained':
        checkpoint = init_cfg.get('checkpoint')
        if checkpoint and not is_address(str(checkpoint)):
            read_checkpoint(fetch(str(checkpoint)))
        return
    arguments = {key: value for key, value in init_cfg.items() if key != 'type'}
    try:
        initializer = ECAPretrained(**arguments)
    except TypeError as error:
        raise _invalid(path, error) from error
    if backbone is None:
        read_checkpoint(fetch(initializer.checkpoint))
    else:
        initializer.fit(backbone)


def check_operators(cfg: Any) -> None:
    """Check that every mmcv operator that the model needs is available."""
    from eca_mmdet.mmcv_ops import extension as mmcv_ext

    if not mmcv_ext.is_supplied():
        return
    for path, part in parts(cfg.model, 'model'):
        kind = part.get('type')
        if isinstance(kind, str) and kind in mmcv_ext.UNSUPPLIED_TYPES:
            operator = mmcv_ext.UNSUPPLIED_TYPES[kind]
            raise UserError(
                f'{path}.type={kind!r} needs the mmcv operator {operator!r}, and this '
                'mmcv has no compiled extension; eca_mmdet does not supply that one. '
                f'To build it: {mmcv_ext.how_to_compile()}',
                code='unsupported-model',
            )
