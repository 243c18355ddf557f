"""Crowd flags, boxes, areas and masks of annotations.

A file without any mask is one of boxes, and good.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence, Set
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from eca_mmdet.datasets.entries import (
    Entry,
    Size,
    entry_name,
    has_mask,
    is_box,
    is_crowd_flag,
    is_drawable_size,
    is_finite_number,
    is_polygon,
    read_box,
    read_flag,
    read_number,
    read_segmentation,
)
from eca_mmdet.datasets.masks import (
    LEAST_OVERLAP,
    MASK_FAULTS,
    mask_box,
    mask_boxes,
    mask_faults,
    overlap,
    set_area,
    shared_area,
)
from eca_mmdet.datasets.rules.rule import (
    Content,
    Fix,
    Phase,
    Rule,
    annotations_with,
)

OVER_EDGE_PX = 1.0
"""Boxes may reach this far over the edge: rounding, and COCO itself."""

_UNIT_EDGE = 0.01
"""Distance that normalised coordinates may exceed 0-1 by."""

_SAME_OVERLAP = 0.8
"""IoU of two boxes from which one confirms the other."""

_SHARE = 0.1
"""Share of boxes that may contradict the order of their numbers."""

_FEWEST = 5
"""Boxes over the edge that suffice for another order, if all boxes fit it."""

_SCALED, _MOVED = 'scaled to pixels', 'moved into their box'
_EXCHANGED = 'with x and y exchanged'

_without_area = annotations_with(lambda one: not is_finite_number(one.get('area')))
_without_box = annotations_with(lambda one: one.get('bbox') is None)
_malformed_boxes = annotations_with(
    lambda one: one.get('bbox') is not None and not is_box(one['bbox'])
)


def _read(
    find: Callable[[Content], Sequence[Entry]],
    key: str,
    read: Callable[[Any], Any],
    summary: str,
) -> Fix:
    """Return the fix that reads values in another form; others are a later phase's."""

    def apply(content: Content) -> None:
        for one in find(content):
            value = read(one.get(key))
            if value is not None and repr(value) != repr(one[key]):  # 1.0 equals 1
                one[key] = value
                content.done[f'{key} read from another form'] += 1

    return Fix(f'read from another form; otherwise {summary}', Phase.VALUES, apply)


def _read_flags(content: Content) -> None:
    for one in content.annotations:
        value, ignore = one.get('iscrowd'), one.get('ignore')
        if not is_crowd_flag(value):
            flag = None if value is None else read_flag(value)
            state = 'set to 0' if flag is None else 'read from another form'
            content.done[f'iscrowd {state}'] += 1
            one['iscrowd'] = flag or 0
        if isinstance(ignore, str) and (flag := read_flag(ignore)) is not None:
            one['ignore'] = flag
            content.done['ignore read from another form'] += 1


def _is_flat(one: Entry) -> bool:
    """Whether an annotation has an area of 0 that its box does not share."""
    area, box = one.get('area'), one.get('bbox')
    if not is_finite_number(area) or area > 0:
        return False
    return not is_box(box) or (box[2] > 0 and box[3] > 0)


def _compute_areas(content: Content) -> None:
    for one in content.annotations:
        if not is_finite_number(one.get('area')) or _is_flat(one):
            set_area(one, content.sizes[one['image_id']])
            content.done['areas computed'] += 1


def _compute_boxes(content: Content) -> None:
    absent = [one for one in content.annotations if not is_box(one.get('bbox'))]
    misplaced = content.derive(_misplaced)
    codes = 'empty-bbox', 'bbox-outside', 'thin-bbox'
    for one in [*absent, *chain.from_iterable(misplaced[code] for code in codes)]:
        size = content.sizes[one['image_id']]
        what = 'boxes computed from masks'
        if (box := mask_box(one.get('segmentation'), size)) is None:
            what = 'boxes of negative width or height turned'
            box = _opposite_corner(one.get('bbox'), size)
        if box is not None:
            one['bbox'] = box
            content.done[what] += 1
    lost = [one for one in absent if not is_box(one.get('bbox'))]
    content.drop(lost, 'annotations without box and mask dropped')


