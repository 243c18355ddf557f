"""The user's annotation files and their images."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eca_mmdet.datasets.coco import read_annotations, require_instances
from eca_mmdet.datasets.entries import is_category, is_image
from eca_mmdet.datasets.images import find_missing, open_images
from eca_mmdet.datasets.rules.categories import plain
from eca_mmdet.datasets.rules.check import check_images
from eca_mmdet.datasets.rules.rule import Fault
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import write_json
from eca_mmdet.utils.text import clipped

MOST_OPENED = 1000
"""Images of a file that are read; ``eca-mmdet check-data --images`` reads all."""

_ALIGNED = '_as_'
"""In the name of a validation file whose categories were put in order."""

_SAMPLE = 200
"""File names that a folder is tried with."""


@dataclass
class Part:
    """One annotation file and the folder of its images.

    Attributes:
        file: as the config names it.
        images: folder that the file names are relative to.
        content: of the file.
        notes: what the user must know of how it was found or changed.
    """

    file: Path
    images: Path
    content: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def categories(self) -> list[dict[str, Any]]:
        """The entries with an id and a name, in the order of the file."""
        return [one for one in self.content['categories'] if is_category(one)]

    @property
    def names(self) -> list[str]:
        """The names of the categories, in the order of the file."""
        return [one['name'] for one in self.categories]


def read_part(file: Path, images: str | None) -> Part:
    """Read an annotation file and find its images.

    Args:
        file: COCO JSON.
        images: folder given by the user; without, those around the file are tried.

    Raises:
        UserError: the file cannot be used, or no folder has its images.
    """
    content = read_annotations(file).content
    require_instances(file, content)
    if not any(is_category(one) for one in content['categories']):
        raise UserError(f"{file}: no category has an 'id' and a 'name'.")
    for one in filter(is_category, content['categories']):
        if not _is_text(one['name']):
            raise UserError(
                f'{file}: category {one["name"]!r} has half a character in its name '
                '(a lone surrogate), which no file can be written with. Rename it.'
            )
    names = [one['file_name'] for one in content['images'] if is_image(one)]
    if not names:
        raise UserError(f"{file}: no image has an 'id' and a 'file_name'.")
    if images is not None:
        return Part(file, _given(Path(images), names, file), content)
    tried = list(_folders_around(file))
    found = {one.resolve(): one for one in reversed(tried) if _has_all(one, names)}
    if len(found) > 1:
        shown = ' and '.join(map(str, reversed(found.values())))
        raise UserError(
            f'the images of {file} may be those in {shown}: all have files of these '
            'names. Say which: --images DIR.'
        )
    for folder in found.values():
        return Part(file, folder, content, (f'images found in {folder}',))
    shown = ', '.join(dict.fromkeys(str(one) for one in tried))
    raise UserError(
        f'the images of {file} are in none of {shown}; the first is '
        f'{clipped(repr(names[0]))}. Name the folder that the file names are relative '
        'to: --images DIR.'
    )


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _given(folder: Path, names: Sequence[str], file: Path) -> Path:
    if not folder.is_dir():
        raise UserError(f'image folder {str(folder)!r} does not exist.')
    if len(find_missing(folder, names).missing) == len(set(names)):
        raise UserError(
            f'none of the {len(names)} images of {file} is in {str(folder)!r}; the '
            f'first is {clipped(repr(names[0]))}. Give the folder that the file names '
            'are relative to: --images for the training, --val-images for the '
            'validation file.'
        )
    return folder


def _folders_around(file: Path) -> Iterator[Path]:
    """Yield where COCO, exporters and people put images."""
    stem = file.stem.removeprefix('instances_').partition(_ALIGNED)[0]
    words = re.findall('[a-z]+', stem.casefold())  # 'train' of 'pets_train2017'
    for base in (file.parent, file.parent.parent):
        yield base
        for name in ('images', stem, f'images/{stem}', 'JPEGImages', 'data', 'imgs'):
            if (base / name).is_dir():
                yield base / name
        for word in ('train', 'val', 'valid', 'test'):
            for name in (word, f'images/{word}'):
                if word in words and (base / name).is_dir():
                    yield base / name


def _has_all(folder: Path, names: Sequence[str]) -> bool:
    """Tell whether a folder has the first file names, some missing ones aside."""
    some = list(dict.fromkeys(names))[:_SAMPLE]
    return len(find_missing(folder, some).missing) * 2 < len(some)


def open_some(part: Part) -> list[Fault]:
    """Read images to the end, evenly spread over a large file.

    Returns:
        The faults: images that are missing, damaged, or of another size than stated.
    """
    images = [one for one in part.content['images'] if is_image(one)]
    if len(images) > MOST_OPENED:
        step = len(images) / MOST_OPENED
        images = [images[int(at * step)] for at in range(MOST_OPENED)]
    opened = open_images(part.images, [one['file_name'] for one in images])
    return check_images(images, opened)


def align(train: Part, val: Part) -> Part:
    """Return the validation part with the training file's categories in its order.

    mmdet numbers labels by the order in which a file lists its categories, so a file
    that lacks one or has another order gives every class the AP of its neighbour. Such
    a file is written once more, beside the source, with the order mended; ids, images
    and annotations stay.

    Raises:
        UserError: the names differ by case or spaces alone, or another file is there
            already.
    """
    wanted, found = train.names, val.names
    if [name for name in found if name in set(wanted)] == wanted:
        return val
    _require_spelling(train, val)
    if len(set(found)) < len(found) or len(set(wanted)) < len(wanted):
        return val  # the check of the data tells it
    by_name = {one['name']: one for one in val.categories}
    # The training file's own id, where the validation file has not used it.
    used = {one['id'] for one in val.categories}
    numbers = (n for n in range(1, len(used) + len(wanted) + 2) if n not in used)
    aligned = []
    for one in train.categories:
        entry = by_name.pop(one['name'], None)
        if entry is None:
            entry = dict(one)
            if entry['id'] in used:
                entry['id'] = next(numbers)
            used.add(entry['id'])
        aligned.append(entry)
    content = val.content | {'categories': [*aligned, *by_name.values()]}
    out = val.file.with_name(f'{val.file.stem}{_ALIGNED}{train.file.stem}.json')
    _write_once(out, content)
    note = (
        f'{val.file} lists its categories in another order than {train.file}, or lacks '
        f'some, by which mmdet numbers labels: {out} is the same file with them in '
        'order'
    )
    return Part(out, val.images, content, (*val.notes, note))


def _require_spelling(train: Part, val: Part) -> None:
    extra = {plain(name): name for name in val.names if name not in train.names}
    lost = [name for name in train.names if name not in val.names]
    pairs = [f'{n!r} and {extra[plain(n)]!r}' for n in lost if plain(n) in extra]
    if pairs:
        raise UserError(
            f'{train.file} and {val.file} spell classes differently: '
            f'{clipped(", ".join(pairs), 200)}. Use one name for each.'
        )


def _write_once(out: Path, content: dict[str, Any]) -> None:
    """Write a file; one with the same content may be there."""
    if out.exists():
        there = read_annotations(out).content
        if there == content:
            return
        raise UserError(
            f'{out} exists with other content, and nothing is overwritten. Remove it, '
            'and it is written anew.'
        )
    write_json(out, content, indent=None)
