"""What a new config is made of: the user's files, the base config, the checkpoint."""

from __future__ import annotations

import contextlib
import logging
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from eca_mmdet.autoconfig.proposals import (
    Anchors,
    Proposal,
    Statistics,
    count,
    kept,
    read_anchors,
)
from eca_mmdet.catalog.configs import (
    RECIPE,
    resolve_config,
    shipped_configs,
    suggest_config,
)
from eca_mmdet.datasets.checking import require_images
from eca_mmdet.datasets.coco import read_annotations, require_instances
from eca_mmdet.datasets.entries import is_category, is_image
from eca_mmdet.datasets.images import find_missing, inspect_images
from eca_mmdet.datasets.rules.check import check_images
from eca_mmdet.datasets.rules.entries import plain
from eca_mmdet.datasets.rules.rule import Fault
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import write_json
from eca_mmdet.utils.text import Commented, clipped

logger = logging.getLogger(__name__)

MOST_OPENED = 1000
"""Images of a file to read; ``eca-mmdet data check --images`` reads all."""

_ALIGNED = '_as_'
"""Part of the name of a validation file whose categories were put in order."""

_SAMPLE = 200
"""File names to look for in a folder that may have the images."""


@dataclass(frozen=True)
class Options:
    """Options beside the data; see :func:`eca_mmdet.make_config`."""

    images: str | None = None
    val_images: str | None = None
    model: str | None = None
    weights: str | None = None
    keep_classes: bool = False
    keep_defaults: bool = False
    epochs: int | None = None
    command: str = ''


@dataclass
class AnnotationFile:
    """One COCO annotation file and the folder of its images.

    The notes say how they were found or changed, one line each.
    """

    file: Path
    images: Path
    content: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def categories(self) -> list[dict[str, Any]]:
        """The entries with an id and a name, in the order of the file."""
        return list(filter(is_category, self.content['categories']))

    @property
    def names(self) -> list[str]:
        """The names of the categories, in the order of the file."""
        return [category['name'] for category in self.categories]

    @property
    def usable_images(self) -> list[dict[str, Any]]:
        """The entries with an id and a file name, in the order of the file."""
        return list(filter(is_image, self.content['images']))

    @cached_property
    def statistics(self) -> Statistics:
        """Sizes and counts of the file."""
        return count(self.content)


class Data(NamedTuple):
    """The user's files, the categories of the second in the order of the first."""

    train: AnnotationFile
    val: AnnotationFile

    @property
    def unmasked(self) -> int:
        """Number of objects without a usable mask."""
        return sum(part.statistics.unmasked for part in self)


def read_inputs(train: str, val: str | None, options: Options) -> Data:
    """Read the training and the validation data; other formats become COCO first.

    Args:
        train: annotation file, or a folder of any format.
        val: the same; None if ``train`` is a folder that has both.
        options: options with the folders of the images.
    """
    locations = _as_coco(train, options.images)
    if val is None:
        if not {'train', 'val'} <= locations.keys():
            file, _ = next(iter(locations.values()))
            raise UserError(
                f'{train} comes without validation data. Give a second file, or split '
                f'it: eca-mmdet data split {shlex.quote(str(file))} --val 0.2',
                code='no-validation-data',
            )
        others = locations
    else:
        others = _as_coco(val, options.val_images or options.images)
    first = _read(*_split(locations, 'train', train))
    return Data(first, align(first, _read(*_split(others, 'val', val or train))))


_Location = tuple[Path, str | None]
"""A COCO file, and the folder of its images if known."""


def _as_coco(name: str, images: str | None) -> dict[str, _Location]:
    """Return the COCO files of a file or folder by split; '' where it has no splits."""
    path = Path(name)
    if path.suffix == '.json' and not path.is_dir():
        return {'': (path, images)}
    from eca_mmdet.datasets.converters.conversion import convert

    locations: dict[str, _Location] = {}
    for part in convert(path):
        locations[part.split] = part.file, images or str(part.images)
        if part.kind != 'coco' or part.notes:
            state = (
                'written' if part.written else 'there already, with the same content'
            )
            logger.info(f'{part.file}: {state}')
            for note in part.notes:
                logger.info(f'  {note}')
    return locations


def _split(locations: dict[str, _Location], split: str, name: str) -> _Location:
    """Return a split, or the only file."""
    if split in locations:
        return locations[split]
    if len(locations) == 1:
        return next(iter(locations.values()))
    raise UserError(
        f'{name} has no {split!r}, but {", ".join(map(repr, locations))}. Name the '
        'file to use.',
        code='file-not-found',
    )


