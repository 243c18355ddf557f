"""Checks of the machine: GPU, memory, shared memory, and folders to write to."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from eca_mmdet.doctor.environment import Environment
from eca_mmdet.doctor.fixes import FAULT, OK, UNKNOWN, WARNING, Finding, Fix, pip

GIB = 2**30
CGROUP = Path('/sys/fs/cgroup')
MEMINFO = Path('/proc/meminfo')
GPU_LIST_LIMIT_S = 20.0


def graphics_cards() -> list[str]:
    """Return 'name, driver version' of the NVIDIA GPUs that the driver lists."""
    program = shutil.which('nvidia-smi')
    if program is None:
        return []
    argv = [program, '--query-gpu=name,driver_version', '--format=csv,noheader']
    try:
        output = subprocess.check_output(
            argv,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=GPU_LIST_LIMIT_S,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return []
    return output.splitlines()


def check_cuda(environment: Environment) -> list[Finding]:
    """Check that torch sees the GPU that the driver lists, and computes on it."""
    result = environment.result('cuda')
    if result.blocked_by:
        return [Finding('cuda', UNKNOWN, f'not tried: {result.blocked_by} fails')]
    words = ['install', '--upgrade', '--force-reinstall', 'torch', 'torchvision']
    reason = "it must fit the driver; --index-url selects PyTorch's builds by CUDA"
    fix = pip(words, by_hand=reason)
    if not result.works:
        text = f'torch cannot use the GPU: {result.message}'
        return [Finding('cuda', FAULT, text, fix)]
    value = result.value or {}
    built, devices = value['built'], value['devices']
    if devices:
        names = ', '.join(f'{name} ({size / GIB:.0f} GiB)' for name, size in devices)
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


def free_memory() -> int | None:
    """Return the bytes that machine and cgroup can still provide; None if unknown."""
    sizes = []
    for line in _read(MEMINFO).splitlines():
        if line.startswith('MemAvailable:'):
            sizes.append(int(line.split()[1]) * 1024)
    with contextlib.suppress(ValueError):  # 'max', or no cgroup
        limit = int(_read(CGROUP / 'memory.max'))
        sizes.append(max(0, limit - int(_read(CGROUP / 'memory.current'))))
    return min(sizes, default=None)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ''


def amount(
    name: str, text: str, size: int, limits: tuple[float, float], hint: str, fix: str
) -> Finding:
    """Return a fault or a warning if a size is below its limits in GiB."""
    text = f'{text} {size / GIB:.1f} GiB'
    for limit, state in zip(limits, (FAULT, WARNING), strict=True):
        if size < limit * GIB:
            return Finding(name, state, f'{text}: {hint}', Fix(fix))
    return Finding(name, OK, text)


def check_memory(environment: Environment) -> list[Finding]:
    """Check that the free memory suffices for a detector."""
    size = free_memory()
    if size is None:
        return []
    hint = 'importing mmdet takes 0.6, training a ResNet-50 takes 4'
    fix = 'ps aux --sort=-rss | head  (end what takes it, or raise the limit)'
    return [amount('memory', 'available', size, (1, 4), hint, fix)]


def check_shared_memory(environment: Environment) -> list[Finding]:
    """Check the size of /dev/shm, where workers of a data loader pass batches."""
    try:
        size = shutil.disk_usage('/dev/shm').total
    except OSError:  # not Linux
        return []
    hint = 'workers of a data loader are killed with a bus error'
    fix = (
        'docker run --shm-size=2g ...  (or train with --cfg-options '
        'train_dataloader.num_workers=0 train_dataloader.persistent_workers=False)'
    )
    return [amount('shared memory', '/dev/shm has', size, (0, 0.25), hint, fix)]


def checkpoint_cache() -> Path:
    """Return the folder of torch.hub.get_dir() without importing torch."""
    cache = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    home = os.environ.get('TORCH_HOME') or os.path.join(cache, 'torch')
    return Path(os.path.expanduser(home)) / 'hub'


def check_folders(environment: Environment) -> list[Finding]:
    """Check that results, temporary files and downloads can be written."""
    try:
        temporary = Path(tempfile.gettempdir())
    except OSError:  # none of the usual folders is writable
        temporary = Path(os.environ.get('TMPDIR', '/tmp'))
    return [
        check_folder('work folder', Path('.'), 'cd FOLDER'),
        check_folder('temporary files', temporary, 'export TMPDIR=FOLDER'),
        check_folder('weights cache', checkpoint_cache(), 'export TORCH_HOME=FOLDER'),
    ]


def check_folder(name: str, folder: Path, fix: str) -> Finding:
    """Write a temporary file to a folder, or to its nearest existing parent."""
    absolute = place = folder
    try:
        absolute = place = folder.absolute()
        while not os.path.lexists(place) and place != place.parent:
            place = place.parent
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b'0' * 4096)
            file.flush()
        size = shutil.disk_usage(place).free
    except OSError as error:
        text = f'{absolute} cannot be written: {error.strerror or error}'
        return Finding(name, FAULT, text, Fix(fix))
    hint = 'a checkpoint of a detector takes 0.4'
    return amount(name, f'{absolute}, free', size, (0.5, 5), hint, fix)


CHECKS: tuple[Callable[[Environment], list[Finding]], ...] = (
    check_cuda,
    check_memory,
    check_shared_memory,
    check_folders,
)
