"""Sizes of the images and objects of a file, and what they propose, with reasons.

Proposed are image size, anchors, schedule and batch size. Anchors are measured by the
IoU of each box with the best anchor at the same centre, as in Redmon and Farhadi,
YOLO9000, CVPR 2017.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from eca_mmdet.datasets.entries import (
    has_mask,
    is_annotation,
    is_box,
    is_image,
    size_of,
)
from eca_mmdet.engine.settings import rescaled_milestones
from eca_mmdet.utils.errors import UserError

Floats = npt.NDArray[np.float64]
QUANTILES = (0.1, 0.5, 0.9)

T = TypeVar('T')

ENOUGH_PX = 32.0
"""What nine of ten objects should have, as the square root of the area: COCO's bound
between small and medium objects."""

SIZE_CHANGE = 0.1  # relative change from which another image size is proposed
IOU_GAIN = 0.03  # gain of the mean IoU from which other anchors are proposed
COVERED = 0.5  # IoU from which a box counts as covered
LEAST_BOXES = 200
"""Anchors proposed from fewer boxes would fit these only, not the next ones."""

MOST_BOXES = 20_000
_STEPS = sorted(np.arange(-6, 5) / 2, key=abs)
"""Powers of two by which anchor sizes are multiplied; the nearest wins a tie."""

IMAGES = 24_000
"""Images to show from an ImageNet backbone on: 3,000 steps of the paper's 8 images. A
rule of thumb, not a measurement."""

IMAGES_FROM_DETECTOR = 8_000  # the same, from a trained detector on
LEAST_EPOCHS, LEAST_FROM_DETECTOR, MOST_EPOCHS = 12, 6, 100
"""12 is the paper's number for COCO's 118,287 images."""

MOST_IMAGES_A_STEP = 16
VALIDATIONS = 12
WARMUP_STEPS = 500
"""As in the paper's recipe; a tenth of a training that is shorter than 5,000 steps."""

_RESERVE = 0.7  # share of the memory to plan with: weights and allocators need the rest


@dataclass(frozen=True)
class Statistics:
    """Sizes and counts of an annotation file; unusable entries are left out."""

    sizes: Floats  # (I, 2) width and height of the images in pixels
    boxes: Floats  # (B, 2) width and height of the boxes in pixels, crowds left out
    image: npt.NDArray[np.int64]  # (B,) position in ``sizes`` of each box's image
    empty_images: int  # without an object
    objects: int  # annotations, crowds included
    unmasked: int  # objects without a usable mask

    @property
    def median_size(self) -> tuple[int, int]:
        """Median long and median short side of the images in pixels."""
        long, short = np.median(np.sort(self.sizes, 1)[:, ::-1], axis=0)
        return round(long), round(short)

    def scaled_boxes(self, scale: tuple[int, int]) -> Floats:
        """Return the boxes in pixels of images that are fitted into two sides."""
        return self.boxes * self.factors(scale)[self.image][:, None]

    def factors(self, scale: tuple[int, int]) -> Floats:
        """Return (I,) how many times mmdet's Resize with keep_ratio enlarges each."""
        short, long = np.sort(self.sizes, axis=1).T
        factors: Floats = np.minimum(max(scale) / long, min(scale) / short)
        return factors

    def describe(self) -> list[str]:
        """Return lines about the sizes, for the user."""
        long, short = self.median_size
        lines = [f'{len(self.sizes)} images, the median {long} x {short} px']
        if self.empty_images:
            lines[0] += f'; {self.empty_images} without an object'
        if len(self.boxes):
            low, half, high = np.quantile(np.sqrt(self.boxes.prod(1)), QUANTILES)
            ratios = self.boxes[:, 1] / self.boxes[:, 0]
            thin, _, tall = np.quantile(ratios, QUANTILES)
            lines.append(
                f'{self.objects} objects; square root of the area: 10% under '
                f'{low:.0f} px, half under {half:.0f}, 90% under {high:.0f}; '
                f'height/width: 10% under {thin:.2g}, 90% under {tall:.2g}'
            )
        return lines


def count(content: Mapping[str, Any]) -> Statistics:
    """Count a COCO annotation file."""
    sizes: list[tuple[int, int]] = []
    position: dict[Any, int] = {}
    for image in content['images']:
        if is_image(image) and (size := size_of(image)):
            position[image['id']] = len(sizes)
            sizes.append(size)
    objects = [
        entry
        for entry in content.get('annotations', ())
        if is_annotation(entry) and entry['image_id'] in position
    ]
    boxed = [
        (position[entry['image_id']], entry['bbox'][2:])
        for entry in objects
        if is_box(entry.get('bbox'))
        and min(entry['bbox'][2:]) > 0
        and not entry.get('iscrowd')
    ]
    return Statistics(
        np.array(sizes, float).reshape(-1, 2),
        np.array([box for _, box in boxed], float).reshape(-1, 2),
        np.array([image for image, _ in boxed], np.int64),
        len(sizes) - len({entry['image_id'] for entry in objects}),
        len(objects),
        sum(not has_mask(entry) for entry in objects),
    )


