"""Snapshot of the Python environment: installed packages and results of imports.

Modules are imported in subprocesses, so that a crash, an abort or a hang is one result.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eca_mmdet.utils.text import printable

LIMIT_S = 180.0
"""Time limit of one subprocess in seconds; torch takes a minute from a cold disk."""

STEPS_FILE = Path(__file__).with_name('steps.py')

STEPS: dict[str, tuple[str, ...]] = {
    'numpy': (),
    'torch': (),
    'cuda': ('torch',),
    'torchvision': ('torch',),
    'cv2': (),
    'pycocotools': ('numpy',),
    'hotcoco': (),
    'pkg_resources': (),
    'mmengine': ('torch',),
    'mmcv': ('mmengine', 'cv2'),
    'mmcv.ops': ('mmcv',),
    'mmdet': ('mmcv',),
}
"""Step to the earlier steps it cannot run without."""

_RUN = (
    'import json, runpy, sys; file, path, *names = sys.argv[1:]; '
    'sys.path[:] = json.loads(path); sys.argv[1:] = names; '
    'runpy.run_path(file, run_name="__main__")'
)

TRIO = ('mmdet', 'mmcv', 'mmengine')
FAMILIES = {
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmcv': ('onedl-mmcv', 'mmcv-lite', 'mmcv', 'mmcv-full'),
    'mmengine': ('onedl-mmengine', 'mmengine', 'mmengine-lite'),
    'cv2': (
        'opencv-python',
        'opencv-python-headless',
        'opencv-contrib-python',
        'opencv-contrib-python-headless',
    ),
    'pkg_resources': ('setuptools',),
}
"""Module to the distributions that provide it; they overwrite each other's files."""


@dataclass(frozen=True)
class Result:
    """Result of a step."""

    value: dict[str, Any] | None = None  # None if it failed
    error: str = ''  # type of the exception, or 'died'
    message: str = ''  # of the exception, or how the process ended; one line
    missing: str = ''  # module that was not found
    blocked_by: str = ''  # failed step that it needs, so that it was not run
    warnings: tuple[str, ...] = ()

    @property
    def works(self) -> bool:
        """Whether the step succeeded."""
        return self.value is not None

    def mentions(self, *texts: str) -> bool:
        """Return whether the exception or a warning contains any of the texts."""
        messages = (self.message, *self.warnings)
        return any(text in message for text in texts for message in messages)


def probe(steps: Sequence[str], limit_s: float = LIMIT_S) -> dict[str, Result]:
    """Run the steps in as few subprocesses as their failures allow.

    Steps are names in :mod:`eca_mmdet.doctor.steps`, or modules to import, each after
    those that it needs. ``limit_s`` is the time limit of each subprocess in seconds.
    """
    results: dict[str, Result] = {}
    left = list(steps)
    while left:
        if blocker := _blocker(left[0], results):
            results[left.pop(0)] = Result(blocked_by=blocker)
            continue
        count = next((i for i, n in enumerate(left) if _blocker(n, results)), len(left))
        records, ending = run_child(STEPS_FILE, left[:count], limit_s)
        begun = [record['begin'] for record in records if 'begin' in record]
        if not begun:
            results |= dict.fromkeys(left, Result(blocked_by='python'))
            return {**results, 'python': Result(error='died', message=ending)}
        results |= {r['step']: _result(r) for r in records if 'step' in r}
        results.setdefault(begun[-1], Result(error='died', message=ending))
        left = [name for name in left if name not in results]
    return results


def _blocker(name: str, results: dict[str, Result]) -> str:
    """Return a failed step that this one needs; '' if it can run."""
    failed = (n for n in STEPS.get(name, ()) if n in results and not results[n].works)
    return next(failed, '')


