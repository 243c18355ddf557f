"""Crowd flags, boxes, areas and masks of annotations.

A file without any mask is one of boxes, and good.
"""

from __future__ import annotations

from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from eca_mmdet.datasets.entries import (
    Entry,
    annotation_name,
    has_mask,
    is_box,
    is_crowd_flag,
    is_finite_number,
    is_polygon,
    is_segmentation,
)
from eca_mmdet.datasets.masks import annotation_rle, bad_counts, mask_api, set_area
from eca_mmdet.datasets.rules.ids import drop
from eca_mmdet.datasets.rules.rule import Content, Fix, Phase, Repair, Rule

OVER_EDGE_PX = 1.0
"""Boxes may reach this far over the edge: rounding, and COCO itself."""


def _without_flag(content: Content) -> list[Entry]:
    return [one for one in content.annotations if not is_crowd_flag(one.get('iscrowd'))]


def _clear_flags(repair: Repair) -> None:
    for one in _without_flag(repair.view()):
        one['iscrowd'] = 0
        repair.done['iscrowd set to 0'] += 1


def _without_area(content: Content) -> list[Entry]:
    return [one for one in content.annotations if not is_finite_number(one.get('area'))]


def _flat(content: Content) -> list[Entry]:
    """Return annotations with an area of 0 that their box does not share."""
    return [one for one in content.annotations if _is_flat(one)]


def _is_flat(one: Entry) -> bool:
    area, box = one.get('area'), one.get('bbox')
    if not is_finite_number(area) or area > 0:  # type: ignore[operator]
        return False
    return not is_box(box) or (box[2] > 0 and box[3] > 0)  # type: ignore[index]


def _compute_areas(repair: Repair) -> None:
    content = repair.view()
    for one in [*_without_area(content), *_flat(content)]:
        set_area(one, content.sizes[one['image_id']])
        repair.done['areas computed'] += 1


def _without_box(content: Content) -> list[Entry]:
    return [one for one in content.annotations if one.get('bbox') is None]


def _malformed(content: Content) -> list[Entry]:
    return [
        one
        for one in content.annotations
        if one.get('bbox') is not None and not is_box(one['bbox'])
    ]


def _compute_boxes(repair: Repair) -> None:
    content = repair.view()
    lost = []
    for one in [*_without_box(content), *_malformed(content)]:
        rle = annotation_rle(one, content.sizes[one['image_id']])
        if rle is None:
            lost.append(one)
            continue
        one['bbox'] = mask_api().toBbox(rle).tolist()
        repair.done['boxes computed from masks'] += 1
    repair.drop(lost, 'annotations without box and mask dropped')


class _Misplaced(NamedTuple):
    """Annotations by the fault of their box's extent, only one each."""

    empty: list[Entry]
    outside: list[Entry]
    over_edge: list[Entry]


def _misplaced(content: Content) -> _Misplaced:
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
    return _Misplaced(
        *([boxed[at] for at in np.flatnonzero(f)] for f in (empty, outside, over_edge))
    )


def _array(rows: list[Any], columns: int) -> npt.NDArray[np.float64]:
    flat = np.fromiter(chain.from_iterable(rows), np.float64, len(rows) * columns)
    return flat.reshape(-1, columns)


def _clip(repair: Repair) -> None:
    content = repair.view()
    for one in content.derive(_misplaced).over_edge:
        x, y, w, h = one['bbox']
        width, height = content.sizes[one['image_id']] or (w, h)
        left, top = max(x, 0), max(y, 0)
        box = [left, top, min(x + w, width) - left, min(y + h, height) - top]
        if not one.get('segmentation') and is_finite_number(one.get('area')):
            one['area'] = box[2] * box[3]  # it was the box's
        one['bbox'] = box
        repair.done['boxes clipped to the image'] += 1


def _box_name(one: Entry) -> str:
    return f'{annotation_name(one)}: {list(one["bbox"])}'


class _Masks(NamedTuple):
    """Annotations by what is wrong with their mask, and those without one."""

    malformed: list[Entry]
    short: list[Entry]
    other_size: list[Entry]
    without: list[Entry]


def _sort(content: Content) -> _Masks:
    masked = [one for one in content.annotations if one.get('segmentation')]
    malformed = [one for one in masked if not is_segmentation(one['segmentation'])]
    malformed += _with_bad_counts(masked, malformed)
    bad, sizes = set(map(id, malformed)), content.sizes
    short, other_size = [], []
    for one in masked:
        mask = one['segmentation']
        if bad and id(one) in bad:
            continue
        if isinstance(mask, list):
            if not all(map(is_polygon, mask)):
                short.append(one)
            continue
        size = sizes.get(one['image_id'])
        if size and mask['size'] != [size[1], size[0]]:
            other_size.append(one)
    without = [one for one in content.annotations if not one.get('segmentation')]
    return _Masks(malformed, short, other_size, without)


