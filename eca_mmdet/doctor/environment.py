"""Snapshot of the Python environment: installed packages and results of imports.

Modules are imported in subprocesses, so that a crash, an abort or a hang is one result.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eca_mmdet.utils.text import clipped

LIMIT_S = 180.0
"""Time limit of one subprocess in seconds; torch takes a minute from a cold disk."""

STEPS_FILE = Path(__file__).with_name('steps.py')

STEPS: dict[str, tuple[str, ...]] = {
    'packaging': (),
    'numpy': (),
    'torch': (),
    'cuda': ('torch',),
    'torchvision': ('torch',),
    'cv2': (),
    'pycocotools': ('numpy',),
    'pkg_resources': (),
    'mmengine': ('torch',),
    'mmcv': ('mmengine', 'cv2'),
    'mmcv.ops': ('mmcv',),
    'mmdet': ('mmcv',),
}
"""Step to the earlier steps it cannot run without."""

RUN = (
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
    missing: str | None = None  # module that was not found
    blocked_by: str = ''  # failed step that it needs, so that it was not run
    warnings: Sequence[str] = ()

    @property
    def works(self) -> bool:
        """Whether the step succeeded."""
        return self.value is not None


def probe(steps: Sequence[str], limit_s: float = LIMIT_S) -> dict[str, Result]:
    """Run the steps in as few subprocesses as their failures allow.

    Steps are names in :mod:`eca_mmdet.doctor.steps`, or modules to import, each after
    those that it needs. ``limit_s`` is the time limit of each subprocess in seconds.
    The result 'python' is that of starting a process.
    """
    results: dict[str, Result] = {}
    while True:
        for name in steps:
            needed = [n for n in ('python', *STEPS.get(name, ())) if n in results]
            failed = [n for n in needed if not results[n].works]
            if failed and name not in results:
                results[name] = Result(blocked_by=failed[0])
        left = [name for name in steps if name not in results]
        if not left:
            return results
        ended, ending = run_child(STEPS_FILE, ['python', *left], limit_s)
        results |= ended
        # The process stops after a failure; if there was none, the next step ended it.
        died = [name for name in ('python', *left) if name not in results]
        if died and all(result.works for result in ended.values()):
            results[died[0]] = Result(error='died', message=ending or 'ended Python')


def run_child(
    file: Path, names: Sequence[str], limit_s: float
) -> tuple[dict[str, Result], str]:
    """Run a file that calls ``steps.run_program``, with this process's search path.

    Returns the results of its steps, and how it ended ('' if it succeeded).
    """
    argv = [sys.executable, '-c', RUN, str(file), json.dumps(sys.path), *names]
    try:
        process = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit_s
        )
        out, err, code = process.stdout, process.stderr, process.returncode
        ending = f'ended Python with exit code {code}' if code else ''
        if code < 0:
            ending = f'ended Python with signal {-code} ({signal.strsignal(-code)})'
    except subprocess.TimeoutExpired as late:
        out, err = late.stdout or b'', late.stderr or b''
        ending = f'did not end within {limit_s:g} s'
    lines = err.decode(errors='replace').strip().splitlines()
    if ending and lines:
        ending += f' ({clipped(lines[-1], 300)})'
    # A process that was killed may leave an incomplete line.
    written = [line for line in out.splitlines(keepends=True) if line.endswith(b'}\n')]
    records = [json.loads(line) for line in written]
    return {record.pop('step'): Result(**record) for record in records}, ending


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

    def requirements(self, *extras: str) -> list[Any]:
        """Return what it requires on this machine, with extras; markers are removed.

        Nothing without packaging, which matplotlib installs.
        """
        try:
            from packaging.requirements import Requirement
        except ImportError:
            return []
        contexts = [{'extra': extra} for extra in ('', *extras)]
        requirements = []
        for line in self.distribution.requires or ():
            with contextlib.suppress(ValueError):  # unreadable
                wanted = Requirement(line)
                if not wanted.marker or any(map(wanted.marker.evaluate, contexts)):
                    wanted.name, wanted.marker = normalised(wanted.name), None
                    requirements.append(wanted)
        return requirements

    def meets(self, wanted: Any) -> bool:
        """Return whether a requirement accepts its version."""
        return bool(wanted.specifier.contains(self.version, prereleases=True))


def normalised(name: str) -> str:
    """Return the canonical spelling of a distribution's name."""
    return re.sub(r'[-_.]+', '-', name).lower()


