"""What to do for each row: which weights, which config, or why nothing can be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from eca_mmdet.catalog.architectures import RELEASED_KERNEL_SIZES
from eca_mmdet.catalog.configs import resolve_config, shipped_configs
from eca_mmdet.catalog.published import PublishedRow
from eca_mmdet.reproduce.weights_folder import FoundFile, backbone_for, detectors_for
from eca_mmdet.utils.errors import UserError

Action = Literal['test', 'train', 'none']

_FAMILIES = {
    'Faster R-CNN': 'faster-rcnn',
    'Mask R-CNN': 'mask-rcnn',
    'RetinaNet': 'retinanet',
}


@dataclass(frozen=True)
class Job:
    """One row's work.

    Attributes:
        row: the published row.
        action: 'test' a detector that is there, 'train' one and test it, or 'none'.
        config: that tests it (and trains it).
        weights: the detector, or the backbone to train from.
        convert: the weights are MMDetection v1's own and must be converted first.
        options: config overrides that the weights need.
        released: a published detector, not one trained again; the tolerance differs.
        reason: why nothing can be done.
        note: what was assumed.
    """

    row: PublishedRow
    action: Action
    config: str = ''
    weights: Path | None = None
    convert: bool = False
    options: tuple[str, ...] = field(default=())
    released: bool = False
    reason: str = ''
    note: str = ''


def make_plan(
    rows: Sequence[PublishedRow], files: Sequence[FoundFile], train: bool
) -> list[Job]:
    """Return one job a row.

    Args:
        rows: of the published tables.
        files: from :func:`~eca_mmdet.reproduce.weights_folder.scan`.
        train: train the rows that have no detector but a backbone.
    """
    return [_job(row, files, train) for row in rows]


def _job(row: PublishedRow, files: Sequence[FoundFile], train: bool) -> Job:
    detectors = detectors_for(row, files)
    if detectors:
        if len(detectors) > 1:
            names = ', '.join(str(one.path) for one in detectors[:4])
            more = ', ...' if len(detectors) > 4 else ''
            reason = f'several files are of this row: {names}{more}; leave one'
            return Job(row, 'none', reason=reason)
        return _test(row, detectors[0])
    if not train:
        return Job(row, 'none', reason='no weights of this detector in the folder')
    backbone = backbone_for(row, files)
    if backbone is None:
        return Job(
            row,
            'none',
            reason='neither the detector nor ImageNet weights of its backbone in the '
            'folder',
        )
    return Job(
        row,
        'train',
        row.config,
        backbone.path,
        options=_kernel_option(row.config, row.depth, backbone),
        note=backbone.note,
    )


def _test(row: PublishedRow, found: FoundFile) -> Job:
    if found.version == 'v3':
        return Job(
            row,
            'test',
            row.config,
            found.path,
            options=_kernel_option(row.config, row.depth, found),
            note=found.note,
        )
    config, options = _legacy(row, found)
    if not config:
        return Job(
            row,
            'none',
            weights=found.path,
            reason=f"no config tests MMDetection v1's {row.detector} with "
            f'{row.attention}; {found.path.name} is one',
        )
    return Job(
        row,
        'test',
        config,
        found.path,
        convert=found.version == 'v1',
        options=options,
        released=True,
        note=found.note,
    )


def _legacy(row: PublishedRow, found: FoundFile) -> tuple[str, tuple[str, ...]]:
    """Return the config of MMDetection v1's behaviour, and what it must be told."""
    family = _FAMILIES[row.detector]
    if row.attention == 'none':
        name = f'{family}_r{row.depth}_fpn_v1_coco'
        return (name, ()) if name in shipped_configs() else ('', ())
    sizes = ''.join(map(str, found.kernel_sizes))
    pattern = f'{family}_{row.attention.lower()}-r{row.depth}-k*_fpn_v1_coco'
    names = list(shipped_configs(pattern))
    own = [name for name in names if f'-k{sizes}_' in name]
    if own:
        return own[0], ()
    return (names[0], _sizes(found)) if names else ('', ())


def _kernel_option(config: str, depth: int, found: FoundFile) -> tuple[str, ...]:
    """Return the override for gates of other widths than the shipped config's."""
    if not found.kernel_sizes:
        return ()
    shipped = config in shipped_configs()
    usual = RELEASED_KERNEL_SIZES.get(depth) if shipped else None
    return () if found.kernel_sizes == usual else _sizes(found)


def _sizes(found: FoundFile) -> tuple[str, ...]:
    sizes = ','.join(map(str, found.kernel_sizes))
    return (f'model.backbone.kernel_sizes=({sizes})',)


def check_configs(jobs: Sequence[Job]) -> None:
    """Raise UserError if the config of a job does not exist."""
    for job in jobs:
        for config in {job.row.config, job.config or job.row.config}:
            try:
                resolve_config(config)
            except UserError as error:
                raise UserError(f'row {job.row.row}: {error}') from error
