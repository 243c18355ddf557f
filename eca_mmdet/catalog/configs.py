"""Names and files of the shipped configs, in a wheel and in a checkout."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

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
            return compat.external_config(name_or_path)
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
    raise UserError(
        f'config {name_or_path!r} is neither a file nor a shipped name.'
        f'{suggest_config(path.stem, known)} List the names with: eca-mmdet configs',
        code='config-not-found',
    )


def suggest_config(name: str, known: Iterable[str]) -> str:
    """Return 'Did you mean ...?' after a space, or '' if no known name is similar.

    Names that begin alike come first, whatever their depths; of those, ECA's; of
    those, the paper's recipe, and the shortest.
    """

    def letters(text: str) -> str:
        return re.sub(r'\d', '', text.lower().replace('-', '_'))

    typed = letters(name)
    likeness = {
        other: difflib.SequenceMatcher(
            None, typed, letters(other)[: len(typed)]
        ).ratio()
        for other in known
    }
    similar = [other for other in likeness if likeness[other] > 0.7]
    similar.sort(
        key=lambda n: (
            -likeness[n],
            '_eca-' not in n,
            not n.endswith(RECIPE),
            len(n),
            n,
        )
    )
    return f' Did you mean {" or ".join(similar[:3])}?' if similar else ''


class ConfigRow(NamedTuple):
    """A shipped config in ``eca-mmdet configs``."""

    config: str  # its name
    detector: str  # e.g. 'faster-rcnn'
    backbone: str  # e.g. 'r50'
    attention: str  # a mechanism's name, or '-'
    schedule: str  # e.g. '4xb2-1x': processes x images per step, epochs / 12
    box_ap: str  # reported on COCO, 0-100; '-' where nothing was published
    mask_ap: str
    weights: str  # of the backbone: 'automatic', 'manual' or 'random'


def describe_configs(configs: dict[str, Path]) -> list[ConfigRow]:
    """Return what the names, files and published tables tell of shipped configs."""
    reported = {row.config: row.numbers() for row in published_rows()}
    keys = '|'.join(sorted(KEYS, key=len, reverse=True))
    rows = []
    for name, path in configs.items():
        detector, network, _, *rest = name.split('_')
        # 'eca-r50', or timm's 'seresnet50'
        match = re.match(f'(?:({keys})(?:-|(?=resnet)))?(.+)', network)
        key, backbone = match.groups() if match else (None, network)
        attention = find_mechanism(key).name if key else '-'
        box, mask = (
            reported[name][task]['AP'].shown(1)
            if task in reported.get(name, {})
            else '-'
            for task in ('box', 'mask')
        )
        schedule = rest[0] if rest[1:] else 'demo'
        row = (name, detector, backbone, attention, schedule, box, mask)
        rows.append(ConfigRow(*row, weights=_weights_of(path)))
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
