"""Weights of each row in a folder, found by what the files hold, not by their names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from eca_mmdet.catalog.configs import shipped_configs
from eca_mmdet.catalog.published import PublishedRow
from eca_mmdet.checkpoints.inspection import Inspection, inspect
from eca_mmdet.utils.errors import UserError, WeightsError

_SUFFIXES = ('.pth', '.pt', '.tar', '.bin', '.safetensors')
_AS_PUBLISHED = {'': 'none', 'NL': '1 NL'}
_ADDING = ('GC', '1 NL')
"""Attention layers that add to the map; a plain network's weights start them."""


@dataclass(frozen=True)
class WeightsFile:
    """A recognised file of weights.

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
    detector: str = ''
    version: str = ''
    note: str = ''


def scan(
    folder: str | Path, leave_out: str | Path | None = None
) -> tuple[list[WeightsFile], list[str]]:
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
        raise UserError(
            f'--weights {str(folder)!r} is not a folder.', code='file-not-found'
        )
    found, notes = [], []
    own = Path(leave_out).resolve() if leave_out else None
    for path in sorted(root.rglob('*')):
        usable = path.is_file() and path.suffix in _SUFFIXES
        if not usable or own in path.resolve().parents:
            continue
        try:
            about = inspect(path)
        except WeightsError as error:
            notes.append(f'{path}: {error}')
            continue
        if about.known:
            found.append(_describe(path, about))
        else:
            notes.append(f'{path}: {about.what}')
    return found, notes


def _describe(path: Path, about: Inspection) -> WeightsFile:
    file = WeightsFile(path, about, _AS_PUBLISHED.get(about.gate, about.gate))
    if about.kind != 'detector':
        return file
    stated, note = about.origin.removeprefix('MMDetection '), ''
    version = 'v1' if stated.split(',')[0] == 'v1' else 'v3'
    if stated.startswith('v1,'):
        # Nothing in a RetinaNet's names changed; all released ECA ones are of v1.
        note = 'taken for MMDetection v1, which its names cannot tell'
    if about.metadata.get('layout') == 'MMDetection v3':  # of `weights convert`
        version, note = 'converted', ''
    detector = about.what.split(' of ')[0]
    return replace(file, detector=detector, version=version, note=note)


def detectors_for(row: PublishedRow, files: Iterable[WeightsFile]) -> list[WeightsFile]:
    """Return the detectors of a row, by path."""
    return [file for file in files if file.detector and _fits(row, file)]


def backbone_for(row: PublishedRow, files: Iterable[WeightsFile]) -> WeightsFile | None:
    """Return the first ImageNet classifier or backbone for training a row, or None.

    Rows with NL and GC start from a plain ResNet, as their papers do.
    """
    wanted = replace(row, attention='none') if row.attention in _ADDING else row
    fitting = (file for file in files if not file.detector and _fits(wanted, file))
    return next(fitting, None)


def _fits(row: PublishedRow, file: WeightsFile) -> bool:
    """Tell whether a file has a row's network.

    A shipped config takes the usual network only, trained on COCO or ImageNet.
    """
    about = file.about
    if (about.depth, file.attention) != (row.depth, row.attention):
        return False
    if file.detector not in ('', row.detector):
        return False
    if row.config not in shipped_configs():
        return True
    first = about.widths[0][0][0] if about.widths else 0
    other_layers = any('of other layers' in note for note in about.notes)
    return (
        about.classes in ((80, None) if file.detector else (1000, None))
        and about.stem == '7x7, 64'
        and first == 64
        and not about.shortcut.startswith('average')
        and (not other_layers or file.attention in _ADDING)
        and None not in (about.kernel_sizes or ())
    )
