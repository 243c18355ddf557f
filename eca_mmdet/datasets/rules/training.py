"""What mmdet's CocoDataset leaves out of training."""

from __future__ import annotations

from collections import Counter
from typing import Any, TypeAlias

from eca_mmdet.datasets.entries import left_out
from eca_mmdet.datasets.rules.objects import READ_FLAGS
from eca_mmdet.datasets.rules.rule import Content, Rule, annotations_with

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
        for image in content.images
        if (size := content.sizes[image['id']]) and min(size) < content.min_side
    ],
)

RULES: tuple[Rule[Content], ...] = (
    Rule.of(
        'ignored-object',
        annotations_with(lambda one: one.get('ignore')),
        READ_FLAGS._replace(summary="text such as '0' is read; others stay"),
    ),
    Rule.of(
        'crowd-region',
        annotations_with(lambda one: left_out(one, None) == 'crowd-region'),
    ),
    SMALL_IMAGE,
    NOTHING_TRAINED,
    Rule.of('class-not-trained', _untrained, describe=repr),
)