def _opposite_corner(box: Any, size: Size | None) -> list[float] | None:
    """Return a box of negative width or height from its other corner.

    If that leaves the image and the one from this corner does not, only signs are
    wrong. None if the box has another fault.
    """
    if not is_box(box) or min(box[2:]) >= 0 or 0 in box[2:]:
        return None
    x, y, width, height = box
    sides = [abs(width), abs(height)]
    boxes = [min(x, x + width), min(y, y + height), *sides], [x, y, *sides]
    whole_image = [0, 0, *(size or (math.inf, math.inf))]
    return max(boxes, key=lambda box: float(shared_area(box, whole_image)))


def _is_normalised(one: Entry, size: Size | None) -> bool:
    """Whether a thin box in 0-1 is one in pixels by its mask or area, or cannot be."""
    box, area = one['bbox'], one.get('area')
    pixels, found = _in_pixels(box, size), mask_box(one.get('segmentation'), size)
    if 0 < min(box) and max(box) < 1 and (not found or max(found[2:]) <= 1):
        return True
    if found:
        return bool(overlap(found, pixels) > _SAME_OVERLAP)
    if not is_finite_number(area) or area <= 1:
        return False
    return math.isclose(area, pixels[2] * pixels[3], rel_tol=0.02)


def _misplaced(content: Content) -> dict[str, list[Entry]]:
    """Return annotations by the fault of their box's extent, only one each."""
    boxed = [one for one in content.annotations if is_box(one.get('bbox'))]
    boxes = _array([one['bbox'] for one in boxed], 4)
    # An unknown size reaches to infinity: nothing is outside.
    unknown, sizes = (np.inf, np.inf), content.sizes
    limits = _array([sizes.get(one['image_id']) or unknown for one in boxed], 2)
    ends = boxes[:, :2] + boxes[:, 2:]
    empty = (boxes[:, 2:] <= 0).any(1)
    known = np.isfinite(limits).all(1)
    outside = ((boxes[:, :2] >= limits) | (ends <= 0)).any(1) & ~empty & known
    over = (boxes[:, :2] < -OVER_EDGE_PX) | (ends > limits + OVER_EDGE_PX)
    over_edge = over.any(1) & ~empty & ~outside & known
    thin = (boxes[:, 2:] < 1).any(1) & ~empty & ~outside
    unit = (abs(boxes - 0.5) <= 0.5 + _UNIT_EDGE).all(1) & (limits > 1).all(1)
    normalised: npt.NDArray[np.bool_] = np.asarray(unit & thin)
    if normalised.any() and (unit | empty).all():
        normalised = np.asarray(unit & ~empty)
    for at in [] if (unit | empty).all() else np.flatnonzero(normalised):
        normalised[at] = _is_normalised(boxed[at], sizes.get(boxed[at]['image_id']))
    faults = {
        'empty-bbox': empty,
        'bbox-outside': outside,
        'bbox-over-edge': over_edge & ~thin,
        'thin-bbox': thin & ~normalised,
        'normalised-bbox': normalised,
    }
    return {
        code: [boxed[at] for at in np.flatnonzero(faulty)]
        for code, faulty in faults.items()
    }


def _in_pixels(values: Sequence[float], size: Size | None) -> list[float]:
    """Scale x, y, x, y, ... of 0 to 1 by the size of an image."""
    sides = size or (1, 1)
    return [round(value * sides[at % 2], 6) for at, value in enumerate(values)]


def _scale_boxes(content: Content) -> None:
    found = content.derive(_misplaced)['normalised-bbox']
    found = [one for one in found if content.sizes[one['image_id']]]
    boxes = _array([one['bbox'] for one in found], 4)
    xy, ends = np.split(boxes, 2, axis=1)
    inside, corners, centred = (
        ((x >= -_UNIT_EDGE) & (x + w <= 1 + _UNIT_EDGE) & (w > 0)).all(1)
        for x, w in ((xy, ends), (xy, ends - xy), (xy - ends / 2, ends))
    )
    if not inside.all():
        unsure = inside.mean() > 0.9 or any(one.get('segmentation') for one in found)
        if unsure or centred.all() or not corners.all():
            return
        boxes = np.hstack([xy, ends - xy])
    for one, box in zip(found, boxes.tolist(), strict=True):
        width, height = size = content.sizes[one['image_id']] or (1, 1)
        one['bbox'] = _in_pixels(box, size)
        if is_finite_number(one.get('area')) and one['area'] <= 1:
            one['area'] *= width * height
        content.done['boxes scaled to pixels'] += 1


def _array(rows: list[Any], columns: int) -> npt.NDArray[np.float64]:
    flat = np.fromiter(chain.from_iterable(rows), np.float64, len(rows) * columns)
    return flat.reshape(-1, columns)


