"""Findings of the checks, the commands of pip that fix them, and ``--fix``."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import shlex
import site
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from eca_mmdet.catalog.configs import PACKAGE
from eca_mmdet.doctor.environment import Environment, Package

logger = logging.getLogger(__name__)

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


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``state`` is OK, WARNING, FAULT or UNKNOWN."""

    name: str
    state: str
    text: str
    fix: Fix | None = None


def pip(*calls: Sequence[str], by_hand: str = '') -> Fix:
    """Return the fix that calls pip of this Python once or several times."""
    commands = [(sys.executable, '-m', 'pip', *words) for words in calls]
    return Fix(' && '.join(map(shlex.join, commands)), tuple(commands), by_hand)


def install(environment: Environment, *names: str, wanted: Sequence[str] = ()) -> Fix:
    """Return the fix that leaves only one suitable distribution of each module.

    ``wanted`` is what pip installs; by default what eca-mmdet requires.
    """
    if names == ('torch',):
        names = ('torch', 'torchvision')
    if not wanted:
        wanted = [environment.requirement(name) for name in names]
        if names == ('torchvision',) and (torch := environment.package('torch')):
            wanted = [f'torch=={torch.version}', *wanted]  # the two are a pair
    if not all(wanted):
        return install_own(environment)
    modules = [environment.module(name) for name in names]
    present = [package for module in modules for package in module.providers]
    kept = [re.split('[=<>!~]', text)[0].lower() for text in wanted]
    remove = [
        package.name
        for module in modules
        for package in module.providers
        if package.name not in kept or len(module.providers) > 1
    ]
    calls = [['uninstall', '-y', *dict.fromkeys(remove)]] if remove else []
    # The other packages are checked one by one; pip must not add a second OpenCV.
    replace = present and 'torch' not in kept
    options = ['--no-deps', '--force-reinstall'] if replace else []
    reason = reason_to_keep(environment, present)
    if any('+' in text for text in wanted):
        reason = "name the index that torch came from with pip's --index-url"
    return pip(*calls, ['install', *options, *wanted], by_hand=reason)


def reinstall(environment: Environment, name: str) -> Fix:
    """Return the fix that installs the same version again."""
    package = environment.package(name)
    wanted = [f'{package.name}=={package.version}'] if package else []
    return install(environment, name, wanted=wanted)


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
    operators = environment.module('mmcv.ops')
    compiled = operators.result.value and not operators.result.value['supplied']
    for package in packages:
        if package.sources:
            return f'{package.name} is an editable install of {package.sources}'
        if not any(package.folder.is_relative_to(root) for root in roots):
            return f'{package.name} is in {package.folder}, outside this environment'
        if (package.distribution.read_text('INSTALLER') or '').strip() == 'conda':
            return f'{package.name} was installed by conda'
        if package.name == 'torch':
            return 'packages that are built on this torch may break'
        if compiled and package in operators.providers:
            return 'it would remove an mmcv whose compiled operators work'
    return ''


def pip_obstacle() -> str:
    """Return why pip cannot or must not change this environment; '' if it may."""
    python, folder = sys.executable, sysconfig.get_path('purelib')
    if sys.prefix == sys.base_prefix and not Path(sys.prefix, 'conda-meta').is_dir():
        text = f'{sys.prefix} is neither a venv nor a conda environment; make one: '
        return f'{text}{python} -m venv .venv'
    if importlib.util.find_spec('pip') is None:
        return f'{sys.prefix} has no pip: {python} -m ensurepip --upgrade'
    return '' if os.access(folder, os.W_OK) else f'{folder} is not writable'


def apply_fixes(
    findings: list[Finding], examine: Callable[[], list[Finding]]
) -> tuple[list[Finding], list[dict[str, str]]]:
    """Fix one fault after the other, and examine the environment again after each.

    A fix can make the next one needless or wrong, so each is chosen from new findings.
    Returns the last findings, and name, command and error of the fixes that were run.
    """
    applied: list[dict[str, str]] = []
    tried: set[str] = set()  # commands, and names of findings that pip could not fix
    while True:
        faults = [finding for finding in findings if finding.state == FAULT]
        fixes = [(f.name, f.fix) for f in faults if f.fix and f.fix.automatic]
        untried = [(n, fix) for n, fix in fixes if not tried & {n, fix.text}]
        obstacle = pip_obstacle()
        if untried and obstacle:
            logger.warning('nothing is changed: %s', obstacle)
        if obstacle or not untried:
            return findings, applied
        name, fix = untried[0]
        logger.warning('to fix %s: %s', name, fix.text)
        if error := run_fix(fix):
            logger.warning('  pip failed: %s', error)
        tried |= {fix.text, name} if error else {fix.text}
        applied.append({'name': name, 'command': fix.text, 'error': error})
        findings = examine()


def run_fix(fix: Fix) -> str:
    """Run the calls of a fix up to the first failure, and return its line or ''.

    If it removes packages first, the installation is tried as a dry run before, so that
    no package is lost whose replacement is not available.
    """
    *removals, installation = fix.calls
    if removals and (error := run_pip([*installation, '--dry-run'])):
        return f'{error} (nothing was removed)'
    return next((error for error in map(run_pip, fix.calls) if error), '')


def run_pip(argv: Sequence[str]) -> str:
    """Call pip once, and return the line that explains its failure, or ''."""
    # Compiling mmcv's operators would take a quarter of an hour.
    variables = {'MMCV_WITH_OPS': '0', **os.environ}
    variables |= {'PIP_DISABLE_PIP_VERSION_CHECK': '1', 'PIP_NO_INPUT': '1'}
    process = subprocess.run(
        argv,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=2,  # beside our messages
        stderr=subprocess.PIPE,
        text=True,
        errors='replace',
    )
    if not process.returncode:
        return ''
    lines = process.stderr.strip().splitlines()
    errors = [line for line in lines if line.startswith('ERROR')]
    return next(iter([*errors, *lines[-1:]]), f'exit code {process.returncode}')
