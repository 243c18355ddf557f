"""Checks of Python, the GPU and the installed packages.

A rule looks for one fault of one module. The first rule that finds something decides.
"""

from __future__ import annotations

import shutil
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
    if module.name not in TRIO or len(module.providers) < 2:
        return None
    names = ' and '.join(map(str, module.providers))
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


def other_requirements(environment: Environment) -> list[str]:
    """Return the modules that eca-mmdet requires and that are not in STEPS."""
    names = [wanted.name.replace('-', '_') for wanted in environment.required()]
    return [name for name in names if name not in {*STEPS, 'opencv_python'}]


def check_modules(environment: Environment) -> list[Finding]:
    """Check the modules of STEPS; of other requirements only faults are reported."""
    mmengine = environment.package('mmengine')
    original = mmengine is not None and mmengine.name == 'mmengine'
    skipped = {'cuda', '' if original else 'pkg_resources'}
    findings = [judge(environment, name) for name in STEPS if name not in skipped]
    others = [judge(environment, name) for name in other_requirements(environment)]
    return findings + [finding for finding in others if finding.state != OK]


def check_python(environment: Environment) -> list[Finding]:
    """Report Python, pip and eca-mmdet, and check that a new Python starts."""
    start = environment.results.get('python')
    python = Finding('python', OK, f'{sys.version.split()[0]}, {sys.prefix}')
    if start and not start.works:
        text = f'a new Python process does not start: {start.message}'
        python = Finding('python', FAULT, text, Fix(f'{sys.executable} -c pass'))
    obstacle = pip_obstacle()
    shown = obstacle or str(environment.package('pip'))
    text = f'{eca_mmdet.__version__} in {PACKAGE.parent}'
    own = Finding('eca-mmdet', OK, text)
    if 'eca-mmdet' not in environment.packages:
        text = f'{text}, which is not installed'
        own = Finding('eca-mmdet', WARNING, text, install_own(environment))
    return [python, Finding('pip', WARNING if obstacle else OK, shown), own]


def check_cuda(environment: Environment) -> list[Finding]:
    """Check that torch computes on the GPU, if it finds one."""
    result = environment.module('cuda').result
    if result.blocked_by:
        return [Finding('cuda', UNKNOWN, f'not tried: {result.blocked_by} fails')]
    value = result.value or {'built': None, 'devices': []}
    built, devices = value['built'], value['devices']
    if devices:
        names = ', '.join(f'{name} ({size / 2**30:.0f} GiB)' for name, size in devices)
        return [Finding('cuda', OK, f'CUDA {built}: {names}')]
    words = ['install', '--upgrade', '--force-reinstall', 'torch', 'torchvision']
    reason = "it must fit the driver; --index-url selects PyTorch's builds by CUDA"
    fix = pip(words, by_hand=reason)
    warned = [w for w in result.warnings if w.startswith('CUDA initialization')]
    errors = [w for w in warned if 'Found no NVIDIA driver' not in w]
    if errors or not result.works:
        text = f'torch cannot use the GPU: {"".join(errors) or result.message}'
        return [Finding('cuda', FAULT, text, fix)]
    if built is None and shutil.which('nvidia-smi'):
        text = 'this torch is a CPU build; the NVIDIA GPU is not used'
        return [Finding('cuda', WARNING, text, fix)]
    return [Finding('cuda', OK, 'no NVIDIA GPU; everything runs on the CPU')]


CHECKS: tuple[Callable[[Environment], list[Finding]], ...] = (
    check_python,
    check_modules,
    check_cuda,
)
