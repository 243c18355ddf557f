"""Checks before work: the config, the model and its pretrained weights."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from multiprocessing import get_all_start_methods
from typing import Any

from eca_mmdet.catalog.mechanisms import Mechanism, find_mechanism
from eca_mmdet.checkpoints.download import fetch, is_address
from eca_mmdet.checkpoints.io import read_checkpoint
from eca_mmdet.engine.config import (
    evaluators,
    initializes_backbone,
    parts,
    require_sections,
    type_name,
)
from eca_mmdet.engine.data_checks import check_data
from eca_mmdet.engine.distributed import is_main_process
from eca_mmdet.utils.errors import FaultsError, UserError
from eca_mmdet.utils.text import assignment


def _whole(least: int) -> tuple[Callable[[Any], bool], str]:
    return lambda v: type(v) is int and v >= least, f'a whole number from {least}'


_METHODS = get_all_start_methods()
_SECONDS = (lambda v: type(v) in (int, float) and v >= 0, 'seconds from 0')
_FLAG = (lambda v: v in (False, True), 'True or False')
_VALUES: dict[str, dict[str, tuple[Callable[[Any], bool], str]]] = {
    'dataloader': {  # torch's arguments and mmengine's
        'batch_size': _whole(1),
        'num_workers': _whole(0),
        'num_batch_per_epoch': _whole(1),
        'prefetch_factor': _whole(1),
        'timeout': _SECONDS,
        'shuffle': (lambda v: not v, 'False; sampler.shuffle is what counts'),
        'multiprocessing_context': (lambda v: v in _METHODS, f'one of {_METHODS}'),
        'generator': (lambda v: v is None, 'None; the seed of the run is used'),
        'pin_memory_device': (lambda v: isinstance(v, str), 'text'),
        'persistent_workers': _FLAG,
        'pin_memory': _FLAG,
        'drop_last': _FLAG,
        'in_order': _FLAG,
        'disable_subprocess_warning': _FLAG,
    },
    'train_cfg': dict.fromkeys(('max_epochs', 'max_iters', 'val_interval'), _whole(1)),
    'optim_wrapper': {'accumulative_counts': _whole(1)},
    'default_hooks.logger': {'interval': _whole(1)},
}
_OPTIONAL = ('num_batch_per_epoch', 'prefetch_factor', 'multiprocessing_context')
_OF_WORKERS = ('persistent_workers', 'timeout', *_OPTIONAL[1:])
_PARTS: dict[str, tuple[str, ...]] = {  # with the arguments that mmengine adds
    'dataset': (),
    'sampler': ('dataset', 'seed'),
    'batch_sampler': ('sampler', 'batch_size'),
    'collate_fn': (),
    'worker_init_fn': (),
}


def check(cfg: Any, training: bool) -> None:
    """Run every check that reads no image; rank 0 does it for all.

    A detector that is loaded whole brings its backbone: ``init_cfg`` of another file is
    then dropped, since mmengine would still read that first.
    """
    require_sections(cfg, training)
    for use in ('train', 'val') if training else ('test',):
        if cfg.get(f'{use}_dataloader') is not None:
            check_loader(cfg[f'{use}_dataloader'], f'{use}_dataloader')
    hooks = cfg.get('default_hooks') or {}
    _check_values(hooks.get('logger') or {}, 'default_hooks.logger')
    for section in ('train_cfg', 'optim_wrapper') if training else ():
        _check_values(cfg[section], section)
    start = cfg.get('load_from')
    own = initializes_backbone(cfg)
    if start and not own and cfg.model.get('backbone'):
        cfg.model.backbone.init_cfg = None
    if not is_main_process():
        return
    try:
        backbone = check_backbone(cfg)
        check_operators(cfg)
        if training and (own or not start):
            check_backbone_weights(cfg, backbone)
    except UserError as error:
        if error.code in ('config-invalid', 'checkpoint-mismatch'):
            _show_what_works(cfg, error)
        raise
    if start and training and not is_address(str(start)):
        read_checkpoint(start)
    check_data(cfg, training)


def give_attention(cfg: Any, mechanism: Mechanism, layer: Any = None) -> dict[str, Any]:
    """Give the backbone of a config attention, and return the changes.

    A config that inherits the given one makes them. Errors and ``layer`` are those of
    ``attention_entries``.
    """
    from eca_mmdet.models.backbones.resnet import attention_entries

    if not cfg.model.get('backbone'):
        raise ValueError('the model has no backbone')
    entries = attention_entries(cfg.model.backbone, mechanism, layer)
    imports = (cfg.get('custom_imports') or {}).get('imports') or []
    imports = [imports] if isinstance(imports, str) else imports
    imports = [*dict.fromkeys([*imports, 'eca_mmdet'])]
    changes = {
        'custom_imports': dict(imports=imports, allow_failed_imports=False),
        'model': dict(backbone=entries),
    }
    cfg.merge_from_dict(copy.deepcopy(changes))
    return changes


def _show_what_works(cfg: Any, error: UserError) -> None:
    """Raise a backbone's error with the whole block that gives it its ``attention``.

    Its faults would otherwise be found, and fixed, one after the other.
    """
    works = copy.deepcopy(cfg)
    try:
        layer = works.model.backbone.pop('attention')
        mechanism = find_mechanism(layer['type'])
        changes = give_attention(works, mechanism, layer)
        check_backbone(works)
    except Exception:  # of any constructor: the fault is another one
        return
    if works.model.backbone != cfg.model.backbone:
        block = '\n'.join(assignment(*change) for change in changes.items())
        raise FaultsError(
            f'{error}\nUse this whole block instead:\n{block}'
            f'eca-mmdet attention add CONFIG {mechanism.key} > NEW.py writes it, for '
            'the config without attention',
            code=error.code,
        ) from error


def missing_numbers(cfg: Any, use: str) -> str:
    """Return a line on what mmdet's CocoMetric leaves out of 'val' or 'test', or ''."""
    names = [type_name(metric) for metric in evaluators(cfg, use)]
    if 'CocoMetric' not in names or 'CocoTableMetric' in names:
        return ''
    return (
        f"{use}_evaluator is mmdet's CocoMetric, which writes no metrics.json: "
        'eca-mmdet report will lack AP by class and size, precision-recall curves and '
        "errors by kind. For all of them: val_evaluator.type='CocoTableMetric' and "
        "test_evaluator.type='CocoTableMetric', in the config or by --cfg-options."
    )


