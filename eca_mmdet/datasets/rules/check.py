"""Find the faults of a COCO annotation file that cost a training its result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from eca_mmdet.datasets.entries import (
    Entry,
    Size,
    annotation_name,
    image_name,
    is_annotation,
    is_box,
    is_category,
    is_crowd_flag,
    is_finite_number,
    is_image,
    is_polygon,
    is_segmentation,
    other_form,
    size_of,
    whole,
)
from eca_mmdet.datasets.masks import bad_counts
from eca_mmdet.datasets.rules.categories import check_categories, check_classes
from eca_mmdet.datasets.rules.faults import Fault, found

OVER_EDGE_PX = 1.0
"""Boxes may reach this far over the edge: rounding, and COCO itself."""


def check_annotations(
    content: Mapping[str, Any], classes: Sequence[str] | str | None = None
) -> list[Fault]:
    """Find every fault that shows without the images.

    Args:
        content: from :func:`~eca_mmdet.datasets.coco.read_annotations`.
        classes: the config's class names, if they are to be checked.

    Returns:
        At most one fault of each kind, those of entries and ids first.
    """
    images, bad_images = _split(content['images'], is_image)
    categories, bad_categories = _split(content['categories'], is_category)
    annotations, bad_annotations = _split(content.get('annotations', ()), is_annotation)
    sizes = {one['id']: size_of(one) for one in images}
    category_ids = {one['id'] for one in categories}
    return [
        *found('malformed-image', bad_images, _numbered('images')),
        *found('malformed-category', bad_categories, _numbered('categories')),
        *found('malformed-annotation', bad_annotations, _numbered('annotations')),
        *_check_ids(images, categories, annotations),
        *_check_references(annotations, sizes.keys(), category_ids),
        *check_categories(categories),
        *check_classes(categories, classes),
        *_check_images(images),
        *_check_values(annotations),
        *_check_boxes(annotations, sizes),
        *_check_masks(annotations, sizes),
        *_check_coverage(categories, annotations, classes),
    ]


def _split(entries: Iterable[Any], usable: Any) -> tuple[list[Entry], list[int]]:
    """Return the usable entries, and the positions of the others."""
    entries = list(entries)
    good = [one for one in entries if usable(one)]
    if len(good) == len(entries):
        return good, []
    return good, [index for index, one in enumerate(entries) if not usable(one)]


def _numbered(key: str) -> Any:
    return lambda index: f'{key}[{index}]'


def _check_ids(
    images: list[Entry], categories: list[Entry], annotations: list[Entry]
) -> list[Fault]:
    kinds = {'image': images, 'category': categories, 'annotation': annotations}
    bad = [
        f'{kind} {value!r}'
        for kind, entries in kinds.items()
        for value in _bad_ids([one.get('id') for one in entries], kind)
    ]
    for key, entries in (('image_id', images), ('category_id', categories)):
        known = {one['id'] for one in entries}
        unknown = [a[key] for a in annotations if a[key] not in known]
        bad += [f'{key} {v!r}' for v in unknown if other_form(v) in known]
    forms = [one['id'] for one in categories if type(one['id']) is not int]
    usable = [one for one in annotations if type(one.get('id')) in (int, float, str)]
    return [
        *found('id-type', bad),
        *found('category-id-form', forms, repr),
        *found(
            'zero-annotation-id',
            [one for one in usable if one['id'] == 0 or whole(one['id']) == 0],
            annotation_name,
        ),
        *found('duplicate-annotation-id', _repeated(usable, 'id'), annotation_name),
        *found('duplicate-image-id', _repeated(images, 'id'), image_name),
    ]


def _bad_ids(ids: list[Any], kind: str) -> list[Any]:
    """Return the ids that something cannot use; text is none if all are text.

    pycocotools writes annotation ids into an array of floats.
    """
    kinds = Counter(map(type, ids))
    if set(kinds) <= {int}:
        return []
    mixed = 0 < kinds[str] < len(ids)
    return [
        value
        for value in ids
        if type(value) not in (int, float, str)
        or (type(value) is float and not value.is_integer())
        or (type(value) is str and mixed)
        or (type(value) is str and kind == 'annotation' and whole(value) is None)
    ]


def _repeated(entries: list[Entry], key: str) -> list[Entry]:
    """Return the entries whose value came before."""
    if len({one[key] for one in entries}) == len(entries):
        return []
    # Written from the last to the first, so that the first of a value stays.
    first = {one[key]: index for index, one in reversed([*enumerate(entries)])}
    return [one for index, one in enumerate(entries) if first[one[key]] != index]


def _check_references(
    annotations: list[Entry], image_ids: Iterable[Any], category_ids: set[Any]
) -> list[Fault]:
    """Find references to nothing; those in another form are told as 'id-type'."""
    lost: dict[str, list[Entry]] = {}
    for key, known in (('image_id', set(image_ids)), ('category_id', category_ids)):
        unknown = [one for one in annotations if one[key] not in known]
        lost[key] = [one for one in unknown if other_form(one[key]) not in known]
    return [
        *found(
            'orphan-annotation',
            lost['image_id'],
            lambda one: f'{annotation_name(one)} of image {one["image_id"]!r}',
        ),
        *found(
            'unknown-category',
            lost['category_id'],
            lambda one: f'{annotation_name(one)} of category {one["category_id"]!r}',
        ),
    ]


def _check_images(images: list[Entry]) -> list[Fault]:
    unsized = [one for one in images if size_of(one) is None]
    # The same entry twice is a repeated id already.
    distinct = list({one['id']: one for one in reversed(images)}.values())[::-1]
    return [
        *found('image-size-missing', unsized, image_name),
        *found('duplicate-file-name', _repeated(distinct, 'file_name'), image_name),
    ]


def _check_values(annotations: list[Entry]) -> list[Fault]:
    crowd = [one for one in annotations if not is_crowd_flag(one.get('iscrowd'))]
    area = [one for one in annotations if not is_finite_number(one.get('area'))]
    return [
        *found('missing-iscrowd', crowd, annotation_name),
        *found('missing-area', area, annotation_name),
        *found('zero-area', [a for a in annotations if _is_flat(a)], annotation_name),
    ]


def _is_flat(one: Entry) -> bool:
    """Tell an area of 0 that the box does not share."""
    area, box = one.get('area'), one.get('bbox')
    if not is_finite_number(area) or area > 0:  # type: ignore[operator]
        return False
    return not is_box(box) or (box[2] > 0 and box[3] > 0)  # type: ignore[index]


def _check_boxes(
    annotations: list[Entry], sizes: Mapping[Any, Size | None]
) -> list[Fault]:
    boxed = [one for one in annotations if is_box(one.get('bbox'))]
    missing, malformed = [], []
    if len(boxed) < len(annotations):
        missing = [one for one in annotations if one.get('bbox') is None]
        malformed = [
            one
            for one in annotations
            if one.get('bbox') is not None and not is_box(one['bbox'])
        ]
    boxes = _array([one['bbox'] for one in boxed], 4)
    # An unknown size reaches to infinity: nothing is outside.
    unknown = (np.inf, np.inf)
    limits = _array([sizes.get(one['image_id']) or unknown for one in boxed], 2)
    ends = boxes[:, :2] + boxes[:, 2:]
    empty = (boxes[:, 2:] <= 0).any(1)
    known = np.isfinite(limits).all(1)
    outside = ((boxes[:, :2] >= limits) | (ends <= 0)).any(1) & ~empty & known
    over = (boxes[:, :2] < -OVER_EDGE_PX) | (ends > limits + OVER_EDGE_PX)
    over_edge = over.any(1) & ~empty & ~outside & known
    return [
        *found('missing-bbox', missing, annotation_name),
        *found('malformed-bbox', malformed, annotation_name),
        *found('empty-bbox', _where(boxed, empty), _box_name),
        *found('bbox-outside', _where(boxed, outside), _box_name),
        *found('bbox-over-edge', _where(boxed, over_edge), _box_name),
    ]


def _array(rows: list[Any], columns: int) -> npt.NDArray[np.float64]:
    flat = np.fromiter(chain.from_iterable(rows), np.float64, len(rows) * columns)
    return flat.reshape(-1, columns)


def _where(entries: list[Entry], flags: Any) -> list[Entry]:
    return [entries[index] for index in np.flatnonzero(flags)]


def _box_name(one: Entry) -> str:
    return f'{annotation_name(one)}: {list(one["bbox"])}'


def _check_masks(
    annotations: list[Entry], sizes: Mapping[Any, Size | None]
) -> list[Fault]:
    """Look at polygons and RLEs; a file that has none is one of boxes, and good."""
    masked = [one for one in annotations if one.get('segmentation')]
    bare = len(annotations) - len(masked)
    malformed = [one for one in masked if not is_segmentation(one['segmentation'])]
    malformed += _with_bad_counts(masked, malformed)
    bad = set(map(id, malformed))
    short, misfit = [], []
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
            misfit.append(one)
    without = (
        [one for one in annotations if not one.get('segmentation')] if bare else []
    )
    return [
        *found('malformed-segmentation', malformed, annotation_name),
        *found('short-polygon', short, annotation_name),
        *found('rle-size', misfit, annotation_name),
        *found(
            'missing-segmentation',
            without,
            annotation_name,
            severity=None if masked else 'note',
        ),
    ]


def _with_bad_counts(masked: list[Entry], malformed: list[Entry]) -> list[Entry]:
    """Return compressed RLEs whose runs do not fill their size."""
    known = set(map(id, malformed))
    compressed = [
        one
        for one in masked
        if isinstance(one['segmentation'], dict)
        and id(one) not in known
        and isinstance(one['segmentation']['counts'], str)
    ]
    bad = bad_counts([one['segmentation'] for one in compressed])
    return [compressed[at] for at in np.flatnonzero(bad)]


def _check_coverage(
    categories: list[Entry],
    annotations: list[Entry],
    classes: Sequence[str] | str | None,
) -> list[Fault]:
    if not annotations:
        return found('no-annotations', ["'annotations' is empty or not there"])
    used = {one['category_id'] for one in annotations}
    names = [one['name'] for one in categories if one['id'] not in used]
    if classes is not None and not isinstance(classes, str):
        names = [name for name in names if name in set(classes)]
    return found('class-without-objects', names, repr)
