"""Labels that were drawn on a photograph before it was turned as its EXIF data say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from eca_mmdet.datasets.converters.source import Thing, Told
from eca_mmdet.datasets.entries import Size

Point = tuple[float, float]
_TURNS: dict[int, Callable[[float, float, int, int], Point]] = {
    5: lambda x, y, w, h: (y, x),
    6: lambda x, y, w, h: (h - y, x),
    7: lambda x, y, w, h: (h - y, w - x),
    8: lambda x, y, w, h: (y, w - x),
}
"""EXIF orientations that swap the sides: a point of the stored image of w x h pixels
to where it is seen."""


def fit(things: list[Thing], stated: Size, path: Path, size: Size, told: Told) -> None:
    """Turn objects in place if the size that their file states is the stored one's.

    Orientations that keep the sides (a half turn, a mirror) cannot be told by the size;
    their labels are taken as drawn on the turned image.

    Args:
        things: of the image.
        stated: width and height in the label file; (0, 0) if it has none.
        path: of the image.
        size: of the image, turned as mmdet turns it.
        told: added to.
    """
    if stated == size or not all(stated):
        return
    turn = _TURNS.get(_orientation(path)) if stated == size[::-1] else None
    if turn is None:
        told.add(
            'label files that state another size than their image has; the labels are '
            'kept as they are: look whether they fit',
            f'{path.name}: {stated[0]} x {stated[1]}, not {size[0]} x {size[1]}',
        )
        return
    for one in things:
        (x1, y1), (x2, y2) = turn(*one.box[:2], *stated), turn(*one.box[2:], *stated)
        one.box = min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)
        if isinstance(one.mask, dict):
            told.add('masks left out that would have to be turned', path.name)
            one.mask = []
        else:
            one.mask = [
                [
                    value
                    for x, y in zip(points[::2], points[1::2], strict=True)
                    for value in turn(x, y, *stated)
                ]
                for points in one.mask
            ]
    told.add(
        'images whose labels were drawn before the turn that EXIF data ask for: turned '
        'with the image',
        path.name,
    )


def _orientation(path: Path) -> int:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return int(image.getexif().get(274, 1))
    except (OSError, ValueError, TypeError, SyntaxError):
        return 1
