"""The machine: threads, memory, disk, shared memory, limits, writable folders."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from eca_mmdet.doctor.environment import Scene
from eca_mmdet.doctor.finding import FAULT, OK, WARNING, Finding, Mend

GIB = 2**30
LITTLE_MEMORY, TOO_LITTLE_MEMORY = 4 * GIB, 1 * GIB
LITTLE_DISK, TOO_LITTLE_DISK = 5 * GIB, GIB // 2
LITTLE_SHARED = GIB // 4
FEW_FILES = 1024
NAMES = (
    'threads',
    'memory',
    'shared memory',
    'open files',
    'work folder',
    'temporary files',
    'weights cache',
)
"""Of these findings; a fault among them does not keep a detector from training."""

CGROUP = Path('/sys/fs/cgroup')


def cores() -> float:
    """Return the CPUs that this process may use: by affinity and by its cgroup."""
    try:
        count = float(len(os.sched_getaffinity(0)))
    except (AttributeError, OSError):  # not Linux
        count = float(os.cpu_count() or 1)
    quota = _text(CGROUP / 'cpu.max').split()
    if len(quota) != 2:  # version 1
        quota = [
            _text(CGROUP / 'cpu' / f'cpu.cfs_{name}_us') for name in ('quota', 'period')
        ]
    with contextlib.suppress(ValueError, ZeroDivisionError):
        if (share := float(quota[0]) / float(quota[1])) > 0:
            count = min(count, share)
    return count


def free_memory() -> int | None:
    """Return the bytes that machine and cgroup still have to give; None if unknown."""
    found = []
    for line in _text(Path('/proc/meminfo')).splitlines():
        if line.startswith('MemAvailable:'):
            found.append(int(line.split()[1]) * 1024)
    for limit, used in (
        (CGROUP / 'memory.max', CGROUP / 'memory.current'),
        (
            CGROUP / 'memory' / 'memory.limit_in_bytes',
            CGROUP / 'memory' / 'memory.usage_in_bytes',
        ),
    ):
        with contextlib.suppress(ValueError):  # 'max', or not there
            found.append(max(0, int(_text(limit)) - int(_text(used))))
    return min(found, default=None)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ''


def check_threads(scene: Scene) -> list[Finding]:
    """Does OMP_NUM_THREADS suit the CPUs that are really there?"""
    count = cores()
    whole = max(1, int(count))
    value = os.environ.get('OMP_NUM_THREADS')
    mend = Mend(f'export OMP_NUM_THREADS={whole}')
    told = f'{count:g} CPUs'
    if value is None:
        torch = (scene.result('torch').value or {}).get('threads', whole)
        if torch > count:
            text = f'torch starts {torch} threads on {told}'
            return [Finding('threads', WARNING, text, mend)]
        text = f'{told}, {torch} threads'
        return [Finding('threads', OK, text)]
    try:
        threads = int(value.split(',')[0])
    except ValueError:
        text = f'OMP_NUM_THREADS={value!r} is no number'
        return [Finding('threads', WARNING, text, mend)]
    if threads > count or threads < 1:
        text = f'OMP_NUM_THREADS={value} on {told}'
        return [Finding('threads', WARNING, text, mend)]
    return [Finding('threads', OK, f'{told}, OMP_NUM_THREADS={value}')]


def check_memory(scene: Scene) -> list[Finding]:
    """Is there memory for a detector?"""
    free = free_memory()
    if free is None:
        return []
    text = f'{free / GIB:.1f} GiB can still be taken'
    mend = Mend('ps aux --sort=-rss | head  (end what takes it, or raise the limit)')
    if free < TOO_LITTLE_MEMORY:
        return [
            Finding('memory', FAULT, f'only {text}; importing mmdet takes 0.6', mend)
        ]
    if free < LITTLE_MEMORY:
        return [
            Finding('memory', WARNING, f'{text}; training a ResNet-50 takes 4', mend)
        ]
    return [Finding('memory', OK, text)]


def check_shared_memory(scene: Scene) -> list[Finding]:
    """Is /dev/shm large enough? Workers of a data loader hand batches over there."""
    try:
        total = shutil.disk_usage('/dev/shm').total
    except OSError:  # not Linux
        return []
    text = f'/dev/shm has {total / GIB:.2f} GiB'
    if total >= LITTLE_SHARED:
        return [Finding('shared memory', OK, text)]
    mend = Mend(
        'docker run --shm-size=2g ...  (or train with --cfg-options '
        'train_dataloader.num_workers=0 train_dataloader.persistent_workers=False)'
    )
    text += ': workers of a data loader end there with a bus error'
    return [Finding('shared memory', WARNING, text, mend)]


def check_open_files(scene: Scene) -> list[Finding]:
    """May a process open the files and pipes that data loaders need?"""
    try:
        import resource
    except ImportError:  # Windows
        return []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= FEW_FILES:
        return [Finding('open files', OK, 'unlimited' if soft < 0 else f'{soft}')]
    mend = Mend('ulimit -n 4096')
    text = f'a process may open {soft} files only; data loaders take hundreds'
    return [Finding('open files', WARNING, text, mend)]


def weights_cache() -> Path:
    """Return torch's folder of downloads, as torch.hub.get_dir does, without torch."""
    cache = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    home = os.environ.get('TORCH_HOME') or os.path.join(cache, 'torch')
    return Path(os.path.expanduser(home)) / 'hub'


def check_folders(scene: Scene) -> list[Finding]:
    """Can we write runs, temporary files and weights, and is there room?"""
    found = check_folder('work folder', Path('.'), 'cd to a folder of yours')
    for name in ('work_dirs', 'runs'):
        if os.path.lexists(name):
            other = f'chmod u+w {name}  (or name another with --work-dir or --out)'
            found += [
                one
                for one in check_folder('work folder', Path(name), other)
                if one.state != OK
            ]
    try:
        temporary = Path(tempfile.gettempdir())
    except OSError as error:  # none of the usual folders takes a file
        mend = Mend('export TMPDIR=FOLDER')
        found.append(Finding('temporary files', FAULT, str(error), mend))
    else:
        found += check_folder('temporary files', temporary, 'export TMPDIR=FOLDER')
    found += check_folder('weights cache', weights_cache(), 'export TORCH_HOME=FOLDER')
    return found


def check_folder(name: str, folder: Path, mend: str) -> list[Finding]:
    """Write a file that leaves nothing behind; of a folder to come, beside it."""
    absolute = place = folder
    try:
        absolute = place = folder.absolute()
        while not os.path.lexists(place) and place != place.parent:
            place = place.parent
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b'0' * 4096)
            file.flush()
        free = shutil.disk_usage(place).free
    except OSError as error:
        text = f'{absolute} cannot be written: {error.strerror or error}'
        return [Finding(name, FAULT, text, Mend(mend))]
    text = f'{absolute}, {free / GIB:.1f} GiB free'
    if free < TOO_LITTLE_DISK:
        return [Finding(name, FAULT, f'{text}: no checkpoint fits', Mend(mend))]
    if free < LITTLE_DISK:
        return [Finding(name, WARNING, f'{text}: a checkpoint of a detector takes 0.4')]
    return [Finding(name, OK, text)]
