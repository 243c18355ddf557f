"""Split an annotation file into files for training, validation and testing."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from eca_mmdet.datasets.coco import read_annotations, require_instances, write_new
from eca_mmdet.datasets.entries import (
    Entry,
    image_name,
    is_annotation,
    is_category,
    is_image,
)
from eca_mmdet.datasets.rules.check import count_reasons, nothing_trained
from eca_mmdet.datasets.rules.rule import Content
from eca_mmdet.datasets.stratify import Unit, divide, wanted_parts
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import sha256_of
from eca_mmdet.utils.text import clipped


@dataclass(frozen=True)
class SplitReport:
    """Files of a split, and how each class is distributed over them.

    Attributes:
        files: path of each part: 'train', 'val' and perhaps 'test'.
        images: number of images by part; ``annotations`` is the same for these.
        classes: name of each class, and by part its numbers of images and objects,
            crowd regions excluded.
        too_rare: classes with fewer images or groups than there are parts.
        not_in_each_part: classes that could be in each part and are not.
        left_out_annotations: number of annotations without an image in the file.
        nothing_to_train_on: parts without an object that mmdet would train on.
        grouped: whether some images had to stay together.
    """

    files: dict[str, Path]
    images: dict[str, int]
    annotations: dict[str, int]
    classes: list[dict[str, Any]]
    too_rare: list[str]
    not_in_each_part: list[str]
    left_out_annotations: int
    nothing_to_train_on: list[str]
    crowds: int
    grouped: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        entries = dict(vars(self))
        entries['files'] = {name: str(path) for name, path in self.files.items()}
        del entries['crowds'], entries['grouped']
        return entries


def split_annotations(
    file: str | Path,
    val: float,
    test: float | None = None,
    stratify: bool = False,
    group_by: str | None = None,
    images: str | Path | None = None,
    seed: int = 0,
    out: str | Path | None = None,
) -> SplitReport:
    """Write ``NAME_train.json``, ``NAME_val.json`` and perhaps ``NAME_test.json``.

    The same file, in any order, and the same seed give the same split on every machine.

    Args:
        file: COCO annotation file.
        val: share of the images for validation.
        test: share of the images for a third file.
        stratify: give each part nearly the same share of every class.
        group_by: field of the image entries that keeps images together, or 'folder'.
        images: image folder; files that are equal byte for byte stay together.
        seed: random seed.
        out: folder to write to; None for that of ``file``.

    Raises:
        UserError: the file cannot be split, or one of the files exists.

    Example:
        >>> import eca_mmdet
        >>> report = eca_mmdet.split_annotations('train.json', val=0.25)
        >>> report.images
        {'train': 3, 'val': 1}
    """
    shares = {'val': val} | ({'test': test} if test else {})
    if min(shares.values()) <= 0 or sum(shares.values()) >= 1:
        raise UserError(
            f'--val and --test must leave images for training; got {shares}.',
            code='option-invalid',
        )
    source = Path(file)
    content = read_annotations(source).content
    require_instances(source, content)
    units = make_units(content, group_by, Path(images) if images else None)
    places = divide(units, list(shares.values()), seed, stratify)
    parts = _parts(content, ['train', *shares], units, places)
    folder = source.parent if out is None else Path(out)
    stem = source.name.removesuffix('.json')
    files = {name: folder / f'{stem}_{name}.json' for name in parts}
    write_new({files[name]: part for name, part in parts.items()})
    return _report(files, content, parts, units)


def _parts(
    content: Mapping[str, Any],
    names: Sequence[str],
    units: Sequence[Unit],
    places: Sequence[int],
) -> dict[str, dict[str, Any]]:
    """Return the parts: their images and annotations, and all other keys whole."""
    parts: dict[str, dict[str, Any]] = {}
    part_of: dict[Any, list[Any]] = {}  # annotations of its part, by image id
    for place, name in enumerate(names):
        of_part = (u.images for u, at in zip(units, places, strict=True) if at == place)
        chosen = sorted(chain.from_iterable(of_part))
        part = {**content, 'images': [content['images'][at] for at in chosen]}
        if 'annotations' in content:
            part['annotations'] = []
            ids = (one['id'] for one in part['images'])
            part_of |= dict.fromkeys(ids, part['annotations'])
        parts[name] = part
    for one in content.get('annotations', ()):  # once: each is decoded anew
        if is_annotation(one) and one['image_id'] in part_of:
            part_of[one['image_id']].append(one)
    return parts


def _report(
    files: dict[str, Path],
    content: Mapping[str, Any],
    parts: Mapping[str, Mapping[str, Any]],
    units: Sequence[Unit],
) -> SplitReport:
    annotations = {name: part.get('annotations', []) for name, part in parts.items()}
    objects = {
        name: [one for one in part if not one.get('iscrowd')]
        for name, part in annotations.items()
    }
    counts = {
        part: Counter(one['category_id'] for one in found)
        for part, found in objects.items()
    }
    image_counts = {
        part: Counter(
            key for key, _ in {(one['category_id'], one['image_id']) for one in found}
        )
        for part, found in objects.items()
    }
    held = Counter(name for unit in units for name in unit.classes)
    classes, rare, missed = [], [], []
    names = {c['id']: c['name'] for c in content['categories'] if is_category(c)}
    for key, name in names.items():
        by_part = {
            part: {'images': image_counts[part][key], 'objects': counts[part][key]}
            for part in parts
        }
        classes.append({'name': name, **by_part})
        wanted = [list(parts)[at] for at in wanted_parts(held[key], len(parts))]
        absent = [part for part in wanted if not counts[part][key]]
        if absent:
            missed.append(f'{name} (not in {", ".join(absent)})')
        elif 0 < held[key] < len(parts):
            rare.append(f'{name} ({held[key]})')
    kept = {name: len(part) for name, part in annotations.items()}
    return SplitReport(
        files,
        {name: len(part['images']) for name, part in parts.items()},
        kept,
        classes,
        rare,
        missed,
        len(content.get('annotations', ())) - sum(kept.values()),
        [name for name, part in parts.items() if _is_untrained(part)],
        sum(kept.values()) - sum(map(len, objects.values())),
        len(units) < len(content['images']),
    )


def _is_untrained(part: Mapping[str, Any]) -> bool:
    counts = count_reasons(Content.of(part))
    return 'annotations' in part and (not counts or bool(nothing_trained(counts)))


def make_units(
    content: Mapping[str, Any], group_by: str | None, folder: Path | None
) -> list[Unit]:
    """Put images together that have the same id, name, bytes or group.

    ``group_by`` is a field of the image entries, or 'folder' for that of the file name.
    Files in the image folder ``folder`` are compared by their bytes.

    Raises:
        UserError: an entry has no id, name or group, or no image is in the folder.
    """
    images: Sequence[Any] = content['images']
    bad = sum(not is_image(one) for one in images)
    if bad:
        raise UserError(
            f"{bad} image entries have no 'id' or no 'file_name'. Repair the file with "
            'eca-mmdet check-data --fix.',
            code='not-annotations',
        )
    marks: list[list[Hashable]] = [
        [('id', one['id']), ('name', _plain(one['file_name']))] for one in images
    ]
    if group_by is not None:
        for own, value in zip(marks, _groups(images, group_by), strict=True):
            own.append(('group', value))
    if folder is not None:
        for at, digest in _digests(images, folder).items():
            marks[at].append(('bytes', digest))
    present = _presence(content)
    return [
        Unit(
            tuple(together),
            tuple(sorted({_plain(images[at]['file_name']) for at in together})),
            Counter(
                name
                for image_id in {images[at]['id'] for at in together}
                for name in present.get(image_id, ())
            ),
        )
        for together in _joined(marks)
    ]


def _plain(name: str) -> str:
    """Return a file name in one form: './a//b.jpg' is 'a/b.jpg'."""
    return str(PurePosixPath(name))


def _groups(images: Sequence[Entry], field: str) -> list[str]:
    """Return the group of each image as text."""
    lacking = [one for one in images if one.get(field) is None]
    if field == 'folder' and len(lacking) == len(images):
        return [str(PurePosixPath(one['file_name']).parent) for one in images]
    if lacking:
        fields = sorted({str(key) for one in images for key in one})
        raise UserError(
            f'{len(lacking)} of {len(images)} images have no {field!r}, the first is '
            f'{image_name(lacking[0])}; --group-by needs it in each. Their fields: '
            f'{clipped(", ".join(fields), 200)}; or folder, of the file name.',
            code='option-invalid',
        )
    return [json.dumps(one[field], sort_keys=True) for one in images]


def _digests(images: Sequence[Entry], folder: Path) -> dict[int, str]:
    """Return a hash of each file that has the size of another one."""
    by_size = defaultdict[int, list[int]](list)
    for at, one in enumerate(images):
        path = folder / one['file_name']
        if '\0' not in one['file_name'] and path.is_file():
            by_size[path.stat().st_size].append(at)
    if not by_size:
        raise UserError(
            f'none of the {len(images)} images is in {folder}; the first is '
            f'{image_name(images[0])}. Give the folder that the names are relative to.',
            code='no-images',
        )
    digests = {}
    for alike in by_size.values():
        for at in alike if len(alike) > 1 else ():
            try:
                digests[at] = sha256_of(folder / images[at]['file_name'])
            except OSError as error:
                raise UserError(
                    f'{error.filename} cannot be read: {error}', code='file-unreadable'
                ) from error
    return digests


def _presence(content: Mapping[str, Any]) -> dict[Any, set[Any]]:
    """Return the categories of each image id; a crowd is no object to learn."""
    known = {one['id'] for one in content['categories'] if is_category(one)}
    present = defaultdict[Any, set[Any]](set)
    for one in content.get('annotations', ()):
        if (
            is_annotation(one)
            and not one.get('iscrowd')
            and one['category_id'] in known
        ):
            present[one['image_id']].add(one['category_id'])
    return present


def _joined(marks: Sequence[Sequence[Hashable]]) -> list[list[int]]:
    """Return the positions that share a mark, directly or through others."""
    parent = list(range(len(marks)))

    def first(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = parent[at]
        return at

    seen: dict[Hashable, int] = {}
    for at, own in enumerate(marks):
        for mark in own:
            a, b = sorted((first(at), first(seen.setdefault(mark, at))))
            parent[b] = a
    together = defaultdict[int, list[int]](list)
    for at in range(len(marks)):
        together[first(at)].append(at)
    return list(together.values())
