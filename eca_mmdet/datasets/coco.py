"""Read an annotation file, and say what it is if it is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eca_mmdet.datasets.rules.faults import Fault, found
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import read_json_bytes


def read_annotations(path: str | Path) -> tuple[dict[str, Any], list[Fault]]:
    """Read a COCO annotation file, with or without annotations.

    Args:
        path: of a JSON file.

    Returns:
        The content, with non-empty lists ``images`` and ``categories``; and the faults
        of its encoding.

    Raises:
        UserError: it is not there, not JSON, or JSON of another kind.
    """
    raw = read_json_bytes(Path(path), 'annotation file')
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        reason = error if isinstance(error, ValueError) else 'it is nested too deeply'
        raise UserError(f'{path} is not JSON: {reason}{_cut_off(raw, error)}') from None
    _require_kind(path, content)
    # The standard reads UTF-8 with a mark and UTF-16 too; pycocotools does not.
    plain = not raw.startswith((b'\xef\xbb\xbf', b'\xff\xfe', b'\xfe\xff'))
    plain = plain and b'\0' not in raw[:4]
    return content, found('byte-order-mark', [] if plain else ['the first bytes'])


def _cut_off(raw: bytes, error: BaseException) -> str:
    """Say that a file ends too early, where the first fault is at its end."""
    if isinstance(error, json.JSONDecodeError) and not raw.rstrip().endswith(b'}'):
        return '. It ends too early: it was not written or downloaded to the end'
    return ''


def _require_kind(path: str | Path, content: Any) -> None:
    for key in ('images', 'categories'):
        value = content.get(key) if isinstance(content, dict) else None
        if not isinstance(value, list) or not value:
            raise UserError(
                f'{path} is not a COCO annotation file: expected an object with a '
                f'non-empty list {key!r}; it has none.{_other_kind(content)}'
            )
    annotations = content.get('annotations', [])
    if not isinstance(annotations, list):
        raise UserError(
            f"{path} is not a COCO annotation file: 'annotations' must be a list; it "
            f'is of type {type(annotations).__name__}.'
        )


def require_instances(path: str | Path, content: dict[str, Any]) -> None:
    """Refuse a file of panoptic annotations, which has images and categories too.

    Raises:
        UserError: it is one.
    """
    first = next(iter(content.get('annotations', ())), None)
    if isinstance(first, dict) and 'segments_info' in first:
        raise UserError(
            f'{path} holds panoptic annotations; expected those of instances '
            '(instances_*.json).'
        )


def _other_kind(content: Any) -> str:
    """Recognise the other JSON files that lie about."""
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
                'file with eca-mmdet to-coco.'
            )
        if '_via_img_metadata' in content:
            return ' It is a project of the VGG annotator: export it as COCO.'
        keys = ', '.join(repr(str(key)[:30]) for key in list(content)[:5])
        return f' Found: {keys or "nothing"}.'
    return f' Found: {type(content).__name__}.'
