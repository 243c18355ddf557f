"""mmdet, mmcv and mmengine: which line, how many of each, and do they fit?"""

from __future__ import annotations

from pathlib import Path

from eca_mmdet.doctor import packages
from eca_mmdet.doctor.environment import TRIO, Scene, folder_of, hands_off, located
from eca_mmdet.doctor.files import damaged_files
from eca_mmdet.doctor.finding import FAULT, OK, UNKNOWN, WARNING, Finding, reinstall
from eca_mmdet.doctor.imports import failed_import
from eca_mmdet.doctor.packages import Package
from eca_mmdet.doctor.torch_checks import pair


def check_mmdet(scene: Scene) -> list[Finding]:
    """Judge mmdet: one distribution, of version 3, that imports."""
    return _check(scene, 'mmdet')


def check_mmcv(scene: Scene) -> list[Finding]:
    """Judge mmcv: one distribution, of a version that mmdet takes."""
    return _check(scene, 'mmcv')


def check_mmengine(scene: Scene) -> list[Finding]:
    """Judge mmengine: one distribution, of a version that mmdet takes."""
    return _check(scene, 'mmengine')


def _check(scene: Scene, module: str) -> list[Finding]:
    found: list[Finding] = []
    for look in (_absent, _several, _files, _version, _refused, _import):
        found += look(scene, module)
        if any(one.state in (FAULT, UNKNOWN) for one in found):
            return found + _hidden(scene, module)
    return [_fine(scene, module), *found, *_hidden(scene, module)]


def _import(scene: Scene, module: str) -> list[Finding]:
    return failed_import(scene, module, module)


def _fine(scene: Scene, module: str) -> Finding:
    package = scene.active(module)
    value = scene.result(module).value or {}
    shown = str(package) if package else f'{value.get("version")} of {located(module)}'
    suffix = f', line {scene.line()}' if module == 'mmdet' else ''
    return Finding(module, OK, shown + suffix)


def _absent(scene: Scene, module: str) -> list[Finding]:
    if scene.of(module) or located(module) is not None:
        return []
    absent = [m for m in TRIO if not scene.of(m) and located(m) is None]
    return [Finding(module, FAULT, 'not installed', scene.put_right(*absent))]


def _several(scene: Scene, module: str) -> list[Finding]:
    """Two distributions in one folder overwrite each other's files."""
    folders = [one.folder for one in scene.of(module)]
    same = [one for one in scene.of(module) if folders.count(one.folder) > 1]
    if not same:
        return []
    names = ' and '.join(map(str, same))
    text = f'{names} are installed over each other; each is {module}, and one must go'
    return [Finding(module, FAULT, text, scene.put_right(module))]


def _hidden(scene: Scene, module: str) -> list[Finding]:
    """Find distributions in other folders of the search path, which are not used."""
    active = scene.active(module)
    if active is None:
        return []
    rest = [one for one in scene.of(module) if one.folder != active.folder]
    return [
        Finding(module, WARNING, f'{active} hides {one} in {one.folder}')
        for one in rest
        if not active.editable
    ]


def _files(scene: Scene, module: str) -> list[Finding]:
    """Look for files that are gone, or that another distribution has overwritten."""
    package = scene.active(module)
    if package is None or package.editable:
        return []
    path = located(module)
    if path is None or path.is_dir():
        text = f'{package} is listed as installed, but its files are gone'
        mend = reinstall(package.name, package.version, hands_off([package]))
        return [Finding(module, FAULT, text, mend)]
    return damaged_files(package, module)


