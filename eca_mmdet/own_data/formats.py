"""Annotation files of the user, whatever format they are in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eca_mmdet.errors import UserError

if TYPE_CHECKING:
    from eca_mmdet.own_data.options import Options


@dataclass(frozen=True)
class Files:
    """COCO files.

    Attributes:
        train: annotation file.
        val: likewise.
        images: folder of the images of ``train``; None if it is to be found.
        val_images: of ``val``.
    """

    train: Path
    val: Path
    images: str | None
    val_images: str | None


def as_coco(options: Options) -> Files:
    """Return both files as COCO JSON; other formats are converted beside the source.

    Raises:
        UserError: one is missing, or of no known format.
    """
    train = Path(options.train)
    if options.val is None:
        raise UserError(
            f'{train} has no validation file: give --val, or split it: eca-mmdet split '
            f'{train} --val 0.2'
        )
    val = Path(options.val)
    return Files(train, val, options.images, options.val_images or options.images)
