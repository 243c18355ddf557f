"""The distributions of this environment, read from their metadata alone."""

from __future__ import annotations

import csv
import importlib
import importlib.metadata
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
}
"""Import name to the distributions that provide it; each excludes the others."""

_PACKAGING = ('packaging', 'pip._vendor.packaging', 'setuptools._vendor.packaging')


@dataclass(frozen=True)
class Package:
    """An installed distribution.

    Attributes:
        name: normalised, as 'onedl-mmcv'.
        version: as its metadata say.
        folder: the site-packages folder that it is in.
        requires: lines of ``Requires-Dist``.
        source: of ``pip install``, where that was an address or a folder.
        editable: whether it is a link to a folder of sources.
    """

    name: str
    version: str
    folder: Path
    requires: tuple[str, ...] = ()
    source: str = ''
    editable: bool = False
    distribution: Any = None

    def __str__(self) -> str:
        return f'{self.name} {self.version}'

    def files(self) -> Iterator[tuple[Path, str]]:
        """Yield path and hash ('sha256=...', or '') of each recorded file.

        Nothing comes where the record is missing, as in packages of conda or Debian.
        """
        text = self.distribution.read_text('RECORD') or ''
        for row in csv.reader(text.splitlines()):
            if len(row) >= 2 and row[0]:
                yield self.folder / row[0], row[1]


def normalised(name: str) -> str:
    """Return the one spelling of a distribution's name."""
    return re.sub(r'[-_.]+', '-', name).lower()


def installed() -> dict[str, list[Package]]:
    """Return the distributions by name, in the order in which Python finds them."""
    importlib.invalidate_caches()
    # Its listings are kept by the folder's time of change, which pip may set back.
    importlib.metadata.MetadataPathFinder().invalidate_caches()
    found: dict[str, list[Package]] = {}
    seen = set()
    for distribution in importlib.metadata.distributions():
        package = _package(distribution)
        if package and (package.name, package.folder, package.version) not in seen:
            seen.add((package.name, package.folder, package.version))
            found.setdefault(package.name, []).append(package)
    return found


def _package(distribution: importlib.metadata.Distribution) -> Package | None:
    """Return one; None for the remains of a folder without readable metadata."""
    try:
        name, version = distribution.metadata['Name'], distribution.version
        folder = Path(str(distribution.locate_file(''))).resolve()
        if not name or not version:
            return None
        requires = tuple(distribution.requires or ())
        url = json.loads(distribution.read_text('direct_url.json') or '{}')
        return Package(
            normalised(name),
            version,
            folder,
            requires,
            str(url.get('url', '')),
            bool(url.get('dir_info', {}).get('editable')),
            distribution,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OSError):
        return None


def packaging(module: str) -> Any:
    """Return a module of packaging, pip's copy if need be; None without any."""
    for root in _PACKAGING:
        try:
            return importlib.import_module(f'{root}.{module}')
        except Exception:  # a damaged copy is as good as none
            continue
    return None


def requirement(line: str) -> Any:
    """Parse a line of ``Requires-Dist``; None if that cannot be done."""
    module = packaging('requirements')
    try:
        return module and module.Requirement(line)
    except ValueError:
        return None


def requirements(package: Package, extra: str = '') -> list[Any]:
    """Return what a package requires here, or what one of its extras adds."""
    found = []
    for line in package.requires:
        one = requirement(line)
        if one is None:
            continue
        plain = one.marker is None or one.marker.evaluate({'extra': ''})
        asked = one.marker is not None and one.marker.evaluate({'extra': extra})
        if asked and not plain if extra else plain:
            found.append(one)
    return found


def meets(version: str, specifier: Any) -> bool:
    """Tell whether a version is in a range; True if it cannot be read."""
    try:
        return bool(specifier.contains(version, prereleases=True))
    except ValueError:
        return True


def plain(wanted: Any) -> str:
    """Return a requirement as pip takes it, without its marker."""
    return f'{wanted.name}{wanted.specifier}'
