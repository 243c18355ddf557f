"""Check annotation files and their images, and write a repaired copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from eca_mmdet.datasets.coco import completed, read_annotations, require_instances
from eca_mmdet.datasets.entries import is_image
from eca_mmdet.datasets.images import (
    ImageFiles,
    find_by_base_name,
    find_missing,
    inspect_images,
    leaves_folder,
)
from eca_mmdet.datasets.rules import check as rules
from eca_mmdet.datasets.rules.check import compare_splits
from eca_mmdet.datasets.rules.rule import Fault
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import require_free, write_json
from eca_mmdet.utils.text import clipped, progress

PathLike: TypeAlias = str | Path

MOST_LOST = 0.1
"""Share of the images, objects or masks that a repaired copy may lack."""


@dataclass
class CheckedFile:
    """Faults of one annotation file, or of two compared with each other.

    Attributes:
        content: the file's; empty for a comparison.
        images: state of its image files; None if they were not opened.
    """

    name: str
    faults: list[Fault]
    content: dict[str, Any] = field(default_factory=dict, repr=False)
    images: ImageFiles | None = field(default=None, repr=False)

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of images, annotations and categories; empty for a comparison."""
        keys = ('images', 'annotations', 'categories') if self.content else ()
        return {key: len(self.content.get(key, ())) for key in keys}


@dataclass
class DataReport:
    """Result of :func:`check_annotations`.

    Attributes:
        checked: the file; with a validation file, that one and their comparison.
        fixed: the repaired copy, checked again; None if none was written.
        repairs: how often each repair was made, or would be in ``refused``.
        removed: number of images, objects and masks that the copy lacks, and of those
            in the source.
        refused: file that was not written, for more than :data:`MOST_LOST` is removed.
    """

    checked: list[CheckedFile]
    fixed: CheckedFile | None = None
    repairs: dict[str, int] = field(default_factory=dict)
    removed: dict[str, tuple[int, int]] = field(default_factory=dict)
    refused: str = ''

    @property
    def faults(self) -> list[Fault]:
        """Every fault, notes included."""
        return [fault for file in self.checked for fault in file.faults]

    @property
    def errors(self) -> int:
        """Number of kinds of fault that break training or make AP wrong."""
        return sum(fault.severity == 'error' for fault in self.faults)

    @property
    def warnings(self) -> int:
        """Number of kinds of fault that probably are not intended."""
        return sum(fault.severity == 'warning' for fault in self.faults)

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        files = [file for file in self.checked if file.content]
        result: dict[str, Any] = {
            'files': [file.name for file in files],
            'faults': [
                {'file': file.name} | fault.to_dict()
                for file in self.checked
                for fault in file.faults
            ],
            'counts': files[0].counts,
        }
        if len(files) > 1:
            result['val_counts'] = files[1].counts
        if self.fixed or self.refused:
            fixed = self.fixed or CheckedFile('', [])
            result['fix'] = {
                'file': fixed.name or None,
                'counts': fixed.counts,
                'repaired': self.repairs,
                'faults': [fault.to_dict() for fault in fixed.faults],
                'removed': {key: gone for key, (gone, _) in self.removed.items()},
            }
        return result


def check_annotations(
    file: PathLike,
    images: PathLike | None = None,
    val: PathLike | None = None,
    val_images: PathLike | None = None,
    classes: Sequence[str] | str | None = None,
    fix: PathLike | None = None,
    force: bool = False,
) -> DataReport:
    """Find what makes training or AP fail or be wrong.

    Args:
        file: COCO annotation file.
        images: folder of its images, each of which is opened.
        val: validation file to compare with the first.
        val_images: folder of the images of ``val``.
        classes: of the config, in its order.
        fix: file to write a repaired copy to; it is checked again.
        force: write it even if more than :data:`MOST_LOST` of the images, objects or
            masks had to be removed.

    Raises:
        UserError: a file is not one of annotations, a folder has none of the images,
            or ``fix`` exists.

    Example:
        >>> import eca_mmdet
        >>> report = eca_mmdet.check_annotations('val.json')
        >>> report.errors, report.warnings
        (0, 0)
    """
    if val_images and not val:
        raise UserError(
            '--val-images belongs to --val; give the validation file too.',
            code='option-conflict',
        )
    if fix:
        require_free(fix, option='--fix')
        if not Path(fix).parent.is_dir():
            raise UserError(
                f'{fix} cannot be written: its folder does not exist.',
                code='file-not-written',
            )
    checked = [_check(file, images, classes)]
    if val:
        checked.append(_check(val, val_images, classes))
        names = _class_names(classes, checked[0].content)
        faults = compare_splits(
            checked[0].content,
            checked[1].content,
            None if isinstance(names, str) else names,
            (Path(images), Path(val_images)) if images and val_images else None,
        )
        checked.append(CheckedFile(f'{file} and {val}', faults))
    if fix:
        return _fix(Path(fix), checked, classes, force)
    return DataReport(checked)


