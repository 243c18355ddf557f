"""Run folders with a bad file in them, for ``report``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.faults import corruption, hostile
from tests.faults.cases import NO_FILES, Case, sparse
from tests.support.report_runs import STAMP

REPORT = ('report', '{in}/run', '--no-model', '--out', '{out}.html')
WHOLE = ('report', '{in}/run', '--gate-images', '2', '--out', '{out}.html')

METRICS = f'run/{STAMP}/metrics.json'
SCALARS = f'run/{STAMP}/vis_data/scalars.json'
TEXT_LOG = f'run/{STAMP}/{STAMP}.log'
CONFIG = f'run/{STAMP}/vis_data/config.py'
GATES = 'run/gates/gates.json'
CHECKPOINT = 'run/checkpoint.pth'
FILES = (METRICS, SCALARS, TEXT_LOG, CONFIG, GATES, CHECKPOINT)


def sound_but_one(name: str) -> Any:
    """Return what copies a run folder without one file, which the case makes."""

    def copy(folder: Path, originals: Path) -> None:
        (folder / 'run').rmdir() if (folder / 'run').is_dir() and not any(
            (folder / 'run').iterdir()
        ) else None
        shutil.copytree(originals / 'run', folder / 'run', dirs_exist_ok=True)
        (folder / name).unlink(missing_ok=True)

    return copy


def _run(file: str, name: str, content: Any, words: Any = REPORT) -> Case:
    # A page says what it cannot show; nothing at all to show is refused.
    return Case(
        f'runs/{Path(file).name}-{name}',
        file,
        content,
        words,
        codes=(0, 2),
        names='run',
        setup=sound_but_one(file),
        one_line=False,
    )


def cases() -> Iterator[Case]:
    """Yield cases that need no original."""
    for file in FILES:
        for name, content in NO_FILES.items():
            if file == CHECKPOINT and 'sparse' in name:
                continue  # a checksum of 100 GiB takes its time
            words = WHOLE if file in (CONFIG, CHECKPOINT) else REPORT
            yield _run(file, name, content, words)
    for file in (METRICS, GATES):
        for name, content in hostile.whole_files().items():
            yield _run(file, name, content)
    for name, content in _logs().items():
        yield _run(SCALARS, name, content)
        yield _run(TEXT_LOG, name, content)
    for name, text in configs().items():
        yield _run(CONFIG, name, text, WHOLE)


def changed(root: Path, file: str, count: int, seed: str = '') -> Iterator[Case]:
    """Yield cases of one file with a part changed, or its bytes damaged."""
    raw = (root / file).read_bytes()
    made: list[tuple[str, Any]] = []
    if file.endswith('.json') and file != SCALARS:
        made += hostile.sampled(json.loads(raw), seed + file, count)
    if file == SCALARS:
        line = json.loads(raw.splitlines()[3])
        made += hostile.sampled(line, seed + file, count)
    made += corruption.truncated(raw, seed + file, count // 4)
    made += corruption.flipped(raw, seed + file, count // 4)
    made += corruption.spliced(raw, seed + file, count // 4)
    if file != CHECKPOINT:
        made += corruption.encoded(raw.decode()[:20_000])
    for index, (name, content) in enumerate(made):
        yield _run(file, f'{index}-{name}', content)


def _logs() -> dict[str, Any]:
    """Logs with lines that nobody writes."""
    line = '2023/01/01 10:00:00 - mmengine - INFO - Iter(train) [{}/30]  loss: {}\n'
    number = '{{"loss": {}, "iter": {}, "step": {}}}\n'
    return {
        'one-line-of-30-MiB': 'x' * (30 << 20),
        'spaces-30-MiB': ' ' * (30 << 20),
        'brackets': ('[' * 3000 + '\n') * 50,
        'colons': ('a: 1' * 20_000 + '\n') * 3,
        'colon-spaces': 'Epoch [1][2/3]\t' + 'a : ' * 100_000 + '\n',
        'header-only': 'Epoch(train) [' * 30_000 + '\n',
        'digits': line.format('9' * 5000, 1) + number.format('9' * 5000, 3, 3),
        'numbers': line.format(1, '1e999') + number.format('1e999', 1, 1),
        'steps-apart': number.format(1, 10**12, 10**12) + number.format(1, 1, 1),
        'steps-back': ''.join(number.format(1, i, i) for i in range(3000, 0, -1)),
        'names-20000': json.dumps(
            {f'loss_{i}': 1.0 for i in range(20_000)} | {'iter': 1}
        ),
        'control': line.format(1, '\x1b[31m\x07') + '{"\\u001b[31m": 1, "iter": 1}\n',
        'markup': '{"</script><img src=x>": 1.0, "iter": 1, "step": 1}\n' * 3,
        'surrogates': '{"loss_\\ud800": 1.0, "iter": 1, "step": 1}\n',
        'carriage-returns': '\r' * 100_000,
        'lines-100000': '\n' * 100_000 + number.format(1, 1, 1),
        'sparse-after-line': sparse(100, number.format(1, 1, 1).encode()),
    }


def configs() -> dict[str, str]:
    """Texts that are shown, and whose values are read, but never run."""
    return {
        'code': 'import os\nos.mkdir("canary")\n',
        'code-in-value': 'a = __import__("os").mkdir("canary")\n',
        'code-in-f-text': "a = f\"{__import__('os').mkdir('canary')}\"\n",
        'other-import': "custom_imports = dict(imports=['os'])\nmodel = dict()\n",
        'other-scope': "model = dict(_scope_='os', type='system')\n",
        'dotted-type': "model = dict(type='os.system', command='touch canary')\n",
        'deep': 'model = ' + 'dict(a=' * 90 + '1' + ')' * 90,
        'deeper': 'model = ' + '[' * 5000 + ']' * 5000,
        'minuses': 'model = ' + '-' * 50_000 + '1',
        'sums': 'model = ' + '+'.join('1' * 50_000),
        'power': 'model = 9**9**9**9\n',
        'repeated': "model = 'x' * 10**12\n",
        'endless': 'while True:\n    pass\n',
        'no-python': '{"model": 1',
        'model-of-number': 'model = 7\n',
        'model-of-list': 'model = [1]\n',
        'type-of-list': 'model = dict(type=[1])\n',
        'backbone-of-text': "model = dict(type='RetinaNet', backbone='x')\n",
        'data-of-text': "test_dataloader = 'x'\nmodel = dict(type='RetinaNet')\n",
        'scale-of-text': "test_dataloader = dict(dataset=dict(pipeline='x'))\n",
        'keys-of-mmengine': 'filename = 1\ntext = 2\npretty_text = 3\n_cfg_dict = 4\n',
        'keys-of-numbers': 'model = {1: 2, None: 3, (4,): 5}\n',
        'depth-of-text': (
            "model = dict(type='RetinaNet', backbone=dict(type='ResNet', depth='x'))\n"
        ),
        'nul': 'a = 1\0\n',
        'surrogate': "a = '\ud800'\n",
    }
