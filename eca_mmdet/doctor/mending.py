"""``--fix``: run the commands of pip that mend, one by one, and look again."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass

from eca_mmdet.doctor.findings import FAULT, Finding, Mend, pip_argv
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
    tried: set[str] = set()
    for _ in range(MOST_ROUNDS):
        fault = next((one for one in findings if _to_do(one, tried)), None)
        if fault is None or fault.mend is None:
            break
        tried.add(fault.mend.text)
        say(f'to mend {fault.name}: {fault.mend.text}')
        error = run_pip(fault.mend, say)
        if error:
            say(f'  pip failed: {error}')
        done.append(Done(fault.name, fault.mend.text, error))
        findings = examine()
    return findings, done


def _to_do(finding: Finding, tried: set[str]) -> bool:
    mend = finding.mend
    return bool(
        finding.state == FAULT and mend and mend.automatic and mend.text not in tried
    )


def run_pip(mend: Mend, say: Say) -> str:
    """Run the calls of a mend, to the first that fails.

    Returns:
        One line of why it failed, or ''.
    """
    # A wheel of mmcv that is built here must not take a quarter of an hour.
    environment = {'MMCV_WITH_OPS': '0', **os.environ}
    environment |= {'PIP_DISABLE_PIP_VERSION_CHECK': '1', 'PIP_NO_INPUT': '1'}
    for words in mend.pip:
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
        if process.returncode:
            return last or f'exit code {process.returncode}'
    return ''
