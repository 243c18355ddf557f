"""``eca-mmdet doctor``: check this installation, and fix what pip can fix."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import eca_mmdet
from eca_mmdet.cli.common import Adder, Commands
from eca_mmdet.utils.text import plural, printable

if TYPE_CHECKING:
    from eca_mmdet.doctor.fixes import Finding

logger = logging.getLogger(__name__)

_COUNTED = ('fault', 'warning', 'unknown')


def add_parser(commands: Commands) -> None:
    """Add ``doctor``."""
    doctor = commands.add_parser(
        'doctor',
        help='what is wrong with this installation, and the commands that mend it',
        description='Judge Python, torch, mmdet, mmcv, the packages beside them and '
        'the machine; then train a tiny detector for one step. Works when any of them '
        'is broken or missing. Exit code 0: no fault (warnings may be), 1: a fault.',
    )
    add = Adder(doctor)
    add.flag('--json', 'print one JSON object')
    add.flag(
        '--fix',
        'run the commands of pip that mend faults, each shown first, and look again',
    )
    add.flag('--no-self-test', 'do not train the tiny detector')


def run(args: argparse.Namespace) -> int:
    """Check, fix if asked to, and return 1 if a fault is left."""
    from eca_mmdet.doctor.checks import examine, self_test
    from eca_mmdet.doctor.fixes import FAULT, OK, apply_fixes

    start = time.monotonic()
    logger.warning('importing torch, mmcv and mmdet in subprocesses ...')
    findings = examine()
    applied: list[dict[str, str]] = []
    if args.fix:
        if not args.json:
            print(as_text(findings), flush=True)
        findings, applied = apply_fixes(findings, examine)
    if not args.no_self_test:
        findings += self_test(findings)
    if args.json:
        report = as_json(findings)
        report['seconds'] = round(time.monotonic() - start, 1)
        print(json.dumps(report | ({'fix': applied} if args.fix else {}), indent=1))
    elif args.fix:
        left = [f for f in findings if f.state != OK or f.name == 'self test']
        print(f'\nwhat remains:\n{as_text(left)}')
    else:
        print(as_text(findings))
    return int(any(finding.state == FAULT for finding in findings))


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the object for ``--json``."""
    states = Counter(finding.state for finding in findings)
    return {
        'eca_mmdet': eca_mmdet.__version__,
        'python': sys.executable,
        **{f'{state}s': states[state] for state in _COUNTED},
        'findings': [
            {
                'name': finding.name,
                'state': finding.state,
                'text': finding.text,
                'mend': finding.fix.text if finding.fix else None,
                'automatic': bool(finding.fix and finding.fix.automatic),
                'by_hand': finding.fix.by_hand if finding.fix else '',
            }
            for finding in findings
        ],
    }


def as_text(findings: Sequence[Finding]) -> str:
    """Return a line for each finding, with its fix on the next, and their numbers."""
    lines = []
    for finding in findings:
        lines.append(f'{finding.state:8} {finding.name}: {finding.text}')
        if fix := finding.fix:
            manual = f'  (manual: {fix.by_hand})' if fix.by_hand else ''
            lines.append(f'{"":8} fix: {fix.text}{manual}')
    states = Counter(finding.state for finding in findings)
    shown = [plural(states[state], state) for state in _COUNTED if states[state]]
    lines.append(', '.join(shown) or 'no problems found')
    return '\n'.join(map(printable, lines))
