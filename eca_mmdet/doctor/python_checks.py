"""Python itself, pip, this package's own installation, and what hides packages."""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
import sysconfig
from pathlib import Path

import eca_mmdet
from eca_mmdet.catalog.configs import PACKAGE
from eca_mmdet.doctor import packages
from eca_mmdet.doctor.environment import Scene, folder_of, install_line, located
from eca_mmdet.doctor.finding import FAULT, OK, WARNING, Finding, Mend, pip
from eca_mmdet.doctor.probe import one_line

IMPORTANT = (
    'torch',
    'torchvision',
    'numpy',
    'cv2',
    'mmengine',
    'mmcv',
    'mmdet',
    'pycocotools',
)


def kind_of_environment() -> str:
    """Return 'venv', 'conda', or '' for a Python that a system or user shares."""
    if sys.prefix != sys.base_prefix:
        return 'venv'
    return 'conda' if (Path(sys.prefix) / 'conda-meta').is_dir() else ''


def externally_managed() -> bool:
    """Tell whether the system's packager forbids pip to install here (PEP 668)."""
    if kind_of_environment():
        return False
    return (Path(sysconfig.get_path('stdlib')) / 'EXTERNALLY-MANAGED').is_file()


def check_python(scene: Scene) -> list[Finding]:
    """Is this Python new enough, and does it start without a complaint?"""
    version = sys.version.split()[0]
    own = scene.own()
    specifiers = packages.packaging('specifiers')
    wanted = own.distribution.metadata.get('Requires-Python') if own else None
    kind = kind_of_environment() or 'neither venv nor conda'
    found = [Finding('python', OK, f'{version}, {kind}, {sys.prefix}')]
    if wanted and specifiers:
        if not packages.meets(version.rstrip('+'), specifiers.SpecifierSet(wanted)):
            text = f'{version}: eca-mmdet needs {wanted}'
            mend = Mend(f'make a venv with Python {wanted}, and install there')
            found = [Finding('python', FAULT, text, mend)]
    noise = scene.result('').message
    if 'Error processing line' in noise:
        line = next(x for x in noise.splitlines() if 'Error processing line' in x)
        text = f'a path file of site-packages fails at each start: {one_line(line)}'
        found.append(Finding('python', WARNING, text))
    start = scene.result('start')
    if start.error:
        text = f'a fresh Python does not start: {start.message}'
        mend = Mend(f'{shlex.quote(sys.executable)} -c pass  (shows the whole error)')
        found.append(Finding('python', FAULT, text, mend))
    return found


def check_pip(scene: Scene) -> list[Finding]:
    """Is pip there, and may it write?"""
    if importlib.util.find_spec('pip') is None:
        text = f'{sys.prefix} has no pip (uv makes venvs without), so --fix cannot run'
        mend = Mend(shlex.join([sys.executable, '-m', 'ensurepip', '--upgrade']))
        return [Finding('pip', WARNING, text, mend)]
    folder = sysconfig.get_path('purelib')
    shown = next(iter(scene.packages.get('pip', ())), 'pip')
    if externally_managed():
        text = 'this Python belongs to the system, which forbids pip to install'
        mend = Mend(f'{shlex.quote(sys.executable)} -m venv .venv')
        return [Finding('pip', WARNING, text, mend)]
    if not os.access(folder, os.W_OK):
        return [Finding('pip', WARNING, f'{folder} is not writable for you')]
    return [Finding('pip', OK, str(shown))]