def _read(file: Path, images: str | None) -> AnnotationFile:
    """Read an annotation file and find its images."""
    content = read_annotations(file).content
    require_instances(file, content)
    part = AnnotationFile(file, Path(images or ''), content)
    if not part.names:
        raise UserError(
            f"{file}: no category has an 'id' and a 'name'.", code='not-annotations'
        )
    for name in part.names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UserError(
                f'{file}: category {name!r} has half a character in its name (a lone '
                'surrogate), which no file can be written with. Rename it.',
                code='faulty-data',
            ) from None
    names = [image['file_name'] for image in part.usable_images]
    if not names:
        raise UserError(
            f"{file}: no image has an 'id' and a 'file_name'.", code='no-images'
        )
    if images is not None:
        require_images(part.images, names, file)
        return part
    tried = list(_folders_around(file))
    found = {path.resolve(): path for path in reversed(tried) if _has_all(path, names)}
    if len(found) > 1:
        folders = ' and '.join(map(str, reversed(found.values())))
        raise UserError(
            f'the images of {file} may be those in {folders}: all have files of these '
            'names. Say which: --images DIR.',
            code='option-missing',
        )
    for folder in found.values():
        return AnnotationFile(file, folder, content, (f'images found in {folder}',))
    folders = ', '.join(dict.fromkeys(map(str, tried)))
    fix = f' To correct names: eca-mmdet data check {file} --images DIR --fix OUT.json'
    hint = fix if '\\' in names[0] else ''
    raise UserError(
        f'the images of {file} are in none of {folders}; the first is '
        f'{clipped(repr(names[0]))}. Name the folder that the file names are relative '
        f'to: --images DIR.{hint}',
        code='no-images',
    )


def _folders_around(file: Path) -> Iterator[Path]:
    """Yield folders where COCO, exporters and people put images."""
    stem = file.stem.removeprefix('instances_').partition(_ALIGNED)[0]
    words = re.findall('[a-z]+', stem.casefold())  # 'train' of 'pets_train2017'
    for base in (file.parent, file.parent.parent):
        yield base
        for name in ('images', stem, f'images/{stem}', 'JPEGImages', 'data', 'imgs'):
            if (base / name).is_dir():
                yield base / name
        for word in ('train', 'val', 'valid', 'test'):
            for name in (word, f'images/{word}'):
                if word in words and (base / name).is_dir():
                    yield base / name


def _has_all(folder: Path, names: Sequence[str]) -> bool:
    """Tell whether a folder has most of the first file names."""
    some = list(dict.fromkeys(names))[:_SAMPLE]
    return len(find_missing(folder, some).missing) * 2 < len(some)


def open_some(part: AnnotationFile) -> list[Fault]:
    """Read images to the end, evenly spread over a large file, and return the faults.

    An image may be missing, damaged, or of another size than stated.
    """
    images = part.usable_images
    if len(images) > MOST_OPENED:
        step = len(images) / MOST_OPENED
        images = [images[int(at * step)] for at in range(MOST_OPENED)]
    opened = inspect_images(part.images, [image['file_name'] for image in images])
    return check_images(images, opened)


def align(train: AnnotationFile, val: AnnotationFile) -> AnnotationFile:
    """Return the validation data with the categories in the order of the training file.

    mmdet numbers labels by the order in which a file lists its categories, so a file
    that lacks one or has another order gives every class the AP of its neighbour. Such
    a file is written once more, beside the source, with the order corrected; ids,
    images and annotations stay.
    """
    wanted, found = train.names, val.names
    if [name for name in found if name in set(wanted)] == wanted:
        return val
    _require_spelling(train, val)
    if len(set(found)) < len(found) or len(set(wanted)) < len(wanted):
        return val  # reported when the data are checked
    by_name = {category['name']: category for category in val.categories}
    # The training file's own id, where the validation file has not used it.
    used = {category['id'] for category in val.categories}
    numbers = (n for n in range(1, len(used) + len(wanted) + 2) if n not in used)
    aligned = []
    for category in train.categories:
        entry = by_name.pop(category['name'], None)
        if entry is None:
            entry = dict(category)
            if entry['id'] in used:
                entry['id'] = next(numbers)
            used.add(entry['id'])
        aligned.append(entry)
    content = val.content | {'categories': [*aligned, *by_name.values()]}
    out = val.file.with_name(f'{val.file.stem}{_ALIGNED}{train.file.stem}.json')
    _write_once(out, content)
    note = (
        f'{val.file} lists its categories in another order than {train.file}, or lacks '
        f'some, by which mmdet numbers labels: {out} is the same file with them in '
        'order'
    )
    return AnnotationFile(out, val.images, content, (*val.notes, note))


