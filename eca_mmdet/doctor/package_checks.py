"""The other packages: numpy, OpenCV, pycocotools, setuptools, and what we require."""

from __future__ import annotations

import shlex
from typing import Any

from eca_mmdet.doctor import packages
from eca_mmdet.doctor.environment import TRIO, Scene, hands_off, located
from eca_mmdet.doctor.finding import FAULT, OK, UNKNOWN, WARNING, Finding, Mend, pip
from eca_mmdet.doctor.imports import again, failed_import, lacks_library
from eca_mmdet.doctor.packages import FAMILIES, Package

JUDGED_APART = ('torch', 'torchvision', 'numpy', 'opencv-python')
NUMPY_USERS = (
    *FAMILIES['cv2'],
    'matplotlib',
    'pycocotools',
    'scipy',
    'shapely',
    'torchvision',
)


def others(scene: Scene) -> list[str]:
    """Return the modules of the remaining requirements, which a probe imports."""
    apart = (*JUDGED_APART, 'pycocotools', 'hotcoco')
    names = [one.name for one in scene.required() if one.name not in apart]
    return [name.replace('-', '_') for name in names]


def check_requirements(scene: Scene) -> list[Finding]:
    """Is all that eca-mmdet and mmdet's packages require there, and new enough?"""
    if packages.packaging('requirements') is None:
        text = 'the package is missing, so that no version can be judged'
        mend = pip(['install', 'packaging'])
        return [Finding('packaging', FAULT, text, mend)]
    required = scene.required()
    found = []
    for wanted in required:
        if wanted.name not in JUDGED_APART:
            found += _required(scene, wanted, 'eca-mmdet')
    for module in TRIO:
        package = scene.active(module)
        for wanted in packages.requirements(package) if package else []:
            provided = packages.normalised(wanted.name)
            if provided not in (*JUDGED_APART, *sum(FAMILIES.values(), ())):
                found += _required(scene, wanted, str(package))
    for module in others(scene):
        if scene.of(module):
            found += failed_import(scene, module, module)
    if found:
        return list(dict.fromkeys(found))
    if not required:
        text = 'unknown: the metadata of an installed eca-mmdet tell them'
        return [Finding('requirements', UNKNOWN, text)]
    return [Finding('requirements', OK, f'all {len(required)} are installed')]


def _required(scene: Scene, wanted: Any, by: str) -> list[Finding]:
    text = packages.plain(wanted)
    name = packages.normalised(wanted.name)
    package = next(iter(scene.packages.get(name, ())), None)
    mend = pip(['install', text])
    if package is None:
        return [Finding(name, FAULT, f'not installed; {by} needs {text}', mend)]
    if not packages.meets(package.version, wanted.specifier):
        state = FAULT if by == 'eca-mmdet' else WARNING
        return [Finding(name, state, f'{package}: {by} needs {text}', mend)]
    return []


def check_numpy(scene: Scene) -> list[Finding]:
    """Does numpy import, and do its users take this version?"""
    package = scene.active('numpy')
    if package is None and located('numpy') is None:
        mend = pip(['install', 'numpy'])
        return [Finding('numpy', FAULT, 'not installed', mend)]
    if found := failed_import(scene, 'numpy', 'numpy'):
        return found
    value = scene.result('numpy').value or {}
    found = []
    for user in (one for name in NUMPY_USERS for one in scene.packages.get(name, ())):
        for wanted in packages.requirements(user):
            unmet = package and not packages.meets(package.version, wanted.specifier)
            if wanted.name == 'numpy' and unmet:
                text = f'{package}: {user} asks for {packages.plain(wanted)}'
                mend = pip(['install', packages.plain(wanted)])
                found.append(Finding('numpy', WARNING, text, mend))
    return found or [Finding('numpy', OK, value['version'])]


