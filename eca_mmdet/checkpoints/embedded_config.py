"""Configs embedded in checkpoints, parsed and never run.

mmengine keeps the config's text in ``meta['cfg']``, and its own reader runs that as
Python. Here only literals and ``dict(...)`` are read. The values still name classes to
build: each must be a registered part of a detector or of its test pipeline.
"""

from __future__ import annotations

import ast
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from eca_mmdet.utils.errors import UserError

_TYPE = re.compile(r'(mmdet\.|mmengine\.)?([A-Za-z_][A-Za-z0-9_]*)')
"""Names of registered classes. For others mmengine imports any module that the name
says, and calls what it finds there: type='mmengine.dump' would write a file."""

_NO_CLASSES = frozenset(
    'nms soft_nms nms_match '
    'RoIAlign RoIPool SimpleRoIAlign DeformRoIPoolPack ModulatedDeformRoIPoolPack '
    'conv dilation interpolation_conv last_conv offset'.split()  # FPG, RPNs
)
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

_DATA_REGISTRIES = ('DATASETS', 'DATA_SAMPLERS', 'FUNCTIONS', 'TRANSFORMS')

_NOT_READ = ('backend_args', 'file_client_args', 'proposal_file')
"""Entries that name an import path, such as memcached's ``sys_path``, or a pickle."""
_LOCAL_FILES = (None, {'backend': 'local'}, {'backend': 'disk'})

ADVICE = 'Name its config as well, if you trust that.'
_MOST = 2_000_000


def parse_config(text: str, source: str) -> dict[str, Any]:
    """Return a config's values from its text."""
    if len(text) > _MOST:
        raise _refused(source, f'has {len(text)} letters')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of escapes in the file's strings
            tree = ast.parse(text)
        values = {}
        for node in tree.body:
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    values[name] = ast.literal_eval(_Literals().visit(value))
                case _:
                    raise ValueError(f'line {node.lineno} is not NAME = VALUE')
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        reason = str(error).partition(': <ast.')[0] or type(error).__name__
        raise _refused(
            source, f'is not plain values, and nothing of it is run: {reason}'
        ) from error
    imports = values.get('custom_imports')
    names = imports.get('imports') if isinstance(imports, dict) else imports
    for name in names if isinstance(names, (list, tuple)) else [names or 'eca_mmdet']:
        if name != 'eca_mmdet':
            raise _refused(source, f'imports {name!r}, which is not done for a file')
    for part in _dicts(values):  # mmengine imports the package of a scope
        if part.get('_scope_', 'mmdet') not in ('mmdet', 'mmengine'):
            raise _refused(source, f'is for {part["_scope_"]!r}, not for mmdet')
    return values


def _refused(source: str, reason: str) -> UserError:
    message = f'the config in {source} {reason}. {ADVICE}'
    return UserError(message, code='config-invalid')


class _Literals(ast.NodeTransformer):
    """Turns ``dict(...)`` into a dict display, ``inf`` and ``nan`` into numbers."""

    def visit_Name(self, node: ast.Name) -> ast.expr:  # noqa: D102
        if node.id in ('inf', 'nan'):  # repr of a float
            return ast.copy_location(ast.Constant(float(node.id)), node)
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:  # noqa: D102
        self.generic_visit(node)
        if not (isinstance(node.func, ast.Name) and node.func.id == 'dict'):
            raise ValueError(
                f'line {node.lineno}: {ast.unparse(node.func)[:60]} is called'
            )
        values = ast.copy_location(ast.Dict([], []), node)
        # dict({'a-b': 1}), for keys that are no names
        parts = [(None, argument) for argument in node.args]
        for name, value in parts + [(word.arg, word.value) for word in node.keywords]:
            if name is not None:
                value = ast.Dict([ast.Constant(name)], [value])
            if not isinstance(value, ast.Dict):
                raise ValueError(f'line {node.lineno}: dict() of no dict')
            values.keys += value.keys
            values.values += value.values
        return values


