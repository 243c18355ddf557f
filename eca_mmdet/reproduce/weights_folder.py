"""Find each row's weights in a folder, by what the files hold, not by their names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from eca_mmdet.catalog.configs import shipped_configs
from eca_mmdet.catalog.published import PublishedRow
from eca_mmdet.checkpoints.inspection import Inspection, inspect
from eca_mmdet.utils.errors import UserError, WeightsError

_SUFFIXES = ('.pth', '.pt', '.tar', '.bin', '.safetensors')
_CONVERTED = 'MMDetection v3'  # the layout that `weights convert` writes down

_AS_PUBLISHED = {'': 'none', 'NL': '1 NL'}
_ADDING = ('GC', '1 NL')
"""Attention layers that add to the map; a plain network's weights start them."""


@dataclass(frozen=True)
class FoundFile:
    """A file of weights that was recognised.

    Attributes:
        path: where it is.
        about: what it is.
        attention: as published rows call it.
        detector: 'Faster R-CNN', ... or '' for a backbone.
        version: 'v1', 'converted' (v1 in 3.x's names), 'v3', or '' for a backbone.
        note: what had to be assumed.
    """

    path: Path
    about: Inspection
    attention: str
    detector: str
    version: str
    note: str = ''

    @property
    def kernel_sizes(self) -> tuple[int | None, ...]:
        """Those of the ECA gates, one a stage."""
        return tuple(self.about.kernel_sizes or ())


def scan(
    folder: str | Path, leave_out: str | Path | None = None
) -> tuple[list[FoundFile], list[str]]:
    """Recognise every file of weights in a folder and the folders in it.

    Args:
        folder: searched with its folders.
        leave_out: a folder that is not searched: this command's own results.

    Returns:
        The files by path, and a line for each that cannot be used.

    Raises:
        UserError: there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f'--weights {str(folder)!r} is not a folder.')
    found, notes = [], []
    own = Path(leave_out).resolve() if leave_out else None
    for path in sorted(root.rglob('*')):
        if not path.is_file() or path.suffix not in _SUFFIXES:
            continue
        if own and own in path.resolve().parents:
            continue
        try:
            about = inspect(path)
        except WeightsError as error:
            notes.append(f'{path}: {error}')
            continue
        if about.known:
            found.append(_found(path, about))
        else:
            notes.append(f'{path}: {about.what}')
    return found, notes


def _found(path: Path, about: Inspection) -> FoundFile:
    attention = _AS_PUBLISHED.get(about.gate, about.gate)
    if about.kind != 'detector':
        return FoundFile(path, about, attention, '', '')
    version, note = _version(about)
    return FoundFile(path, about, attention, about.what.split(' of ')[0], version, note)


def _version(about: Inspection) -> tuple[str, str]:
    """Return which MMDetection it is of, and what was assumed."""
    if about.metadata.get('layout') == _CONVERTED:
        return 'converted', ''
    stated = about.origin.removeprefix('MMDetection ')
    if stated == 'v1':
        return 'v1', ''
    if stated.startswith('v1,'):
        # Nothing in a RetinaNet's names changed; all released ECA ones are of v1.
        return 'v1', 'taken for MMDetection v1, which its names cannot tell'
    return 'v3', ''


def detectors_for(row: PublishedRow, files: Iterable[FoundFile]) -> list[FoundFile]:
    """Return the detectors of a row, by path."""
    return [one for one in files if one.detector and _is_of(row, one)]


def backbone_for(row: PublishedRow, files: Iterable[FoundFile]) -> FoundFile | None:
    """Return the first ImageNet classifier or backbone for training a row, or None.

    Rows with NL and GC start from a plain ResNet, as their papers do.
    """
    plain = replace(row, attention='none')
    wanted = plain if row.attention in _ADDING else row
    return next(
        (one for one in files if not one.detector and _is_of(wanted, one)), None
    )


def _is_of(row: PublishedRow, one: FoundFile) -> bool:
    """Tell whether a file has a row's network; a shipped config takes the usual one."""
    same = one.about.depth == row.depth and one.attention == row.attention
    if one.detector:
        same &= one.detector == row.detector
    return same and (row.config not in shipped_configs() or _is_usual(one))


def _is_usual(one: FoundFile) -> bool:
    """Tell the networks that the shipped configs have, for COCO or from ImageNet."""
    about = one.about
    first = about.widths[0][0][0] if about.widths else 0
    other_layers = any('of other layers' in note for note in about.notes)
    return (
        about.classes in ((80, None) if one.detector else (1000, None))
        and about.stem == '7x7, 64'
        and first == 64
        and not about.shortcut.startswith('average')
        and (not other_layers or one.attention in _ADDING)
        and None not in one.kernel_sizes
    )
