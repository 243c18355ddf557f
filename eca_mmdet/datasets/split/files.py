"""Split an annotation file into files for training, validation and testing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eca_mmdet.datasets.coco import read_annotations, require_instances, write_new
from eca_mmdet.datasets.entries import is_annotation, is_category
from eca_mmdet.datasets.split.grouping import Unit, make_units
from eca_mmdet.datasets.split.stratify import divide, wanted_parts
from eca_mmdet.utils.errors import UserError


@dataclass(frozen=True)
class SplitReport:
    """Files of a split, and how each class is distributed over them.

    Attributes:
        files: path of each part: 'train', 'val' and perhaps 'test'.
        images: number of images by part.
        annotations: number of annotations by part.
        classes: name of each class, and by part its numbers of images and objects,
            crowd regions excluded.
        too_rare: classes with fewer images or groups than there are parts.
        not_in_each_part: classes that could be in each part and are not.
        left_out_annotations: number of annotations without an image in the file.
        crowds: number of crowd annotations.
        grouped: whether some images had to stay together.
    """

    files: dict[str, Path]
    images: dict[str, int]
    annotations: dict[str, int]
    classes: list[dict[str, Any]]
    too_rare: list[str]
    not_in_each_part: list[str]
    left_out_annotations: int
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
    parts = {
        name: _part(
            content, [u for u, at in zip(units, places, strict=True) if at == n]
        )
        for n, name in enumerate(['train', *shares])
    }
    folder = source.parent if out is None else Path(out)
    stem = source.name.removesuffix('.json')
    files = {name: folder / f'{stem}_{name}.json' for name in parts}
    write_new({files[name]: part for name, part in parts.items()})
    return _report(files, content, parts, units)


def _part(content: Mapping[str, Any], units: Sequence[Unit]) -> dict[str, Any]:
    """Return a part: its images and annotations, and all other keys whole."""
    chosen = sorted(at for unit in units for at in unit.images)
    part = {**content, 'images': [content['images'][at] for at in chosen]}
    if 'annotations' in content:
        ids = {one['id'] for one in part['images']}
        part['annotations'] = [
            one
            for one in content['annotations']
            if is_annotation(one) and one['image_id'] in ids
        ]
    return part


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
        part: Counter(name for name, _ in {_class_and_image(one) for one in found})
        for part, found in objects.items()
    }
    held = Counter(name for unit in units for name in unit.classes)
    classes, rare, missed = [], [], []
    names = {c['id']: c['name'] for c in content['categories'] if is_category(c)}
    for key, name in names.items():
        entry: dict[str, Any] = {'name': name}
        for part in parts:
            entry[part] = {
                'images': image_counts[part][key],
                'objects': counts[part][key],
            }
        classes.append(entry)
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
        sum(kept.values()) - sum(map(len, objects.values())),
        len(units) < len(content['images']),
    )


def _class_and_image(annotation: Mapping[str, Any]) -> tuple[Any, Any]:
    return annotation['category_id'], annotation['image_id']
