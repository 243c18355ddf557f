"""Read the labels of other tools as COCO, written beside the source."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from eca_mmdet.datasets.coco import read_annotations, require_instances, write_new
from eca_mmdet.datasets.converters import coco_folder, cvat, labelme, voc, yolo
from eca_mmdet.datasets.converters.files import files_below, root_tag
from eca_mmdet.datasets.converters.labels import (
    Kind,
    LabelledDataset,
    LabelledObject,
    LabelledSplit,
)
from eca_mmdet.datasets.converters.yolo_description import find_description
from eca_mmdet.datasets.entries import Entry, Size, is_segmentation
from eca_mmdet.datasets.masks import set_area
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import read_json

_READERS: dict[Kind, Callable[[Path], LabelledDataset]] = {
    'yolo': yolo.read,
    'voc': voc.read,
    'labelme': labelme.read,
    'cvat': cvat.read,
}
_NAMES = {
    'coco': 'COCO',
    'yolo': 'YOLO',
    'voc': 'Pascal VOC',
    'labelme': 'LabelMe',
    'cvat': 'CVAT for images',
}
_LOOKED_AT = 20
"""Files of an ending that are opened to tell a folder's kind."""

_DIGITS = 4
"""Of a coordinate in pixels; supervision's boxes are floats of 32 bits."""


@dataclasses.dataclass(frozen=True)
class Converted:
    """One annotation file.

    Attributes:
        split: 'train', 'val', 'test', or '' for a source without splits.
        file: the COCO file; of a source that is COCO, its own.
        images: folder that its file names are relative to.
        kind: of the source.
        image_count: of the file.
        annotation_count: of the file.
        found_count: objects of the source, those that were left out too.
        joined_count: shapes of the source that are part of another's object.
        classes: names, in the order of the file's categories.
        written: False if the file was there already.
        notes: what was left out or changed, a line each.
    """

    split: str
    file: Path
    images: Path
    kind: Kind
    image_count: int
    annotation_count: int
    found_count: int
    joined_count: int
    classes: tuple[str, ...]
    written: bool
    notes: tuple[str, ...]


def kind_of(path: Path) -> Kind | None:
    """Tell of which format a file or a folder is, by a look at a few files.

    Args:
        path: of a folder, a COCO file, a data.yaml, or CVAT's annotations.xml.

    Raises:
        UserError: its data.yaml is not YAML, or there are several to choose from.
        MissingPackageError: PyYAML is not installed, and there is a .yaml file.
    """
    path = Path(path)
    if not path.exists():
        return None
    if coco_folder.find_files(path):
        return 'coco'
    if find_description(path):
        return 'yolo'
    if cvat.find_files(path):
        return 'cvat'
    if path.is_dir():
        xml = islice(files_below(path, ['.xml']), _LOOKED_AT)
        if any(root_tag(one) == 'annotation' for one in xml):
            return 'voc'
        shapes = islice(files_below(path, ['.json']), _LOOKED_AT)
        if any(coco_folder.json_kind(one) == 'labelme' for one in shapes):
            return 'labelme'
    return None


