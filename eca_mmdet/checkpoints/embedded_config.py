"""Configs embedded in checkpoints, parsed without running them.

mmengine keeps the config's text in ``meta['cfg']``, and its own reader runs that as
Python. A checkpoint may come from anywhere, so the text is parsed here: literals and
``dict(...)`` are read, anything else is refused. What is read is still a wish list of
classes to build: each must be one that a detector or its test pipeline is made of.
"""

from __future__ import annotations

import ast
import re
import warnings
from typing import Any

from eca_mmdet.utils.errors import UserError

_TYPE = re.compile(r'(mmdet\.)?([A-Za-z_][A-Za-z0-9_]*)')
"""Names of registered classes. For others mmengine imports any module that the name
says, and calls what it finds there: type='mmengine.dump' would write a file."""

_OPERATORS = frozenset({'nms', 'soft_nms', 'nms_match'})
_REGION_LAYERS = frozenset(
    {'RoIAlign', 'RoIPool', 'SimpleRoIAlign'}
    | {'DeformRoIPoolPack', 'ModulatedDeformRoIPoolPack'}
)
_KINDS = frozenset(
    {'conv', 'dilation', 'interpolation_conv', 'last_conv', 'offset'}  # FPG, RPNs
)
_NO_CLASSES = _OPERATORS | _REGION_LAYERS | _KINDS
"""Values of ``type`` in mmdet's own configs that no registry is asked for."""

_NOT_BUILT = (
    'mmdet.models.dense_heads.atss_vlfusion_head',  # loads further files, by name
    'mmdet.models.detectors.d2_wrapper',
    'mmdet.models.detectors.kd_one_stage',  # runs the config of a teacher
    'mmdet.models.detectors.lad',
    'mmdet.models.language_models',
    'mmdet.models.mot',
    'mmdet.models.reid',
    'mmdet.models.task_modules.tracking',  # CameraMotionCompensation evaluates text
    'mmdet.models.trackers',
    'mmdet.models.tracking_heads',
    'mmdet.models.vis',
    'mmdet.datasets.transforms.text_transformers',
)
"""Registered modules that do more than compute, and are of no image detector."""

ADVICE = 'Name its config instead, if you trust that: --config FILE.'
_OURS = 'eca_mmdet'
_MOST = 2_000_000


def parse_config(text: str, source: str) -> dict[str, Any]:
    """Return a config's values from its text."""
    if len(text) > _MOST:
        raise _refused(source, f'has {len(text)} letters')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of escapes in the file's strings
            tree = ast.parse(text)
        values = dict(_assignment(statement) for statement in tree.body)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        reason = error or type(error).__name__
        raise _refused(
            source, f'is not plain values, and nothing of it is run: {reason}'
        ) from error
    imports = values.get('custom_imports')
    names = imports.get('imports') if isinstance(imports, dict) else imports
    for name in names if isinstance(names, (list, tuple)) else [names or _OURS]:
        if name != _OURS:
            raise _refused(source, f'imports {name!r}, which is not done for a file')
    _check_scopes(values, source)
    return values


def _refused(source: str, reason: str) -> UserError:
    message = f'the config in {source} {reason}. {ADVICE}'
    return UserError(message, code='config-invalid')


def _assignment(node: ast.stmt) -> tuple[str, Any]:
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
        if isinstance(target, ast.Name):
            return target.id, _value(node.value)
    raise ValueError(f'line {node.lineno} is not NAME = VALUE')


def _value(node: ast.expr) -> Any:
    """Return the value of a literal, or of ``dict(...)`` of such."""
    if isinstance(node, ast.Call):
        return _dict_call(node)
    if isinstance(node, ast.Dict):
        if None in node.keys:
            raise ValueError(f'line {node.lineno}: ** in a dict')
        keys = [_value(key) for key in node.keys if key is not None]
        return dict(zip(keys, map(_value, node.values), strict=True))
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        makers = {ast.List: list, ast.Tuple: tuple, ast.Set: set}
        return makers[type(node)](map(_value, node.elts))
    if isinstance(node, ast.Name) and node.id in ('inf', 'nan'):
        return float(node.id)  # repr of a float
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(
            f'line {node.lineno}: {ast.unparse(node)[:60]!r} is no literal'
        ) from None


def _dict_call(node: ast.Call) -> dict[Any, Any]:
    if not (isinstance(node.func, ast.Name) and node.func.id == 'dict'):
        raise ValueError(f'line {node.lineno}: {ast.unparse(node.func)[:60]} is called')
    values: dict[Any, Any] = {}
    for argument in node.args:  # dict({'a-b': 1}), for keys that are no names
        first = _value(argument)
        if not isinstance(first, dict):
            raise ValueError(f'line {node.lineno}: dict() of {type(first).__name__}')
        values |= first
    for keyword in node.keywords:
        name = keyword.arg
        more = _value(keyword.value)
        values |= more if name is None else {name: more}
    return values


def _check_scopes(value: Any, source: str) -> None:
    if isinstance(value, dict):
        # mmengine imports the package of a scope.
        if value.get('_scope_', 'mmdet') not in ('mmdet', 'mmengine'):
            raise _refused(source, f'is for {value["_scope_"]!r}, not for mmdet')
        for entry in value.values():
            _check_scopes(entry, source)
    elif isinstance(value, (list, tuple, set)):
        for entry in value:
            _check_scopes(entry, source)


def require_registered(values: Any, source: str) -> None:
    """Refuse a config whose detector or test pipeline has parts that are not known.

    mmdet must be registered. Other parts of a config (hooks, optimizers, training) are
    not looked at, since they are not built.
    """
    _require_types(values.get('model'), ('MODELS', 'TASK_UTILS'), source)
    for steps in _pipelines(values.get('test_dataloader')):
        _require_types(steps, ('TRANSFORMS',), source)


def registered(name: Any, *registries: str) -> Any:
    """Return the class of a name in mmdet's registries, or None.

    Unlike ``Registry.get``, nothing is imported because of the name.
    """
    import mmdet.registry
    import mmengine.registry

    match = _TYPE.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        return None
    for registry in registries:
        for package in (mmdet.registry, mmengine.registry):
            place = getattr(package, registry)
            place.import_from_location()
            found = place.module_dict.get(match[2])
            if found is not None:
                return found
    return None


def _require_types(value: Any, registries: tuple[str, ...], source: str) -> None:
    if isinstance(value, dict):
        name = value.get('type')
        if isinstance(name, str) and name not in _NO_CLASSES:
            found = registered(name, *registries)
            if found is None or found.__module__.startswith(_NOT_BUILT):
                raise _refused(
                    source,
                    f'names type={name[:80]!r}, which is no part of an image detector '
                    'that mmdet or eca-mmdet registers',
                )
    inner = value.values() if isinstance(value, dict) else value
    for entry in inner if isinstance(value, (dict, list, tuple, set)) else ():
        _require_types(entry, registries, source)


def _pipelines(value: Any) -> list[Any]:
    """Return what lies under ``pipeline`` in a data loader, wrappers included."""
    if isinstance(value, dict):
        here = [value['pipeline']] if 'pipeline' in value else []
        return here + [steps for inner in value.values() for steps in _pipelines(inner)]
    if isinstance(value, (list, tuple)):
        return [steps for inner in value for steps in _pipelines(inner)]
    return []
