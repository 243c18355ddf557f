"""COCO annotation files: the one place where they are read and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eca_mmdet.datasets.index import CocoIndex, read_index
from eca_mmdet.datasets.rules.rule import Fault, Fix, Phase, Rule
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import read_json, require_free, write_json_files

BYTE_ORDER_MARK: Rule[bytes] = Rule(
    code='byte-order-mark',
    severity='error',
    message='the file is not plain UTF-8 (a byte-order mark or UTF-16), which '
    'pycocotools does not read',
    find=lambda head: [] if _is_plain(head) else ['the first bytes'],
    # Every file that this package writes is.
    fix=Fix('written as UTF-8', Phase.ENTRIES, lambda repair: None),
)


def _is_plain(head: bytes) -> bool:
    """Whether pycocotools reads these bytes; the json module reads UTF-16 too."""
    marks = (b'\xef\xbb\xbf', b'\xff\xfe', b'\xfe\xff')
    return not head.startswith(marks) and b'\0' not in head[:4]


@dataclass(frozen=True)
class CocoFile:
    """Content of an annotation file, its hash, and the faults of its encoding.

    The index is None if an entry is not what COCO says; annotations are then a list.
    """

    content: dict[str, Any]
    sha256: str
    faults: list[Fault]
    index: CocoIndex | None = None


def read_annotations(path: str | Path) -> CocoFile:
    """Read a COCO annotation file, with or without annotations.

    Those of a sound file are decoded when they are asked for.
    """
    index = read_index(path)
    if index is not None:
        return CocoFile(index.content(), index.sha256, [], index)
    file = read_json(path, 'annotation file')
    require_annotations(path, file.content)
    return CocoFile(file.content, file.sha256, BYTE_ORDER_MARK.check(file.head))


def write_new(contents: Mapping[Path, Mapping[str, Any]]) -> None:
    """Write annotation files, all or none, to paths that do not exist yet."""
    require_free(*contents)
    write_json_files({p: completed(c) for p, c in contents.items()}, indent=None)


def completed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content with the optional fields that mmdet's tools read."""
    categories = [
        {**entry, 'supercategory': entry.get('supercategory', 'none')}
        if isinstance(entry, dict)
        else entry
        for entry in content['categories']
    ]
    return {'info': {}, 'licenses': [], **content, 'categories': categories}


def require_annotations(path: str | Path, content: Any) -> None:
    """Reject JSON that is not the content of an annotation file."""
    for key in ('images', 'categories'):
        value = content.get(key) if isinstance(content, dict) else None
        if not isinstance(value, list) or not value:
            raise UserError(
                f'{path} is not a COCO annotation file: expected an object with a '
                f'non-empty list {key!r}; it has none.{_other_kind(content)}',
                code='not-annotations',
            )
    annotations = content.get('annotations', [])
    if not isinstance(annotations, list):
        raise UserError(
            f"{path} is not a COCO annotation file: 'annotations' must be a list; it "
            f'is of type {type(annotations).__name__}.',
            code='not-annotations',
        )


def require_instances(path: str | Path, content: dict[str, Any]) -> None:
    """Reject panoptic annotations, which have images and categories too."""
    first = next(iter(content.get('annotations', ())), None)
    if isinstance(first, dict) and 'segments_info' in first:
        raise UserError(
            f'{path} holds panoptic annotations; expected those of instances '
            '(instances_*.json).',
            code='not-annotations',
        )


def _other_kind(content: Any) -> str:
    """Return a sentence that names another kind of JSON file."""
    first = content[0] if isinstance(content, list) and content else None
    if isinstance(first, dict):
        if 'score' in first and 'image_id' in first:
            return (
                ' It is a list of detections, the results of a test: give the '
                'annotations that they belong to.'
            )
        if 'annotations' in first and 'file_name' in first:
            return (
                ' It is a list of records in the style of Detectron2: write it as COCO '
                'with detectron2.data.datasets.convert_to_coco_json.'
            )
        if 'image_id' in first and 'bbox' in first:
            return ' It is a list of annotations without the rest of the file.'
    if isinstance(content, dict):
        if 'shapes' in content:
            return (
                ' It is the labelme file of one image: write the folder as one COCO '
                'file with eca-mmdet data convert.'
            )
        if '_via_img_metadata' in content:
            return ' It is a project of the VGG annotator: export it as COCO.'
        keys = ', '.join(repr(str(key)[:30]) for key in list(content)[:5])
        return f' Found: {keys or "nothing"}.'
    return f' Found: {type(content).__name__}.'
