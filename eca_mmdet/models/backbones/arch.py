"""The layout that ``ECAResNetD``'s ``arch`` names or describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eca_mmdet.catalog.architectures import D_LAYOUTS, DLayout, Widths, regular_widths


def read_arch(arch: str | Mapping[str, Any]) -> DLayout:
    """Return the layout that ``arch`` names or describes.

    Args:
        arch: as :class:`ECAResNetD` takes it.

    Raises:
        ValueError: an unknown name or entry, or widths that do not fit together.
    """
    if isinstance(arch, str):
        if arch not in D_LAYOUTS:
            raise ValueError(
                f'arch must be one of {", ".join(D_LAYOUTS)}, or a dict with stem and '
                f'widths; got {arch!r}.'
            )
        return D_LAYOUTS[arch]
    if not isinstance(arch, Mapping):
        raise ValueError(f'arch must be a name or a dict; got {arch!r}.')
    given = dict(arch)
    stem = given.pop('stem', (32, 32, 64))
    stem = (stem,) if isinstance(stem, int) else tuple(stem)
    if 'depths' in given:
        base = given.pop('base_channels', 64)
        widths = regular_widths(given.pop('depths'), base)
    else:
        stages = given.pop('widths', ())
        widths = tuple(tuple(tuple(block) for block in stage) for stage in stages)
    if given or not widths:
        raise ValueError(
            'arch takes stem, and either widths or depths with base_channels; got '
            f'{dict(arch)!r}.'
        )
    _check_widths(stem, widths)
    return DLayout(stem, widths)


def _check_widths(stem: tuple[int, ...], widths: Widths) -> None:
    if len(stem) not in (1, 3):
        raise ValueError(f'stem must have 1 or 3 widths; got {stem!r}.')
    for number, blocks in enumerate(widths, 1):
        fit = blocks and all(len(block) == 3 for block in blocks)
        if not fit or len({block[-1] for block in blocks}) != 1:
            raise ValueError(
                f'stage {number}: every block needs three widths, the last of them '
                f'the same in the whole stage (the residual sum); got {blocks!r}.'
            )
