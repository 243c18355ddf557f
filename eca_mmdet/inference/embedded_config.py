"""The config that mmengine writes into a checkpoint, read without running it.

mmengine keeps the config's text in ``meta['cfg']``, and its own reader runs that as
Python. A checkpoint may come from anywhere, so the text is parsed here: literals and
``dict(...)`` are read, anything else is refused.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from eca_mmdet.errors import UserError

_TYPE = re.compile(r'((mmdet|mmengine|mmcv)\.)?[A-Za-z_][A-Za-z0-9_]*')
"""Names of registered classes. A dotted one makes mmengine import any module there is
and call what it finds."""

_OURS = 'eca_mmdet'
_MOST = 2_000_000


def parse_config(text: str, source: str) -> dict[str, Any]:
    """Return a config's values from its text.

    Args:
        text: as ``Config.pretty_text`` writes it: assignments of literals and dicts.
        source: where it is from, for messages.

    Raises:
        UserError: it is no such text, or names classes or imports beyond those that
            mmdet and this package register.
    """
    advice = 'Name its config instead, if you trust that: --config FILE.'
    if len(text) > _MOST:
        raise UserError(f'the config in {source} has {len(text)} letters. {advice}')
    try:
        tree = ast.parse(text)
        values = dict(_assignment(one) for one in tree.body)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise UserError(
            f'the config in {source} is not plain values, and nothing of it is run: '
            f'{error or type(error).__name__}. {advice}'
        ) from error
    imports = values.get('custom_imports')
    names = imports.get('imports', []) if isinstance(imports, dict) else imports or []
    for name in [names] if isinstance(names, str) else names:
        if name != _OURS:
            raise UserError(
                f'the config in {source} imports {name!r}, which is not done for a '
                f'file. {advice}'
            )
    _check_types(values, source, advice)
    return values


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
    for one in node.args:  # dict({'a-b': 1}), for keys that are no names
        first = _value(one)
        if not isinstance(first, dict):
            raise ValueError(f'line {node.lineno}: dict() of {type(first).__name__}')
        values |= first
    for keyword in node.keywords:
        name = keyword.arg
        more = _value(keyword.value)
        values |= more if name is None else {name: more}
    return values


def _check_types(value: Any, source: str, advice: str) -> None:
    if isinstance(value, dict):
        name = value.get('type')
        if isinstance(name, str) and not _TYPE.fullmatch(name):
            raise UserError(
                f'the config in {source} names type={name[:80]!r}, which is not one of '
                f'those that mmdet and eca-mmdet register. {advice}'
            )
        for one in value.values():
            _check_types(one, source, advice)
    elif isinstance(value, (list, tuple, set)):
        for one in value:
            _check_types(one, source, advice)
