"""Masks of annotations; a file without any is one of boxes, and good."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from eca_mmdet.datasets.entries import (
    Entry,
    annotation_name,
    has_mask,
    is_polygon,
    is_segmentation,
)
from eca_mmdet.datasets.masks import bad_counts
from eca_mmdet.datasets.rules.content import Content, Repair
from eca_mmdet.datasets.rules.rule import Fix, Phase, Rule


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
    without = (
        [one for one in content.annotations if not one.get('segmentation')]
        if len(masked) < len(content.annotations)
        else []
    )
    return _Masks(malformed, short, other_size, without)


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


RULES: tuple[Rule[Content], ...] = (
    Rule(
        code='malformed-segmentation',
        severity='error',
        message='segmentation that is neither lists of finite numbers nor an RLE with '
        "'size' and 'counts'",
        find=lambda content: content.derive(_sort).malformed,
        describe=annotation_name,
        fix=Fix(
            'removed; dropped with the annotation in a data set of masks',
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
            'removed; an annotation left without a mask is dropped in a data set of '
            'masks',
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
        note_if=lambda content: (
            len(content.derive(_sort).without) == len(content.annotations)
        ),
    ),
)
