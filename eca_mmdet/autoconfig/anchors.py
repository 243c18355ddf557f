"""Propose anchors: how well a config's cover the boxes, and what would be better.

An object is learnt from the anchors that overlap it. The measure here is the IoU of
each box with the best anchor at the same centre, as in Redmon and Farhadi, YOLO9000,
CVPR 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

WORTH = 0.03
"""Gain of the mean IoU from which other anchors are proposed."""

COVERED = 0.5
"""IoU from which a box counts as covered."""

LEAST_BOXES = 200
"""Of fewer, the proposal would be of these boxes and not of the next ones."""

MOST_BOXES = 20_000
_STEPS = sorted(np.arange(-6, 5) / 2, key=abs)
"""Powers of two that the sizes are tried with; of equals the nearest is taken."""


@dataclass(frozen=True)
class Anchors:
    """The anchors of a config.

    Attributes:
        key: 'scales' or 'octave_base_scale' of mmdet's AnchorGenerator: what multiplies
            the strides.
        base: its value or values.
        octaves: further factors of each size.
        strides: of the maps, in pixels.
        ratios: height over width.
    """

    key: str
    base: tuple[float, ...]
    octaves: tuple[float, ...]
    strides: tuple[float, ...]
    ratios: tuple[float, ...]

    def shapes(self) -> Floats:
        """Return (A, 2) width and height in pixels."""
        sides = [
            stride * base * octave
            for stride in self.strides
            for base in self.base
            for octave in self.octaves
        ]
        return np.array(
            [
                (side / ratio**0.5, side * ratio**0.5)
                for side in sides
                for ratio in self.ratios
            ]
        )

    def text(self) -> str:
        """Return the sizes and the ratios, for the user."""
        sides = np.sqrt(self.shapes().prod(axis=1))
        ratios = ', '.join(f'{one:g}' for one in self.ratios)
        return f'{sides.min():.0f} to {sides.max():.0f} px of height/width {ratios}'


@dataclass(frozen=True)
class Proposal:
    """Anchors for a data set.

    Attributes:
        anchors: proposed; the config's own if nothing is gained.
        own: of the config.
        why: one line.
    """

    anchors: Anchors
    own: Anchors
    why: str

    @property
    def changed(self) -> bool:
        """Whether other anchors than the config's are proposed."""
        return self.anchors != self.own


def read_anchors(generator: Any) -> Anchors | None:
    """Read an ``anchor_generator`` entry; None if it is of another kind."""
    kind = str((generator or {}).get('type', '')).rpartition('.')[2]
    ratios, strides = (generator or {}).get('ratios'), (generator or {}).get('strides')
    if kind != 'AnchorGenerator' or not ratios or not strides:
        return None
    if any(generator.get(key) for key in ('base_sizes', 'centers')):
        return None
    if not all(isinstance(one, (int, float)) for one in strides):
        return None
    base: tuple[float, ...]
    octaves: tuple[float, ...]
    octave = generator.get('octave_base_scale')
    if octave:
        many = int(generator.get('scales_per_octave') or 1)
        octaves = tuple(2 ** (step / many) for step in range(many))
        key, base = 'octave_base_scale', (float(octave),)
    elif generator.get('scales'):
        key, base, octaves = 'scales', tuple(map(float, generator['scales'])), (1.0,)
    else:
        return None
    return Anchors(key, base, octaves, tuple(strides), tuple(ratios))


def best_iou(boxes: Floats, anchors: Floats) -> Floats:
    """Return (B,) the IoU of each box with the best anchor, centres equal.

    Args:
        boxes: (B, 2) width and height.
        anchors: (A, 2) likewise.
    """
    best = np.zeros(len(boxes))
    for width, height in anchors:
        inter = np.minimum(boxes[:, 0], width) * np.minimum(boxes[:, 1], height)
        union = boxes.prod(axis=1) + width * height - inter
        np.maximum(best, inter / union, out=best)
    return best


def propose(boxes: Floats, own: Anchors) -> Proposal:
    """Try other sizes and ratios; the number of anchors stays, so that weights fit.

    Args:
        boxes: (B, 2) width and height in pixels of the resized images.
        own: of the config.
    """
    if len(boxes) > MOST_BOXES:
        chosen = np.random.default_rng(0).choice(len(boxes), MOST_BOXES, replace=False)
        boxes = boxes[np.sort(chosen)]
    before = best_iou(boxes, own.shapes())
    told = (
        f'{own.text()} cover {_share(before)} of the boxes with an IoU of {COVERED:g}'
    )
    if len(boxes) < LEAST_BOXES:
        few = f'{len(boxes)} boxes are too few to go by'
        return Proposal(own, own, f"the config's own, {told}; {few}")
    candidates = [own]
    for ratios in dict.fromkeys([own.ratios, _ratios(boxes, len(own.ratios))]):
        for step in _STEPS:
            base = tuple(_tidy(one * 2.0**step) for one in own.base)
            candidates.append(Anchors(own.key, base, own.octaves, own.strides, ratios))
    means = [best_iou(boxes, one.shapes()).mean() for one in candidates]
    best = candidates[int(np.argmax(means))]
    if max(means) - before.mean() < WORTH:
        return Proposal(own, own, f"the config's own, {told}")
    after = best_iou(boxes, best.shapes())
    return Proposal(
        best, own, f'{best.text()} cover {_share(after)} of the boxes; {told}'
    )


def _ratios(boxes: Floats, many: int) -> tuple[float, ...]:
    """Return as many ratios as the config has, over the middle 80% of the boxes.

    They are never closer than half an octave to the median, so that none is there
    twice.
    """
    low, median, high = np.quantile(boxes[:, 1] / boxes[:, 0], (0.1, 0.5, 0.9))
    low, high = min(low, median / 2**0.5), max(high, median * 2**0.5)
    at = np.linspace(0, 1, many) if many > 1 else [0.5]
    found = np.exp(np.interp(at, (0, 0.5, 1), np.log((low, median, high))))
    return tuple(_tidy(float(one)) for one in found)


def _tidy(value: float) -> float:
    return float(f'{value:.2g}')


def _share(iou: Floats) -> str:
    return f'{(iou >= COVERED).mean():.0%}'