def _require_spelling(train: AnnotationFile, val: AnnotationFile) -> None:
    extra = {plain(name): name for name in val.names if name not in train.names}
    lost = [name for name in train.names if name not in val.names]
    pairs = [f'{n!r} and {extra[plain(n)]!r}' for n in lost if plain(n) in extra]
    if pairs:
        raise UserError(
            f'{train.file} and {val.file} spell classes differently: '
            f'{clipped(", ".join(pairs), 200)}. Use one name for each.',
            code='class-mismatch',
        )


def _write_once(out: Path, content: dict[str, Any]) -> None:
    """Write a file, unless it exists with the same content."""
    if not out.exists():
        write_json(out, content, indent=None)
    elif read_annotations(out).content != content:
        raise UserError(
            f'{out} exists with other content, and nothing is overwritten. Remove it, '
            'and it is written anew.',
            code='output-exists',
        )


def resolve_model(name: str) -> Path:
    """Return the file of a config by path, by name, or by the start of its name.

    'mask-rcnn_eca-r50' is the config of that detector and backbone in the paper's
    recipe, or the only one that there is.
    """
    known = shipped_configs()
    if '::' in name or Path(name).is_file() or name.removesuffix('.py') in known:
        return resolve_config(name)
    found = [stem for stem in known if stem.startswith(f'{name}_')]
    chosen = [stem for stem in found if stem.endswith(RECIPE)] or found
    if len(chosen) == 1:
        return known[chosen[0]]
    starts = {stem.partition('_fpn')[0] for stem in known}
    advice = suggest_config(name, starts)
    if found:
        advice = f' Several begin so: {", ".join(found)}.'
    raise UserError(
        f'--model {name!r} is neither a file nor a shipped config.{advice} The names: '
        'eca-mmdet configs',
        code='config-not-found',
    )


@dataclass(frozen=True)
class Base:
    """A config to inherit; ``heads`` and ``anchor_path`` are paths below its model."""

    path: Path  # absolute
    cfg: Any
    heads: tuple[tuple[str, ...], ...]  # with num_classes: ('roi_head', 'bbox_head')
    mask_head: bool
    scale: tuple[int, int] | None  # long and short side of the test pipeline's Resize
    anchors: Anchors | None  # None if of a kind that is not supported
    anchor_path: tuple[str, ...]


def read_base(path: Path) -> Base:
    """Read a config to train on COCO files, and find what depends on the data."""
    from eca_mmdet.checkpoints.transfer import class_heads
    from eca_mmdet.engine.config import load_config, require_sections, type_name
    from eca_mmdet.engine.settings import resize_scales

    cfg = load_config(str(path))
    require_sections(cfg, training=True)
    paths = (path for path, _ in class_heads(cfg.model))
    # The heads of a cascade, in a list, are set together.
    paths = (path[:-1] if path[-1].isdigit() else path for path in paths if path)
    heads = tuple(p for p in dict.fromkeys(paths) if p[-1].endswith('head'))
    if not heads:
        raise UserError(
            f'{path}: no head of its model has num_classes.', code='unsupported-model'
        )
    for name in ('train', 'val', 'test'):
        leaf = innermost(cfg.get(f'{name}_dataloader'), path, name)[1]
        if type_name(leaf) not in ('CocoDataset', 'CocoIndexDataset'):
            raise UserError(
                f'{path}: {name}_dataloader reads a {leaf.get("type")}; a config for '
                'CocoDataset is expected (eca-mmdet configs lists some).',
                code='config-invalid',
            )
    mask = any(head[-1] == 'mask_head' for head in heads)
    test = innermost(cfg.test_dataloader, path, 'test')[1].get('pipeline') or ()
    sizes = [
        (int(max(pair)), int(min(pair)))
        for step in test
        for pair in resize_scales(step)
    ]
    where, anchors = find_anchors(cfg.model)
    return Base(
        path.resolve(), cfg, heads, mask, sizes[0] if sizes else None, anchors, where
    )


