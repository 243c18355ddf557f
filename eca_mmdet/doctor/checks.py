"""Checks of Python, the GPU and the installed packages.

A rule looks for one fault of one module. The first rule that finds something decides.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import eca_mmdet
from eca_mmdet.catalog.configs import PACKAGE
from eca_mmdet.doctor.environment import (
    STEPS,
    TRIO,
    Environment,
    Module,
    normalised,
    plain,
)
from eca_mmdet.doctor.fixes import (
    FAULT,
    OK,
    UNKNOWN,
    WARNING,
    Finding,
    Fix,
    install,
    install_own,
    kind_of_environment,
    pip,
    pip_obstacle,
    reinstall,
)

Verdict = tuple[str, Fix | None] | None
"""Text and fix of a fault. Without a fix, the module cannot be judged yet."""

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

DISTRIBUTIONS = {'PIL': 'pillow', 'yaml': 'PyYAML'}
"""Module to distribution where the names differ."""


def missing(environment: Environment, module: Module) -> Verdict:
    """It is not installed, or its files are gone."""
    name, package = module.name, module.package
    if module.path or (package and package.sources):
        return None
    if name == 'pkg_resources' and package:
        mmengine = environment.package('mmengine')
        text = f'{package} has no pkg_resources, which {mmengine} needs'
        return text, install(environment, name)
    if package:
        text = f'{package} is installed, but its files are gone'
        return text, reinstall(environment, name)
    absent = [name for name in TRIO if not environment.package(name)]
    return 'not installed', install(environment, *(absent if name in TRIO else [name]))


def overlapping(environment: Environment, module: Module) -> Verdict:
    """Distributions of mmdet, mmcv or mmengine overwrote each other's files."""
    if module.name not in TRIO or not module.overlapping:
        return None
    names = ' and '.join(map(str, module.overlapping))
    text = f'{names} are installed over each other; each provides {module.name}'
    return text, install(environment, module.name)


def refused(environment: Environment, module: Module) -> Verdict:
    """The version is outside the range of eca-mmdet or of mmdet's metadata."""
    package, mmdet = module.package, environment.package('mmdet')
    if package is None:
        return None
    by_mmdet = mmdet.requirements('mim', 'mminstall') if mmdet else []
    users = {'eca-mmdet': environment.required(), str(mmdet): by_mmdet}
    for user, requirements in users.items():
        for wanted in requirements:
            if normalised(wanted.name) in module.names and not package.meets(wanted):
                text = f'{package}: {user} needs {plain(wanted)}'
                return text, install(environment, module.name)
    if module.name == 'mmdet' and package.version[:2] in ('0.', '1.', '2.'):
        return f'{package}: mmdet 3 is needed', install(environment, *TRIO)
    return None


def blocked(environment: Environment, module: Module) -> Verdict:
    """A module that it needs does not work, or is not installed."""
    needed = (module.result.missing or '').partition('.')[0]
    if module.result.blocked_by or (needed in STEPS and needed != module.name):
        return f'not tried: {module.result.blocked_by or needed} does not work', None
    if not needed or needed == module.name:
        return None
    text = f'does not import: it needs {needed}, which is not installed'
    return text, pip(['install', DISTRIBUTIONS.get(needed, needed)])


def built_for_other_numpy(environment: Environment, module: Module) -> Verdict:
    """The numpy ABI it was compiled for is not the installed one."""
    package, result = module.package, module.result
    messages = ' '.join([result.message, *result.warnings])
    if not package or not any(text in messages for text in OTHER_NUMPY):
        return None
    text = f'{package} was built for another numpy than {environment.package("numpy")}'
    if module.name == 'torch':  # which imports with a warning
        return text, pip(['install', 'numpy<2'])
    if result.works:
        return None
    fix = install(environment, module.name, wanted=[package.name])
    return f'{text}: {result.message}', fix


def lacks_desktop_libraries(environment: Environment, module: Module) -> Verdict:
    """OpenCV with windows needs libGL and others, which slim containers lack."""
    message = module.result.message
    if module.name != 'cv2' or 'cannot open shared object' not in message:
        return None
    package = module.package
    version = package and not package.name.endswith('-headless') and package.version
    wanted = f'opencv-python-headless{f"=={version}" if version else ""}'
    text = f'{package} needs libraries of a desktop: {message}'
    return text, install(environment, module.name, wanted=[wanted])


def does_not_import(environment: Environment, module: Module) -> Verdict:
    """It does not import for another reason, or ends the process."""
    name, package, result = module.name, module.package, module.result
    if result.works:
        return None
    if result.error == 'died':
        return f'importing it {result.message}', reinstall(environment, name)
    text = f'does not import: {result.error}: {result.message}'
    if name == 'mmcv.ops':
        return text, install(environment, 'mmcv')
    if name == 'mmdet' and result.error == 'AssertionError':
        other = 'mmengine' if 'MMEngine' in result.message else 'mmcv'
        return text, install(environment, other)
    torch = environment.package('torch')
    needed = package.requirements() if package and name == 'torchvision' else []
    if torch and any(w.name == 'torch' and not torch.meets(w) for w in needed):
        text = f'{package} was not built for {torch}: {result.message}'
        return text, install(environment, name)
    return text, reinstall(environment, name)


