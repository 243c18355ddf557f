"""Checks of annotation files, image folders and classes, before a run.

mmdet finds some of these faults too, but as an assertion deep in a data loader, at the
first evaluation, or (a class name that is not in the file) not at all.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from eca_mmdet.checkpoints.transfer import class_heads
from eca_mmdet.datasets.coco import read_annotations, require_instances
from eca_mmdet.datasets.entries import has_mask, is_category, left_out
from eca_mmdet.datasets.images import find_missing
from eca_mmdet.datasets.rules.check import (
    NOTHING_TRAINED,
    SMALL_IMAGE,
    Counts,
    check_classes,
    check_content,
    check_images,
    compare_splits,
    count_reasons,
    narrowed,
    nothing_trained,
    suspect_content,
)
from eca_mmdet.datasets.rules.rule import Content, Fault, Severity
from eca_mmdet.engine.config import (
    dataset_classes,
    evaluators,
    leaf_datasets,
    parts,
    type_name,
)
from eca_mmdet.evaluation.coco_eval import COCO_METRICS, OWN_METRICS
from eca_mmdet.utils.errors import FaultsError, UserError
from eca_mmdet.utils.text import printable

logger = logging.getLogger(__name__)


_OF_TRAINING = frozenset(
    ('ignored-object', 'thin-bbox', 'small-image', 'class-not-trained')
)
"""Faults by which objects are left out of training, and count in AP."""


@dataclass
class _File:
    """An annotation file and what the config does with it."""

    path: Path
    content: dict[str, Any]  # of the annotations, only the first is kept
    faults: list[Fault]
    coco: bool = False  # read as COCO instances, so that the faults count
    uses: set[str] = field(default_factory=set)  # 'train', 'val', 'test'
    folder: Path | None = None  # with images; None where no data loader reads it
    classes: Sequence[str] | None = None
    pycocotools: bool = False  # evaluates it, with its demands on annotation ids
    trains_masks: bool = False
    masked: bool = True  # an object that is trained on has a usable mask
    mask_ap: bool = False  # an evaluator compares masks
    scored: bool = False  # an evaluator computes AP, which takes annotations
    listed: bool = True  # the file has a list of annotations, maybe empty
    reasons: Counts = field(default_factory=Counter)  # why objects are not trained on

    def severity(self, fault: Fault) -> Severity:
        """Return how bad a fault is for this run, which may not meet it at all."""
        met: dict[str, bool] = {
            'zero-annotation-id': self.pycocotools,
            'missing-iscrowd': self.pycocotools,
            # In training mmdet passes them over, with an object that has no other.
            'short-polygon': self.mask_ap or (self.trains_masks and not self.masked),
            'malformed-segmentation': self.trains_masks or self.mask_ap,
            'rle-size': self.trains_masks or self.mask_ap,
            'file-name-outside': False,  # mmdet opens it; a missing one is an error
            'nothing-to-train-on': 'train' in self.uses,
        }
        if fault.code in met:
            return 'error' if met[fault.code] else 'warning'
        if fault.code in _OF_TRAINING and 'train' not in self.uses:
            return 'note'
        if fault.code in ('mask-without-pixel', 'mask-off-bbox'):
            every = fault.count == self.reasons.total()
            if not self.trains_masks and not self.mask_ap:
                return 'note'
            return 'error' if every and 'pixel' in fault.code else 'warning'
        if fault.code == 'missing-segmentation':
            return 'error' if self.trains_masks or self.mask_ap else 'note'
        if fault.code == 'no-annotations':
            if 'train' in self.uses or (self.scored and not self.listed):
                return 'error'
            return 'warning' if self.scored else 'note'
        return fault.severity


def check_data(cfg: Any, training: bool) -> None:
    """Check annotation files, image folders, classes and heads.

    Warnings are logged, a line each. ``training`` looks at the training and validation
    sets, and not at the test set.

    Raises:
        UserError: the first fault of the config; or, if that has none, all errors of
            the annotation files.
    """
    files: dict[Path, _File] = {}
    for name in ('train', 'val') if training else ('test',):
        for dataset in leaf_datasets(cfg.get(f'{name}_dataloader')):
            _check_dataset(cfg, name, dataset, files)
        for evaluator in evaluators(cfg, name):
            _note_evaluator(evaluator, name, files)
    _report([file for file in files.values() if file.coco])


def _check_dataset(cfg: Any, use: str, dataset: Any, files: dict[Path, _File]) -> None:
    name = f'{use}_dataloader'
    root = str(dataset.get('data_root') or '')
    path = _annotation_file(dataset, f'{name}.dataset', root)
    if path is None or 'Panoptic' in str(dataset.get('type')):
        return
    file = _file(path, files)
    folder = Path(root) / (dataset.get('data_prefix') or {}).get('img', '')
    if not folder.is_dir():
        raise UserError(
            f'image folder {str(folder)!r} of {name}.dataset does not exist. Set '
            f'{name}.dataset.data_root and .data_prefix.img.',
            code='file-not-found',
        )
    classes = dataset_classes(dataset, name)
    if classes is not None:
        _check_names(classes, file, name)
        check_num_classes(cfg, len(classes), name)
    if _is_plain_coco(dataset):
        file.uses.add(use)
        file.trains_masks |= use == 'train' and any(
            part.get('with_mask') for _, part in parts(dataset, '')
        )
        content = Content.of(file.content, classes)
        _look_closer(file, folder, content, bool(dataset.get('backend_args')))
        if use == 'train':
            _require_objects(file, content, dataset)


def check_num_classes(cfg: Any, classes: int, name: str) -> None:
    """Compare ``num_classes`` of the box and mask heads with the data."""
    if 'language_model' in cfg.model:  # there it counts text tokens
        return
    entries = {
        '.'.join(('model', *path, 'num_classes')): head['num_classes']
        for path, head in class_heads(cfg.model)
    }
    wrong = {key: value for key, value in entries.items() if value != classes}
    if wrong:
        counts = ', '.join(f'{key} is {value}' for key, value in wrong.items())
        options = ' '.join(f'{key}={classes}' for key in wrong)
        raise UserError(
            f'{name} has {classes} classes, but {counts}. Set them: --cfg-options '
            f'{options}',
            code='class-mismatch',
        )


def _is_plain_coco(dataset: Any) -> bool:
    """Return whether CocoDataset reads a dataset; subclasses have their own rules."""
    from mmdet.datasets import CocoDataset
    from mmdet.registry import DATASETS

    from eca_mmdet.engine.coco_dataset import CocoIndexDataset

    reads = getattr(DATASETS.get(dataset['type']), 'load_data_list', None)
    return reads in (CocoDataset.load_data_list, CocoIndexDataset.load_data_list)


def _check_names(classes: Sequence[str], file: _File, name: str) -> None:
    known = {category['name'] for category in file.content['categories']}
    unknown = [c for c in classes if c not in known]
    if unknown:
        raise UserError(
            f'{len(unknown)} of {len(classes)} classes of {name}.dataset are not in '
            f'{file.path}: {_first(unknown)}. The file has {_first(sorted(known))}. '
            f'Set {name}.dataset.metainfo.classes to names of the file (case counts).',
            code='unknown-class',
        )


def _look_closer(file: _File, folder: Path, content: Content, elsewhere: bool) -> None:
    """Check the image folder and the classes of a dataset against its file.

    ``elsewhere``: the images come from a remote storage.
    """
    require_instances(file.path, file.content)
    more = check_classes(content)
    if not elsewhere and file.folder is None:
        names = [image['file_name'] for image in content.images]
        more += check_images(content.images, find_missing(folder, names))
    known = {fault.code for fault in file.faults}
    file.faults += [fault for fault in more if fault.code not in known]
    file.coco, file.folder, file.classes = True, folder, content.classes


def _require_objects(file: _File, content: Content, dataset: Any) -> None:
    """Add faults of what the dataset leaves out by its classes and its filter."""
    content.min_side = (dataset.get('filter_cfg') or {}).get('min_size', 0)
    more = SMALL_IMAGE.check(content)
    counts = narrowed(file.reasons, content)
    if not nothing_trained(file.reasons) and (why := nothing_trained(counts)):
        more += NOTHING_TRAINED.faults(why)
    file.faults += [fault for fault in more if fault not in file.faults]


def _note_evaluator(evaluator: Any, use: str, files: dict[Path, _File]) -> None:
    """Record which demands an evaluator makes on its file."""
    path = _annotation_file(evaluator, f'{use}_evaluator')
    if path is None:
        return
    file = _file(path, files)
    kind = type_name(evaluator)
    file.coco |= kind in COCO_METRICS
    file.pycocotools |= kind not in OWN_METRICS
    file.mask_ap |= 'segm' in str(evaluator.get('metric', ''))
    file.scored |= not evaluator.get('format_only', False)
    file.uses.add(use)


def _first(names: list[str], count: int = 5) -> str:
    more = f' and {len(names) - count} more' if len(names) > count else ''
    return ', '.join(map(repr, names[:count])) + more


def _annotation_file(entry: Any, name: str, root: str = '') -> Path | None:
    """Return the JSON annotation file of a config entry, which has to exist.

    None for other formats, which have to exist as well, and for remote files.
    """
    ann_file = entry.get('ann_file')
    if not isinstance(ann_file, str) or not ann_file or '://' in root + ann_file:
        return None
    path = Path(root) / ann_file
    is_json = path.suffix == '.json'
    if not path.is_file() and (is_json or not entry.get('backend_args')):
        raise UserError(
            f'annotation file {str(path)!r} of {name} does not exist. Put COCO there '
            f'or set {name}.ann_file (and .data_root) with --cfg-options.',
            code='file-not-found',
        )
    return path if is_json else None


def _file(path: Path, files: dict[Path, _File]) -> _File:
    """Read and check an annotation file, unless that was done."""
    if path in files:
        return files[path]
    read = read_annotations(path)
    entries = read.content
    content = suspect_content(entries, read.index)
    if not all(map(is_category, entries['categories'])):
        raise UserError(
            f"{path}: every category needs a 'name' and an 'id'; some have none.",
            code='not-annotations',
        )
    # All objects of a large file take gigabytes: a later file needs the room.
    kept = {key: entries[key] for key in ('images', 'categories')}
    kept['annotations'] = [*entries.get('annotations', [])[:1]]
    # The images of training depend on the dataset's own filter.
    faults = [f for f in check_content(content) if f.code != 'small-image']
    faults = read.faults + faults
    files[path] = _File(path, kept, faults, listed='annotations' in entries)
    files[path].reasons = count_reasons(content)
    files[path].masked = bool(content.others) or any(
        has_mask(one) and not left_out(one, content.sizes.get(one['image_id']))
        for one in content.annotations
    )
    return files[path]


def _report(files: list[_File]) -> None:
    """Log the warnings, then raise the errors of all files at once."""
    lines, advice = [], []
    for file in files:
        graded = [(file.severity(fault), fault) for fault in file.faults]
        for severity, fault in graded:
            if severity == 'warning':
                logger.warning(f'warning: {file.path}: {fault.line()}')
        errors = [fault for severity, fault in graded if severity == 'error']
        lines += [printable(f'  {file.path}: {fault.line()}') for fault in errors]
        if errors:
            advice.append(_advice(file, errors))
    lines += _compare(files)
    if lines:
        kinds = '1 kind' if len(lines) == 1 else f'{len(lines)} kinds'
        head = f'{kinds} of errors in the annotations:'
        raise FaultsError('\n'.join([head, *lines, *advice]))


def _advice(file: _File, errors: list[Fault]) -> str:
    if any(fault.code == 'no-annotations' for fault in errors):
        return (
            f'{file.path} can only be tested with --format-only --save-results DIR, '
            "which writes results for COCO's server"
        )
    by_images = any(fault.code == 'missing-image' for fault in errors)
    images = f' --images {file.folder}' if by_images else ''
    command = printable(f'eca-mmdet data check {file.path}{images}')
    if any(fault.fix for fault in errors):
        return f'{command} --fix OUT.json writes a repaired copy'
    return f'{command} says more'


def _compare(files: list[_File]) -> list[str]:
    """Compare each training file with each validation file; return the errors."""
    errors = []
    # An evaluator's own file has no folder: no loader reads it.
    loaded = [(file, file.folder) for file in files if file.folder is not None]
    for (train, folder), (val, val_folder) in product(loaded, loaded):
        if 'train' not in train.uses or 'val' not in val.uses:
            continue
        folders = folder, val_folder
        for fault in compare_splits(train.content, val.content, train.classes, folders):
            line = f'{train.path} and {val.path}: {fault.line()}'
            if fault.severity == 'error':
                errors.append(f'  {printable(line)}')
            else:
                logger.warning(f'warning: {line}')
    return errors
