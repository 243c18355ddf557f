"""``eca-mmdet check-data``: find the faults of annotation files, and repair a copy."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eca_mmdet.datasets.coco import read_annotations, require_instances
from eca_mmdet.datasets.entries import is_image
from eca_mmdet.datasets.images import ImageFiles, open_images
from eca_mmdet.datasets.repair import repair
from eca_mmdet.datasets.rules.check import check_annotations, check_images
from eca_mmdet.datasets.rules.rule import Fault
from eca_mmdet.datasets.rules.splits import compare_splits
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import require_free, write_json
from eca_mmdet.utils.text import clipped, printable


@dataclass
class _Checked:
    """A file, or two that were held against each other, and the faults found.

    Attributes:
        name: of the file, as given.
        faults: of all severities.
        content: of the file; empty for two.
        images: what was found of its images; None if they were not looked for.
    """

    name: str
    faults: list[Fault]
    content: dict[str, Any] = field(default_factory=dict)
    images: ImageFiles | None = None

    @property
    def counts(self) -> dict[str, int]:
        """The number of images, annotations and categories."""
        keys = ('images', 'annotations', 'categories') if self.content else ()
        return {key: len(self.content.get(key, ())) for key in keys}


def run(args: argparse.Namespace) -> int:
    """Check, repair if asked; 1 if there is an error or a warning."""
    if args.val_images and not args.val:
        raise UserError('--val-images belongs to --val; give the validation file too.')
    if args.fix:
        require_free(args.fix, option='--fix')
        if not Path(args.fix).parent.is_dir():
            raise UserError(
                f'{args.fix} cannot be written: its folder does not exist.',
                code='file-not-written',
            )
    checked = [_check(args.file, args.images, args.classes)]
    if args.val:
        checked.append(_check(args.val, args.val_images, args.classes))
        checked.append(_compare(args, *checked))
    fixed, done = _fix(args, checked[0]) if args.fix else (None, {})
    if args.json:
        print(json.dumps(_as_json(checked, fixed, done), indent=1))
    else:
        lines = [*_as_text(checked), *(_fixed_text(fixed, done) if fixed else [])]
        print('\n'.join(map(printable, lines)))
    return int(any(f.severity != 'note' for one in checked for f in one.faults))


def _check(name: str, folder: str | None, words: list[str] | None) -> _Checked:
    file = read_annotations(name)
    content = file.content
    require_instances(name, content)
    faults = [
        *file.faults,
        *check_annotations(content, _class_names(words, content)),
    ]
    images = None if folder is None else _open(name, content, folder)
    if images:
        faults += check_images(content['images'], images)
    return _Checked(name, faults, content, images)


def _open(source: str, content: dict[str, Any], folder: str) -> ImageFiles:
    if not Path(folder).is_dir():
        raise UserError(f'image folder {folder!r} does not exist. Give the right one.')
    names = [one['file_name'] for one in content['images'] if is_image(one)]
    images = open_images(Path(folder), names)
    if names and len(images.missing) == len(set(names)):
        raise UserError(
            f'none of the {len(names)} image files of {source} is in {folder!r}; the '
            f'first is {clipped(repr(names[0]))}. Give the folder that the '
            'names are relative to.'
        )
    return images


def _class_names(
    words: list[str] | None, content: dict[str, Any]
) -> list[str] | str | None:
    """Return the classes; one word with commas is a string, as in ('person')."""
    if words is None or len(words) > 1 or ',' not in words[0]:
        return words
    names = [one.get('name') for one in content['categories'] if isinstance(one, dict)]
    return words if words[0] in names else words[0]


def _compare(args: argparse.Namespace, train: _Checked, val: _Checked) -> _Checked:
    folders = None
    if args.images and args.val_images:
        folders = (Path(args.images), Path(args.val_images))
    classes = _class_names(args.classes, train.content)
    faults = compare_splits(
        train.content,
        val.content,
        None if isinstance(classes, str) else classes,
        folders,
    )
    return _Checked(f'{train.name} and {val.name}', faults)


def _fix(
    args: argparse.Namespace, checked: _Checked
) -> tuple[_Checked, dict[str, int]]:
    """Write the repaired copy, read it again and check it."""
    repaired, done = repair(checked.content, checked.images)
    done['file written as UTF-8'] += sum(
        fault.code == 'byte-order-mark' for fault in checked.faults
    )
    out = Path(args.fix)
    for key in ('images', 'categories'):
        if not repaired[key]:
            raise UserError(
                f'nothing is left of {key!r} in {checked.name} after the repair; {out} '
                'was not written. Is it the right file?'
            )
    write_json(out, repaired, indent=None)
    again = _check(args.fix, None, args.classes)
    if checked.images:
        again.faults += check_images(again.content['images'], checked.images)
    return again, {told: count for told, count in done.items() if count}


def _as_json(
    checked: list[_Checked], fixed: _Checked | None, done: dict[str, int]
) -> dict[str, Any]:
    files = [one for one in checked if one.content]
    result: dict[str, Any] = {
        'files': [one.name for one in files],
        'faults': [{'file': c.name} | f.to_dict() for c in checked for f in c.faults],
        'counts': files[0].counts,
    }
    if len(files) > 1:
        result['val_counts'] = files[1].counts
    if fixed:
        result['fix'] = {
            'file': fixed.name,
            'counts': fixed.counts,
            'repaired': done,
            'faults': [fault.to_dict() for fault in fixed.faults],
        }
    return result


def _as_text(checked: list[_Checked]) -> list[str]:
    lines = []
    for one in checked:
        sizes = ', '.join(f'{count} {key}' for key, count in one.counts.items())
        if sizes or one.faults:
            lines.append(f'{one.name}: {sizes}' if sizes else one.name)
        lines += map(_line, one.faults)
    total = Counter(fault.severity for one in checked for fault in one.faults)
    if total['error'] + total['warning']:
        verdict = (
            f'kinds of fault: {total["error"]} errors, {total["warning"]} warnings'
        )
    else:
        verdict = 'no fault'
    return [*lines, verdict]


def _line(fault: Fault) -> str:
    return f'  {fault.severity + ":":9}{fault.line()}'


def _fixed_text(fixed: _Checked, done: dict[str, int]) -> list[str]:
    lines = [f'{fixed.name}: a repaired copy']
    lines += [f'  {count} {told}' for told, count in done.items()]
    left = [fault for fault in fixed.faults if fault.severity != 'note']
    if left:
        return [*lines, 'still there, for you to decide:', *map(_line, left)]
    return [*lines, 'checked again: no fault']