def innermost(loader: Any, path: Path, name: str) -> tuple[int, Any]:
    """Return how deep a loader's dataset is inside others (RepeatDataset), and it."""
    dataset, depth = (loader or {}).get('dataset'), 0
    while dataset and 'dataset' in dataset:
        dataset, depth = dataset['dataset'], depth + 1
    if not dataset or 'datasets' in dataset:
        raise UserError(
            f'{path}: {name}_dataloader must read one dataset, which the new config '
            'replaces.',
            code='config-invalid',
        )
    return depth, dataset


def find_anchors(model: Any) -> tuple[tuple[str, ...], Anchors | None]:
    """Return the path of a model's anchor generator, and its anchors if supported."""
    for key in ('rpn_head', 'bbox_head'):
        head = model.get(key)
        if isinstance(head, dict) and head.get('anchor_generator'):
            return (key, 'anchor_generator'), read_anchors(head['anchor_generator'])
    return (), None


@dataclass(frozen=True)
class Start:
    """What the training starts from: a detector, a backbone, or the base's weights."""

    is_detector: bool = False  # a whole one, for ``load_from``
    model: dict[str, Any] = field(default_factory=dict)  # entries of the model
    entries: dict[str, Any] = field(default_factory=dict)  # entries beside it
    anchors: Anchors | None = None  # of the detector, if its file says so
    file: str = ''  # of the detector

    def anchors_of(self, own: Anchors) -> Proposal[Anchors]:
        """Return the anchors that the detector was trained with, if they fit."""
        theirs = self.anchors
        if theirs == own:
            return kept(own, f"the config's own, which {self.file} was trained with")
        if theirs is None:
            why = f'{self.file} does not say which it was trained with'
            return kept(own, f"the config's own: {why}")
        layouts = [(a.key, a.octaves, a.strides, len(a.ratios)) for a in (theirs, own)]
        if layouts[0] != layouts[1]:
            why = f'{self.file} was trained with others ({theirs.text()})'
            return kept(own, f"the config's own: {why}, which do not fit it")
        why = f'those that {self.file} was trained with, {theirs.text()}'
        return Proposal(theirs, own, why)


def read_start(options: Options, base: Base) -> Start:
    """Inspect the file of ``--weights``, or of the config's ``load_from``."""
    from eca_mmdet.checkpoints.download import fetch
    from eca_mmdet.checkpoints.inspection import inspect

    load_from = base.cfg.get('load_from')
    weights = options.weights or (str(load_from) if load_from else None)
    if weights is None:
        if options.keep_classes:
            raise UserError(
                '--keep-classes goes with --weights FILE, a detector.',
                code='option-conflict',
            )
        return Start()
    path = str(fetch(weights))
    inspection = inspect(path)
    if inspection.kind == 'detector':
        return from_detector(weights, options.keep_classes, base, path)
    if options.keep_classes:
        raise UserError(
            f'--keep-classes needs a detector; {weights} is: {inspection.what}.',
            code='option-conflict',
        )
    init = dict(_delete_=True, type='ECAPretrained', checkpoint=weights)
    # A detector that the config starts from would be loaded over it.
    entries = {'load_from': None} if load_from else {}
    return Start(model=dict(backbone=dict(init_cfg=init)), entries=entries)


def from_detector(weights: str, keep_classes: bool, base: Base, path: str) -> Start:
    """Return a start from a detector, named ``weights`` and found at ``path``."""
    from eca_mmdet.checkpoints.embedded_config import parse_config
    from eca_mmdet.checkpoints.io import read_checkpoint

    hook: dict[str, Any] = dict(type='FineTuneHook')
    why = 'The layers that count classes start new.'
    if keep_classes:
        hook['keep_classes'] = True
        why = 'Of the layers that count classes, rows of equal names are kept.'
    hooks = [dict(own) for own in base.cfg.get('custom_hooks') or []]
    hooks = [own for own in hooks if own.get('type') != 'FineTuneHook'] + [hook]
    entries = {'load_from': weights, 'custom_hooks': Commented(hooks, why)}
    # The detector brings its backbone; mmdet's own train.py reads both otherwise.
    has_init = (base.cfg.model.get('backbone') or {}).get('init_cfg')
    model = dict(backbone=dict(init_cfg=None)) if has_init else {}
    # The config in the file is untrusted: its numbers may be anything.
    anchors, errors = None, (UserError, TypeError, ValueError, ArithmeticError)
    with contextlib.suppress(*errors):
        values = parse_config(read_checkpoint(path).config, path).get('model')
        anchors = find_anchors(values)[1] if isinstance(values, dict) else None
    return Start(True, model, entries, anchors, weights)
