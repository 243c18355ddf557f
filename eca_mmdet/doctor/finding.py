"""What a check says: findings, and the commands that mend."""

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
class Mend:
    """What makes a fault go away.

    Attributes:
        text: one line for a shell.
        pip: the same as arguments of pip, a tuple for each call; none where it is not
            pip that mends.
        by_hand: why the user must run it himself; '' if ``--fix`` may.
    """

    text: str
    pip: tuple[tuple[str, ...], ...] = ()
    by_hand: str = ''

    @property
    def automatic(self) -> bool:
        """Whether ``--fix`` may run it."""
        return bool(self.pip) and not self.by_hand


def pip_argv(words: Sequence[str]) -> list[str]:
    """Return the command that runs pip for this very interpreter."""
    return [sys.executable, '-m', 'pip', *words]


def pip(*calls: Sequence[str], by_hand: str = '') -> Mend:
    """Return the mend that calls pip, once or several times."""
    text = ' && '.join(shlex.join(pip_argv(words)) for words in calls)
    return Mend(text, tuple(tuple(words) for words in calls), by_hand)


def reinstall(name: str, version: str = '', by_hand: str = '') -> Mend:
    """Return the mend that installs a package again, and nothing else."""
    wanted = f'{name}=={version}' if version else name
    words = ['install', '--force-reinstall', '--no-deps', '--no-cache-dir', wanted]
    return pip(words, by_hand=by_hand)


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: the subject, as 'mmcv'.
        state: :data:`OK`, :data:`WARNING`, :data:`FAULT` or :data:`UNKNOWN`.
        text: what was found.
        mend: what makes it go away, where something does.
    """

    name: str
    state: str
    text: str
    mend: Mend | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            'name': self.name,
            'state': self.state,
            'text': self.text,
            'mend': self.mend.text if self.mend else None,
            'automatic': bool(self.mend and self.mend.automatic),
            'by_hand': self.mend.by_hand if self.mend else '',
        }


def counts(findings: Sequence[Finding]) -> dict[str, int]:
    """Return the number of faults, warnings and unknowns."""
    states = [finding.state for finding in findings]
    return {f'{state}s': states.count(state) for state in (FAULT, WARNING, UNKNOWN)}
