"""What sizes the images and objects of an annotation file have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eca_mmdet.datasets.entries import (
    has_mask,
    is_annotation,
    is_box,
    is_image,
    size_of,
)

Floats = npt.NDArray[np.float64]
QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Statistics:
    """What an annotation file holds; unusable entries are left out.

    Attributes:
        sizes: (I, 2) width and height of the images in pixels.
        boxes: (B, 2) width and height of the boxes in pixels, crowds left out.
        image: (B,) position in ``sizes`` of the image of each box.
        empty_images: images without an object.
        objects: annotations, crowds included.
        unmasked: those of them without a usable mask.
    """

    sizes: Floats
    boxes: Floats
    image: npt.NDArray[np.int64]
    empty_images: int
    objects: int
    unmasked: int

    @property
    def median_size(self) -> tuple[int, int]:
        """Median long and median short side of the images in pixels."""
        long, short = np.median(np.sort(self.sizes, 1)[:, ::-1], axis=0)
        return round(long), round(short)

    def scaled_boxes(self, scale: tuple[int, int]) -> Floats:
        """Return the boxes in the pixels of a resized image.

        Args:
            scale: the long and the short side that an image is fitted into.
        """
        return self.boxes * self.factors(scale)[self.image][:, None]

    def factors(self, scale: tuple[int, int]) -> Floats:
        """Return (I,) how many times mmdet's Resize with keep_ratio enlarges each."""
        sides = np.sort(self.sizes, axis=1)
        return np.asarray(
            np.minimum(max(scale) / sides[:, 1], min(scale) / sides[:, 0])
        )


def count(content: Mapping[str, Any]) -> Statistics:
    """Count a COCO annotation file."""
    sizes: list[tuple[int, int]] = []
    position: dict[Any, int] = {}
    for one in content['images']:
        if is_image(one) and (size := size_of(one)):
            position[one['id']] = len(sizes)
            sizes.append(size)
    boxes, image, seen = [], [], set()
    objects, unmasked = 0, 0
    for one in content.get('annotations', ()):
        if not is_annotation(one) or one['image_id'] not in position:
            continue
        objects += 1
        unmasked += not has_mask(one)
        seen.add(one['image_id'])
        box: Any = one.get('bbox')
        if is_box(box) and min(box[2:]) > 0 and not one.get('iscrowd'):
            boxes.append(box[2:])
            image.append(position[one['image_id']])
    return Statistics(
        np.array(sizes, float).reshape(-1, 2),
        np.array(boxes, float).reshape(-1, 2),
        np.array(image, np.int64),
        len(sizes) - len(seen),
        objects,
        unmasked,
    )


def describe(statistics: Statistics) -> list[str]:
    """Return lines about the sizes, for the user."""
    one = statistics
    long, short = one.median_size
    lines = [f'{len(one.sizes)} images, the median {long} x {short} px']
    if one.empty_images:
        lines[0] += f'; {one.empty_images} without an object'
    if len(one.boxes):
        low, half, high = np.quantile(np.sqrt(one.boxes.prod(1)), QUANTILES)
        thin, _, tall = np.quantile(one.boxes[:, 1] / one.boxes[:, 0], QUANTILES)
        lines.append(
            f'{one.objects} objects; square root of the area: 10% under {low:.0f} px, '
            f'half under {half:.0f}, 90% under {high:.0f}; height/width: 10% under '
            f'{thin:.2g}, 90% under {tall:.2g}'
        )
    return lines
