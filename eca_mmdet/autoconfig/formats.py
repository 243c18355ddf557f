"""Annotation files of the user, whatever format they are in."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eca_mmdet.utils.errors import UserError

if TYPE_CHECKING:
    from eca_mmdet.autoconfig.options import Options
    from eca_mmdet.datasets.converters.conversion import Converted

_OUTSIDE = '0.2'
"""Share for validation in the command that is proposed."""


@dataclass(frozen=True)
class Source:
    """A COCO file and where its images are.

    Attributes:
        file: of annotations.
        images: their folder; None if it is to be found.
    """

    file: Path
    images: str | None


def as_coco(options: Options, say: Callable[[str], None]) -> tuple[Source, Source]:
    """Return both files as COCO JSON; other formats are converted beside the source.

    Args:
        options: with the files or folders.
        say: takes lines for the user.

    Returns:
        For training and for validation.

    Raises:
        UserError: one is missing, of no known format, or has other splits.
    """
    val_images = options.val_images or options.images
    train = _read(options.train, options.images, say)
    if options.val is None:
        return _one(train, 'train', options.train), _validation(train, options.train)
    val = _read(options.val, val_images, say)
    return _one(train, 'train', options.train), _one(val, 'val', options.val)


def _read(
    name: str, images: str | None, say: Callable[[str], None]
) -> dict[str, Source]:
    """Return what a file or a folder has, by split; '' where it has no splits."""
    path = Path(name)
    if path.suffix == '.json' and not path.is_dir():
        return {'': Source(path, images)}
    from eca_mmdet.datasets.converters.conversion import convert

    found = convert(path)
    for one in found:
        for line in _told(one):
            say(line)
    return {one.split: Source(one.file, images or str(one.images)) for one in found}


def _told(one: Converted) -> list[str]:
    if one.kind == 'coco':
        return []
    done = 'written' if one.written else 'there already, with the same content'
    return [f'{one.file}: {done}', *(f'  {note}' for note in one.notes)]


def _one(found: dict[str, Source], split: str, name: str) -> Source:
    """Return a split, or the only file."""
    if split in found:
        return found[split]
    if len(found) == 1:
        return next(iter(found.values()))
    raise UserError(
        f'{name} has no {split!r}, but {", ".join(map(repr, found))}. Name the file '
        'to use.'
    )


def _validation(found: dict[str, Source], name: str) -> Source:
    """Return the second file of a folder that has both.

    Raises:
        UserError: it has one alone.
    """
    if 'val' in found and 'train' in found:
        return found['val']
    file = next(iter(found.values())).file
    command = shlex.join(['eca-mmdet', 'split', str(file), '--val', _OUTSIDE])
    raise UserError(
        f'{name} comes without validation data. Give a second file, or split it: '
        f'{command}'
    )
