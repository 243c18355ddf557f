"""Find the faults of a COCO annotation file, and repair a copy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from eca_mmdet.datasets.entries import Entry, is_image
from eca_mmdet.datasets.images import ImageFiles
from eca_mmdet.datasets.rules import categories, entries, objects, training
from eca_mmdet.datasets.rules.rule import Content, Fault, Rule

RULES: tuple[Rule[Content], ...] = (
    *entries.RULES,
    *categories.RULES,
    *categories.CLASS_RULES,
    *entries.IMAGE_RULES,
    *objects.RULES,
    *training.RULES,
    *categories.COVERAGE_RULES,
    *entries.FILE_RULES,
)
"""In the order of reports."""

_FIXES = sorted((rule.fix for rule in RULES if rule.fix), key=lambda fix: fix.phase)
_REPAIRS = tuple(dict.fromkeys(fix.apply for fix in _FIXES))
"""In the order of phases; what several rules share runs once."""


def check_annotations(
    content: Mapping[str, Any], classes: Sequence[str] | str | None = None
) -> list[Fault]:
    """Find every fault that shows without the images, at most one of each kind.

    ``classes`` are the class names of a config, to be compared.
    """
    return check_content(Content.of(content, classes))


def check_content(content: Content) -> list[Fault]:
    """Find the faults of :func:`check_annotations` in sorted entries."""
    faults = _check(RULES, content)
    if content.unmasked is None:
        return faults
    return [
        replace(fault, count=content.unmasked)
        if fault.code == 'missing-segmentation'
        else fault
        for fault in faults
    ]


def check_classes(
    usable: list[Entry], classes: Sequence[str] | str | None
) -> list[Fault]:
    """Compare the class names of a config with a file's usable categories, in order."""
    return _check(categories.CLASS_RULES, Content(categories=usable, classes=classes))


def check_images(images: Iterable[Any], files: ImageFiles) -> list[Fault]:
    """Compare the image entries of an annotation file with the files."""
    usable = [image for image in images if is_image(image)]
    return _check(entries.FILE_RULES, Content(images=usable, files=files))


def _check(rules: Iterable[Rule[Content]], content: Content) -> list[Fault]:
    return [fault for rule in rules for fault in rule.check(content)]


def repair(
    content: Mapping[str, Any], files: ImageFiles | None = None
) -> tuple[dict[str, Any], Counter[str]]:
    """Return a copy without the faults that can be repaired, and what was done.

    Keys that are not COCO's are kept. The counter says how often each repair was made,
    by what it says to the user.
    """
    state = Content.of(content)
    state.files = files
    for key in ('images', 'categories', 'annotations'):
        setattr(state, key, [*map(dict, getattr(state, key))])
    for make in _REPAIRS:
        state.forget()
        make(state)
    repaired = {**content, 'images': state.images, 'categories': state.categories}
    if 'annotations' in content:
        repaired['annotations'] = state.annotations
    return repaired, state.done
