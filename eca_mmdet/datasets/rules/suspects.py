"""The part of an annotation file that can have a fault, chosen by its columns.

Most rules look at one entry, its image and its categories; some compare entries, or ask
whether there is one that is sound. A part that has all entries in question, all that
they are compared with, and a sound annotation of each category has the faults of the
whole file. Only that part is decoded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eca_mmdet.datasets.entries import Entry
from eca_mmdet.datasets.index import Array, CocoIndex, Mask
from eca_mmdet.datasets.rules.objects import OVER_EDGE_PX
from eca_mmdet.datasets.rules.rule import EXAMPLES, Content

_SMALL_PX = 32
"""mmdet's configs leave out smaller images."""

_ODD = ('..', '\\', ':', '\0')
"""What may lead out of an image folder."""


def suspect_content(
    whole: Mapping[str, Any],
    index: CocoIndex | None,
    classes: Sequence[str] | str | None = None,
) -> Content:
    """Return the part of a file that can have a fault; all of it without an index.

    ``classes`` are the class names of a config, to be compared.
    """
    if index is None:
        return Content.of(whole, classes)
    suspects = _suspect_annotations(index)
    suspects[np.flatnonzero(index.masks == Mask.NONE)[:EXAMPLES]] = True
    suspects[_sound_of_each_category(index, suspects)] = True
    suspects[np.flatnonzero(index.masks)[:1]] = True  # masks there are, if any
    annotations = np.flatnonzero(suspects)
    images = _suspect_images(index, whole['images'])
    ids = [index.image_id[annotations], index.image_ids[images]]
    images = np.isin(index.image_ids, np.concatenate(ids))
    part = {
        'images': index.images(np.flatnonzero(images)),
        'categories': whole['categories'],
    }
    if index.annotated:
        part['annotations'] = index.annotations(annotations)
    content = Content.of(part, classes)
    content.unmasked = int(np.count_nonzero(index.masks == Mask.NONE))
    sides = index.image_sizes[index.image[~suspects]].min(1).astype(np.int64)
    pairs = index.category[~suspects] * np.int64(2**32) + sides
    for pair, count in zip(*np.unique(pairs, return_counts=True), strict=True):
        key = int(index.category_ids[pair >> 32])
        content.others[key, int(pair % 2**32)] = int(count)
    return content


def _suspect_annotations(index: CocoIndex) -> Array:
    """Return which annotations may have a fault other than a missing mask."""
    start, extent = index.boxes[:, :2], index.boxes[:, 2:]
    size = index.image_sizes[index.image]
    inside = (start >= -OVER_EDGE_PX) & (start < size) & (start + extent > 0)
    inside &= (start + extent <= size + OVER_EDGE_PX) & (extent >= 1)
    good: Array = inside.all(1) & (index.areas > 0) & (index.crowd == 0) & ~index.ignore
    good &= (index.boxes > 1).any(1)  # not in 0-1
    good &= (index.image >= 0) & (index.category >= 0) & (index.masks != Mask.OTHER)
    good &= (index.ids != 0) & ~_repeated(index.ids)
    return ~good


def _suspect_images(index: CocoIndex, entries: list[Entry]) -> Array:
    size = index.image_sizes
    good: Array = ((size >= _SMALL_PX) & (size < 2**31) & (size % 1 == 0)).all(1)
    names = [entry['file_name'] for entry in entries]
    times = Counter(names)
    odd = [
        times[name] > 1 or name[0] == '/' or any(part in name for part in _ODD)
        for name in names
    ]
    good &= ~(_repeated(index.image_ids) | np.array(odd, bool))
    return ~good


def _sound_of_each_category(index: CocoIndex, suspects: Array) -> Array:
    """Return the position of one annotation of each category, on a large image."""
    sound = np.flatnonzero(~suspects)
    side = index.image_sizes[index.image[sound]].min(1)
    order = sound[np.argsort(-side, kind='stable')]
    _, first = np.unique(index.category_id[order], return_index=True)
    return order[first]


def _repeated(ids: Array) -> Array:
    """Return which ids occur more than once."""
    _, inverse, times = np.unique(ids, return_inverse=True, return_counts=True)
    return times[inverse] > 1