@dataclass(frozen=True)
class Proposal(Generic[T]):
    """A proposed value, the config's own, and the reason in one line."""

    value: T
    own: T
    why: str

    @property
    def changed(self) -> bool:
        """Whether another value than the config's own is proposed."""
        return self.value != self.own

    def declined(self) -> Proposal[T]:
        """Return a proposal of the config's own value, as the user asked."""
        if not self.changed:
            return self
        return kept(self.own, f"the config's own, as asked; proposed: {self.why}")


def kept(own: T, why: str) -> Proposal[T]:
    """Return a proposal of the config's own value."""
    return Proposal(own, own, why)


def propose_size(
    statistics: Statistics, own: tuple[int, int]
) -> Proposal[tuple[int, int]]:
    """Return the least enlargement that leaves nine of ten objects large enough.

    Sizes are the long and the short side in pixels (mmdet's ``scale``); the config's
    ``own`` is never exceeded.
    """
    if not len(statistics.boxes):
        return kept(own, "the config's own: there are no objects to go by")
    long, short = statistics.median_size
    full = float(np.median(statistics.factors(own)))
    low = float(np.quantile(np.sqrt(statistics.boxes.prod(axis=1)), 0.1))
    factor = min(max(ENOUGH_PX / low, min(1.0, full)), full)
    enlarged = factor / full

    def rounded(side: int) -> int:  # up to a multiple of 32
        return min(math.ceil(side * enlarged / 32 - 1e-9) * 32, side)

    size = rounded(own[0]), rounded(own[1])
    if abs(size[0] / own[0] - 1) < SIZE_CHANGE:
        return kept(
            own,
            f"{own[0]} x {own[1]}, the config's own, changes the median image "
            f'({long} x {short}) by {full:.2f}; 10% of the objects are then under '
            f'{low * full:.0f} px',
        )
    factor = float(np.median(statistics.factors(size)))
    return Proposal(
        size,
        own,
        f'{size[0]} x {size[1]} in place of {own[0]} x {own[1]}: the median image '
        f'({long} x {short}) is changed by {factor:.2f}, and 90% of the objects have '
        f'{low * factor:.0f} px or more',
    )


@dataclass(frozen=True)
class Anchors:
    """The anchors of a config."""

    key: str  # 'scales' or 'octave_base_scale' of mmdet's AnchorGenerator
    base: tuple[float, ...]  # value or values of ``key``, which multiply the strides
    octaves: tuple[float, ...]  # further factors of each size
    strides: tuple[float, ...]  # of the feature maps, in pixels
    ratios: tuple[float, ...]  # height over width

    def shapes(self) -> Floats:
        """Return (A, 2) width and height in pixels."""
        sides = np.multiply.outer(
            np.multiply.outer(self.strides, self.base), self.octaves
        )
        sides, roots = sides.reshape(-1, 1), np.sqrt(self.ratios)
        return np.stack([sides / roots, sides * roots], axis=-1).reshape(-1, 2)

    def text(self) -> str:
        """Return the range of sizes and the ratios."""
        sides = np.sqrt(self.shapes().prod(axis=1))
        ratios = ', '.join(f'{ratio:g}' for ratio in self.ratios)
        return f'{sides.min():.0f} to {sides.max():.0f} px of height/width {ratios}'


def read_anchors(generator: Any) -> Anchors | None:
    """Read an ``anchor_generator`` entry; None if it is of another kind."""
    generator = generator or {}
    kind = str(generator.get('type', '')).rpartition('.')[2]
    ratios, strides = generator.get('ratios'), generator.get('strides')
    others = generator.get('base_sizes') or generator.get('centers')
    if kind != 'AnchorGenerator' or others or not ratios or not strides:
        return None
    if not all(isinstance(stride, (int, float)) for stride in strides):
        return None
    key, base, octaves = 'scales', tuple(map(float, generator.get('scales') or ())), 1
    if generator.get('octave_base_scale'):
        key, base = 'octave_base_scale', (float(generator['octave_base_scale']),)
        octaves = int(generator.get('scales_per_octave') or 1)
    if not base:
        return None
    factors = tuple(float(2 ** (step / octaves)) for step in range(octaves))
    return Anchors(key, base, factors, tuple(strides), tuple(ratios))


def best_iou(boxes: Floats, anchors: Floats) -> Floats:
    """Return (B,) the IoU of (B, 2) boxes with the best of (A, 2) anchors.

    Both are width and height; their centres are taken as equal.
    """
    best = np.zeros(len(boxes))
    for width, height in anchors:
        inter = np.minimum(boxes[:, 0], width) * np.minimum(boxes[:, 1], height)
        union = boxes.prod(axis=1) + width * height - inter
        np.maximum(best, inter / union, out=best)
    return best