@np.errstate(all='ignore')  # numbers near the largest float
def _other_orders(content: Content) -> list[tuple[str, list[tuple[Entry, Any]]]]:
    """Return the orders of numbers that boxes may have, each with the boxes read so.

    A box is right if it is in its image, and is that of its mask or has the stated
    area. An order may be that of all boxes if it makes many right and hardly any wrong;
    single boxes over the edge are two corners if mask or area proves it.
    """
    sizes = content.sizes
    boxed = [one for one in content.annotations if is_box(one.get('bbox'))]
    boxed = [one for one in boxed if sizes[one['image_id']]]
    boxes = _array([one['bbox'] for one in boxed], 4)
    limits = _array([sizes[one['image_id']] for one in boxed], 2)
    area = np.array([read_number(one.get('area')) or 0 for one in boxed], float)
    rows = [at for at, one in enumerate(boxed) if has_mask(one)]
    found = np.full_like(boxes, np.nan)
    found[rows] = mask_boxes([boxed[at]['segmentation'] for at in rows], limits[rows])
    masked = ~np.isnan(found[:, 0])

    a, b, c, d = boxes.T
    readings = {
        '': (a, b, c, d),
        'two corners': (a, b, c - a, d - b),
        'centre and size': (a - c / 2, b - d / 2, c, d),
        'y before x': (b, a, d, c),
        'two corners, y before x': (b, a, d - b, c - a),
    }
    every = np.array([*readings.values()]).swapaxes(1, 2)  # orders, boxes, numbers
    start, extent = every[..., :2], every[..., 2:]
    inside = (start >= -OVER_EDGE_PX) & (start + extent <= limits + OVER_EDGE_PX)
    inside = (inside & (extent > 0)).all(-1)
    same = overlap(found, every) > _SAME_OVERLAP
    has_area = np.isclose(area, extent.prod(-1), rtol=0.02)
    # An area that is just the product of the numbers in question proves nothing.
    stated = (area > 1) & ~has_area[0] & ~masked
    right = inside & (same | ~masked) & (has_area | ~stated)
    orders: list[tuple[int, str, Any]] = []
    for at, order in enumerate(readings):
        gain, loss = right[at] & ~right[0], right[0] & ~right[at]
        proven = gain & (masked | stated)
        if proven.any():
            clear = loss.sum() <= _SHARE * gain.sum()
        else:
            clear = right[at].all() and gain.sum() >= _FEWEST
        if 'y before' in order and inside[0].all():
            continue  # then the masks may be meant so as well
        if clear and gain.sum() > _SHARE * len(boxed):
            orders.append((at, order, ~loss))
        elif order == 'two corners' and (proven & ~inside[0]).any():
            orders.append((at, order, proven))
    best = max((right[at].sum() for at, *_ in orders), default=0)
    return [
        (order, [(boxed[row], every[at, row].tolist()) for row in np.flatnonzero(rows)])
        for at, order, rows in orders
        if right[at].sum() == best
    ]


def _read_boxes(content: Content) -> None:
    """Read boxes in another order of their numbers, unless several fit all."""
    orders = content.derive(_other_orders)
    for order, boxes in orders if len(orders) == 1 else ():
        for one, box in boxes:
            _, _, width, height = one['bbox']
            area = read_number(one.get('area')) or 0
            if math.isclose(area, float(width) * height, rel_tol=0.02):
                one['area'] = box[2] * box[3]  # as it was the box's
            one['bbox'] = box
        content.done[f'boxes read as {order}'] += len(boxes)
    content.forget()


def _clip(content: Content) -> None:
    over_edge = content.derive(_misplaced)['bbox-over-edge']
    if not over_edge:
        return
    if content.derive(_other_orders):
        return  # several orders fit
    for one in over_edge:
        x, y, w, h = one['bbox']
        width, height = content.sizes[one['image_id']] or (w, h)
        left, top = max(x, 0), max(y, 0)
        box = [left, top, min(x + w, width) - left, min(y + h, height) - top]
        if min(box[2:]) < 1:
            continue  # mmdet would no longer train on it
        if not one.get('segmentation') and is_finite_number(one.get('area')):
            one['area'] = box[2] * box[3]  # it was the box's
        one['bbox'] = box
        content.done['boxes clipped to the image'] += 1


