"""Propose the size that images are resized to.

A larger image costs time and memory by its area, and helps where objects are small. The
config's own size is COCO's. Images that are smaller than it need not be enlarged where
their objects are large enough already.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from eca_mmdet.autoconfig.statistics import Statistics

ENOUGH_PX = 32.0
"""What nine of ten objects should have, as the square root of the area: COCO's bound
between small and medium objects."""

WORTH = 0.1
"""Relative change from which another size is proposed."""


@dataclass(frozen=True)
class Scale:
    """A size to resize to.

    Attributes:
        size: long and short side in pixels, mmdet's ``scale``.
        own: of the config.
        why: one line.
    """

    size: tuple[int, int]
    own: tuple[int, int]
    why: str

    @property
    def changed(self) -> bool:
        """Whether another size than the config's is proposed."""
        return self.size != self.own


def propose(statistics: Statistics, own: tuple[int, int]) -> Scale:
    """Return the least enlargement that leaves nine of ten objects large enough.

    Args:
        statistics: of the training file.
        own: long and short side in the config; never exceeded.
    """
    long, short = statistics.median_size
    full = float(np.median(statistics.factors(own)))
    low = _low(statistics)
    least = min(1.0, full)
    needed = ENOUGH_PX / low if low else full
    factor = min(max(needed, least), full)
    sides = [_up(side * factor / full) for side in own]
    size = (min(sides[0], own[0]), min(sides[1], own[1]))
    if not low:
        return Scale(own, own, "the config's own: there are no objects to go by")
    if abs(size[0] / own[0] - 1) < WORTH:
        why = (
            f"{own[0]} x {own[1]}, the config's own, changes the median image "
            f'({long} x {short}) by {full:.2f}; 10% of the objects are then under '
            f'{low * full:.0f} px'
        )
        return Scale(own, own, why)
    factor = float(np.median(statistics.factors(size)))
    why = (
        f'{size[0]} x {size[1]} in place of {own[0]} x {own[1]}: the median image '
        f'({long} x {short}) is changed by {factor:.2f}, and 90% of the objects have '
        f'{low * factor:.0f} px or more'
    )
    return Scale(size, own, why)


def _low(statistics: Statistics) -> float:
    if not len(statistics.boxes):
        return 0.0
    return float(np.quantile(np.sqrt(statistics.boxes.prod(axis=1)), 0.1))


def _up(value: float) -> int:
    return math.ceil(value / 32 - 1e-9) * 32
