"""Checks of Python, the installed packages and the GPU, and the self-test.

A rule looks for one fault of one module. The first rule that finds something decides.
To add a fault, write its rule and add it to RULES.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence

import eca_mmdet
from eca_mmdet.catalog.configs import PACKAGE
from eca_mmdet.doctor import fixes
from eca_mmdet.doctor.environment import STEPS, TRIO, Environment, Module, run_child
from eca_mmdet.doctor.fixes import FAULT, OK, UNKNOWN, WARNING, Finding, Fix, install
from eca_mmdet.utils.text import clipped

Verdict = tuple[str, Fix | None] | None
"""Text and fix of a fault. Without a fix, the module cannot be judged yet."""

NAMES = {'cv2': 'opencv', 'mmcv.ops': 'mmcv operators', 'pkg_resources': 'setuptools'}
"""Module to its name in the report where they differ."""

OTHER_NUMPY = re.compile(
    'using NumPy 1.x|_ARRAY_API not found|numpy.dtype size changed|multiarray failed|'
    "initialize NumPy|module compiled against A|module 'numpy' has no attribute"
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
    if name == 'packaging':  # without it, no requirement can be read
        return 'not installed', fixes.pip(['install', name])
    if package:
        text = f'{package} is installed, but its files are gone'
        return text, fixes.reinstall(environment, name)
    absent = [name for name in TRIO if not environment.package(name)]
    return 'not installed', install(environment, *(absent if name in TRIO else [name]))


def overlapping(environment: Environment, module: Module) -> Verdict:
    """Distributions of mmdet, mmcv or mmengine overwrote each other's files."""
    folder = module.package and module.package.folder
    found = [str(package) for package in module.providers if package.folder == folder]
    if module.name not in TRIO or len(found) < 2:
        return None
    names = ' and '.join(found)
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
        own = [w for w in requirements if w.name in module.names]
        for wanted in own:
            if not package.meets(wanted):
                text = f'{package}: {user} needs {wanted}'
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
    return text, fixes.pip(['install', DISTRIBUTIONS.get(needed, needed)])


def built_for_other_numpy(environment: Environment, module: Module) -> Verdict:
    """The numpy ABI it was compiled for is not the installed one."""
    package, result = module.package, module.result
    messages = ' '.join([result.message, *result.warnings])
    if not package or not OTHER_NUMPY.search(messages):
        return None
    text = f'{package} was built for another numpy than {environment.package("numpy")}'
    if module.name == 'torch':  # which imports with a warning
        return text, fixes.pip(['install', 'numpy<2'])
    if result.works:
        return None
    fix = install(environment, module.name, wanted=[package.name])
    return f'{text}: {result.message}', fix


def lacks_desktop_libraries(environment: Environment, module: Module) -> Verdict:
    """OpenCV with windows needs libGL and others, which slim containers lack."""
    package, message = module.package, module.result.message
    if module.name != 'cv2' or not package or 'open shared object' not in message:
        return None
    wanted = f'opencv-python-headless=={package.version}'
    text = f'{package} needs libraries of a desktop: {message}'
    return text, install(environment, module.name, wanted=[wanted])


def does_not_import(environment: Environment, module: Module) -> Verdict:
    """It does not import for another reason, or ends the process."""
    name, package, result = module.name, module.package, module.result
    if result.works:
        return None
    if result.error == 'died':
        return f'importing it {result.message}', fixes.reinstall(environment, name)
    text = f'does not import: {result.error}: {result.message}'
    if name == 'mmcv.ops' and not environment.module('torchvision').result.works:
        return 'torchvision, which supplies them, does not work', None
    if name == 'mmcv.ops' or (name == 'mmdet' and result.error == 'AssertionError'):
        return text, install(environment, 'mmcv')  # mmdet asserts its version
    torch = environment.package('torch')
    needed = package.requirements() if package and name == 'torchvision' else []
    if torch and any(w.name == 'torch' and not torch.meets(w) for w in needed):
        text = f'{package} was not built for {torch}: {result.message}'
        return text, install(environment, name)
    return text, fixes.reinstall(environment, name)


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
    rules = (blocked, does_not_import) if name == 'mmcv.ops' else RULES
    try:
        verdicts = (rule(environment, module) for rule in rules)
        verdict = next(filter(None, verdicts), None)
    except Exception as error:  # a broken environment can cause any
        text = clipped(f'{type(error).__name__}: {error}', 300)
        return Finding(shown, UNKNOWN, f'this check failed: {text}')
    if verdict:
        text, fix = verdict
        return Finding(shown, FAULT if fix else UNKNOWN, text, fix)
    value = module.result.value or {}
    text = str(module.package or f'{value.get("version")} from {module.path}')
    if name == 'torchvision':
        text += '; its operators load'
    if name == 'mmcv.ops':
        supplied = 'not compiled; supplied by eca-mmdet from torchvision'
        text = supplied if value['supplied'] else 'compiled'
    return Finding(shown, OK, text.removeprefix(f'{shown} '))