def check_own_install(scene: Scene) -> list[Finding]:
    """Is the eca-mmdet that runs the one that is installed?"""
    here, version = PACKAGE.parent, eca_mmdet.__version__
    own = scene.own()
    if own is None:
        text = f'{version} runs from {here} without being installed'
        return [Finding('eca-mmdet', WARNING, text, install_line(scene.line()))]
    found = []
    editable_here = own.editable and own.source == here.as_uri()
    if own.version != version:
        text = f'{version} runs from {here}, but {own.version} is installed'
        found.append(Finding('eca-mmdet', FAULT, text, _install_again(own)))
    elif own.folder != here and not editable_here:
        source = own.source.removeprefix('file://') if own.editable else own.folder
        text = f'{version} runs from {here}; the one that is installed is in {source}'
        found.append(Finding('eca-mmdet', WARNING, text))
    started = scene.result('start')
    if started.works and not (started.value or {})['offered']:
        text = (
            "eca_mmdet_startup.pth is missing or does not work: mmdet's own test.py "
            'finds no operators where mmcv has none compiled'
        )
        found.append(Finding('start-up file', WARNING, text, _install_again(own)))
    return found or [Finding('eca-mmdet', OK, f'{version} in {here}')]


def _install_again(own: packages.Package) -> Mend:
    checkout = PACKAGE.parent
    if (checkout / 'pyproject.toml').is_file():
        return pip(['install', '--no-deps', '-e', str(checkout)])
    words = ['install', '--no-deps', '--force-reinstall']
    if own.source:
        return pip([*words, *(['-e'] if own.editable else []), own.source])
    wanted = f'eca-mmdet=={eca_mmdet.__version__}'
    return pip([*words, wanted], by_hand='name the wheel or the clone')


def check_shadows(scene: Scene) -> list[Finding]:
    """Does a folder of sources hide an installed package, or could it?"""
    found = []
    for module in IMPORTANT:
        installed = scene.of(module)
        if any(one.editable for one in installed):
            continue
        path, folder = located(module), folder_of(module)
        if path is None or folder is None or path.is_dir():
            found += _in_this_folder(module)
        elif folder not in {one.folder for one in installed}:
            found.append(_shadow(module, folder, bool(installed)))
        else:
            found += _in_this_folder(module)
    return found


def _shadow(module: str, folder: Path, installed: bool) -> Finding:
    here = folder == Path.cwd().resolve()
    where = 'the current folder' if here else str(folder)
    text = f'{module} comes from {where}, not from an installed package'
    if here and installed:
        mend = Mend(f'mv {module} {module}_sources  (or run from another folder)')
        return Finding('search path', FAULT, text, mend)
    in_path = str(folder) in os.environ.get('PYTHONPATH', '').split(os.pathsep)
    return Finding(
        'search path', WARNING, text, Mend('unset PYTHONPATH') if in_path else None
    )


def _in_this_folder(module: str) -> list[Finding]:
    """Warn of what ``python -m`` would find first here, though this command did not."""
    try:
        here = Path.cwd()
        sources = [here / module / '__init__.py', here / f'{module}.py']
        file = next((one for one in sources if one.is_file()), None)
        found = located(module)
        if file is None or (found and found.resolve() == file.resolve()):
            return []
    except OSError:
        return []
    text = f'{file}: `python -m ...` from this folder imports it as {module}'
    mend = Mend(f'mv {module} {module}_sources  (or run from another folder)')
    return [Finding('search path', WARNING, text, mend)]


def check_variables(scene: Scene) -> list[Finding]:
    """Look for environment variables that change what others mean to be safe."""
    found = []
    if os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '0') not in ('', '0'):
        text = (
            'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set: a checkpoint can run its code '
            'where a program does not ask for weights only (eca-mmdet does)'
        )
        mend = Mend('unset TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD')
        found.append(Finding('variables', WARNING, text, mend))
    for entry in os.environ.get('PYTHONPATH', '').split(os.pathsep):
        name = f'python{sys.version_info[0]}.{sys.version_info[1]}'
        parts = [p for p in Path(entry).parts if p.startswith('python3.')]
        if parts and parts[-1] != name:
            text = f'PYTHONPATH has {entry}, packages of another Python'
            mend = Mend('unset PYTHONPATH')
            found.append(Finding('variables', FAULT, text, mend))
    return found
