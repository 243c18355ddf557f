"""All checks in their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from eca_mmdet.doctor import (
    machine_checks,
    openmmlab_checks,
    package_checks,
    python_checks,
    torch_checks,
)
from eca_mmdet.doctor.environment import Scene
from eca_mmdet.doctor.finding import FAULT, UNKNOWN, Finding
from eca_mmdet.doctor.packages import installed
from eca_mmdet.doctor.probe import one_line, probe
from eca_mmdet.doctor.self_test import self_test

Check = Callable[[Scene], list[Finding]]

STEPS = (
    'start',
    'numpy',
    'torch',
    'cuda',
    'torchvision',
    'cv2',
    'pycocotools',
    'hotcoco',
    'pkg_resources',
    'mmengine',
    'mmcv',
    'mmcv._ext',
    'mmcv.ops',
    'mmdet',
)
"""What is tried in other processes, each after what it needs."""

SOFTWARE: tuple[Check, ...] = (
    python_checks.check_python,
    python_checks.check_pip,
    python_checks.check_own_install,
    python_checks.check_shadows,
    python_checks.check_variables,
    package_checks.check_numpy,
    torch_checks.check_torch,
    torch_checks.check_torchvision,
    torch_checks.check_cuda,
    package_checks.check_opencv,
    openmmlab_checks.check_mmdet,
    openmmlab_checks.check_mmcv,
    openmmlab_checks.check_mmengine,
    openmmlab_checks.check_operators,
    package_checks.check_setuptools,
    package_checks.check_requirements,
    package_checks.check_pycocotools,
    package_checks.check_hotcoco,
    package_checks.check_leftovers,
)
MACHINE: tuple[Check, ...] = (
    machine_checks.check_threads,
    machine_checks.check_memory,
    machine_checks.check_shared_memory,
    machine_checks.check_open_files,
    machine_checks.check_folders,
)


def look() -> Scene:
    """Read the metadata, and try the imports."""
    scene = Scene(installed())
    scene.results = probe([*STEPS, *package_checks.others(scene)])
    return scene


def examine() -> list[Finding]:
    """Make every check."""
    return make((*SOFTWARE, *MACHINE), look())


def train_a_step(findings: Sequence[Finding]) -> list[Finding]:
    """Make the self test, unless the software has faults that would fail it."""
    faults = [
        one.name
        for one in findings
        if one.state == FAULT and one.name not in machine_checks.NAMES
    ]
    if not faults:
        return self_test()
    names = ', '.join(dict.fromkeys(faults))
    return [Finding('self test', UNKNOWN, f'skipped; to mend first: {names}')]


def make(checks: Sequence[Check], scene: Scene) -> list[Finding]:
    """Make some checks; one that fails itself is told, and the others go on."""
    found = []
    for check in checks:
        try:
            found += check(scene)
        except Exception as error:  # whatever a broken environment makes of it
            name = check.__name__.removeprefix('check_')
            text = f'this check failed: {type(error).__name__}: {one_line(str(error))}'
            found.append(Finding(name, UNKNOWN, text))
    return found
