"""Snapshot of the Python environment: installed packages and results of imports."""

from __future__ import annotations

import contextlib
import csv
import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eca_mmdet.doctor.probe import Result

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
class Package:
    """Installed distribution in a folder of the search path."""

    name: str  # normalised, e.g. 'onedl-mmcv'
    version: str
    folder: Path
    sources: str  # URL of an editable install's sources; '' otherwise
    distribution: Any

    def __str__(self) -> str:
        return f'{self.name} {self.version}'

    def files(self) -> Iterator[Path]:
        """Yield the recorded files; none if there is no record."""
        text = self.distribution.read_text('RECORD') or ''
        rows = csv.reader(text.splitlines())
        yield from (self.folder / row[0] for row in rows if row)

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