def _box_name(one: Entry) -> str:
    return f'{entry_name(one)}: {list(one["bbox"])}'


def _bad_masks(content: Content) -> dict[str, list[Entry]]:
    """Return annotations by what is wrong with their mask, and those without one."""
    known, annotations = content.sizes, content.annotations
    sizes = [(known.get(one['image_id']) or (0, 0))[::-1] for one in annotations]
    faults = mask_faults([one.get('segmentation') for one in annotations], sizes)
    found: dict[str, list[Entry]] = {code: [] for code in MASK_FAULTS}
    for at, fault in faults.items():
        found[fault].append(annotations[at])
    empty, away = _misses(
        content,
        [
            one
            for at, one in enumerate(annotations)
            if at not in faults and is_drawable_size(*sizes[at])
        ],
    )
    return found | {'mask-without-pixel': empty, 'mask-off-bbox': away}


def _misses(content: Content, usable: list[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Return annotations whose mask has no pixel, and whose mask is not at their box.

    Boxes that have a fault of their own are not compared.
    """
    misplaced = {*map(id, chain.from_iterable(content.derive(_misplaced).values()))}
    sizes = [content.sizes[one['image_id']] or (0, 0) for one in usable]
    found = mask_boxes([one['segmentation'] for one in usable], sizes)
    empty = [usable[at] for at in np.flatnonzero(np.isnan(found[:, 0]))]
    boxed = [
        at
        for at, one in enumerate(usable)
        if is_box(one.get('bbox')) and id(one) not in misplaced
    ]
    boxes = _array([usable[at]['bbox'] for at in boxed], 4)
    far = np.flatnonzero(overlap(found[boxed], boxes) < LEAST_OVERLAP)
    return empty, [usable[boxed[at]] for at in far]


def _place_masks(content: Content) -> None:
    """Place polygons where their box says, if that is how they are meant.

    A reading that some masks need is tried on all: others may overlap their box too.
    """
    _read_boxes(content)
    masks = content.derive(_bad_masks)
    bad = [*masks['mask-without-pixel'], *masks['mask-off-bbox']]
    # If no mask leaves its image, the axes of the boxes may be wrong as well.
    leaves = any(
        value > (content.sizes[one['image_id']] or (1, 1))[at % 2]
        for one in bad
        if isinstance(one['segmentation'], list)
        for ring in one['segmentation']
        for at, value in enumerate(ring)
    )
    allowed = {_SCALED, _MOVED, *[_EXCHANGED] * leaves}
    found = {_place(one, content, allowed) for one in bad} - {None}
    for one in filter(has_mask, content.annotations) if found else ():
        _place(one, content, found)


def _place(one: Entry, content: Content, allowed: Set[str | None]) -> str | None:
    """Read polygons in the first way by which they agree with their box; name it."""
    rings, box = one['segmentation'], one.get('bbox')
    if not isinstance(rings, list):
        return None
    size, least = content.sizes[one['image_id']] or (1, 1), _SAME_OVERLAP
    readings: list[tuple[str, list[list[float]]]] = []
    if all(0 <= value <= 1 for ring in rings for value in ring):
        for sides in (size, (max(size), max(size))):
            readings.append((_SCALED, [_in_pixels(ring, sides) for ring in rings]))
    elif is_box(box):
        if now := mask_box(rings, size):
            least = max(least, float(overlap(now, box)))
        # What is no polygon is a later phase's.
        exchanged = [
            [ring[at ^ 1] for at in range(len(ring))] if is_polygon(ring) else ring
            for ring in rings
        ]
        moved = [[v + box[at % 2] for at, v in enumerate(ring)] for ring in rings]
        readings = [(_EXCHANGED, exchanged), (_MOVED, moved)]
    for what, rings in readings:
        found = mask_box([*filter(is_polygon, rings)], size)
        agrees = found and (not is_box(box) or overlap(found, box) > least)
        if agrees and what in allowed:
            one['segmentation'] = rings
            content.done[f'masks {what}'] += 1
            return what
    return None


def _unusable(content: Content) -> list[Entry]:
    masks = content.derive(_bad_masks)
    return [*masks['malformed-segmentation'], *masks['short-polygon']]


def _remove_masks(content: Content) -> None:
    """Remove what is no mask; where annotations have masks, drop those left without."""
    masks = content.derive(_bad_masks)
    malformed, empty = masks['malformed-segmentation'], masks['mask-without-pixel']
    short = masks['short-polygon']
    bad = {*map(id, malformed), *map(id, empty)}
    needed = any(has_mask(one) for one in content.annotations if id(one) not in bad)
    for one in (*malformed, *empty):
        one['segmentation'] = []
    content.done['malformed segmentations removed'] += len(malformed)
    content.done['masks without a pixel removed'] += len(empty)
    for one in short:
        mask = one['segmentation']
        one['segmentation'] = [points for points in mask if is_polygon(points)]
        content.done['short polygons removed'] += len(mask) - len(one['segmentation'])
    if needed:
        lost = [one for one in (*malformed, *short, *empty) if not one['segmentation']]
        content.drop(lost, 'annotations that lost their mask dropped')


_MASK = Fix(
    'removed, and annotations left without a mask are dropped in a mask dataset',
    Phase.MASKS,
    _remove_masks,
)
READ_FLAGS = Fix(
    "text such as '1' is read; otherwise iscrowd is set to 0", Phase.VALUES, _read_flags
)
_AREA = Fix(
    'computed from the mask, or from the box where there is none',
    Phase.AREAS,
    _compute_areas,
)
_BOX = Fix(
    'computed from the mask; dropped where there is none', Phase.BOXES, _compute_boxes
)


def _rule(
    find: Callable[[Content], dict[str, list[Entry]]],
    code: str,
    fix: Fix | None = None,
    describe: Callable[[Any], str] = entry_name,
) -> Rule[Content]:
    """Return the rule of a code that is found together with others."""
    return Rule.of(code, lambda content: content.derive(find)[code], fix, describe)


_box_rule = partial(_rule, _misplaced, describe=_box_name)
_mask_rule = partial(_rule, _bad_masks)


def _drop_rule(code: str, summary: str, what: str) -> Rule[Content]:
    def drop(content: Content) -> None:
        content.drop(content.derive(_misplaced)[code], f'annotations {what} dropped')

    return _box_rule(code, Fix(summary, Phase.EXTENTS, drop))


RULES: tuple[Rule[Content], ...] = (
    Rule.of(
        'missing-iscrowd',
        annotations_with(lambda one: not is_crowd_flag(one.get('iscrowd'))),
        READ_FLAGS,
    ),
    Rule.of(
        'missing-area',
        _without_area,
        _read(_without_area, 'area', read_number, _AREA.summary),
    ),
    Rule.of('zero-area', annotations_with(_is_flat), _AREA),
    Rule.of('missing-bbox', _without_box, _BOX),
    Rule.of(
        'malformed-bbox',
        _malformed_boxes,
        _read(_malformed_boxes, 'bbox', read_box, _BOX.summary),
    ),
    _drop_rule(
        'empty-bbox',
        'computed from the mask, or negative sides taken as the opposite corner; '
        'otherwise dropped',
        'of an empty box',
    ),
    _drop_rule('bbox-outside', _BOX.summary, 'whose box is outside the image'),
    _box_rule(
        'thin-bbox', _BOX._replace(summary='computed from the mask, if there is one')
    ),
    _box_rule(
        'normalised-bbox',
        Fix(
            "multiplied by the image's size; if a box then ends outside of it, read as "
            'two corners if only that fits, otherwise left for you to decide',
            Phase.SCALES,
            _scale_boxes,
        ),
    ),
    _box_rule(
        'bbox-over-edge',
        Fix(
            'read as two corners, centre and size, or y before x, if mask, area or the '
            'other boxes confirm it; otherwise clipped to the image',
            Phase.EXTENTS,
            _clip,
        ),
    ),
    _mask_rule(
        'malformed-segmentation',
        _read(_unusable, 'segmentation', read_segmentation, _MASK.summary),
    ),
    _mask_rule('short-polygon', _MASK),
    _mask_rule(
        'mask-without-pixel',
        Fix(
            'scaled if it is in 0-1 and its box confirms it; otherwise removed, and '
            'dropped with the annotation in a mask dataset',
            Phase.SCALES,
            _place_masks,
        ),
    ),
    _mask_rule(
        'mask-off-bbox',
        Fix(
            'polygon scaled from 0-1, moved into the box or its x and y exchanged, or '
            'the numbers of the box in another order, if both then agree',
            Phase.SCALES,
            _place_masks,
        ),
        describe=_box_name,
    ),
    _mask_rule('rle-size'),
    _mask_rule('missing-segmentation'),
)