def convert(path: Path, out: Path | None = None) -> list[Converted]:
    """Write a COCO file for each split of a source; the images stay where they are.

    Args:
        path: of a folder, a data.yaml, CVAT's annotations.xml, or what is COCO already:
            of that nothing is written.
        out: folder to write to; None for the source's name and '-coco', beside it.

    Returns:
        The files in the order train, val, test.

    Raises:
        UserError: it is of no known format, nothing of it can be read, or other
            files are in the place of those to be written.
        MissingPackageError: supervision is not installed.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind is None:
        raise UserError(_unknown(path), code='unsupported-format')
    if kind == 'coco':
        return _coco(path)
    root = Path(os.path.abspath(path if path.is_dir() else path.parent))
    out = root.with_name(f'{root.name}-coco') if out is None else Path(out).absolute()
    inside = Path(os.path.realpath(out))
    if Path(os.path.realpath(root)) in (inside, *inside.parents):
        raise UserError(
            f'{out} is inside the source {root}, which is left as it is; give a folder '
            'outside it with --out.',
            code='option-conflict',
        )
    source = _READERS[kind](path if kind in ('yolo', 'cvat') else root)
    parts = sorted(source.splits, key=lambda one: _order(one.split))
    return _write(source, parts, out)


def _order(split: str) -> int:
    return ('', 'train', 'val', 'test').index(split)


def _unknown(path: Path) -> str:
    if not path.exists():
        return f'{path} does not exist. Give the folder of a data set.'
    return (
        f'{path} is of no known format: expected a folder of YOLO (data.yaml or '
        'classes.txt), Pascal VOC (XML files), LabelMe (JSON files), CVAT '
        '(annotations.xml) or COCO (annotations/*.json), unpacked.'
    )


def _coco(path: Path) -> list[Converted]:
    """Find the files and images of what is COCO already."""
    files = coco_folder.find_files(path)
    root = path
    if path.is_file():
        root = path.parent.parent if path.parent.name == 'annotations' else path.parent
    found = []
    for file in files:
        content = read_annotations(file).content
        require_instances(file, content)
        count = len(content.get('annotations', ()))
        names = [
            str(c.get('name')) for c in content['categories'] if isinstance(c, dict)
        ]
        found.append(
            Converted(
                coco_folder.split_of(file),
                file,
                coco_folder.find_images(file, content, root),
                'coco',
                len(content['images']),
                count,
                count,
                0,
                tuple(names),
                False,
                (),
            )
        )
    twice = [one for one, n in Counter(c.split for c in found).items() if n > 1]
    if twice:
        names = [str(c.file) for c in found if c.split == twice[0]]
        raise UserError(
            f'{path} has {len(names)} annotation files of the same split '
            f'({twice[0] or "no name"}): {", ".join(names[:4])}. Give the one to use.',
            code='option-conflict',
        )
    return sorted(found, key=lambda one: _order(one.split))


def _write(
    source: LabelledDataset, parts: list[LabelledSplit], out: Path
) -> list[Converted]:
    contents = {
        out / f'{part.split or "annotations"}.json': _as_coco(source, part)
        for part in parts
    }
    found = sum(len(c['annotations']) + p.log.lost for c, p in _both(contents, parts))
    if found and not any(content['annotations'] for content in contents.values()):
        raise UserError(
            f'none of the {found} objects can be read, so nothing was written. '
            + '; '.join(note for part in parts for note in part.log.notes),
            code='no-objects',
        )
    same = [path for path, content in contents.items() if _is_same(path, content)]
    write_new({path: c for path, c in contents.items() if path not in same})
    converted: list[Converted] = []
    for (path, content), part in zip(contents.items(), parts, strict=True):
        notes = part.log.notes if converted else [*source.notes, *part.log.notes]
        count = len(content['annotations'])
        converted.append(
            Converted(
                part.split,
                path,
                part.folder,
                source.kind,
                len(content['images']),
                count,
                count + part.log.lost + part.log.joined,
                part.log.joined,
                tuple(name for _, name in source.categories),
                path not in same,
                tuple(notes),
            )
        )
    return converted


def _both(contents: dict[Path, Entry], parts: list[LabelledSplit]) -> Any:
    return zip(contents.values(), parts, strict=True)


def _is_same(path: Path, content: Entry) -> bool:
    """Tell a file that has this content already."""
    try:
        return bool(read_json(path, 'annotation file').content == content)
    except UserError:
        return False


def _as_coco(source: LabelledDataset, part: LabelledSplit) -> Entry:
    images: list[Entry] = []
    annotations: list[Entry] = []
    for image_id, image in enumerate(part.images, 1):
        width, height = image.size
        images.append(
            {'id': image_id, 'file_name': image.name, 'width': width, 'height': height}
        )
        for labelled in image.objects:
            one = _annotation(labelled, image.size)
            category = source.keys[labelled.category]
            ids = {'id': len(annotations) + 1, 'image_id': image_id}
            annotations.append({**ids, 'category_id': category, **one})
    return {
        'info': {'description': f'{_NAMES[source.kind]} labels, by eca-mmdet to-coco'},
        'images': images,
        'annotations': annotations,
        'categories': [{'id': at, 'name': name} for at, name in source.categories],
    }


def _annotation(labelled: LabelledObject, size: Size) -> Entry:
    x1, y1, x2, y2 = labelled.box
    box = [round(value, _DIGITS) for value in (x1, y1, x2 - x1, y2 - y1)]
    mask = labelled.mask
    if isinstance(mask, list):
        mask = [[round(value, _DIGITS) for value in points] for points in mask]
    one = {
        'bbox': box,
        'segmentation': mask,
        'iscrowd': int(labelled.crowd),
        **labelled.more,
    }
    if mask and is_segmentation(mask):
        set_area(one, size)
    else:  # check-data reports outlines that cannot be drawn
        one['area'] = box[2] * box[3]
    return one
