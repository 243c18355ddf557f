"""Find the faults of a COCO annotation file that cost a training its result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eca_mmdet.datasets.entries import Entry, is_image
from eca_mmdet.datasets.images import ImageFiles
from eca_mmdet.datasets.rules import boxes, categories, ids, images, masks
from eca_mmdet.datasets.rules.content import Content
from eca_mmdet.datasets.rules.rule import Fault, Rule

RULES: tuple[Rule[Content], ...] = (
    *ids.RULES,
    *categories.RULES,
    *categories.CLASS_RULES,
    *images.RULES,
    *boxes.RULES,
    *masks.RULES,
    *categories.COVERAGE_RULES,
    *images.FILE_RULES,
)
"""In the order of reports."""


def check_annotations(
    content: Mapping[str, Any], classes: Sequence[str] | str | None = None
) -> list[Fault]:
    """Find every fault that shows without the images.

    Args:
        content: of :func:`~eca_mmdet.datasets.coco.read_annotations`.
        classes: class names of a config, to be compared.

    Returns:
        At most one fault of each kind, those of entries and ids first.
    """
    return _check(RULES, Content.of(content, classes))


def check_classes(
    usable: list[Entry], classes: Sequence[str] | str | None
) -> list[Fault]:
    """Compare the class names of a config with usable categories of a file.

    Args:
        usable: categories in the order of the file.
        classes: as in ``metainfo``; None means that there is nothing to compare.
    """
    return _check(categories.CLASS_RULES, Content(categories=usable, classes=classes))


def check_images(entries: Iterable[Any], files: ImageFiles) -> list[Fault]:
    """Compare the image entries of an annotation file with the files.

    Args:
        entries: ``images`` of the annotation file.
        files: what is known of the files.
    """
    usable = [entry for entry in entries if is_image(entry)]
    return _check(images.FILE_RULES, Content(images=usable, files=files))


def _check(rules: Iterable[Rule[Content]], content: Content) -> list[Fault]:
    return [fault for rule in rules for fault in rule.check(content)]