def propose_anchors(boxes: Floats, own: Anchors) -> Proposal[Anchors]:
    """Try other sizes and ratios; the number of anchors stays, so that weights fit.

    ``boxes`` are (B, 2), width and height in pixels of the resized images.
    """
    if len(boxes) > MOST_BOXES:
        chosen = np.random.default_rng(0).choice(len(boxes), MOST_BOXES, replace=False)
        boxes = boxes[np.sort(chosen)]
    before = best_iou(boxes, own.shapes())
    coverage = (
        f'{own.text()} cover {_share(before)} of the boxes with an IoU of {COVERED:g}'
    )
    if len(boxes) < LEAST_BOXES:
        few = f'{len(boxes)} boxes are too few to go by'
        return kept(own, f"the config's own, {coverage}; {few}")
    candidates = [own]
    for ratios in dict.fromkeys([own.ratios, _ratios(boxes, len(own.ratios))]):
        for step in _STEPS:
            base = tuple(_two_digits(value * 2.0**step) for value in own.base)
            candidates.append(Anchors(own.key, base, own.octaves, own.strides, ratios))
    means = [best_iou(boxes, anchors.shapes()).mean() for anchors in candidates]
    if max(means) - before.mean() < IOU_GAIN:
        return kept(own, f"the config's own, {coverage}")
    best = candidates[int(np.argmax(means))]
    after = _share(best_iou(boxes, best.shapes()))
    return Proposal(best, own, f'{best.text()} cover {after} of the boxes; {coverage}')


def _ratios(boxes: Floats, number: int) -> tuple[float, ...]:
    """Return other ratios over the middle 80% of the boxes, none of them twice."""
    low, median, high = np.quantile(boxes[:, 1] / boxes[:, 0], (0.1, 0.5, 0.9))
    low, high = min(low, median / 2**0.5), max(high, median * 2**0.5)
    at = np.linspace(0, 1, number) if number > 1 else [0.5]
    ratios = np.exp(np.interp(at, (0, 0.5, 1), np.log((low, median, high))))
    return tuple(map(_two_digits, ratios.tolist()))


def _two_digits(value: float) -> float:
    return float(f'{value:.2g}')


def _share(iou: Floats) -> str:
    return f'{(iou >= COVERED).mean():.0%}'


@dataclass(frozen=True)
class Schedule:
    """The course of a training.

    After its milestones, at two thirds and eleven twelfths as in the paper (8 and 11 of
    12 epochs), the learning rate is divided by ten.
    """

    epochs: int
    milestones: tuple[int, ...]  # epochs
    warmup: int  # steps of rising learning rate
    interval: int  # epochs between validations and checkpoints
    why: str  # one line


def propose_schedule(
    images: int, batch: int, from_detector: bool, epochs: int | None = None
) -> Schedule:
    """Return the schedule for ``images`` an epoch and ``batch`` a step."""
    shown = IMAGES_FROM_DETECTOR if from_detector else IMAGES
    least = LEAST_FROM_DETECTOR if from_detector else LEAST_EPOCHS
    start = 'a detector' if from_detector else 'a backbone'
    why = 'as asked'
    if epochs is None:
        epochs = min(max(math.ceil(shown / images), least), MOST_EPOCHS)
        why = (
            f'about {shown:,} images from {start} on, at least {least} epochs and at '
            f'most {MOST_EPOCHS}; there are {images:,}'
        )
    steps = epochs * math.ceil(images / batch)
    return Schedule(
        epochs,
        tuple(rescaled_milestones((8, 11), epochs / 12)),
        max(2, min(WARMUP_STEPS, steps // 10)),  # mmengine's never ends after 1
        max(1, epochs // VALIDATIONS),
        why,
    )


def propose_batch(cfg: Any, side: int) -> tuple[int, str]:
    """Return how many square images of a side a step fit into this machine, and why.

    Without a GPU the config's number stays: more at once would not be faster.
    """
    import torch

    own = int(cfg.train_dataloader.get('batch_size') or 2)
    if not torch.cuda.is_available():
        return own, "the config's own: PyTorch sees no GPU"
    needed = _bytes_an_image(cfg, side)
    if needed is None:
        return own, "the config's own: what a step needs cannot be counted"
    # All of it, not what is free now: the same data give the same config again.
    _, memory = torch.cuda.mem_get_info()
    fit = int(_RESERVE * memory // needed)
    batch = 2 ** int(math.log2(min(max(fit, 1), MOST_IMAGES_A_STEP)))
    gib = 2**30
    return batch, (
        f'{fit} images of {needed / gib:.1f} GiB fit into {_RESERVE:.0%} of '
        f'{memory / gib:.1f} GiB'
    )


def _bytes_an_image(cfg: Any, side: int) -> float | None:
    """Return what a training step keeps for backward, by image."""
    from eca_mmdet.analysis.exact_cost import exact_cost
    from eca_mmdet.engine.config import build_model

    try:
        cost = exact_cost(build_model(cfg, 'meta'), cfg, (side, side))
    except UserError:
        return None
    return cost.total.saved_bytes / cost.images