def check_opencv(scene: Scene) -> list[Finding]:
    """Is there one OpenCV, and does it import?"""
    found = scene.of('cv2')
    if not found and located('cv2') is None:
        mend = pip(['install', 'opencv-python'])
        return [Finding('opencv', FAULT, 'not installed', mend)]
    result = scene.result('cv2')
    names = ' and '.join(map(str, found))
    if lacks_library(result.message):
        text = f'{names} needs libraries of a desktop: {result.message}'
        return [Finding('opencv', FAULT, text, _without_windows(found))]
    if not result.works:
        mend = _one_opencv(found) if len(found) > 1 else again(scene, 'cv2')
        return failed_import(scene, 'cv2', 'opencv', mend)
    folders = {one.folder for one in found}
    if len(found) > len(folders):
        text = f'{names} share their files; they work now, and removing one breaks cv2'
        return [Finding('opencv', WARNING, text, _one_opencv(found))]
    version = (result.value or {})['version']
    return [Finding('opencv', OK, f'{names or "cv2"}; cv2 {version}')]


def _without_windows(found: list[Package]) -> Mend:
    windowed = [one for one in found if not one.name.endswith('-headless')]
    version = f'=={windowed[0].version}' if windowed else ''
    return _alone(found, f'opencv-python-headless{version}')


def _one_opencv(found: list[Package]) -> Mend:
    return _alone(found, f'{found[0].name}=={found[0].version}')


def _alone(found: list[Package], wanted: str) -> Mend:
    """Return the mend that removes these and installs one; any of them owns cv2."""
    remove = dict.fromkeys(one.name for one in found)
    calls = [['uninstall', '-y', *remove]] if remove else []
    install = ['install', '--no-deps', '--force-reinstall', wanted]
    return pip(*calls, install, by_hand=hands_off(found))


def check_pycocotools(scene: Scene) -> list[Finding]:
    """Does pycocotools measure a mask?"""
    return _extension(scene, 'pycocotools')


def check_hotcoco(scene: Scene) -> list[Finding]:
    """Does hotcoco import?"""
    return _extension(scene, 'hotcoco')


def _extension(scene: Scene, name: str) -> list[Finding]:
    package = scene.active(name)
    if package is None and located(name) is None:
        return []  # told with the requirements
    found = failed_import(scene, name, name)
    return found or [Finding(name, OK, package.version if package else 'works')]


def check_setuptools(scene: Scene) -> list[Finding]:
    """Has the original mmengine its pkg_resources?

    It reads a config with a base in another package through that.
    """
    mmengine = scene.active('mmengine')
    if mmengine is None or mmengine.name != 'mmengine':
        return []
    setuptools = scene.active('setuptools')
    shown = setuptools or 'no setuptools'
    pins = [r for r in scene.required('openmmlab') if r.name == 'setuptools']
    wanted = packages.plain(pins[0]) if pins else 'setuptools<80.9'
    mend = pip(['install', wanted])
    result = scene.result('pkg_resources')
    if result.missing == 'pkg_resources':
        text = f'{shown} has no pkg_resources, which {mmengine} needs'
        return [Finding('setuptools', FAULT, text, mend)]
    if not result.works:
        return failed_import(scene, 'pkg_resources', 'setuptools', mend)
    if result.said('pkg_resources is deprecated'):
        text = f'{shown} warns of pkg_resources, which {mmengine} needs, at each start'
        return [Finding('setuptools', WARNING, text, mend)]
    return [Finding('setuptools', OK, f'{shown}, with pkg_resources')]


def check_leftovers(scene: Scene) -> list[Finding]:
    """Look for the remains of an installation that was interrupted."""
    folders = {one.folder for found in scene.packages.values() for one in found}
    remains = [path for folder in sorted(folders) for path in folder.glob('~*')]
    if not remains:
        return []
    text = f'{len(remains)} remains of interrupted installs, as {remains[0]}'
    return [
        Finding(
            'leftovers', WARNING, text, Mend(f'rm -r {shlex.quote(str(remains[0]))}')
        )
    ]