def check_loader(loader: Any, path: str) -> None:
    """Check the arguments of a data loader, before its dataset is read.

    Without workers, the arguments that torch accepts only with them are dropped: they
    usually come from an inherited config.
    """
    known = _VALUES['dataloader']
    _check_values(loader, path, 'dataloader')
    required = ['dataset', 'sampler', *(['batch_size'] if 'train' in path else [])]
    wrong = [name for name in loader if name not in known and name not in _PARTS]
    missing = [name for name in required if name not in loader]
    if wrong or missing:
        allowed = ', '.join(sorted((*known, *_PARTS)))
        text = f'no argument {wrong[0]!r}; there are {allowed}' if wrong else ''
        raise _invalid(path, ValueError(text or f'needs {", ".join(missing)}'))
    for name, added in _PARTS.items():
        if name in loader and (name != 'batch_sampler' or loader[name] is not None):
            _check_part(loader[name], name, f'{path}.{name}', added)
    if loader.get('batch_sampler') and loader.get('drop_last'):
        text = 'has no effect beside a batch_sampler; set batch_sampler.drop_last'
        raise _invalid(f'{path}.drop_last', ValueError(text))
    if not loader.get('num_workers'):
        for name in _OF_WORKERS:
            loader.pop(name, None)


def _check_values(section: Any, path: str, kind: str = '') -> None:
    if not isinstance(section, dict):
        raise _invalid(path, ValueError(f'must be a dict; got {section!r}'))
    for name, (test, values) in _VALUES[kind or path].items():
        value = section.get(name, test)
        if value is not test and not (value is None and name in _OPTIONAL):
            if not test(value):
                text = f'must be {values}; got {value!r}'
                raise _invalid(f'{path}.{name}', ValueError(text))


def _check_part(part: Any, name: str, path: str, added: tuple[str, ...]) -> None:
    """Check the type of a loader's part; of samplers, the names of arguments too."""
    from mmdet.registry import DATA_SAMPLERS, DATASETS
    from mmengine.registry import FUNCTIONS

    registry = DATA_SAMPLERS if added else FUNCTIONS if '_' in name else DATASETS
    kind = part.get('type') if isinstance(part, dict) else part
    found = registry.get(kind) if kind and isinstance(kind, str) else kind
    if isinstance(part, str) or not callable(found):
        text = f'must be a dict with the type of a {registry.name}; got {part!r}'
        raise _invalid(path, ValueError(text))
    if added and isinstance(part, dict):
        given = dict.fromkeys(added) | part
        given = {k: v for k, v in given.items() if k not in ('type', '_scope_')}
        try:
            inspect.signature(found).bind(**given)
        except TypeError as error:
            raise _invalid(path, TypeError(f'{kind}: {error}')) from error


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
    from eca_mmdet.checkpoints.transfer import build_empty

    try:
        return build_empty(part, in_memory=False)
    except RuntimeError:  # NotImplementedError is one
        return None
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise _invalid(path, error) from error


def _check_plugins(backbone: Any) -> None:
    """Check the plugins of mmdet's own ResNets, which assert without a message."""
    from eca_mmdet.models.plugins import BOTTLENECK_POSITIONS, check_plugins

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
    from eca_mmdet.models.initialization import as_list, check_init_cfg

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
