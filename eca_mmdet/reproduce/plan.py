"""Jobs: which weights and config measure each row, or why nothing can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eca_mmdet.catalog.architectures import RELEASED_KERNEL_SIZES
from eca_mmdet.catalog.configs import resolve_config, shipped_configs
from eca_mmdet.catalog.published import PublishedRow
from eca_mmdet.reproduce.weights_folder import WeightsFile, backbone_for, detectors_for
from eca_mmdet.utils.errors import UserError

_FAMILIES = {
    'Faster R-CNN': 'faster-rcnn',
    'Mask R-CNN': 'mask-rcnn',
    'RetinaNet': 'retinanet',
}


@dataclass(frozen=True)
class Job:
    """Work for one row.

    Attributes:
        row: the published row.
        action: 'test' a detector that is there, 'train' one and test it, or 'none'.
        config: that tests it (and trains it).
        weights: the detector, or the backbone to train from; '' for 'none'.
        convert: the weights are MMDetection v1's own and must be converted first.
        options: config overrides that the weights need.
        released: a published detector, not one trained again; the tolerance differs.
        note: what was assumed; for 'none', the reason.
    """

    row: PublishedRow
    action: Literal['test', 'train', 'none']
    config: str = ''
    weights: Path = Path()
    convert: bool = False
    options: tuple[str, ...] = ()
    released: bool = False
    note: str = ''


def make_plan(
    rows: Sequence[PublishedRow], files: Sequence[WeightsFile], train: bool
) -> list[Job]:
    """Return one job for each row.

    Args:
        rows: of the published tables.
        files: from :func:`~eca_mmdet.reproduce.weights_folder.scan`.
        train: train the rows that have no detector but a backbone.

    Raises:
        UserError: the config of a row does not exist.
    """
    jobs = [_job(row, files, train) for row in rows]
    for job in jobs:
        try:
            resolve_config(job.row.config)
        except UserError as error:
            raise UserError(f'row {job.row.row}: {error}', code=error.code) from error
    return jobs


def _job(row: PublishedRow, files: Sequence[WeightsFile], train: bool) -> Job:
    detectors = detectors_for(row, files)
    if len(detectors) > 1:
        names = ', '.join(str(file.path) for file in detectors[:4])
        more = ', ...' if len(detectors) > 4 else ''
        reason = f'several files are of this row: {names}{more}; leave one'
        return Job(row, 'none', note=reason)
    file = detectors[0] if detectors else backbone_for(row, files) if train else None
    if file is None:
        reason = 'no weights of this detector in the folder'
        if train:
            reason = 'neither the detector nor ImageNet weights of its backbone in the '
            reason += 'folder'
        return Job(row, 'none', note=reason)
    if file.version in ('', 'v3'):
        sizes = file.about.kernel_sizes
        shipped = row.config in shipped_configs()
        usual = RELEASED_KERNEL_SIZES.get(row.depth) if shipped else None
        return Job(
            row,
            'test' if file.detector else 'train',
            row.config,
            file.path,
            options=() if not sizes or sizes == usual else _kernel_option(file),
            note=file.note,
        )
    config, options = _legacy_config(row, file)
    if not config:
        reason = f"no config tests MMDetection v1's {row.detector} with "
        return Job(
            row, 'none', note=f'{reason}{row.attention}; {file.path.name} is one'
        )
    convert = file.version == 'v1'
    return Job(row, 'test', config, file.path, convert, options, True, file.note)


def _legacy_config(row: PublishedRow, file: WeightsFile) -> tuple[str, tuple[str, ...]]:
    """Return the config of MMDetection v1's behaviour, and its overrides."""
    family = _FAMILIES[row.detector]
    if row.attention == 'none':
        name = f'{family}_r{row.depth}_fpn_v1_coco'
        return (name, ()) if name in shipped_configs() else ('', ())
    sizes = ''.join(map(str, file.about.kernel_sizes or ()))
    pattern = f'{family}_{row.attention.lower()}-r{row.depth}-k*_fpn_v1_coco'
    names = list(shipped_configs(pattern))
    own = [name for name in names if f'-k{sizes}_' in name]
    if own:
        return own[0], ()
    return (names[0], _kernel_option(file)) if names else ('', ())


def _kernel_option(file: WeightsFile) -> tuple[str, ...]:
    sizes = ','.join(map(str, file.about.kernel_sizes or ()))
    return (f'model.backbone.kernel_sizes=({sizes})',)