def check_modules(environment: Environment) -> list[Finding]:
    """Check the modules of STEPS; of other requirements only faults are reported."""
    mmengine = environment.package('mmengine')
    original = mmengine is not None and mmengine.name == 'mmengine'
    skipped = {'cuda', '' if original else 'pkg_resources'}
    findings = [judge(environment, name) for name in STEPS if name not in skipped]
    others = [judge(environment, name) for name in environment.other_modules()]
    return findings + [finding for finding in others if finding.state != OK]


def check_python(environment: Environment) -> list[Finding]:
    """Report Python, pip and eca-mmdet, and check that a new Python starts."""
    start = environment.results.get('python')
    python = Finding('python', OK, f'{sys.version.split()[0]}, {sys.prefix}')
    if start and not start.works:
        text = f'a new Python process does not start: {start.message}'
        python = Finding('python', FAULT, text, Fix(f'{sys.executable} -c pass'))
    obstacle = fixes.pip_obstacle()
    shown = obstacle or str(environment.package('pip') or 'pip')
    text = f'{eca_mmdet.__version__} in {PACKAGE.parent}'
    own = Finding('eca-mmdet', OK, text)
    if 'eca-mmdet' not in environment.packages:
        text = f'{text}, which is not installed'
        own = Finding('eca-mmdet', WARNING, text, fixes.install_own(environment))
    return [python, Finding('pip', WARNING if obstacle else OK, shown), own]


def check_cuda(environment: Environment) -> Finding:
    """Check that torch computes on the GPU, if it finds one."""
    result = environment.module('cuda').result
    if result.blocked_by:
        return Finding('cuda', UNKNOWN, f'not tried: {result.blocked_by} fails')
    value = result.value or {'built': None, 'devices': []}
    built, devices = value['built'], value['devices']
    if devices:
        names = ', '.join(f'{name} ({size / 2**30:.0f} GiB)' for name, size in devices)
        return Finding('cuda', OK, f'CUDA {built}: {names}')
    words = ['install', '--upgrade', '--force-reinstall', 'torch', 'torchvision']
    reason = "it must fit the driver; --index-url selects PyTorch's builds by CUDA"
    fix = fixes.pip(words, by_hand=reason)
    warned = [w for w in result.warnings if w.startswith('CUDA initialization')]
    errors = [w for w in warned if 'Found no NVIDIA driver' not in w]
    if errors or not result.works:
        text = f'torch cannot use the GPU: {"".join(errors) or result.message}'
        return Finding('cuda', FAULT, text, fix)
    if built is None and shutil.which('nvidia-smi'):
        text = 'this torch is a CPU build; the NVIDIA GPU is not used'
        return Finding('cuda', WARNING, text, fix)
    return Finding('cuda', OK, 'torch sees no NVIDIA GPU; everything runs on the CPU')


SELF_TEST = PACKAGE / 'demo' / 'self_test.py'
SELF_TEST_LIMIT_S = 60.0


def examine() -> list[Finding]:
    """Read the metadata, try the imports, and run every check."""
    environment = Environment.current()
    modules = check_modules(environment)
    return [*check_python(environment), *modules, check_cuda(environment)]


def self_test(
    findings: Sequence[Finding], limit_s: float = SELF_TEST_LIMIT_S
) -> list[Finding]:
    """Train a tiny detector for one step on CPU and GPU, unless there are faults."""
    faults = [finding.name for finding in findings if finding.state == FAULT]
    if faults:
        names = ', '.join(dict.fromkeys(faults))
        return [Finding('self test', UNKNOWN, f'skipped; fix first: {names}')]
    results, ending = run_child(SELF_TEST, [], limit_s)
    texts = [
        f'{device}: a training step and a prediction of a Mask R-CNN, loss '
        f'{value["loss"]:.2f}, gradients in {value["gates"]} gates, '
        f'{value["seconds"]:.1f} s'
        for device, result in results.items()
        if (value := result.value)
    ]
    errors = [
        f'{device}: {result.error}: {result.message}'
        for device, result in results.items()
        if not result.works
    ]
    if ending or not results:
        errors.append(ending or 'it wrote no result')
    fix = Fix('eca-mmdet demo --quick  (prints the whole error)')
    passed = [Finding('self test', OK, text) for text in texts]
    return passed + [Finding('self test', FAULT, text, fix) for text in errors]
