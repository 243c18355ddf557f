"""What all checks look at: the installed packages, and how their imports went."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eca_mmdet.catalog.configs import PACKAGE
from eca_mmdet.doctor import packages
from eca_mmdet.doctor.finding import Mend, pip
from eca_mmdet.doctor.packages import FAMILIES, Package
from eca_mmdet.doctor.probe import Result

TRIO = ('mmdet', 'mmcv', 'mmengine')
ONEDL, OPENMMLAB = 'onedl', 'openmmlab'


@dataclass
class Scene:
    """One look at the environment.

    Attributes:
        packages: by name, in the order in which Python finds them.
        results: how each step of :mod:`eca_mmdet.doctor.probe` went.
    """

    packages: dict[str, list[Package]]
    results: dict[str, Result] = field(default_factory=dict)

    def result(self, step: str) -> Result:
        """Return how a step went; one that was not tried is blocked."""
        return self.results.get(step, Result(blocked_by='an earlier step'))

    def of(self, module: str) -> list[Package]:
        """Return the distributions that provide a module."""
        names = FAMILIES.get(module, (packages.normalised(module),))
        return [one for name in names for one in self.packages.get(name, ())]

    def active(self, module: str) -> Package | None:
        """Return the distribution whose files are imported, as far as can be told."""
        found = self.of(module)
        holder = folder_of(module)
        here = [one for one in found if one.folder == holder]
        if (
            len(here) > 1
        ):  # the one that was installed last has its version in the files
            value = self.result(module).value or {}
            here.sort(key=lambda one: one.version != value.get('version'))
        linked = [one for one in found if one.editable]
        rest = found if holder is None else []
        return next(iter([*here, *linked, *rest]), None)

    def own(self) -> Package | None:
        """Return the installed eca-mmdet, of which this code may be a copy."""
        return next(iter(self.packages.get('eca-mmdet', ())), None)

    def required(self, extra: str = '') -> list[Any]:
        """Return what eca-mmdet requires, or what one of its extras adds."""
        own = self.own()
        return packages.requirements(own, extra) if own else []

    def line(self) -> str:
        """Return the line of mmdet that this environment has, or should get."""
        for module in TRIO:
            names = [one.name for one in self.of(module)]
            if active := self.active(module):
                names = [active.name, *names]
            if any(name.startswith('onedl-') for name in names[:1]):
                return ONEDL
            if names:
                return OPENMMLAB
        return ONEDL

    def pin(self, module: str) -> Any:
        """Return what this line requires to provide a module; None if unknown."""
        family = FAMILIES.get(module, (module,))
        pins = self.required(self.line())
        return next((p for p in pins if packages.normalised(p.name) in family), None)

    def put_right(self, *modules: str) -> Mend:
        """Return the mend that leaves the line's own distribution of each module."""
        pins = {module: self.pin(module) for module in modules}
        if not all(pins.values()):
            return install_line(self.line())
        remove = []
        for module, wanted in pins.items():
            found = self.of(module)
            whole = len(found) == 1
            keep = packages.normalised(wanted.name) if whole else ''
            remove += [one.name for one in found if one.name != keep]
        wanted_texts = [packages.plain(one) for one in pins.values()]
        install = ['install']
        if all(self.of(module) for module in modules):
            # Their dependencies are judged one by one; pip must not add an OpenCV.
            install += ['--no-deps', '--force-reinstall']
        calls = [['uninstall', '-y', *dict.fromkeys(remove)]] if remove else []
        return pip(*calls, [*install, *wanted_texts], by_hand=self._hands_off(modules))

    def _hands_off(self, modules: tuple[str, ...]) -> str:
        """Return why ``--fix`` must not replace these modules; '' if it may."""
        extension = self.result('mmcv._ext').value or {}
        if 'mmcv' in modules and extension.get('supplied') is False:
            return 'it would remove an mmcv whose compiled operators work'
        return hands_off(one for module in modules for one in self.of(module))


def hands_off(found: Iterable[Package]) -> str:
    """Return why ``--fix`` must not replace any of these; '' if it may."""
    for one in found:
        if one.editable:
            return f'{one.name} is a link to your sources, {one.source}'
        if not is_ours(one.folder):
            return f'{one.name} is in {one.folder}, outside this environment'
        installer = one.distribution.read_text('INSTALLER') or ''
        if installer.strip() == 'conda':
            return f'conda installed {one.name}, and should replace it'
    return ''


def install_line(line: str) -> Mend:
    """Return the mend where the installed eca-mmdet does not tell its versions."""
    checkout = PACKAGE.parent
    if (checkout / 'pyproject.toml').is_file():
        return pip(['install', '-e', f'{checkout}[{line}]'])
    return pip(['install', f'eca-mmdet[{line}]'], by_hand='name the wheel or the clone')


def located(module: str) -> Path | None:
    """Return the file that ``import module`` would run, without running it.

    A folder comes back where there is one of that name without an ``__init__.py``.
    """
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError, OSError):
        return None
    if spec is None:
        return None
    if spec.origin:
        return Path(spec.origin)
    folders = list(spec.submodule_search_locations or ())
    return Path(folders[0]) if folders else None


def folder_of(module: str) -> Path | None:
    """Return the folder of the search path that a module comes from."""
    path = located(module)
    if path is None:
        return None
    inside = path.name == '__init__.py'
    return (path.parents[1] if inside else path.parent).resolve()


def is_ours(folder: Path) -> bool:
    """Tell whether pip of this interpreter installs into a folder."""
    import site

    roots = [sys.prefix, site.getusersitepackages()]
    return any(folder.is_relative_to(Path(root).resolve()) for root in roots)