def _result(record: dict[str, Any]) -> Result:
    warned = tuple(one_line(text) for text in record['warnings'])
    if 'error' not in record:
        return Result(value=record['value'], warnings=warned)
    return Result(
        error=record['error'],
        message=one_line(record['message']) or record['error'],
        missing=record['missing'] or '',
        warnings=warned,
    )


def run_child(
    file: Path, names: Sequence[str], limit_s: float
) -> tuple[list[dict[str, Any]], str]:
    """Run a Python file with the search path of this process.

    Returns the JSON objects it wrote, and how it ended ('' if it succeeded).
    """
    argv = [sys.executable, '-c', _RUN, str(file), json.dumps(sys.path), *names]
    streams: Any = dict(stdin=subprocess.DEVNULL, capture_output=True)
    try:
        process = subprocess.run(argv, **streams, timeout=limit_s)
        out, err, code = process.stdout, process.stderr, process.returncode
        ending = f'ended Python with exit code {code}' if code else ''
        if code < 0:
            ending = f'ended Python with signal {-code} ({signal.strsignal(-code)})'
    except subprocess.TimeoutExpired as late:
        out, err = late.stdout or b'', late.stderr or b''
        ending = f'did not end within {limit_s:g} s'
    except OSError as error:  # e.g. no memory for a process
        return [], f'no process could be started: {error}'
    lines = err.decode(errors='replace').strip().splitlines()
    if ending and lines:
        ending += f' ({one_line(lines[-1])})'
    return list(_records(out)), ending


def _records(out: bytes) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects; the last line may be incomplete."""
    for line in out.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def one_line(text: str) -> str:
    """Return a message as one printable line of at most 300 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return printable(' '.join(lines))[:300]


@dataclass(frozen=True)
class Package:
    """Installed distribution in a folder of the search path."""

    name: str  # normalised, e.g. 'onedl-mmcv'
    version: str
    folder: Path
    sources: str  # URL of an editable install's sources; '' otherwise
    distribution: Any

    def __str__(self) -> str:
        return f'{self.name} {self.version}'

    def requirements(self, extra: str = '') -> list[Any]:
        """Return what it requires on this machine, or what one of its extras adds.

        Nothing without packaging, which matplotlib installs.
        """
        try:
            from packaging.requirements import Requirement
        except ImportError:
            return []
        requirements = []
        for line in self.distribution.requires or ():
            with contextlib.suppress(ValueError):  # unreadable
                wanted = Requirement(line)
                marker = wanted.marker
                always, with_extra = (
                    marker is None or marker.evaluate({'extra': e}) for e in ('', extra)
                )
                if with_extra and not (extra and always):
                    requirements.append(wanted)
        return requirements


def normalised(name: str) -> str:
    """Return the canonical spelling of a distribution's name."""
    return re.sub(r'[-_.]+', '-', name).lower()


def meets(package: Package, wanted: Any) -> bool:
    """Return whether a requirement accepts a version; True if it is unreadable."""
    try:
        return bool(wanted.specifier.contains(package.version, prereleases=True))
    except ValueError:
        return True


def plain(wanted: Any) -> str:
    """Return a requirement as pip takes it, without its marker."""
    return f'{wanted.name}{wanted.specifier}'


def installed_packages() -> dict[str, list[Package]]:
    """Return the distributions by name, in the order of the search path."""
    importlib.invalidate_caches()
    # Its listings are cached by the folder's mtime, which pip may set back.
    importlib.metadata.MetadataPathFinder().invalidate_caches()
    found: dict[str, list[Package]] = {}
    for distribution in importlib.metadata.distributions():
        try:
            url = json.loads(distribution.read_text('direct_url.json') or '{}')
            editable = url.get('dir_info', {}).get('editable')
            package = Package(
                normalised(distribution.metadata['Name']),
                str(distribution.version),
                Path(str(distribution.locate_file(''))).resolve(),
                str(url.get('url', '')) if editable else '',
                distribution,
            )
        except (KeyError, TypeError, ValueError, AttributeError, OSError):
            continue  # remains of a distribution without readable metadata
        same = found.setdefault(package.name, [])
        if package.folder not in {other.folder for other in same}:
            same.append(package)
    return found