def _version(scene: Scene, module: str) -> list[Finding]:
    """Hold the version against what mmdet's own metadata and eca-mmdet's say."""
    package, mmdet = scene.active(module), scene.active('mmdet')
    if package is None or mmdet is None:
        return []
    if module == 'mmdet':
        if package.version.partition('.')[0] not in ('0', '1', '2'):
            return _untested(scene, module, package)
        text = f'{package}: mmdet 3 is needed'
        return [Finding(module, FAULT, text, scene.put_right(*TRIO))]
    for extra in ('mim', 'mminstall'):
        for wanted in packages.requirements(mmdet, extra):
            mine = packages.normalised(wanted.name) in packages.FAMILIES[module]
            if mine and not packages.meets(package.version, wanted.specifier):
                text = f'{mmdet} takes {module}{wanted.specifier}, not {package}'
                return [Finding(module, FAULT, text, scene.put_right(module))]
    if package.name.startswith('onedl-') != mmdet.name.startswith('onedl-'):
        text = f'{package} is of the other line than {mmdet}'
        return [Finding(module, WARNING, text, scene.put_right(module))]
    return _untested(scene, module, package)


def _untested(scene: Scene, module: str, package: Package) -> list[Finding]:
    pin = scene.pin(module)
    if pin is None or packages.meets(package.version, pin.specifier):
        return []
    text = f'{package} is not the version that is tested, {packages.plain(pin)}'
    return [Finding(module, WARNING, text, scene.put_right(module))]


def _refused(scene: Scene, module: str) -> list[Finding]:
    """Find what mmdet asserts on import about the packages beside it."""
    result = scene.result('mmdet')
    if module != 'mmdet' or result.error != 'AssertionError':
        return []
    at_fault = 'mmengine' if 'MMEngine' in result.message else 'mmcv'
    if any(one.state == FAULT for one in _version(scene, at_fault)):
        text = f'not usable: it refuses {scene.active(at_fault)}'
        return [Finding(module, UNKNOWN, text)]
    mend = scene.put_right(at_fault)
    return [Finding(module, FAULT, f'does not import: {result.message}', mend)]


def check_operators(scene: Scene) -> list[Finding]:
    """Are mmcv's operators compiled or supplied, and do they compute?"""
    name = 'mmcv operators'
    result = scene.result('mmcv._ext')
    if result.blocked_by:
        return failed_import(scene, 'mmcv._ext', name)
    if not result.works:
        if compiled := _extension_file(scene):
            text = f'{compiled.name} does not load: {result.message}'
            return [Finding(name, FAULT, text, scene.put_right('mmcv'))]
        return failed_import(scene, 'mmcv._ext', name)
    value = result.value or {}
    if value['supplied'] and not scene.result('torchvision').works:
        text = (
            'mmcv has no compiled operators, and torchvision, which would supply '
            'them, is missing or broken'
        )
        return [Finding(name, FAULT, text, pair(scene, scene.active('torch')))]
    if found := failed_import(scene, 'mmcv.ops', name):
        return found
    if value['supplied']:
        supplied = ', '.join(_families(value['operators']))
        text = f'not compiled; torchvision supplies {supplied}'
        return [Finding(name, OK, text)]
    return _compiled(scene, name)


def _families(operators: list[str]) -> list[str]:
    """Return 'roi_align' for its forward and backward."""
    shown = [name.partition('_forward')[0] for name in operators]
    return sorted({name.partition('_backward')[0] for name in shown})


def _compiled(scene: Scene, name: str) -> list[Finding]:
    """Hold the CUDA of a compiled mmcv against torch's."""
    built = (scene.result('mmcv.ops').value or {})['cuda']
    torch = (scene.result('torch').value or {}).get('cuda')
    if torch and built != torch:
        text = f'compiled with CUDA {built}, torch with {torch}: they may not fit'
        return [Finding(name, WARNING, text)]
    return [Finding(name, OK, f'compiled, CUDA {built}')]


def _extension_file(scene: Scene) -> Path | None:
    folder = folder_of('mmcv')
    found = sorted(folder.glob('mmcv/_ext*.so')) if folder else []
    found += sorted(folder.glob('mmcv/_ext*.pyd')) if folder else []
    return next(iter(found), None)