def installed_packages() -> dict[str, Package]:
    """Return the distributions by name; the first on the search path of each."""
    importlib.invalidate_caches()
    # Its listings are cached by the folder's mtime, which pip may set back.
    importlib.metadata.MetadataPathFinder().invalidate_caches()
    found: dict[str, Package] = {}
    for distribution in importlib.metadata.distributions():
        try:
            name = normalised(distribution.metadata['Name'])
            version = str(distribution.version)
            origin = json.loads(distribution.read_text('direct_url.json') or '{}')
        except (KeyError, TypeError, ValueError):
            continue  # remains of a distribution without readable metadata
        folder = Path(str(distribution.locate_file(''))).resolve()
        sources = origin['url'] if origin.get('dir_info', {}).get('editable') else ''
        found.setdefault(name, Package(name, version, folder, sources, distribution))
    return found


@dataclass(frozen=True)
class Module:
    """What is known of a module."""

    name: str
    names: tuple[str, ...]  # of the distributions that can provide it
    providers: list[Package]  # those that are installed
    package: Package | None  # the provider that ``import`` finds, as far as known
    path: Path | None  # file that ``import`` finds
    result: Result


@dataclass
class Environment:
    """Installed packages by name, and the result of each step of the probe."""

    packages: dict[str, Package]
    results: dict[str, Result] = field(default_factory=dict)

    @classmethod
    def current(cls) -> Environment:
        """Read the metadata and try the imports."""
        environment = cls(installed_packages())
        environment.results = probe([*STEPS, *environment.other_modules()])
        return environment

    def module(self, name: str) -> Module:
        """Return what is known of a module, or of the module that it is a part of."""
        root = name.partition('.')[0]
        names = FAMILIES.get(root, (normalised(root),))
        providers = [self.packages[n] for n in names if n in self.packages]
        path = located(root)
        folders = [folder.resolve() for folder in path.parents] if path else []
        found = [p for p in providers if p.sources or not path or p.folder in folders]
        result = self.results.get(name, Result(blocked_by='an earlier step'))
        # Of several in one folder, the last installed has its version in the files.
        version = (result.value or {}).get('version')
        found.sort(key=lambda package: package.version != version)
        return Module(name, names, providers, next(iter(found), None), path, result)

    def package(self, module: str) -> Package | None:
        """Return the distribution that a module is imported from."""
        return self.module(module).package

    def required(self, *extras: str) -> list[Any]:
        """Return what the installed eca-mmdet requires, with extras."""
        own = self.packages.get('eca-mmdet')
        return own.requirements(*extras) if own else []

    def other_modules(self) -> list[str]:
        """Return the modules that eca-mmdet requires and that are not in STEPS."""
        names = [wanted.name.replace('-', '_') for wanted in self.required()]
        return [name for name in names if name not in {*STEPS, 'opencv_python'}]

    def requirement(self, module: str) -> str:
        """Return what eca-mmdet requires for a module, as pip takes it; or ''."""
        names = self.module(module).names
        wanted = self.required(self.extra())
        return next((str(w) for w in wanted if w.name in names), '')

    def extra(self) -> str:
        """Return the extra of eca-mmdet that is installed, or should be."""
        found = [package.name for name in TRIO if (package := self.package(name))]
        original = found and not found[0].startswith('onedl-')
        return 'openmmlab' if original else 'onedl'


def located(module: str) -> Path | None:
    """Return the file that ``import`` finds; None for a folder without __init__.py."""
    try:
        spec = importlib.util.find_spec(module)  # imports nothing
    except (ImportError, ValueError, AttributeError, OSError):
        return None
    return Path(spec.origin) if spec and spec.origin else None
