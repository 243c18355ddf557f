"""Checks of Python and the installed packages.

A rule looks for one fault of one module. The first rule that finds something decides.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import eca_mmdet
from eca_mmdet.catalog.configs import PACKAGE
from eca_mmdet.doctor import fixes
from eca_mmdet.doctor.environment import (
    FAMILIES,
    STEPS,
    TRIO,
    Environment,
    folder_of,
    kind_of_environment,
    located,
    meets,
    normalised,
    pip_obstacle,
    plain,
)
from eca_mmdet.doctor.fixes import FAULT, OK, UNKNOWN, WARNING, Finding, Fix, pip

Rule = Callable[[Environment, str], Finding | None]

MODULES = tuple(step for step in STEPS if step != 'cuda')
NAMES = {
    'cv2': 'opencv',
    'mmcv.ops': 'mmcv operators',
    'pkg_resources': 'setuptools',
}
"""Module to its name in the report where they differ."""

OTHER_NUMPY = (
    'compiled using NumPy 1.x',
    '_ARRAY_API not found',
    'numpy.dtype size changed',
    'multiarray failed to import',
    'Failed to initialize NumPy',
    'module compiled against A',  # ABI or API version
    "module 'numpy' has no attribute",
)
"""Messages of extensions that were built for another numpy."""

DISTRIBUTIONS = {'PIL': 'pillow', 'yaml': 'PyYAML', 'cv2': 'opencv-python'}
"""Module to distribution where the names differ."""


def fault(module: str, text: str, fix: Fix | None) -> Finding:
    """Return a fault of a module."""
    return Finding(NAMES.get(module, module), FAULT, text, fix)


def lost_pkg_resources(environment: Environment, module: str) -> Finding | None:
    """Setuptools 82 has no pkg_resources, which mmengine 0.10.7 reads configs with."""
    if environment.result(module).missing != 'pkg_resources':
        return None
    shown = ', '.join(map(str, environment.providers(module))) or 'Python'
    mmengine = environment.active('mmengine')
    text = f'{shown} has no pkg_resources, which {mmengine} needs'
    return fault(module, text, fixes.install(environment, module))


def missing(environment: Environment, module: str) -> Finding | None:
    """No distribution provides the module."""
    if environment.providers(module) or located(module):
        return None
    absent = [m for m in TRIO if not environment.providers(m) and not located(m)]
    fix = fixes.install(environment, *(absent if module in absent else [module]))
    if module == 'torchvision':
        fix = install_pair(environment)
    return fault(module, 'not installed', fix)


def install_pair(environment: Environment) -> Fix:
    """Return the fix that installs the torchvision made for the installed torch."""
    torch, vision = environment.active('torch'), environment.requirement('torchvision')
    wanted = [f'torch=={torch.version}', vision] if torch else []
    return fixes.install(environment, 'torchvision', wanted=wanted)


def overlapping(environment: Environment, module: str) -> Finding | None:
    """Distributions of mmdet, mmcv or mmengine overwrote each other's files."""
    if module not in TRIO or not (found := environment.overlapping(module)):
        return None
    names = ' and '.join(map(str, found))
    text = f'{names} are installed over each other; each provides {module}'
    return fault(module, text, fixes.install(environment, module))


def damaged(environment: Environment, module: str) -> Finding | None:
    """The metadata are there, the files are not."""
    package, path = environment.active(module), located(module)
    if package is None or package.sources or (path and not path.is_dir()):
        return None
    text = f'{package} is installed, but its files are gone'
    return fault(module, text, fixes.reinstall(environment, module))


def refused(environment: Environment, module: str) -> Finding | None:
    """The version is outside the range of eca-mmdet or of mmdet's metadata."""
    package, mmdet = environment.active(module), environment.active('mmdet')
    if package is None:
        return None
    by_mmdet = [w for e in ('mim', 'mminstall') if mmdet for w in mmdet.requirements(e)]
    names = FAMILIES.get(module, (package.name,))
    for user, requirements in (
        ('eca-mmdet', environment.required()),
        (str(mmdet), by_mmdet),
    ):
        for wanted in requirements:
            if normalised(wanted.name) in names and not meets(package, wanted):
                text = f'{package}: {user} needs {plain(wanted)}'
                return fault(module, text, fixes.install(environment, module))
    if module == 'mmdet' and package.version[:2] in ('0.', '1.', '2.'):
        text = f'{package}: mmdet 3 is needed'
        return fault(module, text, fixes.install(environment, *TRIO))
    return None


