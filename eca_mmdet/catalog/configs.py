"""Names and files of the shipped configs, in a wheel and in a checkout."""

from __future__ import annotations

import fnmatch
from pathlib import Path

from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import require_regular
from eca_mmdet.utils.text import suggestion

_MOST_BYTES = 20 << 20

PACKAGE = Path(__file__).resolve().parents[1]


def config_root() -> Path:
    """Return the folder that holds ``mask_rcnn/``, ``_base_/`` and the others."""
    shipped = PACKAGE / '.mim' / 'configs'
    return shipped if shipped.is_dir() else PACKAGE.parent / 'configs'


def shipped_configs(pattern: str = '*') -> dict[str, Path]:
    """Return name to file for every runnable config, sorted by name.

    A shell ``pattern`` without a wildcard matches anywhere in the name.
    """
    if not any(sign in pattern for sign in '*?['):
        pattern = f'*{pattern}*'
    files = sorted(config_root().glob('[!_]*/*.py'), key=lambda file: file.stem)
    return {f.stem: f for f in files if fnmatch.fnmatch(f.stem, pattern)}


def resolve_config(name_or_path: str) -> Path:
    """Return the file of a config given by path or by shipped name."""
    path = Path(name_or_path)
    if path.is_file():
        require_regular(path, 'config', _MOST_BYTES)
        return path
    known = shipped_configs()
    name = name_or_path.removesuffix('.py')
    if name in known:
        return known[name]
    raise UserError(
        f'config {name_or_path!r} is neither a file nor a shipped name.'
        f'{suggestion(path.stem, [*known])} List the names with: eca-mmdet configs',
        code='config-not-found',
    )