@dataclass
class Environment:
    """Installed packages by name, and the result of each step of the probe."""

    packages: dict[str, list[Package]]
    results: dict[str, Result] = field(default_factory=dict)

    def result(self, step: str) -> Result:
        """Return the result of a step; blocked if it was not run."""
        return self.results.get(step, Result(blocked_by='an earlier step'))

    def providers(self, module: str) -> list[Package]:
        """Return the distributions that provide a module."""
        names = FAMILIES.get(module, (normalised(module),))
        return [package for name in names for package in self.packages.get(name, ())]

    def overlapping(self, module: str) -> list[Package]:
        """Return providers that share a folder and overwrite each other's files."""
        found = self.providers(module)
        folders = [package.folder for package in found]
        return [package for package in found if folders.count(package.folder) > 1]

    def active(self, module: str) -> Package | None:
        """Return the distribution whose files ``import`` finds, as far as known."""
        folder, found = folder_of(module), self.providers(module)
        here = [package for package in found if package.folder == folder]
        # Of several in one folder, the last installed has its version in the files.
        version = (self.result(module).value or {}).get('version')
        here.sort(key=lambda package: package.version != version)
        linked = [package for package in found if package.sources]
        return next(iter([*here, *linked, *(found if folder is None else ())]), None)

    def own(self) -> Package | None:
        """Return the installed eca-mmdet, which may not be the running copy."""
        return next(iter(self.packages.get('eca-mmdet', ())), None)

    def required(self, extra: str = '') -> list[Any]:
        """Return what eca-mmdet requires, or what one of its extras adds."""
        own = self.own()
        return own.requirements(extra) if own else []

    def requirement(self, module: str) -> str:
        """Return what eca-mmdet requires for a module, as pip takes it; or ''."""
        names = FAMILIES.get(module, (normalised(module),))
        wanted = [*self.required(), *self.required(self.extra())]
        found = (plain(w) for w in wanted if normalised(w.name) in names)
        return next(found, '')

    def extra(self) -> str:
        """Return the extra of eca-mmdet that is installed, or should be."""
        for module in TRIO:
            found = [self.active(module), *self.providers(module)]
            for package in filter(None, found):
                return 'onedl' if package.name.startswith('onedl-') else 'openmmlab'
        return 'onedl'


def located(module: str) -> Path | None:
    """Return the file, or folder without ``__init__.py``, that ``import`` finds."""
    try:
        spec = importlib.util.find_spec(module.partition('.')[0])  # imports nothing
    except (ImportError, ValueError, AttributeError, OSError):
        return None
    if spec is None:
        return None
    path = spec.origin or next(iter(spec.submodule_search_locations or ()), None)
    return Path(path) if path else None


def folder_of(module: str) -> Path | None:
    """Return the folder of the search path that a module is imported from."""
    path = located(module)
    if path is None:
        return None
    return path.parents[path.name == '__init__.py'].resolve()


def kind_of_environment() -> str:
    """Return 'venv', 'conda', or '' for a Python that others may share."""
    if sys.prefix != sys.base_prefix:
        return 'venv'
    return 'conda' if (Path(sys.prefix) / 'conda-meta').is_dir() else ''


def pip_obstacle() -> str:
    """Return why pip cannot or must not change this environment; '' if it may."""
    if not kind_of_environment():
        venv = f'{sys.executable} -m venv .venv'
        return (
            f'{sys.prefix} is neither a venv nor a conda environment; make one: {venv}'
        )
    if importlib.util.find_spec('pip') is None:
        return f'{sys.prefix} has no pip: {sys.executable} -m ensurepip --upgrade'
    folder = sysconfig.get_path('purelib')
    return '' if os.access(folder, os.W_OK) else f'{folder} is not writable'
