"""Repaired copies of annotation files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from eca_mmdet.datasets.images import ImageFiles
from eca_mmdet.datasets.rules.check import RULES
from eca_mmdet.datasets.rules.content import Repair

_FIXES = sorted((rule.fix for rule in RULES if rule.fix), key=lambda fix: fix.phase)
_REPAIRS = tuple(dict.fromkeys(fix.apply for fix in _FIXES))
"""In the order of phases; what several rules share runs once."""


def repair(
    content: Mapping[str, Any], files: ImageFiles | None = None
) -> tuple[dict[str, Any], Counter[str]]:
    """Return a copy without the faults that can be repaired, and what was done.

    Args:
        content: of the annotation file; keys that are not COCO's are kept.
        files: what is known of the images.

    Returns:
        The copy, and how often each repair was made, by what it says to the user.
    """
    state = Repair(content, files)
    for make in _REPAIRS:
        make(state)
    repaired = {**content, 'images': state.images, 'categories': state.categories}
    if 'annotations' in content:
        repaired['annotations'] = state.annotations
    return repaired, state.done
