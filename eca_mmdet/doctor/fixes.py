"""``--fix``: run the commands of pip that mend, one by one, and look again."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eca_mmdet.doctor.finding import FAULT, Finding, Mend, pip_argv
from eca_mmdet.doctor.probe import one_line
from eca_mmdet.doctor.python_checks import externally_managed, kind_of_environment

MOST_ROUNDS = 12
SHOWN = ('Collecting', 'Downloading', 'Building', 'Installing', 'Successfully', 'ERROR')

Say = Callable[[str], None]
Examine = Callable[[], list[Finding]]


@dataclass(frozen=True)
class Done:
    """A mend that was run.

    Attributes:
        name: of the finding.
        command: as shown.
        error: the line that pip failed with; '' if it did not.
    """

    name: str
    command: str
    error: str = ''


def obstacle() -> str:
    """Return why pip cannot or must not change this environment; '' if it may."""
    if externally_managed():
        return (
            'this Python belongs to the system, which forbids pip to install; make a '
            f'venv ({sys.executable} -m venv .venv), or run the commands yourself'
        )
    if importlib.util.find_spec('pip') is None:
        return (
            f'{sys.prefix} has no pip: {sys.executable} -m ensurepip --upgrade, or run '
            'the commands with uv'
        )
    folder = sysconfig.get_path('purelib')
    if not os.access(folder, os.W_OK):
        return f'{folder} is not writable for you; run the commands yourself'
    return ''


def mend_all(
    findings: list[Finding], examine: Examine, say: Say
) -> tuple[list[Finding], list[Done]]:
    """Mend one fault after the other, looking again after each.

    A mend can make the next one needless or wrong, so each is chosen from a fresh look.

    Args:
        findings: of the first look.
        examine: looks again.
        say: tells the user what is run.

    Returns:
        The findings of the last look, and what was run.
    """
    done: list[Done] = []
    if not any(one.state == FAULT and one.mend for one in findings):
        return findings, done
    if why := obstacle():
        say(f'nothing is changed: {why}')
        return findings, done
    if not kind_of_environment():
        say(f'note: {sys.prefix} is neither a venv nor conda; others may use it too')
    tried: set[str] = set()  # commands, and names of findings that pip could not mend
    for _ in range(MOST_ROUNDS):
        fault = next((one for one in findings if _to_do(one, tried)), None)
        if fault is None or fault.mend is None:
            break
        tried.add(fault.mend.text)
        say(f'to mend {fault.name}: {fault.mend.text}')
        error = run_mend(fault.mend, say)
        if error:
            say(f'  pip failed: {error}')
            tried.add(fault.name)
        done.append(Done(fault.name, fault.mend.text, error))
        findings = examine()
    return findings, done


def _to_do(finding: Finding, tried: set[str]) -> bool:
    mend = finding.mend
    if finding.state != FAULT or mend is None or finding.name in tried:
        return False
    return mend.automatic and mend.text not in tried


def run_mend(mend: Mend, say: Say) -> str:
    """Run the calls of a mend, to the first that fails.

    Where one removes a package, the next is first tried without effect, so that no
    package is lost whose successor cannot be had.

    Returns:
        One line of why it failed, or ''.
    """
    calls = list(mend.pip)
    if len(calls) > 1 and calls[0][0] == 'uninstall':
        install, *words = calls[-1]
        if error := run_pip([install, '--dry-run', *words], lambda line: None):
            return f'{error} (nothing was removed)'
    errors = (run_pip(words, say) for words in calls)
    return next((error for error in errors if error), '')


def run_pip(words: Sequence[str], say: Say) -> str:
    """Call pip once; return the line that tells why it failed, or ''."""
    # An mmcv that is built here must not take a quarter of an hour.
    environment = {'MMCV_WITH_OPS': '0', **os.environ}
    environment |= {'PIP_DISABLE_PIP_VERSION_CHECK': '1', 'PIP_NO_INPUT': '1'}
    last = ''
    try:
        with subprocess.Popen(
            pip_argv(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            errors='replace',
        ) as process:
            for line in process.stdout or ():
                if line.strip().startswith(SHOWN):
                    say(f'  {one_line(line)}')
                if line.strip() and not last.startswith('ERROR'):
                    last = one_line(line)
    except OSError as error:
        return str(error)
    return (last or f'exit code {process.returncode}') if process.returncode else ''
