"""Configs that are broken.

A config that the user names is Python, by mmengine's design, and is run: an endless
loop in it is his own. What is tested is that a broken one is told in one line.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.faults import corruption
from tests.faults.cases import NO_FILES, Case

COMPLEXITY = ('cost', '{bad}', '--shape', '64', '64')
TEST = ('test', '{bad}', '{originals}/checkpoint.pth', '--work-dir', '{out}')
TRAIN = ('train', '{bad}', '--work-dir', '{out}')
PREDICT = (
    *('predict', '{originals}/checkpoint.pth', '{originals}/picture.png'),
    *('--config', '{bad}', '--out', '{out}'),
)
GATES = (
    *('gates', '{originals}/checkpoint.pth', '--images', '{originals}/data/val'),
    *('--config', '{bad}', '--out', '{out}'),
)
COMMANDS = (COMPLEXITY, TEST, TRAIN, PREDICT, COMPLEXITY, GATES)


def _config(name: str, content: Any, words: Any, **more: Any) -> Case:
    more.setdefault('letters', 1000)  # with what Python or mmdet said
    return Case(f'configs/{name}-{words[0]}', 'c.py', content, words, **more)


def cases() -> Iterator[Case]:
    """Yield cases that need no original."""
    made = {**NO_FILES, **_broken()}
    for index, (name, content) in enumerate(made.items()):
        yield _config(name, content, COMMANDS[index % len(COMMANDS)])
    for name, file, text in (
        ('json-cut', 'c.json', '{"model": '),
        ('json-list', 'c.json', '[1]'),
        ('json-deep', 'c.json', '[' * 100_000),
        ('yaml-broken', 'c.yaml', 'a: [1\nb: }'),
        ('text', 'c.txt', 'model = 1'),
        ('no-ending', 'c', 'model = 1'),
    ):
        yield Case(f'configs/{name}', file, text, COMPLEXITY)


def corrupted(raw: bytes, count: int) -> Iterator[Case]:
    """Yield a sound config with its bytes damaged."""
    made = [*corruption.truncated(raw, 'config', count)]
    made += corruption.flipped(raw, 'config', count, bits=3)
    made += corruption.encoded(raw.decode())
    for index, (name, content) in enumerate(made):
        yield _config(
            f'{index}-{name}', content, COMPLEXITY, codes=(0, 2), one_line=False
        )


def _broken() -> dict[str, Any]:
    head = 'model = dict('
    return {
        'syntax': 'model = dict(\n',
        'indentation': '  a = 1\n b = 2\n',
        'nul': 'a = 1\0',
        'control': "raise ValueError('\\x1b[31m\\n' * 50)\n",
        'long-error': "raise ValueError('x' * 100_000)\n",
        'html': '<!doctype html>',
        'binary': bytes(range(256)) * 20,
        'not-utf-8': "a = 'é'\nmodel = dict(type='X')\n".encode('latin-1'),
        'base-missing': "_base_ = 'gone.py'\n",
        'base-of-itself': "_base_ = 'c.py'\n",
        'base-loop': _loop,
        'base-of-number': '_base_ = 5\n',
        'base-of-package': "_base_ = 'nosuch::x.py'\n",
        'base-in-package': "_base_ = 'mmdet::nosuch.py'\n",
        'base-is-folder': "_base_ = '.'\n",
        'base-computed': '_base_ = [str(1)]\n',
        'base-twice': "_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py'] * 2\n",
        'deep': 'model = ' + 'dict(a=' * 90 + '1' + ')' * 90,
        'deeper': 'model = ' + '[' * 3000 + ']' * 3000,
        'recursion': 'def f(): return f()\nf()\n',
        'exit': "import sys\nmodel = dict(type='X')\nraise RuntimeError('stop')\n",
        'import-missing': 'import nosuchmodule\n',
        'custom-import-missing': "custom_imports = dict(imports=['nosuchmodule'])\n",
        'custom-imports-number': 'custom_imports = 5\n',
        'model-number': 'model = 7\n',
        'model-list': 'model = [1, 2]\n',
        'model-text': "model = 'RetinaNet'\n",
        'model-none': 'model = None\n',
        'model-empty': 'model = dict()\n',
        'model-type-number': f'{head}type=5)\n',
        'model-type-unknown': f"{head}type='NoSuchDetector')\n",
        'model-type-module': f"{head}type='os.getcwd')\n",
        'backbone-number': f"{head}type='RetinaNet', backbone=5)\n",
        'backbone-depth': _retina('depth=7'),
        'backbone-depth-text': _retina("depth='x'"),
        'backbone-kernels': _retina('kernel_sizes=(3, 4, 5, 7)'),
        'backbone-unknown-argument': _retina('nosuch=1'),
        'reserved': "filename = 'x'\ntext = 5\n",
        'variables': 'a = {{ nosuch }}\n',
        'default-scope': "default_scope = 5\nmodel = dict(type='RetinaNet')\n",
    }


def _retina(backbone: str) -> str:
    return (
        "_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'\n"
        "custom_imports = dict(imports=['eca_mmdet'], allow_failed_imports=False)\n"
        f"model = dict(backbone=dict(type='ECAResNet', init_cfg=None, {backbone}))\n"
    )


def _loop(path: Path) -> None:
    path.write_text("_base_ = 'd.py'\n")
    path.with_name('d.py').write_text("_base_ = 'c.py'\n")
