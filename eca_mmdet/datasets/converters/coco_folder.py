"""Find the files and images of a COCO export: of CVAT, of Roboflow, COCO itself."""

from __future__ import annotations

import mmap
import os
import re
from itertools import islice
from pathlib import Path
from typing import Any

from eca_mmdet.datasets.converters.files import SPLITS
from eca_mmdet.datasets.entries import is_image
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.text import clipped

_OTHERS = ('captions_', 'person_keypoints_', 'panoptic_', 'stuff_', 'image_info_')
"""COCO's files of the same images that are not those of instances."""

_LOOKED_AT = 50
"""Images of a file that are looked for in a folder."""

_COCO = [rb'"%s"\s*:\s*\[' % key for key in (b'images', b'categories', b'annotations')]
_LABELME = rb'"(version|flags|imagePath|imageHeight|imageData)"\s*:'
_WINDOW = 1 << 16
"""Bytes of a file's beginning, of which one of the keys must be."""


def json_kind(path: Path) -> str | None:
    """Return 'coco' or 'labelme' for a JSON file, by the keys in it."""
    try:
        with path.open('rb') as file:
            head = file.read(_WINDOW)
            if b'"shapes"' in head and re.search(_LABELME, head):
                return 'labelme'
            if not any(re.search(key, head) for key in _COCO):
                return None
            # Between two of the keys there may be a list of any length.
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
                found = sum(bool(re.search(key, whole)) for key in _COCO)
    except (OSError, ValueError):
        return None
    return 'coco' if found > 1 else None


def find_files(path: Path) -> list[Path]:
    """Return the annotation files of a folder, or the file itself."""
    if path.is_file():
        return [path] if path.suffix == '.json' and json_kind(path) == 'coco' else []
    folders = [path, path / 'annotations', *(path / name for name in SPLITS)]
    found = [one for folder in folders for one in sorted(folder.glob('*.json'))]
    return [
        one
        for one in islice(found, 100)
        if not one.name.startswith(_OTHERS) and json_kind(one) == 'coco'
    ]


def split_of(file: Path) -> str:
    """Return the split that a file's name says, or its folder's."""
    for text in (file.stem, file.parent.name):
        words = re.split(r'[^a-z]+', text.lower())
        for word in words:
            if word in SPLITS:
                return SPLITS[word]
    return ''


def find_images(file: Path, content: dict[str, Any], root: Path) -> Path:
    """Return the folder that the file names of an annotation file are relative to.

    Args:
        file: the annotation file.
        content: of it.
        root: of the data; the folders in it are tried, and those in these.

    Raises:
        UserError: none of the images is in any of them.
    """
    names = [one['file_name'] for one in content['images'] if is_image(one)]
    step = max(1, len(names) // _LOOKED_AT)
    looked_at = [name for name in names[::step] if '\0' not in name]
    subset = file.stem.removeprefix('instances_')
    first = [
        root / 'images' / subset,
        root / subset,
        file.parent,
        root / 'images',
        root,
    ]
    below = [one for one in _folders(root) if one not in first]
    hits = {
        folder: sum(os.path.isfile(folder / name) for name in looked_at)
        for folder in dict.fromkeys([*first, *below])
        if folder.is_dir()
    }
    best = max(hits, key=lambda one: hits[one], default=root)
    if not hits.get(best):
        name = clipped(repr(names[0])) if names else 'none'
        raise UserError(
            f'no image of {file} was found in {root}; the first is {name}. Export with '
            'the images, or put them beside the annotations.',
            code='no-images',
        )
    return best


def _folders(root: Path) -> list[Path]:
    """Return the folders in a folder, and those in these."""
    top = sorted(one for one in root.iterdir() if one.is_dir())
    return top + [one for at in top for one in sorted(at.iterdir()) if one.is_dir()]