def _with_bad_counts(masked: list[Entry], malformed: list[Entry]) -> list[Entry]:
    """Return compressed RLEs whose runs do not fill their size."""
    known = set(map(id, malformed))
    rles = [one for one in masked if isinstance(one['segmentation'], dict)]
    compressed = [
        one
        for one in rles
        if id(one) not in known and isinstance(one['segmentation']['counts'], str)
    ]
    bad = bad_counts([one['segmentation'] for one in compressed])
    return [compressed[at] for at in np.flatnonzero(bad)]


def _remove_masks(repair: Repair) -> None:
    """Remove what is no mask; where annotations have masks, drop those left without."""
    malformed, short, _, _ = repair.view().derive(_sort)
    bad = set(map(id, malformed))
    needed = any(has_mask(one) for one in repair.annotations if id(one) not in bad)
    for one in malformed:
        one['segmentation'] = []
        repair.done['malformed segmentations removed'] += 1
    for one in short:
        mask = one['segmentation']
        one['segmentation'] = [points for points in mask if is_polygon(points)]
        repair.done['short polygons removed'] += len(mask) - len(one['segmentation'])
    if needed:
        lost = [one for one in (*malformed, *short) if not one['segmentation']]
        repair.drop(lost, 'annotations that lost their mask dropped')


_AREA = Fix(
    'computed from the mask, or from the box where there is none',
    Phase.AREAS,
    _compute_areas,
)
_BOX = Fix(
    'computed from the mask; dropped where there is none', Phase.BOXES, _compute_boxes
)

RULES: tuple[Rule[Content], ...] = (
    Rule(
        code='missing-iscrowd',
        severity='error',
        message="annotation without 'iscrowd' 0 or 1: pycocotools fails at the first "
        'evaluation',
        find=_without_flag,
        describe=annotation_name,
        fix=Fix('set to 0', Phase.FLAGS, _clear_flags),
    ),
    Rule(
        code='missing-area',
        severity='error',
        message="annotation without 'area' as a number: mmdet fails on it",
        find=_without_area,
        describe=annotation_name,
        fix=_AREA,
    ),
    Rule(
        code='zero-area',
        severity='warning',
        message='area of 0 or less: mmdet leaves the object out of training',
        find=_flat,
        describe=annotation_name,
        fix=_AREA,
    ),
    Rule(
        code='missing-bbox',
        severity='error',
        message="annotation without 'bbox': mmdet fails on it",
        find=_without_box,
        describe=annotation_name,
        fix=_BOX,
    ),
    Rule(
        code='malformed-bbox',
        severity='error',
        message='bbox that is not four finite numbers x, y, width, height',
        find=_malformed,
        describe=annotation_name,
        fix=_BOX,
    ),
    Rule(
        code='empty-bbox',
        severity='warning',
        message='bbox of no width or height: not trained on, and in AP an object that '
        'nobody can find',
        find=lambda content: content.derive(_misplaced).empty,
        describe=_box_name,
        fix=drop(
            Phase.EXTENTS,
            lambda content: content.derive(_misplaced).empty,
            'annotations of an empty box dropped',
        ),
    ),
    Rule(
        code='bbox-outside',
        severity='warning',
        message='bbox outside its image: not trained on, and in AP an object that '
        'nobody can find',
        find=lambda content: content.derive(_misplaced).outside,
        describe=_box_name,
        fix=drop(
            Phase.EXTENTS,
            lambda content: content.derive(_misplaced).outside,
            'annotations whose box is outside the image dropped',
        ),
    ),
    Rule(
        code='bbox-over-edge',
        severity='warning',
        message='bbox more than 1 px over the edge of its image (bbox is x, y, width, '
        'height, not two corners)',
        find=lambda content: content.derive(_misplaced).over_edge,
        describe=_box_name,
        fix=Fix('clipped to the image', Phase.EXTENTS, _clip),
    ),
    Rule(
        code='malformed-segmentation',
        severity='error',
        message='segmentation that is neither lists of finite numbers nor an RLE with '
        "'size' and 'counts'",
        find=lambda content: content.derive(_sort).malformed,
        describe=annotation_name,
        fix=Fix(
            'removed; dropped with the annotation in a mask dataset',
            Phase.MASKS,
            _remove_masks,
        ),
    ),
    Rule(
        code='short-polygon',
        severity='error',
        message='polygon of fewer than 3 points or an odd number of coordinates: mmdet '
        'passes it over, mask AP can fail on it',
        find=lambda content: content.derive(_sort).short,
        describe=annotation_name,
        fix=Fix(
            'removed; annotations left without a mask are dropped in a mask dataset',
            Phase.MASKS,
            _remove_masks,
        ),
    ),
    Rule(
        code='rle-size',
        severity='error',
        message='RLE mask of another size than its image: training on masks fails, and '
        'it matches nothing',
        find=lambda content: content.derive(_sort).other_size,
        describe=annotation_name,
    ),
    Rule(
        code='missing-segmentation',
        severity='warning',
        message='annotation without a mask beside others that have one',
        find=lambda content: content.derive(_sort).without,
        describe=annotation_name,
        note_if=lambda content: not any(map(has_mask, content.annotations)),
        note='annotation without a mask; none in this file has a usable one, so it is '
        'for detectors of boxes',
    ),
)