RULES = (
    missing,
    overlapping,
    refused,
    blocked,
    built_for_other_numpy,
    lacks_desktop_libraries,
    does_not_import,
)
"""Causes before symptoms."""


def judge(environment: Environment, name: str) -> Finding:
    """Return what the first rule finds, or the version."""
    module, shown = environment.module(name), NAMES.get(name, name)
    for rule in (blocked, does_not_import) if name == 'mmcv.ops' else RULES:
        if verdict := rule(environment, module):
            text, fix = verdict
            return Finding(shown, FAULT if fix else UNKNOWN, text, fix)
    value = module.result.value or {}
    text = str(module.package or f'{value.get("version")} from {module.path}')
    if name == 'torchvision':
        text += '; its operators load'
    if name == 'mmcv.ops':
        supplied = 'not compiled; supplied by eca-mmdet from torchvision'
        text = supplied if value['supplied'] else f'compiled, CUDA {value["cuda"]}'
    return Finding(shown, OK, text.removeprefix(f'{shown} '))


def check_modules(environment: Environment) -> list[Finding]:
    """Check each module that has a line of its own."""
    mmengine = environment.package('mmengine')
    skipped = {'cuda'}
    if mmengine is None or mmengine.name != 'mmengine':
        skipped.add('pkg_resources')
    return [judge(environment, name) for name in STEPS if name not in skipped]


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
    """Report Python, pip and eca-mmdet, and check that a new Python starts."""
    kind = kind_of_environment() or 'neither venv nor conda'
    start = environment.results.get('python')
    python = Finding('python', OK, f'{sys.version.split()[0]}, {kind}, {sys.prefix}')
    if start and not start.works:
        text = f'a new Python process does not start: {start.message}'
        python = Finding('python', FAULT, text, Fix(f'{sys.executable} -c pass'))
    obstacle = pip_obstacle()
    shown = obstacle or str(environment.package('pip'))
    text = f'{eca_mmdet.__version__} in {PACKAGE.parent}'
    own = Finding('eca-mmdet', OK, text)
    if not environment.module('eca-mmdet').providers:
        text = f'{text}, which is not installed'
        own = Finding('eca-mmdet', WARNING, text, install_own(environment))
    return [python, Finding('pip', WARNING if obstacle else OK, shown), own]


def graphics_cards() -> list[str]:
    """Return 'name, driver version' of the NVIDIA GPUs that the driver lists."""
    argv = ['nvidia-smi', '--query-gpu=name,driver_version', '--format=csv,noheader']
    streams = {'stdin': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}
    try:
        return (
            subprocess.check_output(argv, timeout=20, **streams).decode().splitlines()
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return []


def check_cuda(environment: Environment) -> list[Finding]:
    """Check that torch sees the GPU that the driver lists, and computes on it."""
    result = environment.module('cuda').result
    if result.blocked_by:
        return [Finding('cuda', UNKNOWN, f'not tried: {result.blocked_by} fails')]
    words = ['install', '--upgrade', '--force-reinstall', 'torch', 'torchvision']
    reason = "it must fit the driver; --index-url selects PyTorch's builds by CUDA"
    fix = pip(words, by_hand=reason)
    if result.value is None:
        text = f'torch cannot use the GPU: {result.message}'
        return [Finding('cuda', FAULT, text, fix)]
    built, devices = result.value['built'], result.value['devices']
    if devices:
        names = ', '.join(f'{name} ({size / 2**30:.0f} GiB)' for name, size in devices)
        return [Finding('cuda', OK, f'CUDA {built}: {names}')]
    cards = graphics_cards()
    if not cards:
        return [Finding('cuda', OK, 'no NVIDIA GPU; everything runs on the CPU')]
    if os.environ.get('CUDA_VISIBLE_DEVICES', '0').strip() in ('', '-1'):
        return [Finding('cuda', OK, f'CUDA_VISIBLE_DEVICES hides {cards[0]}')]
    if built is None:
        text = f'this torch is a CPU build; {cards[0]} is not used'
        return [Finding('cuda', WARNING, text, fix)]
    why = next(iter(result.warnings), 'it gives no reason')
    text = f'torch, built for CUDA {built}, does not see {cards[0]}: {why}'
    return [Finding('cuda', FAULT, text, fix)]


CHECKS: tuple[Callable[[Environment], list[Finding]], ...] = (
    check_python,
    check_modules,
    check_requirements,
    check_cuda,
)
