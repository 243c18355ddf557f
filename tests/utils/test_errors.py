"""Errors carry codes, and the codes are those of docs/errors.md."""

import ast
import re

import pytest

from eca_mmdet.utils.errors import (
    FaultsError,
    MissingPackageError,
    UserError,
    require_package,
    shown,
)
from tests.conftest import REPOSITORY

GENERIC = {'UserError', 'RunError', 'WeightsError'}
"""Classes whose own code says little: a raise needs one of its own."""


def trees():
    for path in sorted((REPOSITORY / 'eca_mmdet').rglob('*.py')):
        yield path.relative_to(REPOSITORY), ast.parse(path.read_text('utf-8'))


def test_every_raise_has_a_code():
    missing = [
        f'{path}:{node.lineno}'
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
        and node.exc.func.id in GENERIC
        and 'code' not in {keyword.arg for keyword in node.exc.keywords}
    ]
    assert not missing


def used():
    """Codes in ``code=`` arguments and in the bodies of error classes."""
    for path, tree in trees():
        if path.parts[1:3] == ('datasets', 'rules'):
            continue  # the codes of faults
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                values = [k.value for k in node.keywords if k.arg == 'code']
            elif isinstance(node, ast.ClassDef):
                values = [
                    statement.value
                    for statement in node.body
                    if isinstance(statement, ast.Assign)
                    and ast.unparse(statement.targets[0]) == 'code'
                ]
            else:
                continue
            for value in values:
                yield from re.findall(r"'([a-z-]+)'", ast.unparse(value))


def test_the_codes_are_documented():
    table = (REPOSITORY / 'docs' / 'errors.md').read_text('utf-8')
    documented = re.findall(r'^\| `([a-z-]+)` \|', table, re.MULTILINE)
    assert documented == sorted(documented)
    faults = {'byte-order-mark'}  # documented in docs/data.md
    assert set(documented) == set(used()) - faults - {'images'}


def test_what_is_printed():
    assert UserError('no').code == 'bad-input'
    assert UserError('no', code='file-not-found').code == 'file-not-found'
    assert shown(UserError('a\nb\x1b[31m')) == 'a\\nb\\x1b[31m'
    assert shown(FaultsError('a\nb')) == 'a\nb'
    assert len(shown(UserError('x' * 5000))) < 1100


def test_a_package_that_is_there_but_does_not_load_is_not_called_missing(
    tmp_path, monkeypatch
):
    text = "raise ImportError('libGL.so.1: cannot open shared object file')"
    (tmp_path / 'half_a_package.py').write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingPackageError) as caught:
        require_package('half_a_package', 'this', 'half-a-package')
    assert str(caught.value) == (
        'half_a_package cannot be loaded (libGL.so.1: cannot open shared object file), '
        'which this needs: pip install half-a-package'
    )
    with pytest.raises(MissingPackageError, match='^no_package is not installed, '):
        require_package('no_package', 'this', 'no-package')
