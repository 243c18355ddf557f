"""Hold the files of a distribution against its record."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from eca_mmdet.doctor.environment import hands_off
from eca_mmdet.doctor.finding import FAULT, WARNING, Finding, reinstall
from eca_mmdet.doctor.packages import Package


def damaged_files(package: Package, module: str) -> list[Finding]:
    """Find files that are gone (a fault) or changed (a warning: edited, perhaps).

    Args:
        package: installed by pip; without a record there is nothing to find.
        module: that it provides.
    """
    gone, changed = [], []
    for path, recorded in package.files():
        # Some packages leave a docs/ or tests/ beside their module: no harm there.
        if not path.is_relative_to(package.folder / module) or (
            path.suffix not in ('.py', '.so', '.pyd')
        ):
            continue
        if not path.exists():
            gone.append(path)
        elif path.suffix == '.py' and not _has_hash(path, recorded):
            changed.append(path)
    found = []
    if gone:
        text = (
            f'files of {package} are gone: {len(gone)}, as {_short(package, gone[0])}'
        )
        mend = reinstall(package.name, package.version, hands_off([package]))
        found.append(Finding(module, FAULT, text, mend))
    if changed:
        text = (
            f'files of {package} are not as installed: {len(changed)}, as '
            f'{_short(package, changed[0])}'
        )
        mend = reinstall(package.name, package.version, 'the edits would be lost')
        found.append(Finding(module, WARNING, text, mend))
    return found


def _short(package: Package, path: Path) -> str:
    try:
        return str(path.relative_to(package.folder))
    except ValueError:
        return str(path)


def _has_hash(path: Path, recorded: str) -> bool:
    """Tell whether a file has the recorded hash; True where none can be compared."""
    method, _, expected = recorded.partition('=')
    if method != 'sha256':
        return True
    try:
        digest = hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return True
    return base64.urlsafe_b64encode(digest).rstrip(b'=').decode() == expected
