"""Plan of a reproduction: the COCO folder, and which files measure each row.

Checkpoints are found in a folder by their content, not by their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from eca_mmdet.catalog.architectures import RELEASED_KERNEL_SIZES
from eca_mmdet.catalog.configs import resolve_config, shipped_configs
from eca_mmdet.catalog.published import PublishedRow
from eca_mmdet.checkpoints.inspection import Inspection, inspect
from eca_mmdet.datasets.coco import read_annotations
from eca_mmdet.datasets.ground_truth import ground_truth
from eca_mmdet.datasets.images import find_missing
from eca_mmdet.utils.errors import UserError, WeightsError
from eca_mmdet.utils.text import first

WHOLE = {'images': 5000, 'annotations': 36781, 'categories': 80}
"""Counts of instances_val2017.json as COCO publishes it."""

_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
CATEGORY_IDS = [number for number in range(1, 91) if number not in _GAPS]
"""Ids of COCO's 80 categories."""

_SUFFIXES = ('.pth', '.pt', '.tar', '.bin', '.safetensors')
_AS_PUBLISHED = {'': 'none', 'NL': '1 NL'}
_ADDING = ('GC', '1 NL')
"""Attention layers that add to the map; a plain backbone's checkpoint starts them."""
_FAMILIES = {
    'Faster R-CNN': 'faster-rcnn',
    'Mask R-CNN': 'mask-rcnn',
    'RetinaNet': 'retinanet',
}


@dataclass(frozen=True)
class CocoFolder:
    """A folder with val2017."""

    root: str
    counts: dict[str, int]  # images, annotations and categories of the file
    sha256: str  # of the annotation file
    departure: str  # how it differs from COCO's own val2017; '' if it does not

    def options(self, part: str = 'test') -> list[str]:
        """Return the config overrides that use this folder in one part of a run."""
        split = 'train2017' if part == 'train' else 'val2017'
        file = f'annotations/instances_{split}.json'
        loader = f'{part}_dataloader.dataset'
        evaluator = f'{part}_evaluator.ann_file={self.root}/{file}'
        return [
            f'{loader}.data_root={self.root}/',
            f'{loader}.ann_file={file}',
            f'{loader}.data_prefix.img={split}/',
            *([] if part == 'train' else [evaluator]),
        ]


def open_coco(root: str | Path, train: bool = False) -> CocoFolder:
    """Check a COCO folder with val2017/ and annotations/, and train2017/ for ``train``.

    A part of val2017, or a changed file, is no error: ``departure`` reports it, and so
    does every table made from it.
    """
    folder = Path(root).resolve()
    splits = ['val2017', *['train2017'] * train]
    parts = [n for s in splits for n in (s, f'annotations/instances_{s}.json')]
    missing = [name for name in parts if not (folder / name).exists()]
    if missing:
        raise UserError(
            f'--coco {str(root)!r} is not a COCO folder with {" and ".join(splits)}: '
            f'{", ".join(missing)} missing.',
            code='file-not-found',
        )
    file, images = folder / parts[1], folder / 'val2017'
    annotations = read_annotations(file)
    content = annotations.content
    truth = ground_truth(content, str(file), annotations.index)
    names = [str(image.get('file_name', '')) for image in content['images']]
    absent = sorted(find_missing(images, names).missing)
    if absent:
        raise UserError(
            f'{len(absent)} of {len(names)} images of {file} are not in {images}; the '
            f'first is {absent[0]!r}. Complete the folder.',
            code='no-images',
        )
    counts = {
        'images': len(truth.image_ids),
        'annotations': len(content.get('annotations') or ()),
        'categories': len(truth.category_ids),
    }
    departure = _departure(counts, list(truth.category_ids) == CATEGORY_IDS)
    return CocoFolder(str(folder), counts, annotations.sha256, departure)


def _departure(counts: dict[str, int], usual: bool) -> str:
    if counts == WHOLE and usual:
        return ''
    if 0 < counts['images'] < WHOLE['images'] and usual:
        return f'a subset: {counts["images"]} of {WHOLE["images"]} images'
    stated = ', '.join(f'{value} {key}' for key, value in counts.items())
    expected = ', '.join(f'{value} {key}' for key, value in WHOLE.items())
    return f"not COCO's val2017: {stated} instead of {expected}, or other categories"


@dataclass(frozen=True)
class WeightsFile:
    """A recognised checkpoint."""

    path: Path
    about: Inspection
    attention: str  # as published rows call it
    detector: str = ''  # 'Faster R-CNN', ... or '' for a backbone
    version: str = ''  # 'v1', 'converted' (v1 in 3.x's names), 'v3'; '' for a backbone
    note: str = ''  # what had to be assumed


def scan(
    folder: str | Path, leave_out: str | Path | None = None
) -> tuple[list[WeightsFile], list[str]]:
    """Recognise every checkpoint in a folder and its subfolders.

    ``leave_out`` is a folder that is not searched: this command's own results. Return
    the files by path, and a line for each that cannot be used.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(
            f'--weights {str(folder)!r} is not a folder.', code='file-not-found'
        )
    files, notes = [], []
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
            files.append(_describe(path, about))
        else:
            notes.append(f'{path}: {about.what}')
    return files, notes


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


@dataclass(frozen=True)
class Job:
    """Work for one row: test a detector, train one and test it, or nothing."""

    row: PublishedRow
    action: Literal['test', 'train', 'none']
    config: str = ''
    weights: Path = Path()  # the detector, or the backbone to train from
    convert: bool = False  # the checkpoint is MMDetection v1's own
    options: tuple[str, ...] = ()  # config overrides that the checkpoint needs
    released: bool = False  # a published detector, not one trained again
    note: str = ''  # what was assumed; for 'none', the reason


def make_plan(
    rows: Sequence[PublishedRow], files: Sequence[WeightsFile], train: bool
) -> list[Job]:
    """Return one job for each row; ``files`` are from :func:`scan`.

    ``train`` trains the rows that have no detector but a backbone.
    """
    jobs = [_job(row, files, train) for row in rows]
    for job in jobs:
        try:
            resolve_config(job.row.config)
        except UserError as error:
            raise UserError(f'row {job.row.row}: {error}', code=error.code) from error
    return jobs


def _job(row: PublishedRow, files: Sequence[WeightsFile], train: bool) -> Job:
    detectors = [file for file in files if file.detector and _fits(row, file)]
    if len(detectors) > 1:
        names = first([str(file.path) for file in detectors], 4)
        reason = f'several files are of this row: {names}; leave one'
        return Job(row, 'none', note=reason)
    # Rows with NL and GC are trained from a plain ResNet, as their papers do.
    start = replace(row, attention='none') if row.attention in _ADDING else row
    backbones = [f for f in files if train and not f.detector and _fits(start, f)]
    file = next(iter([*detectors, *backbones]), None)
    if file is None:
        reason = 'no weights of this detector'
        if train:
            reason = 'neither the detector nor ImageNet weights of its backbone'
        return Job(row, 'none', note=f'{reason} in the folder')
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
        reason = f"no config tests MMDetection v1's {row.detector} with {row.attention}"
        return Job(row, 'none', note=f'{reason}; {file.path.name} is one')
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
