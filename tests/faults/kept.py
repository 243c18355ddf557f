"""Inputs that once went wrong, kept as files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.faults import image_cases, json_cases, run_cases
from tests.faults.cases import Case

FOLDER = Path(__file__).parent / 'found'
_KEPT = ('name', 'words', 'codes', 'names', 'one_line', 'letters')
_MOST_BYTES = 200_000


def keep(case: Case, bad: Path, wrong: str) -> Path | None:
    """Copy a case's bad file, and say in a file beside it how to try it again."""
    if not bad.is_file() or bad.stat().st_size > _MOST_BYTES:
        return None
    target = FOLDER / re.sub(r'[^\w.-]+', '_', case.id)[:100]
    target.write_bytes(bad.read_bytes())
    content = {'id': case.id, 'wrong': wrong}
    content |= {key: getattr(case, key) for key in _KEPT}
    beside = target.with_name(f'{target.name}.case.json')
    beside.write_text(json.dumps(content, indent=1) + '\n')
    return target


def cases() -> Iterator[Case]:
    """Yield what is kept."""
    for path in sorted(FOLDER.glob('*.case.json')):
        content = json.loads(path.read_text())
        raw = path.with_name(path.name.removesuffix('.case.json')).read_bytes()
        words, codes = tuple(content.pop('words')), tuple(content.pop('codes'))
        content.pop('wrong')
        made = Case(content=raw, words=words, codes=codes, **content)
        yield replace(made, setup=_setup(made))


def _setup(case: Case):
    kind = case.id.partition('/')[0]
    if kind == 'annotations':
        return json_cases.beside
    if kind == 'runs':
        return run_cases.sound_but_one(case.name)
    if kind == 'images':
        return image_cases.listing(Path(case.name).name)
    return None
