"""Find the faults of a COCO annotation file, and repair a copy.

Of a file with an index only the part is decoded that can have a fault. Most rules look
at one entry, its image and its categories; some compare entries, or ask whether there
is one that is sound. A part that has all entries in question, all that they are
compared with, and a sound annotation of each category has the faults of the whole file.
"""

from __future__ import annotations

import filecmp
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from eca_mmdet.datasets.entries import (
    NUMBER,
    Entry,
    has_mask,
    is_category,
    is_image,
    left_out,
)
from eca_mmdet.datasets.images import ImageFiles
from eca_mmdet.datasets.index import Array, CocoIndex, Mask
from eca_mmdet.datasets.rules import entries, objects
from eca_mmdet.datasets.rules.entries import plain
from eca_mmdet.datasets.rules.rule import (
    EXAMPLES,
    Content,
    Fault,
    Rule,
    annotations_with,
)

_SMALL_PX = 32
"""mmdet's configs leave out smaller images."""

_ONLY_BOXES = (
    'annotation without a mask; none in this file has a usable one, so it is for '
    'detectors of boxes'
)

_may_leave_folder = re.compile(r'^/|\.\.|[\\:\0]').search

Counts: TypeAlias = Counter[tuple[Any, str | None, int]]


def count_reasons(content: Content) -> Counts:
    """Count annotations by category id, why they are left out, and image side in px.

    The reason is None for what is trained on; the side is the shorter one, 0 where it
    is not known.
    """
    used, sizes = _used(content), content.sizes
    known = {category['id'] for category in content.categories}
    counts: Counts = Counter()
    for one in content.annotations:
        key, size = one['category_id'], sizes.get(one['image_id'])
        if one['image_id'] not in sizes:
            reason: str | None = 'orphan-annotation'
        elif key not in used:
            reason = 'other-class' if key in known else 'unknown-category'
        else:
            reason = left_out(one, size)
        counts[key, reason, min(size or (0, 0))] += 1
    for (key, side), count in content.others.items():
        counts[key, None if key in used else 'other-class', side] += count
    return counts


def _used(content: Content) -> dict[Any, str]:
    """Return id and name of the categories that are classes."""
    classes = content.classes
    every = classes is None or isinstance(classes, str)
    return {
        category['id']: category['name']
        for category in content.categories
        if every or category['name'] in classes  # type: ignore[operator]
    }


def narrowed(counts: Counts, content: Content) -> Counts:
    """Return the counts for other classes and a least side of images."""
    used, result = _used(content), Counter[tuple[Any, str | None, int]]()
    for (key, reason, side), count in counts.items():
        if reason is None and key not in used:
            reason = 'other-class'
        elif reason is None and side < content.min_side:
            reason = 'small-image'
        result[key, reason, side] += count
    return result


def nothing_trained(counts: Counts) -> list[str]:
    """Return why no annotation is trained on; an empty list if one is, or none is."""
    by_reason = Counter[str]()
    for (_, reason, _), count in counts.items():
        if reason is None:
            return []
        by_reason[reason] += count
    found = [f'{count} x {reason}' for reason, count in by_reason.most_common()]
    return [', '.join(found)] if found else []


def _untrained(content: Content) -> list[str]:
    counts = content.derive(count_reasons)
    trained = {key for key, reason, _ in counts if reason is None}
    present = {key for key, _, _ in counts}
    return [
        name
        for key, name in _used(content).items()
        if trained and key in present and key not in trained
    ]


NOTHING_TRAINED: Rule[Content] = Rule.of(
    'nothing-to-train-on',
    lambda content: nothing_trained(content.derive(count_reasons)),
)

SMALL_IMAGE: Rule[Content] = Rule.of(
    'small-image',
    lambda content: [
        image
        for sizes in [content.sizes]
        for image in content.images
        if (size := sizes[image['id']]) and min(size) < content.min_side
    ],
)

_TRAINING_RULES: tuple[Rule[Content], ...] = (
    Rule.of(
        'ignored-object',
        annotations_with(lambda one: one.get('ignore')),
        objects.READ_FLAGS._replace(summary="text such as '0' is read; others stay"),
    ),
    Rule.of(
        'crowd-region',
        annotations_with(
            lambda one: one.get('iscrowd') and left_out(one, None) == 'crowd-region'
        ),
    ),
    SMALL_IMAGE,
    NOTHING_TRAINED,
    Rule.of('class-not-trained', _untrained, describe=repr),
)

RULES: tuple[Rule[Content], ...] = (
    *entries.RULES,
    *entries.CATEGORY_RULES,
    *entries.CLASS_RULES,
    *entries.IMAGE_RULES,
    *objects.RULES,
    *_TRAINING_RULES,
    *entries.COVERAGE_RULES,
    *entries.FILE_RULES,
)
"""In the order of reports."""

_FIXES = sorted((rule.fix for rule in RULES if rule.fix), key=lambda fix: fix.phase)
_REPAIRS = tuple(dict.fromkeys(fix.apply for fix in _FIXES))
"""In the order of phases; what several rules share runs once."""


def check_content(content: Content) -> list[Fault]:
    """Find every fault that shows without the images, at most one of each kind."""
    faults = _check(RULES, content)
    for at, fault in enumerate(faults):
        if fault.code == 'missing-segmentation':
            if not any(map(has_mask, content.annotations)):
                fault = replace(fault, severity='note', message=_ONLY_BOXES)
            if content.unmasked is not None:
                fault = replace(fault, count=content.unmasked)
            faults[at] = fault
    return faults


