"""torch, its torchvision, and the GPU."""

from __future__ import annotations

import os
import shutil
import subprocess

from eca_mmdet.doctor import packages
from eca_mmdet.doctor.environment import Scene, hands_off, located
from eca_mmdet.doctor.finding import FAULT, OK, WARNING, Finding, Mend, pip, reinstall
from eca_mmdet.doctor.imports import failed_import, made_for_other_numpy
from eca_mmdet.doctor.packages import Package

OWN_INDEX = "name the index that torch came from with pip's --index-url"
GPU_LIST_LIMIT_S = 20.0


def _range(scene: Scene, name: str) -> str:
    """Return what eca-mmdet asks of a package, as pip takes it."""
    found = [packages.plain(r) for r in scene.required() if r.name == name]
    return next(iter(found), name)


def check_torch(scene: Scene) -> list[Finding]:
    """Is torch there, new enough, and does it compute?"""
    package = scene.active('torch')
    if package is None and located('torch') is None:
        words = ['install', _range(scene, 'torch'), _range(scene, 'torchvision')]
        return [Finding('torch', FAULT, 'not installed', pip(words))]
    found = []
    for wanted in scene.required():
        old = package and not packages.meets(package.version, wanted.specifier)
        if wanted.name == 'torch' and old:
            words = ['install', '--upgrade', str(packages.plain(wanted))]
            words += [_range(scene, 'torchvision')]
            mend = pip(words, by_hand='packages that are built on this torch may break')
            text = f'{package}: {packages.plain(wanted)} is needed'
            found.append(Finding('torch', FAULT, text, mend))
    found += failed_import(scene, 'torch', 'torch')
    if scene.result('torch').works and made_for_other_numpy(scene, 'torch'):
        text = f'{package} was built for numpy 1 and cannot use {scene.active("numpy")}'
        mend = pip(['install', 'numpy<2'])
        found.append(Finding('torch', FAULT, text, mend))
    if found:
        return found
    value = scene.result('torch').value or {}
    return [Finding('torch', OK, value['version'])]


def check_torchvision(scene: Scene) -> list[Finding]:
    """Is torchvision there, built for this torch, and do its operators load?"""
    package, torch = scene.active('torchvision'), scene.active('torch')
    if package is None and located('torchvision') is None:
        mend = pair(scene, torch)
        return [Finding('torchvision', FAULT, 'not installed', mend)]
    result = scene.result('torchvision')
    for wanted in packages.requirements(package) if package else []:
        unmet = torch and not packages.meets(torch.version, wanted.specifier)
        if wanted.name == 'torch' and unmet:
            why = '' if result.works else f': {result.message or "not tried"}'
            text = f'{package} is made for {packages.plain(wanted)}, not {torch}{why}'
            state = FAULT if not result.works else WARNING
            return [Finding('torchvision', state, text, pair(scene, torch))]
    again = _again(package, torch) if package else None
    if result.said('torchvision::nms'):
        text = (
            f'the operators of {package} do not load with {torch}, for which it was '
            f'not built: {result.message}'
        )
        return [Finding('torchvision', FAULT, text, again)]
    if found := failed_import(scene, 'torchvision', 'torchvision', again):
        return found
    value = result.value or {}
    return [Finding('torchvision', OK, f'{value["version"]}; its operators load')]


def _again(torchvision: Package, torch: Package | None) -> Mend:
    local = _local(torch) or _local(torchvision)
    hands = OWN_INDEX if local else hands_off([torchvision])
    return reinstall('torchvision', torchvision.version, hands)


def pair(scene: Scene, torch: Package | None) -> Mend:
    """Return the mend that gets the torchvision of this torch; pip knows which."""
    wanted = _range(scene, 'torchvision')
    if torch is None:
        return pip(['install', _range(scene, 'torch'), wanted])
    old = any(
        r.name == 'torch' and not packages.meets(torch.version, r.specifier)
        for r in scene.required()
    )
    if old:
        words = ['install', '--upgrade', _range(scene, 'torch'), wanted]
        return pip(words, by_hand='packages that are built on this torch may break')
    hands = OWN_INDEX if _local(torch) else hands_off(scene.of('torchvision'))
    return pip(['install', f'torch=={torch.version}', wanted], by_hand=hands)


def _local(package: Package | None) -> bool:
    """Tell builds of PyTorch's own index, as 2.5.1+cpu."""
    return package is not None and '+' in package.version


def graphics_cards() -> list[str]:
    """Return 'name, driver' of the NVIDIA GPUs that the driver lists."""
    program = shutil.which('nvidia-smi')
    if program is None:
        return []
    query = '--query-gpu=name,driver_version'
    try:
        done = subprocess.run(
            [program, query, '--format=csv,noheader'],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GPU_LIST_LIMIT_S,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def check_cuda(scene: Scene) -> list[Finding]:
    """Does torch see the GPU that the driver sees, and can it compute there?"""
    torch = scene.result('torch')
    if not torch.works:
        return failed_import(scene, 'cuda', 'cuda')
    cards = graphics_cards()
    built = (torch.value or {})['cuda']
    result = scene.result('cuda')
    if not result.works:
        text = f'torch, built for CUDA {built}, sees a GPU but cannot use it: '
        return [Finding('cuda', FAULT, text + result.message, _other_torch())]
    devices = (result.value or {})['devices']
    if devices:
        names = ', '.join(f'{name} ({size / 2**30:.0f} GiB)' for name, size in devices)
        return [Finding('cuda', OK, f'CUDA {built}: {names}')]
    if not cards:
        return [Finding('cuda', OK, 'no NVIDIA GPU here; everything runs on the CPU')]
    hidden = os.environ.get('CUDA_VISIBLE_DEVICES')
    if hidden is not None and hidden.strip() in ('', '-1'):
        text = f'CUDA_VISIBLE_DEVICES={hidden!r} hides {cards[0]}'
        return [Finding('cuda', WARNING, text, Mend('unset CUDA_VISIBLE_DEVICES'))]
    if built is None:
        text = f'this torch has no CUDA, and {cards[0]} stays unused'
        return [Finding('cuda', WARNING, text, _other_torch())]
    why = next(iter(result.warnings), 'it gives no reason')
    text = f'torch, built for CUDA {built}, does not see {cards[0]}: {why}'
    return [Finding('cuda', FAULT, text, _other_torch())]


def _other_torch() -> Mend:
    words = ['install', '--upgrade', '--force-reinstall', 'torch', 'torchvision']
    return pip(
        words, by_hand="it must fit the driver; --index-url names PyTorch's older CUDAs"
    )
