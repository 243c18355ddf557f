"""Judge imports that failed, by what they said."""

from __future__ import annotations

from eca_mmdet.doctor import packages
from eca_mmdet.doctor.environment import Scene, hands_off
from eca_mmdet.doctor.finding import FAULT, UNKNOWN, Finding, Mend, pip, reinstall

_NUMPY_SIGNS = (
    'compiled using NumPy 1.x',
    '_ARRAY_API not found',
    'numpy.dtype size changed',
    'numpy.core.multiarray failed to import',
    'numpy._core.multiarray failed to import',
    'Failed to initialize NumPy',
    'module compiled against ABI version',
    'module compiled against API version',
    "module 'numpy' has no attribute",
)
_LIBRARIES = ('libGL', 'libgthread', 'libglib', 'libSM', 'libXext', 'libxcb')
_OTHER_NAMES = {
    'cv2': 'opencv-python',
    'PIL': 'pillow',
    'yaml': 'PyYAML',
    'skimage': 'scikit-image',
    'pkg_resources': 'setuptools<80.9',
}
"""Module to distribution, where the names differ."""

PROBED = ('numpy', 'torch', 'torchvision', 'cv2', 'mmengine', 'mmcv', 'mmdet')
"""Modules whose absence has a finding of its own."""


def failed_import(
    scene: Scene, step: str, name: str, mend: Mend | None = None
) -> list[Finding]:
    """Return the finding of a step that failed; nothing if it worked.

    Args:
        scene: of the environment.
        step: of the probe.
        name: of the finding.
        mend: instead of installing the same version again.
    """
    result = scene.result(step)
    if result.works:
        return []
    if result.blocked_by:
        return [Finding(name, UNKNOWN, f'not tried: {result.blocked_by} does not work')]
    module = step.partition('.')[0]
    missing = result.missing.partition('.')[0]
    if missing in PROBED and missing != module:
        return [Finding(name, UNKNOWN, f'not tried: {missing} is missing')]
    if missing and missing != module:
        wanted = _OTHER_NAMES.get(missing, missing)
        text = f'does not import: it needs {missing}, which is not installed'
        return [Finding(name, FAULT, text, pip(['install', wanted]))]
    if any(result.said(sign) for sign in _NUMPY_SIGNS):
        return [_other_numpy(scene, module, name, result.message)]
    if result.error == 'died':
        text = f'importing it {result.message}'
    else:
        text = f'does not import: {result.error}: {result.message}'
    return [Finding(name, FAULT, text, mend or again(scene, module))]


def lacks_library(message: str) -> bool:
    """Tell whether a system library for windows is missing, as in slim containers."""
    return 'cannot open shared object' in message and any(
        name in message for name in _LIBRARIES
    )


def made_for_other_numpy(scene: Scene, step: str) -> bool:
    """Tell whether a step failed or warned because of numpy's version."""
    result = scene.result(step)
    return any(result.said(sign) for sign in _NUMPY_SIGNS)


def _other_numpy(scene: Scene, module: str, name: str, message: str) -> Finding:
    package = scene.active(module)
    numpy = scene.active('numpy')
    shown = package.name if package else module
    text = f'{package or module} was built for another numpy than {numpy}: {message}'
    words = ['install', '--upgrade', '--force-reinstall', '--no-deps', shown]
    hands = hands_off([package] if package else []) or _large(module)
    return Finding(name, FAULT, text, pip(words, by_hand=hands))


def again(scene: Scene, module: str) -> Mend:
    """Return the mend that installs the same version of a module's package again."""
    package = scene.active(module)
    if package is None:
        found = packages.FAMILIES.get(module)
        return pip(['install', found[0] if found else module])
    hands = hands_off([package]) or _large(module)
    return reinstall(package.name, package.version, hands)


def _large(module: str) -> str:
    return (
        'it is large, and other packages are built on it' if module == 'torch' else ''
    )
