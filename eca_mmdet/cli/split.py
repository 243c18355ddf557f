"""``eca-mmdet split``: divide an annotation file for training and validation."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eca_mmdet.datasets.coco import read_annotations, require_instances, write_new
from eca_mmdet.datasets.entries import is_annotation, is_category
from eca_mmdet.datasets.split.grouping import Unit, make_units
from eca_mmdet.datasets.split.stratify import divide, wanted_parts
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.text import clipped, printable

_MOST_ROWS = 60
"""Classes in the printed table; of more, those that lack a part."""


def run(args: argparse.Namespace) -> int:
    """Split, write the files, and print what each has of every class."""
    shares = {'val': args.val} | ({'test': args.test} if args.test else {})
    if sum(shares.values()) >= 1:
        raise UserError('--val and --test must leave images for training.')
    source = Path(args.file)
    content = read_annotations(source).content
    require_instances(source, content)
    folder = Path(args.images) if args.images else None
    units = make_units(content, args.group_by, folder)
    places = divide(units, list(shares.values()), args.seed, args.stratify)
    names = ['train', *shares]
    parts = {
        name: _content(
            content, [u for u, at in zip(units, places, strict=True) if at == n]
        )
        for n, name in enumerate(names)
    }
    out = source.parent if args.out is None else Path(args.out)
    stem = source.name.removesuffix('.json')
    files = {name: out / f'{stem}_{name}.json' for name in names}
    write_new({files[name]: part for name, part in parts.items()})
    report = _Report(content, parts, units, places)
    if args.json:
        print(json.dumps(report.as_json(files), indent=1))
    else:
        print('\n'.join(report.as_text(files, shares)))
    return 0


def _content(content: Mapping[str, Any], units: Sequence[Unit]) -> dict[str, Any]:
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


class _Report:
    """What the parts have of each class, and what could not be done."""

    def __init__(
        self,
        content: Mapping[str, Any],
        parts: Mapping[str, Mapping[str, Any]],
        units: Sequence[Unit],
        places: Sequence[int],
    ) -> None:
        self._parts = parts
        self._names = {
            one['id']: one['name'] for one in content['categories'] if is_category(one)
        }
        self._objects = {name: _by_class(part, 'id') for name, part in parts.items()}
        self._images = {
            name: _by_class(part, 'image_id') for name, part in parts.items()
        }
        self._held = Counter(name for unit in units for name in unit.classes)
        self._grouped = len(units) < len(content['images'])
        kept = sum(len(part.get('annotations', ())) for part in parts.values())
        self._lost = len(content.get('annotations', ())) - kept
        self._crowds = sum(
            bool(one.get('iscrowd'))
            for part in parts.values()
            for one in part.get('annotations', ())
        )

    def _lacking(self) -> tuple[list[str], list[str]]:
        """Return names of classes that cannot be in each part, and that are not."""
        count = len(self._parts)
        rare, missed = [], []
        for key, name in self._names.items():
            absent = [
                part
                for at, part in enumerate(self._parts)
                if at in wanted_parts(self._held[key], count)
                and not self._objects[part][key]
            ]
            if absent:
                missed.append(f'{name} (not in {", ".join(absent)})')
            elif 0 < self._held[key] < count:
                rare.append(f'{name} ({self._held[key]})')
        return rare, missed

    def as_json(self, files: Mapping[str, Path]) -> dict[str, Any]:
        rare, missed = self._lacking()
        return {
            'files': {name: str(path) for name, path in files.items()},
            'images': {name: len(part['images']) for name, part in self._parts.items()},
            'annotations': {
                name: len(part.get('annotations', ()))
                for name, part in self._parts.items()
            },
            'classes': [
                {'name': name}
                | {
                    part: {
                        'images': self._images[part][key],
                        'objects': self._objects[part][key],
                    }
                    for part in self._parts
                }
                for key, name in self._names.items()
            ],
            'too_rare': rare,
            'not_in_each_part': missed,
            'left_out_annotations': self._lost,
        }

    def as_text(
        self, files: Mapping[str, Path], shares: Mapping[str, float]
    ) -> list[str]:
        from eca_mmdet.evaluation.tables import render

        total = sum(len(part['images']) for part in self._parts.values())
        lines = []
        for name, path in files.items():
            count = len(self._parts[name]['images'])
            asked = f', asked for {shares[name]:.1%}' if name in shares else ''
            lines.append(
                f'{path}: {count} of {total} images ({count / total:.1%}{asked}), '
                f'{len(self._parts[name].get("annotations", ()))} annotations'
            )
        lines = [printable(line) for line in lines]
        header = ['class']
        for name in self._parts:
            header += [f'{name} images', 'objects']
        return [*lines, '', render(header, self._rows(), 'table'), *self._remarks()]

    def _rows(self) -> list[list[str]]:
        keys = list(self._names)
        if len(keys) > _MOST_ROWS:
            keys = [
                key
                for key in keys
                if not all(self._objects[p][key] for p in self._parts)
            ]
        rows = []
        for key in keys[:_MOST_ROWS]:
            row = [clipped(self._names[key])]
            for part in self._parts:
                row += [str(self._images[part][key]), str(self._objects[part][key])]
            rows.append(row)
        if len(rows) < len(self._names):
            rest = len(self._names) - len(rows)
            blank = [''] * (2 * len(self._parts))
            rows.append([f'({rest} more classes)', *blank])
        return rows

    def _remarks(self) -> list[str]:
        rare, missed = self._lacking()
        what = 'images or groups' if self._grouped else 'images'
        lines = []
        if rare:
            lines.append(f'too few {what} to be in each part: {", ".join(rare)}')
        if missed:
            lines.append(
                f'no split was found with these in each part: {", ".join(missed)}'
            )
        if self._crowds:
            lines.append(f'not counted as objects: {self._crowds} crowd annotations')
        if self._lost:
            lines.append(
                f'in no part: {self._lost} annotations of images that are not in the '
                'file, or of none. Look with eca-mmdet check-data.'
            )
        return ['', *(clipped(line, 1000) for line in lines)] if lines else []


def _by_class(part: Mapping[str, Any], key: str) -> Counter[Any]:
    """Count objects ('id'), or images that have one ('image_id'), without crowds."""
    seen = [one for one in part.get('annotations', ()) if not one.get('iscrowd')]
    if key == 'id':
        return Counter(one['category_id'] for one in seen)
    return Counter(
        name for name, _ in {(a['category_id'], a['image_id']) for a in seen}
    )