def blocked(environment: Environment, module: str) -> Finding | None:
    """A module it needs does not work."""
    result = environment.result(module)
    needed = result.missing.partition('.')[0]
    if result.blocked_by or (needed in STEPS and needed != module):
        text = f'not tried: {result.blocked_by or needed} does not work'
        return Finding(NAMES.get(module, module), UNKNOWN, text)
    if not needed or needed == module:
        return None
    text = f'does not import: it needs {needed}, which is not installed'
    return fault(module, text, pip(['install', DISTRIBUTIONS.get(needed, needed)]))


def built_for_other_numpy(environment: Environment, module: str) -> Finding | None:
    """The numpy ABI it was compiled for is not the installed one."""
    result, package = environment.result(module), environment.active(module)
    if not package or not result.mentions(*OTHER_NUMPY):
        return None
    text = f'{package} was built for another numpy than {environment.active("numpy")}'
    if module == 'torch':  # which imports with a warning
        return fault(module, text, pip(['install', 'numpy<2']))
    fix = fixes.install(environment, module, wanted=[package.name])
    return None if result.works else fault(module, f'{text}: {result.message}', fix)


def lacks_desktop_libraries(environment: Environment, module: str) -> Finding | None:
    """OpenCV with windows needs libGL and others, which slim containers lack."""
    message = environment.result(module).message
    if module != 'cv2' or 'cannot open shared object' not in message:
        return None
    found = environment.providers(module)
    versions = [p.version for p in found if not p.name.endswith('-headless')]
    wanted = '=='.join(['opencv-python-headless', *versions[:1]])
    text = f'{" and ".join(map(str, found))} needs libraries of a desktop: {message}'
    return fault(module, text, fixes.install(environment, module, wanted=[wanted]))


def other_torch(environment: Environment, module: str) -> Finding | None:
    """Torchvision was built for another torch: its operators do not load."""
    package, torch = environment.active(module), environment.active('torch')
    result = environment.result(module)
    if module != 'torchvision' or result.works or not package or not torch:
        return None
    if all(meets(torch, w) for w in package.requirements() if w.name == 'torch'):
        return None
    text = f'{package} was not built for {torch}: {result.message}'
    return fault(module, text, install_pair(environment))


def refuses_versions(environment: Environment, module: str) -> Finding | None:
    """Mmdet asserts the versions of mmcv and mmengine when it is imported."""
    result = environment.result(module)
    if module != 'mmdet' or result.error != 'AssertionError':
        return None
    other = 'mmengine' if 'MMEngine' in result.message else 'mmcv'
    text = f'does not import: {result.message}'
    return fault(module, text, fixes.install(environment, other))


def no_operators(environment: Environment, module: str) -> Finding | None:
    """Mmcv's operators are not compiled and cannot be supplied, or do not load."""
    result, folder = environment.result(module), folder_of('mmcv')
    if result.works or result.blocked_by or not folder:
        return None
    for file in sorted(folder.glob('mmcv/_ext*.so')):
        text = f'{file.name} does not work: {result.message}'
        return fault(module, text, fixes.install(environment, 'mmcv'))
    if environment.result('torchvision').works:
        return None
    text = 'none compiled, and torchvision, which supplies them, is missing or broken'
    return fault(module, text, judge(environment, 'torchvision').fix)


def does_not_import(environment: Environment, module: str) -> Finding | None:
    """It does not import for another reason, or ends the process."""
    result = environment.result(module)
    if result.works:
        return None
    text = f'does not import: {result.error}: {result.message}'
    if result.error == 'died':
        text = f'importing it {result.message}'
    fix = fixes.reinstall(environment, module.partition('.')[0])
    return fault(module, text, fix)


RULES: tuple[Rule, ...] = (
    lost_pkg_resources,
    missing,
    overlapping,
    damaged,
    refused,
    blocked,
    built_for_other_numpy,
    lacks_desktop_libraries,
    other_torch,
    refuses_versions,
    does_not_import,
)
"""One for each fault, causes before symptoms."""