def _dicts(value: Any) -> Iterator[dict[Any, Any]]:
    """Yield a dict and those inside it."""
    if isinstance(value, dict):
        yield value
        value = value.values()
    elif not isinstance(value, (list, tuple, set)):
        return
    for entry in value:
        yield from _dicts(entry)


def require_registered(values: Any, source: str, data: bool = False) -> None:
    """Reject a config with unknown parts in its detector or test pipeline.

    With ``data``, in its test data as well, which must be COCO's: other datasets read
    pickles or write files. mmdet must be registered. Other parts (hooks, optimizers)
    are not built.
    """
    use_registered_names(values)
    loaders = list(_dicts(values.get('test_dataloader')))
    steps = [step for loader in loaders for step in _dicts(loader.get('pipeline'))]
    for part in loaders if data else steps:
        for key in _NOT_READ:
            if part.get(key) not in _LOCAL_FILES:
                raise _refused(source, f'has {key}, which is not used from a file')
    for parts, registries in (
        (_dicts(values.get('model')), ('MODELS', 'TASK_UTILS')),
        (steps, ('TRANSFORMS',)),
        (loaders if data else (), _DATA_REGISTRIES),
    ):
        for name in (part.get('type') for part in parts):
            if not isinstance(name, str) or name in _NO_CLASSES:
                continue
            found = registered(name, *registries)
            if found is None or found.__module__.startswith(_NOT_BUILT):
                raise _refused(
                    source,
                    f'names type={name[:80]!r}, which is no part of an image detector '
                    'that mmdet or eca-mmdet registers',
                )
            if _reads_other_files(found):
                raise _refused(source, f"has a {name}; only COCO's files are read")


def _reads_other_files(kind: Any) -> bool:
    """Return whether a registered class is a dataset, but none of COCO's."""
    from mmdet.datasets import CocoDataset
    from mmengine.dataset import BaseDataset

    is_dataset = isinstance(kind, type) and issubclass(kind, BaseDataset)
    return is_dataset and not issubclass(kind, CocoDataset)


def registered(name: Any, *registries: str) -> Any:
    """Return the class of a name in mmdet's registries, or None.

    Unlike ``Registry.get``, nothing is imported because of the name.
    """
    import mmdet.registry
    import mmengine.registry

    match = _TYPE.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        return None
    packages = (mmdet.registry, mmengine.registry)[match[1] == 'mmengine.' :]
    places = (getattr(p, label, None) for label in registries for p in packages)
    for place in filter(None, places):
        place.import_from_location()
        if match[2] in place.module_dict:
            return place.module_dict[match[2]]
    return None


def use_registered_names(values: Any) -> None:
    """Replace classes as ``type``, and their dotted paths, by their registered names.

    mmengine's pure-Python configs hold classes, and are saved with paths. A path is
    looked up among the loaded modules: nothing is imported because of it.
    """
    import mmdet.registry
    import mmengine.registry

    parts = []
    for part in _dicts(values):
        kind = part.get('type')
        if isinstance(kind, str):
            module, _, name = kind.rpartition('.')
            kind = getattr(sys.modules.get(module), '__dict__', {}).get(name)
        if callable(kind):
            parts.append((part, kind))
    if not parts:
        return
    names: dict[int, str] = {}
    for package in (mmdet.registry, mmengine.registry):
        for label in mmengine.registry.__all__:
            registry = getattr(package, label, None)
            if isinstance(registry, mmengine.registry.Registry):
                own = getattr(mmdet.registry, label, registry).module_dict
                for key, kind in registry.module_dict.items():
                    hidden = own.get(key, kind) is not kind  # by a class of mmdet
                    names.setdefault(id(kind), f'mmengine.{key}' if hidden else key)
    for part, kind in parts:
        name = getattr(kind, '__name__', '')
        operator = str(getattr(kind, '__module__', '')).startswith('mmcv.ops')
        if operator and name in _NO_CLASSES:
            part['type'] = name
        else:
            part['type'] = names.get(id(kind), part['type'])
