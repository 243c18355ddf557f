"""Columns of YOLO labels: a box or an outline, and the values that follow it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from eca_mmdet.datasets.converters.labels import Choices
from eca_mmdet.utils.errors import UserError

_SHARE = 0.1
"""Share of the labels that may contradict a reading."""

_EDGE = 0.01
"""Distance that coordinates may exceed 0-1 by, as in Ultralytics."""

_LABELS = """Say how to read it: 'eca-mmdet to-coco SOURCE --labels boxes' (a box, \
what follows it is left out) or '--labels polygons' (outlines, oriented boxes)."""
_UNITS = """coordinates are outside 0 to 1. Say what they are: 'eca-mmdet to-coco \
SOURCE --units pixels' or, if they are over the edge, '--units normalized'."""


class Columns(NamedTuple):
    """Reading of labels of more than six columns, the same in a whole dataset.

    Attributes:
        boxes: the first four values are a box; otherwise all are an outline.
        tracked: an even number of values ends in a confidence and a track id.
    """

    boxes: bool = False
    tracked: bool = False

    def outline(self, values: Sequence[float]) -> Sequence[float]:
        """Return the coordinates of an outline, without confidence and track id."""
        tail = len(values) % 2 or 2 * (self.tracked and len(values) > 6)
        return values[: len(values) - tail]


def read_columns(
    labels: Iterable[tuple[str, Sequence[float]]], choices: Choices
) -> Columns:
    """Decide what the four or more values after a class mean.

    ``labels`` has the place of each label for messages.

    Raises:
        UserError: several readings fit, or coordinates are outside 0-1.
    """
    counts: Counter[tuple[str, int]] = Counter()
    places: dict[str, str] = {}
    for place, values in labels:
        for fact in _facts(values):
            counts[fact, len(values)] += 1
            places.setdefault(fact, place)

    def total(fact: str, lengths: Iterable[int] = range(6, 10**6)) -> int:
        return sum(
            n for (key, at), n in counts.items() if key == fact and at in lengths
        )

    ids = total('id') > 0 and total('id') >= (1 - _SHARE) * total('even')
    oriented = total('oriented box') >= max(1, (1 - _SHARE) * total('long'))
    tracked = ids and (oriented or total('id above 1') > 0)
    columns = Columns(choices.labels == 'boxes', tracked)
    outside = 'no tracked outline' if columns.tracked else 'no outline'
    why = ''
    long = {at: n for (key, at), n in counts.items() if key == 'long'}
    if choices.labels is None and 'unknown end' in places:
        why = f'{places["unknown end"]}: column 6 is no confidence and no track id'
    elif not any(choices) and total('leaves', [5]) > _SHARE * total('label', [5]):
        why = f'{places["leaves"]}: the first four values are not a box in the image'
    elif choices.labels is None and long:
        most = max(long, key=lambda length: long[length])
        # Labels of one dataset have equally many keypoints, and an end or none.
        near, every = range(max(6, most - 2), most + 3), total('long')
        some = every if most == 6 else total('label', range(10**6))
        fit = total('long', near) - total('no box', near)
        box = fit >= (1 - _SHARE) * some and not oriented
        outline = total(outside) + ids * long.get(6, 0) <= _SHARE * every
        columns = columns._replace(boxes=box and not outline)
        if box == outline or choices.units == 'pixels':
            why = f'{places["long"]}: {most + 1} columns may be a box or an outline'
        elif outline and ids and not columns.tracked:
            why = f'{places["id"]}: the end may be a point, or confidence and track id'
    beyond = places.get('outside') or places.get('' if columns.boxes else outside)
    if beyond and not choices.units:
        raise UserError(f'{beyond}: {_UNITS}', code='option-missing')
    if why:
        raise UserError(f'{why}. {_LABELS}', code='option-missing')
    return columns


def _fit(values: Sequence[float]) -> bool:
    return all(-_EDGE <= value <= 1 + _EDGE for value in values)


def _facts(values: Sequence[float]) -> Iterable[str]:
    """Yield what a label has or cannot be."""
    count, (x, y, w, h, *rest) = len(values), values
    end = rest[-1] if rest else 0.0
    whole = end >= 0 and end == int(end)
    yield 'label'
    if not _fit(values[:4]):
        yield 'outside'
    leaves = not _fit([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    if count == 5 and not whole and not 0 <= end <= 1:
        yield 'unknown end'
    if count == 5 and leaves:
        yield 'leaves'
    if count < 6:
        return
    yield 'long'
    # After the box: keypoints of two or three values; a confidence; a track id.
    tails = [rest, *[rest[:-1]] * (whole or 0 <= end <= 1)]
    tails += [rest[:-2]] * (whole and 0 <= rest[-2] <= 1)
    pose = tails[-1] == [] or any(
        tail
        and len(tail) % size == 0
        and all(
            _fit([v]) if at % size < 2 else 0 <= v <= 1 or v == 2
            for at, v in enumerate(tail)
        )
        for tail in tails
        for size in (2, 3)
    )
    if not pose or leaves:
        yield 'no box'
    for tracked in (False, True):
        if not _fit(Columns(tracked=tracked).outline(values)):
            yield f'no {"tracked " * tracked}outline'
    if count % 2 == 0:
        yield 'even'
        if whole and 0 < values[-2] <= 1 <= end:
            yield 'id'
            if end > 1:
                yield 'id above 1'
    pairs = values[:8:2], values[1:8:2]
    if 8 <= count <= 10 and all(abs(a - b + c - d) < _EDGE / 2 for a, b, c, d in pairs):
        yield 'oriented box'