OPERATOR_RULES: tuple[Rule, ...] = (no_operators, blocked, does_not_import)
"""Those of ``mmcv.ops``, a part of a module."""


def judge(environment: Environment, module: str) -> Finding:
    """Return what the first rule finds, or the version."""
    for rule in OPERATOR_RULES if module == 'mmcv.ops' else RULES:
        if finding := rule(environment, module):
            return finding
    name, package = NAMES.get(module, module), environment.active(module)
    value = environment.result(module).value or {}
    text = str(package or f'{value.get("version")} in {folder_of(module)}')
    if module == 'torchvision':
        text += '; its operators load'
    if module == 'mmcv.ops':
        supplied = 'not compiled; supplied by eca-mmdet from torchvision'
        text = supplied if value['supplied'] else f'compiled, CUDA {value["cuda"]}'
    return Finding(name, OK, text.removeprefix(f'{name} '))


def check_modules(environment: Environment) -> list[Finding]:
    """Check each module that has a line of its own."""
    mmengine = environment.active('mmengine')
    skipped = '' if mmengine and mmengine.name == 'mmengine' else 'pkg_resources'
    return [judge(environment, module) for module in MODULES if module != skipped]


def other_requirements(environment: Environment) -> list[str]:
    """Return the other modules that eca-mmdet requires."""
    names = [wanted.name.replace('-', '_') for wanted in environment.required()]
    return [name for name in names if name not in {*STEPS, 'opencv_python'}]


def check_requirements(environment: Environment) -> list[Finding]:
    """Check the other requirements of eca-mmdet."""
    modules = other_requirements(environment)
    if not modules:
        text = 'unknown: eca-mmdet or packaging is not installed'
        return [Finding('requirements', UNKNOWN, text)]
    findings = [judge(environment, module) for module in modules]
    text = f'all {len(modules)} others are installed'
    faults = [finding for finding in findings if finding.state != OK]
    return faults or [Finding('requirements', OK, text)]


def check_python(environment: Environment) -> list[Finding]:
    """Report Python and pip, and check that a new Python starts."""
    kind = kind_of_environment() or 'neither venv nor conda'
    start = environment.result('python')
    python = Finding('python', OK, f'{sys.version.split()[0]}, {kind}, {sys.prefix}')
    if start.error:
        text = f'a new Python process does not start: {start.message}'
        python = Finding('python', FAULT, text, Fix(f'{sys.executable} -c pass'))
    shown = str(next(iter(environment.packages.get('pip', ())), 'pip'))
    obstacle = pip_obstacle()
    return [python, Finding('pip', WARNING if obstacle else OK, obstacle or shown)]


def check_own(environment: Environment) -> list[Finding]:
    """Check that eca-mmdet is installed, so that its requirements are known."""
    text = f'{eca_mmdet.__version__} in {PACKAGE.parent}'
    if environment.own():
        return [Finding('eca-mmdet', OK, text)]
    fix = fixes.install_own(environment)
    return [Finding('eca-mmdet', WARNING, f'{text}, which is not installed', fix)]


def check_working_folder(environment: Environment) -> list[Finding]:
    """Check that no folder here hides, or would hide, an installed package."""
    findings = []
    for module in MODULES:
        if any(package.sources for package in environment.providers(module)):
            continue
        sources = (Path(module, '__init__.py'), Path(f'{module}.py'))
        file = next((path for path in sources if path.is_file()), None)
        if file is None:
            continue
        fix = Fix(f'mv {module} {module}_sources  (or run from another folder)')
        path = located(module)
        if path and path.resolve() == file.resolve():
            text = f'{module} is imported from the current folder, not as installed'
            findings.append(Finding('search path', FAULT, text, fix))
        else:
            text = f'{file}: `python -m ...` from this folder imports it as {module}'
            findings.append(Finding('search path', WARNING, text, fix))
    return findings


CHECKS: tuple[Callable[[Environment], list[Finding]], ...] = (
    check_python,
    check_own,
    check_working_folder,
    check_modules,
    check_requirements,
)