def _check(
    file: PathLike,
    folder: PathLike | None,
    classes: Sequence[str] | str | None,
) -> CheckedFile:
    with progress('annotations'):
        read = read_annotations(file)
        content = read.content
        require_instances(file, content)
        part = rules.suspect_content(
            content, read.index, _class_names(classes, content)
        )
        faults = [*read.faults, *rules.check_content(part)]
    images = None
    if folder is not None:
        usable = [*filter(is_image, content['images'])]
        files = [image['file_name'] for image in usable]
        require_images(Path(folder), files, file)
        images = inspect_images(Path(folder), files)
        faults += rules.check_images(usable, images)
    return CheckedFile(str(file), faults, content, images)


def require_images(folder: Path, names: Sequence[str], file: PathLike) -> None:
    """Reject an image folder that has none of an annotation file's images."""
    if not folder.is_dir():
        raise UserError(
            f'image folder {str(folder)!r} does not exist. Give the right one.',
            code='file-not-found',
        )
    lost = {} if any(map(leaves_folder, names)) else find_missing(folder, names).missing
    if lost and len(lost) == len(set(names)) and not find_by_base_name(folder, names):
        raise UserError(
            f'none of the {len(names)} image files of {file} is in {str(folder)!r}; '
            f'the first is {clipped(repr(names[0]))}. Give the folder that the file '
            'names are relative to, with --images or --val-images.',
            code='no-images',
        )


def _class_names(
    classes: Sequence[str] | str | None, content: dict[str, Any]
) -> Sequence[str] | str | None:
    """Return the classes; one word with commas is a string, e.g. ('person')."""
    if not classes or isinstance(classes, str) or len(classes) > 1:
        return classes
    names = [one.get('name') for one in content['categories'] if isinstance(one, dict)]
    return classes[0] if ',' in classes[0] and classes[0] not in names else classes


def _fix(
    out: Path,
    files: list[CheckedFile],
    classes: Sequence[str] | str | None,
    force: bool,
) -> DataReport:
    """Write the repaired copy, read it again and check it."""
    checked = files[0]
    repaired, done = rules.repair(checked.content, checked.images)
    done['file written as UTF-8'] += sum(
        fault.code == 'byte-order-mark' for fault in checked.faults
    )
    for key in ('images', 'categories'):
        if not repaired[key]:
            raise UserError(
                f'nothing is left of {key!r} in {checked.name} after the repair; {out} '
                'was not written. Is it the right file?',
                code='no-images' if key == 'images' else 'no-objects',
            )
    report = DataReport(files, None, {what: n for what, n in done.items() if n})
    before, after = _totals(checked.content), _totals(repaired)
    before['images'] -= done['repeated image entries dropped']
    report.removed = {key: (before[key] - after[key], before[key]) for key in before}
    if not force and any(
        gone > MOST_LOST * total for gone, total in report.removed.values()
    ):
        report.refused = str(out)
        return report
    require_free(out, option='--fix')
    write_json(out, completed(repaired), indent=None)
    again = _check(out, None, classes)
    if checked.images:
        again.faults += rules.check_images(again.content['images'], checked.images)
    report.fixed = again
    return report


def _totals(content: dict[str, Any]) -> dict[str, int]:
    objects = content.get('annotations', [])
    masks = sum(isinstance(o, dict) and bool(o.get('segmentation')) for o in objects)
    images = len(content['images'])
    return {'images': images, 'objects': len(objects), 'masks': masks}
