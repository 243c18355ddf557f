"""Names and files of the shipped configs, in a wheel and in a checkout."""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import re
from collections.abc import Iterable
from pathlib import Path

from eca_mmdet import compat
from eca_mmdet.catalog.mechanisms import KEYS, find_mechanism
from eca_mmdet.catalog.published import published_rows
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import require_regular

_MOST_BYTES = 20 << 20

RECIPE = '_4xb2-1x_coco'
"""End of the names of the configs with the paper's recipe."""

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
    """Return the file of a config: path, shipped name or ``mmdet::FOLDER/FILE.py``."""
    if '::' in name_or_path:
        try:
            return compat.external_config(f'{name_or_path.removesuffix(".py")}.py')
        except Exception as error:  # of mmengine: no such package, no such file
            raise UserError(
                f'config {name_or_path!r} was not found: {error}. A config of mmdet is '
                "written e.g. 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'.",
                code='config-not-found',
            ) from error
    path = Path(name_or_path)
    if path.is_file():
        require_regular(path, 'config', _MOST_BYTES)
        return path
    known = shipped_configs()
    name = name_or_path.removesuffix('.py')
    if name in known:
        return known[name]
    near = suggest_config(path.stem, known)
    if len(path.parts) == 2:
        with contextlib.suppress(Exception):  # mmengine's: mmdet has no such config
            compat.external_config(f'mmdet::{name}.py')
            near = f' Did you mean mmdet::{name}.py?'
    raise UserError(
        f'config {name_or_path!r} is neither a file nor a shipped name.'
        f'{near} List the names with: eca-mmdet configs',
        code='config-not-found',
    )


def suggest_config(name: str, known: Iterable[str]) -> str:
    """Return 'Did you mean ...?' after a space, or '' if no known name is similar.

    Names that begin alike come first, whatever their depths; of those, ECA's; of
    those, the paper's recipe, and the shortest.
    """

    def letters(text: str) -> str:
        return re.sub(r'\d', '', text.lower().replace('-', '_'))

    def rank(other: str) -> tuple[float, bool, bool, int, str]:
        start = letters(other)[: len(typed)]
        likeness = difflib.SequenceMatcher(None, typed, start).ratio()
        without = '_eca-' not in other, not other.endswith(RECIPE)
        return -likeness, *without, len(other), other

    typed = letters(name)
    similar = [name for *rest, name in sorted(map(rank, known)) if rest[0] < -0.7]
    return f' Did you mean {" or ".join(similar[:3])}?' if similar else ''


def describe_configs(configs: dict[str, Path]) -> list[dict[str, str]]:
    """Return what the names, files and published tables tell of shipped configs.

    The AP is that reported on COCO, 0-100; weights are the backbone's: 'automatic',
    'manual' or 'random'.
    """
    reported = {row.config: row.numbers() for row in published_rows()}
    keys = '|'.join(sorted(KEYS, key=len, reverse=True))
    rows = []
    for name, path in configs.items():
        detector, network, _, *rest = name.split('_')
        # 'eca-r50', or timm's 'seresnet50'
        _, key, backbone, _ = re.split(f'^(?:({keys})(?:-|(?=resnet)))?(.+)', network)
        ap = {task: n['AP'].shown(1) for task, n in reported.get(name, {}).items()}
        rows.append(
            {
                'config': name,
                'detector': detector,
                'backbone': backbone,
                'attention': find_mechanism(key).name if key else '-',
                'schedule': rest[0] if rest[1:] else 'demo',
                'reported box AP': ap.get('box', '-'),
                'reported mask AP': ap.get('mask', '-'),
                'weights': _weights_of(path),
            }
        )
    return rows


def _weights_of(path: Path) -> str:
    """Return how the backbone's weights are had, from the text of a shipped config."""
    text = re.sub('#.*', '', path.read_text(encoding='utf-8'))
    if found := re.search(r"checkpoint='([^']+)'", text):
        return 'automatic' if '://' in found[1] else 'manual'
    base = re.search(r"^_base_ = '(\.[^']+)'", text, re.M)
    if not base or 'init_cfg=None' in text or '_delete_' in text:
        return 'random'
    return _weights_of(path.parent / base[1])
