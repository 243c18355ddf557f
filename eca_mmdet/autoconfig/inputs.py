"""Annotation files and images of the user, in whatever format they are."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eca_mmdet.datasets.checking import require_images
from eca_mmdet.datasets.coco import read_annotations, require_instances
from eca_mmdet.datasets.entries import is_category, is_image
from eca_mmdet.datasets.images import find_missing, open_images
from eca_mmdet.datasets.rules.categories import plain
from eca_mmdet.datasets.rules.check import check_images
from eca_mmdet.datasets.rules.rule import Fault
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import write_json
from eca_mmdet.utils.text import clipped

logger = logging.getLogger(__name__)

MOST_OPENED = 1000
"""Images of a file that are read; ``eca-mmdet check-data --images`` reads all."""

_ALIGNED = '_as_'
"""In the name of a validation file whose categories were put in order."""

_SAMPLE = 200
"""File names that a folder is tried with."""

_VAL_SHARE = '0.2'
"""Share for validation in the command that is proposed."""


@dataclass(frozen=True)
class Options:
    """What the user asked for, beside the data.

    Attributes:
        images: folder of the images; None to look for it around the files.
        val_images: folder of the validation images, if it is another.
        model: name, start of a name, or file of the config to inherit.
        weights: detector or backbone to start from.
        keep_classes: of a detector, keep the rows of classes with equal names.
        keep_defaults: leave image size and anchors as they are in the config.
        epochs: in place of the proposal.
        command: that was called, for the head of the config.
    """

    images: str | None = None
    val_images: str | None = None
    model: str | None = None
    weights: str | None = None
    keep_classes: bool = False
    keep_defaults: bool = False
    epochs: int | None = None
    command: str = ''


@dataclass
class AnnotationFile:
    """One COCO annotation file and the folder of its images.

    Attributes:
        file: as the config names it.
        images: folder that the file names are relative to.
        content: of the file.
        notes: how it was found or changed, one line each.
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


def read_inputs(
    train: str, val: str | None, options: Options
) -> tuple[AnnotationFile, AnnotationFile]:
    """Read the training and the validation data; other formats become COCO first.

    Args:
        train: annotation file, or a folder of any format.
        val: the same; None if ``train`` is a folder that has both.
        options: with the folders of the images.

    Returns:
        Both files, the categories of the second in the order of the first.

    Raises:
        UserError: a file is missing, of no known format, or cannot be used.
    """
    found = _as_coco(train, options.images)
    if val is None:
        files = _split(found, 'train', train), _validation(found, train)
    else:
        others = _as_coco(val, options.val_images or options.images)
        files = _split(found, 'train', train), _split(others, 'val', val)
    first, second = (_read(file, images) for file, images in files)
    return first, align(first, second)


_Location = tuple[Path, str | None]
"""A COCO file, and the folder of its images if it is known."""


def _as_coco(name: str, images: str | None) -> dict[str, _Location]:
    """Return what a file or a folder has, by split; '' where it has no splits."""
    path = Path(name)
    if path.suffix == '.json' and not path.is_dir():
        return {'': (path, images)}
    from eca_mmdet.datasets.converters.conversion import convert

    converted = convert(path)
    for one in converted:
        if one.kind != 'coco':
            state = 'written' if one.written else 'there already, with the same content'
            logger.info(f'{one.file}: {state}')
            for note in one.notes:
                logger.info(f'  {note}')
    return {one.split: (one.file, images or str(one.images)) for one in converted}


def _split(found: dict[str, _Location], split: str, name: str) -> _Location:
    """Return a split, or the only file."""
    if split in found:
        return found[split]
    if len(found) == 1:
        return next(iter(found.values()))
    raise UserError(
        f'{name} has no {split!r}, but {", ".join(map(repr, found))}. Name the file '
        'to use.',
        code='file-not-found',
    )


def _validation(found: dict[str, _Location], name: str) -> _Location:
    """Return the second file of a folder that has both."""
    if 'val' in found and 'train' in found:
        return found['val']
    file, _ = next(iter(found.values()))
    command = shlex.join(['eca-mmdet', 'split', str(file), '--val', _VAL_SHARE])
    raise UserError(
        f'{name} comes without validation data. Give a second file, or split it: '
        f'{command}',
        code='no-validation-data',
    )


def _read(file: Path, images: str | None) -> AnnotationFile:
    """Read an annotation file and find its images."""
    content = read_annotations(file).content
    require_instances(file, content)
    if not any(is_category(one) for one in content['categories']):
        raise UserError(
            f"{file}: no category has an 'id' and a 'name'.", code='not-annotations'
        )
    for one in filter(is_category, content['categories']):
        if not _is_text(one['name']):
            raise UserError(
                f'{file}: category {one["name"]!r} has half a character in its name '
                '(a lone surrogate), which no file can be written with. Rename it.',
                code='faulty-data',
            )
    names = [one['file_name'] for one in content['images'] if is_image(one)]
    if not names:
        raise UserError(
            f"{file}: no image has an 'id' and a 'file_name'.", code='no-images'
        )
    if images is not None:
        require_images(Path(images), names, file)
        return AnnotationFile(file, Path(images), content)
    tried = list(_folders_around(file))
    found = {one.resolve(): one for one in reversed(tried) if _has_all(one, names)}
    if len(found) > 1:
        shown = ' and '.join(map(str, reversed(found.values())))
        raise UserError(
            f'the images of {file} may be those in {shown}: all have files of these '
            'names. Say which: --images DIR.',
            code='option-missing',
        )
    for folder in found.values():
        return AnnotationFile(file, folder, content, (f'images found in {folder}',))
    shown = ', '.join(dict.fromkeys(str(one) for one in tried))
    raise UserError(
        f'the images of {file} are in none of {shown}; the first is '
        f'{clipped(repr(names[0]))}. Name the folder that the file names are relative '
        'to: --images DIR.',
        code='no-images',
    )


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


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


def open_some(part: AnnotationFile) -> list[Fault]:
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


def align(train: AnnotationFile, val: AnnotationFile) -> AnnotationFile:
    """Return the validation part with the training file's categories in its order.

    mmdet numbers labels by the order in which a file lists its categories, so a file
    that lacks one or has another order gives every class the AP of its neighbour. Such
    a file is written once more, beside the source, with the order corrected; ids,
    images and annotations stay.

    Raises:
        UserError: the names differ by case or spaces alone, or another file is there
            already.
    """
    wanted, found = train.names, val.names
    if [name for name in found if name in set(wanted)] == wanted:
        return val
    _require_spelling(train, val)
    if len(set(found)) < len(found) or len(set(wanted)) < len(wanted):
        return val  # reported when the data are checked
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
    return AnnotationFile(out, val.images, content, (*val.notes, note))


def _require_spelling(train: AnnotationFile, val: AnnotationFile) -> None:
    extra = {plain(name): name for name in val.names if name not in train.names}
    lost = [name for name in train.names if name not in val.names]
    pairs = [f'{n!r} and {extra[plain(n)]!r}' for n in lost if plain(n) in extra]
    if pairs:
        raise UserError(
            f'{train.file} and {val.file} spell classes differently: '
            f'{clipped(", ".join(pairs), 200)}. Use one name for each.',
            code='class-mismatch',
        )


def _write_once(out: Path, content: dict[str, Any]) -> None:
    """Write a file, unless it exists with the same content."""
    if out.exists():
        there = read_annotations(out).content
        if there == content:
            return
        raise UserError(
            f'{out} exists with other content, and nothing is overwritten. Remove it, '
            'and it is written anew.',
            code='output-exists',
        )
    write_json(out, content, indent=None)
