"""``eca-mmdet doctor``: judge this installation, and mend what pip can."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import eca_mmdet
from eca_mmdet.doctor.finding import FAULT, OK, Finding, counts
from eca_mmdet.doctor.fixes import Done, mend_all
from eca_mmdet.doctor.run import examine, train_a_step
from eca_mmdet.utils.text import printable


def run(args: argparse.Namespace) -> int:
    """Examine, mend if asked; 1 if a fault is left."""
    start = time.monotonic()
    _say('importing torch, mmcv and mmdet in processes of their own ...')
    findings = examine()
    done: list[Done] = []
    if args.fix:
        if not args.json:
            print(as_text(findings), flush=True)
        findings, done = mend_all(findings, examine, _say)
    if not args.no_self_test:
        findings += train_a_step(findings)
    seconds = time.monotonic() - start
    if args.json:
        print(
            json.dumps(as_json(findings, done if args.fix else None, seconds), indent=1)
        )
    else:
        print(remaining(findings) if args.fix else as_text(findings))
    return int(any(one.state == FAULT for one in findings))


def _say(text: str) -> None:
    """Tell what goes on, beside the result."""
    print(printable(text), file=sys.stderr, flush=True)


def as_text(findings: list[Finding]) -> str:
    """Return a line for each finding, and one below it for what mends it."""
    lines = [line for one in findings for line in _lines(one)]
    found = counts(findings)
    told = [f'{n} {name if n != 1 else name[:-1]}' for name, n in found.items() if n]
    lines.append(', '.join(told) or 'all is well')
    return '\n'.join(map(printable, lines))


def _lines(one: Finding) -> list[str]:
    lines = [f'{one.state:8} {one.name}: {one.text}']
    if one.mend:
        hands = f'  [by hand: {one.mend.by_hand}]' if one.mend.by_hand else ''
        lines.append(f'{"":8} mend: {one.mend.text}{hands}')
    return lines


def remaining(findings: list[Finding]) -> str:
    """Return the report after ``--fix``: what is left, and the self test."""
    left = [one for one in findings if one.state != OK or one.name == 'self test']
    return f'\nwhat remains:\n{as_text(left)}'


def as_json(
    findings: list[Finding], done: list[Done] | None, seconds: float
) -> dict[str, Any]:
    """Return the one object that ``--json`` prints."""
    result: dict[str, Any] = {
        'eca_mmdet': eca_mmdet.__version__,
        'python': sys.executable,
        **counts(findings),
        'findings': [one.to_dict() for one in findings],
        'seconds': round(seconds, 1),
    }
    if done is not None:
        result['fix'] = [vars(one) for one in done]
    return result
