"""Results of checks, and the commands that fix faults."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

OK = 'ok'
WARNING = 'warning'
FAULT = 'fault'
UNKNOWN = 'unknown'


@dataclass(frozen=True)
class Fix:
    """Command that removes a fault.

    Attributes:
        text: One line for a shell.
        calls: The same as argument lists, if it calls pip only.
        by_hand: Reason why ``--fix`` must not run it; '' if it may.
    """

    text: str
    calls: tuple[tuple[str, ...], ...] = ()
    by_hand: str = ''

    @property
    def automatic(self) -> bool:
        """Whether ``--fix`` may run it."""
        return bool(self.calls) and not self.by_hand


def pip(*calls: Sequence[str], by_hand: str = '') -> Fix:
    """Return the fix that calls pip of this Python once or several times."""
    commands = [(sys.executable, '-m', 'pip', *words) for words in calls]
    return Fix(' && '.join(map(shlex.join, commands)), tuple(commands), by_hand)


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: Subject, e.g. 'mmcv'.
        state: :data:`OK`, :data:`WARNING`, :data:`FAULT` or :data:`UNKNOWN`.
        text: Description.
        fix: Command that resolves it, if there is one.
    """

    name: str
    state: str
    text: str
    fix: Fix | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the object for ``--json``."""
        fix = self.fix or Fix('')
        return {
            'name': self.name,
            'state': self.state,
            'text': self.text,
            'mend': fix.text or None,
            'automatic': fix.automatic,
            'by_hand': fix.by_hand,
        }


def counts(findings: Sequence[Finding]) -> dict[str, int]:
    """Return the number of faults, warnings and unknowns."""
    states = [finding.state for finding in findings]
    return {f'{state}s': states.count(state) for state in (FAULT, WARNING, UNKNOWN)}
