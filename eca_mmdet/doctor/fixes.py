"""Findings of the checks, the commands of pip that fix them, and ``--fix``."""

from __future__ import annotations

import logging
import os
import re
import shlex
import site
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eca_mmdet.catalog.configs import PACKAGE
from eca_mmdet.doctor.environment import Environment, Package, pip_obstacle

logger = logging.getLogger(__name__)

MAX_ROUNDS = 12
SHOWN = ('Collecting', 'Downloading', 'Building', 'Installing', 'Successfully', 'ERROR')


OK = 'ok'
WARNING = 'warning'
FAULT = 'fault'
UNKNOWN = 'unknown'


@dataclass(frozen=True)
class Fix:
    """Command that removes a fault."""

    text: str  # one line for a shell
    calls: tuple[tuple[str, ...], ...] = ()  # the same, if it calls only pip
    by_hand: str = ''  # reason why --fix must not run it

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
    """One line of the report; ``state`` is OK, WARNING, FAULT or UNKNOWN."""

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


def install(environment: Environment, *modules: str, wanted: Sequence[str] = ()) -> Fix:
    """Return the fix that leaves only one suitable distribution of each module.

    ``wanted`` is what pip installs; by default what eca-mmdet requires.
    """
    if modules == ('torch',):
        modules = ('torch', 'torchvision')
    wanted = wanted or [environment.requirement(module) for module in modules]
    if not all(wanted):
        return install_own(environment)
    present = [p for module in modules for p in environment.providers(module)]
    overlapping = [p for module in modules for p in environment.overlapping(module)]
    names = [re.split('[=<>!~]', text)[0].lower() for text in wanted]
    remove = [p.name for p in present if p.name not in names or p in overlapping]
    calls = [['uninstall', '-y', *dict.fromkeys(remove)]] if remove else []
    # The other packages are checked one by one; pip must not add a second OpenCV.
    replace = present and 'torch' not in names
    options = ['--no-deps', '--force-reinstall'] if replace else []
    reason = reason_to_keep(environment, present)
    if any('+' in text for text in wanted):
        reason = "name the index that torch came from with pip's --index-url"
    return pip(*calls, ['install', *options, *wanted], by_hand=reason)


def reinstall(environment: Environment, module: str) -> Fix:
    """Return the fix that installs the same version again."""
    package = environment.active(module)
    wanted = [f'{package.name}=={package.version}'] if package else []
    return install(environment, module, wanted=wanted)


def install_own(environment: Environment) -> Fix:
    """Return the fix that installs eca-mmdet, from its clone if it runs from one."""
    clone, extra = PACKAGE.parent, environment.extra()
    if (clone / 'pyproject.toml').is_file():
        return pip(['install', '-e', f'{clone}[{extra}]'])
    reason = 'name the wheel or the clone'
    return pip(['install', f'eca-mmdet[{extra}]'], by_hand=reason)


def reason_to_keep(environment: Environment, packages: Sequence[Package]) -> str:
    """Return why ``--fix`` must not replace any of these; '' if it may."""
    roots = [Path(r).resolve() for r in (sys.prefix, site.getusersitepackages())]
    operators = environment.result('mmcv.ops').value or {'supplied': True}
    for package in packages:
        if package.sources:
            return f'{package.name} is an editable install of {package.sources}'
        if not any(package.folder.is_relative_to(root) for root in roots):
            return f'{package.name} is in {package.folder}, outside this environment'
        if (package.distribution.read_text('INSTALLER') or '').strip() == 'conda':
            return f'{package.name} was installed by conda'
        if package.name == 'torch':
            return 'packages that are built on this torch may break'
        if package in environment.providers('mmcv') and not operators['supplied']:
            return 'it would remove an mmcv whose compiled operators work'
    return ''


@dataclass(frozen=True)
class AppliedFix:
    """Fix that was run for the finding ``name``."""

    name: str
    command: str
    error: str = ''  # line that explains pip's failure


def apply_fixes(
    findings: list[Finding], examine: Callable[[], list[Finding]]
) -> tuple[list[Finding], list[AppliedFix]]:
    """Fix one fault after the other, and examine the environment again after each.

    A fix can make the next one needless or wrong, so each is chosen from new findings.
    Returns the last findings, and the fixes that were run.
    """
    applied: list[AppliedFix] = []
    tried: set[str] = set()  # commands, and names of findings that pip could not fix
    for _ in range(MAX_ROUNDS):
        todo = [
            (finding.name, finding.fix)
            for finding in findings
            if finding.state == FAULT and finding.fix and finding.fix.automatic
            if not tried & {finding.name, finding.fix.text}
        ]
        if not todo:
            break
        if obstacle := pip_obstacle():
            logger.warning('nothing is changed: %s', obstacle)
            break
        name, fix = todo[0]
        tried.add(fix.text)
        logger.warning('to fix %s: %s', name, fix.text)
        if error := run_fix(fix):
            logger.warning('  pip failed: %s', error)
            tried.add(name)
        applied.append(AppliedFix(name, fix.text, error))
        findings = examine()
    return findings, applied


def run_fix(fix: Fix) -> str:
    """Run the calls of a fix up to the first failure, and return its line or ''.

    If it removes packages first, the installation is tried as a dry run before, so that
    no package is lost whose replacement is not available.
    """
    *removals, installation = fix.calls
    if removals and (error := run_pip([*installation, '--dry-run'], show=False)):
        return f'{error} (nothing was removed)'
    return next((error for error in map(run_pip, fix.calls) if error), '')


def run_pip(argv: Sequence[str], show: bool = True) -> str:
    """Call pip once, and return the line that explains its failure, or ''."""
    # Compiling mmcv's operators would take a quarter of an hour.
    variables = {'MMCV_WITH_OPS': '0', **os.environ}
    variables |= {'PIP_DISABLE_PIP_VERSION_CHECK': '1', 'PIP_NO_INPUT': '1'}
    last = ''
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=variables,
        text=True,
        errors='replace',
    ) as process:
        for line in map(str.strip, process.stdout or ()):
            if show and line.startswith(SHOWN):
                logger.warning('  %s', line)
            if line and not last.startswith('ERROR'):
                last = line
    return (last or f'exit code {process.returncode}') if process.returncode else ''
