"""Images that must stay together when a dataset is split."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from eca_mmdet.datasets.entries import (
    Entry,
    image_name,
    is_annotation,
    is_category,
    is_image,
)
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import sha256_of
from eca_mmdet.utils.text import clipped


@dataclasses.dataclass(frozen=True)
class Unit:
    """Images that are split as one.

    Attributes:
        images: their positions in the file.
        names: their file names, sorted: the same in a file of another order.
        classes: category ids, and how many of the images have an object of it.
    """

    images: tuple[int, ...]
    names: tuple[str, ...]
    classes: Mapping[Any, int]

    @property
    def size(self) -> int:
        """The number of images."""
        return len(self.images)

    def order(self, seed: int) -> bytes:
        """Return what to sort by for a random order, the same on every machine."""
        text = '\0'.join([str(seed), *self.names])
        return hashlib.sha256(text.encode('utf-8', 'surrogatepass')).digest()


def make_units(
    content: Mapping[str, Any], group_by: str | None, folder: Path | None
) -> list[Unit]:
    """Put images together that have the same id, name, bytes or group.

    Args:
        content: of an annotation file.
        group_by: a field of the image entries, or 'folder' for that of the file name;
            None for no groups.
        folder: of the images, to find files that are the same; None not to look.

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
