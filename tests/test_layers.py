"""The layers of the package, where import-linter cannot look.

import-linter checks import statements (``make lint``). Here: modules that are named in
strings, what the light entries load, and what belongs to the command line only.
"""

import ast
import re
import sys
from functools import cache

import pytest

from tests.conftest import REPOSITORY
from tests.test_registration import run

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = REPOSITORY / 'eca_mmdet'
ABOVE_ALL = {'', 'registration', 'weights'}
"""Modules that name others in order to load them late: the entry and its aliases."""


@cache
def layers():
    """Package to height, as import-linter's first contract has them."""
    settings = tomllib.loads((REPOSITORY / 'pyproject.toml').read_text('utf-8'))
    order = settings['tool']['importlinter']['contracts'][0]['layers']
    return {
        name.strip().removeprefix('eca_mmdet.'): height
        for height, names in enumerate(reversed(order))
        for name in names.split('|')
    }


def modules():
    """Each module below the command line: its package, its file and its tree."""
    for path in sorted(PACKAGE.rglob('*.py')):
        top = path.relative_to(PACKAGE).with_suffix('').parts[0]
        package = top.removesuffix('__init__')
        yield package, path.relative_to(REPOSITORY), ast.parse(path.read_text('utf-8'))


def strings(tree):
    """The string constants of a module that are no docstrings."""
    statements = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in statements:
                yield node.value


def test_every_package_has_a_layer():
    folders = {path.parent.name for path in PACKAGE.glob('*/__init__.py')}
    assert folders - set(layers()) == {'doctor'}  # it has a contract of its own
    loose = {path.stem for path in PACKAGE.glob('*.py')}
    assert loose == {'__init__', 'registration', 'compat', 'weights'}


def test_modules_named_in_strings_are_of_lower_layers():
    wrong = [
        f'{path}: {name}'
        for package, path, tree in modules()
        if package not in ABOVE_ALL
        for text in strings(tree)
        for name in re.findall(r'^eca_mmdet\.(\w+)[.\w]*$', text)
        if text != 'eca_mmdet.cli'  # `python -m eca_mmdet.cli`, a process of its own
        and name in layers()
        and layers()[name] > layers().get(package, layers()['mmcv_ops'])
    ]
    assert not wrong


def calls(tree):
    """Names that are called or read as ``module.attribute``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f'{node.value.id}.{node.attr}'


EXCEPTIONS = {
    'doctor/steps.py': 'a program of its own, which the doctor runs by its path',
    'registration.py': 'what mmdet printed on import, less its noise',
}


def test_nothing_below_the_command_line_prints_or_reads_its_arguments():
    wrong = [
        f'{path}: {name}'
        for package, path, tree in modules()
        if package != 'cli'
        for name in set(calls(tree)) & {'print', 'sys.argv', 'argparse.Namespace'}
        if path.as_posix().removeprefix('eca_mmdet/') not in EXCEPTIONS
    ]
    assert not wrong


HEAVY = "('torch', 'numpy', 'cv2', 'mmengine', 'mmcv', 'mmdet', 'matplotlib')"


@pytest.mark.parametrize(
    'entry',
    [
        'import eca_mmdet.cli as p; p.build_parser().format_help()',
        'import eca_mmdet.catalog.mechanisms, eca_mmdet.catalog.configs',
        'import eca_mmdet; dir(eca_mmdet)',
    ],
)
def test_light_entries_load_nothing_heavy(entry):
    out, _ = run(f"""
        import sys
        {entry}
        print([name for name in {HEAVY} if name in sys.modules])
    """)
    assert out == '[]'


FRAMEWORK = {'models', 'engine', 'checkpoints', 'evaluation', 'demo', 'inference'}
"""Packages with modules that import mmdet, mmcv or mmengine when they are loaded."""


def test_mmdet_is_loaded_late():
    wrong = [
        f'{path}: {name}'
        for package, path, tree in modules()
        if package not in FRAMEWORK
        for node in tree.body
        for name in (
            [node.module or '']
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
        if re.match(r'(mmdet|mmcv|mmengine)\b', name)
    ]
    assert not wrong