def check_classes(content: Content) -> list[Fault]:
    """Compare the class names of a config with a file's usable categories, in order."""
    return _check(entries.CLASS_RULES, content)


def check_images(images: list[Entry], files: ImageFiles) -> list[Fault]:
    """Compare the usable image entries of an annotation file with the files."""
    return _check(entries.FILE_RULES, Content(images=images, files=files))


def _check(rules: Iterable[Rule[Content]], content: Content) -> list[Fault]:
    return [fault for rule in rules for fault in rule.check(content)]


def _named(entry: Any) -> Any:
    """Return an image or category, its name as text if it is a number."""
    keys = ('name', 'file_name') if isinstance(entry, dict) else ()
    numbers = [key for key in keys if type(entry.get(key)) in NUMBER]
    return {**entry, **{key: str(entry[key]) for key in numbers}} if numbers else entry


def repair(
    content: Mapping[str, Any], files: ImageFiles | None = None
) -> tuple[dict[str, Any], Counter[str]]:
    """Return a copy without the faults that can be repaired, and what was done.

    Keys that are not COCO's are kept. The counter says how often each repair was made,
    by what it says to the user.
    """
    named = {key: [*map(_named, content[key])] for key in ('images', 'categories')}
    usable = Content.of({**content, **named})
    state = replace(
        usable,
        images=[*map(dict, usable.images)],
        categories=[*map(dict, usable.categories)],
        annotations=[*map(dict, usable.annotations)],
        files=files or ImageFiles({}),
    )
    for make in _REPAIRS:
        state.forget()
        make(state)
    repaired = {**content, 'images': state.images, 'categories': state.categories}
    if 'annotations' in content:
        repaired['annotations'] = state.annotations
    return repaired, state.done


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
    usable = _usable_sizes(index)[index.image]
    size = index.image_sizes[index.image]
    inside = (start >= -objects.OVER_EDGE_PX) & (start < size) & (start + extent > 0)
    inside &= (start + extent <= size + objects.OVER_EDGE_PX) & (extent >= 1)
    good: Array = inside.all(1) & (index.areas > 0) & (index.crowd == 0) & ~index.ignore
    good &= usable
    good &= (index.boxes > 1).any(1)  # not in 0-1
    good &= (index.image >= 0) & (index.category >= 0) & (index.masks != Mask.OTHER)
    good &= (index.ids != 0) & ~_repeated(index.ids)
    return ~good


def _suspect_images(index: CocoIndex, entries: list[Entry]) -> Array:
    good: Array = _usable_sizes(index) & (index.image_sizes >= _SMALL_PX).all(1)
    names = [entry['file_name'] for entry in entries]
    times = Counter(names)
    odd = [times[name] > 1 or bool(_may_leave_folder(name)) for name in names]
    good &= ~(_repeated(index.image_ids) | np.array(odd, bool))
    return ~good


def _usable_sizes(index: CocoIndex) -> Array:
    """Return which images have a size for ``size_of``, were it above 0."""
    size = index.image_sizes
    usable: Array = ((size < 2**31) & (size % 1 == 0)).all(1)
    return usable


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


def _names_in_use(content: dict[str, Any], classes: Sequence[str] | None) -> list[str]:
    names = dict.fromkeys(
        one['name'] for one in content['categories'] if is_category(one)
    )
    wanted = set(map(plain, names if classes is None else classes))
    return [name for name in names if plain(name) in wanted]


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except (OSError, ValueError):  # missing files are another rule's
        return False


SPLIT_RULES: tuple[Rule[Any], ...] = tuple(
    Rule.of(code, list)
    for code in (
        'split-category-spelling',
        'split-missing-category',
        'split-extra-category',
        'split-category-order',
        'split-same-file-name',
        'split-leak',
    )
)
"""They take what was found."""


def compare_splits(
    train: dict[str, Any],
    val: dict[str, Any],
    classes: Sequence[str] | None = None,
    folders: tuple[Path, Path] | None = None,
) -> list[Fault]:
    """Find faults of the contents of a training and a validation file together.

    Args:
        train: content of the training file.
        val: content of the validation file.
        classes: the names in use; None means all.
        folders: image folders of the two. Equal file names in different folders are
            one image only if the files are equal.
    """
    names, others = _names_in_use(train, classes), _names_in_use(val, classes)
    only = {plain(name): name for name in names if name not in others}
    respelt = [
        (only[plain(name)], name)
        for name in others
        if name not in names and plain(name) in only
    ]
    both = {name for pair in respelt for name in pair}
    missing = [name for name in names if name not in others and name not in both]
    extra = [name for name in others if name not in names and name not in both]
    orders = (
        [name for name in names if name in others],
        [n for n in others if n in names],
    )
    moved = [name for name, other in zip(*orders, strict=True) if name != other]
    files = {image['file_name'] for image in train['images'] if is_image(image)}
    common = dict.fromkeys(
        image['file_name']
        for image in val['images']
        if is_image(image) and image['file_name'] in files
    )
    leaked: list[str] = []
    if folders is not None:
        one, other = folders
        same_folder = one.resolve() == other.resolve()
        leaked = [
            name
            for name in common
            if same_folder or _is_same_file(one / name, other / name)
        ]
    found = (
        [f'{a!r} and {b!r}' for a, b in respelt],
        [*map(repr, missing)],
        [*map(repr, extra)],
        [*map(repr, moved)],
        [] if folders else [*map(repr, common)],
        [*map(repr, leaked)],
    )
    pairs = zip(SPLIT_RULES, found, strict=True)
    return [fault for rule, items in pairs for fault in rule.faults(items)]
