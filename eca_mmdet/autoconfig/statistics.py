"""Sizes of the images and objects of an annotation file."""

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
    """Sizes and counts of an annotation file; unusable entries are left out.

    Attributes:
        sizes: (I, 2) width and height of the images in pixels.
        boxes: (B, 2) width and height of the boxes in pixels, crowds left out.
        image: (B,) position in ``sizes`` of the image of each box.
        empty_images: images without an object.
        objects: annotations, crowds included.
        unmasked: objects without a usable mask.
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
        """Return the boxes in pixels of images that are fitted into two sides."""
        return self.boxes * self.factors(scale)[self.image][:, None]

    def factors(self, scale: tuple[int, int]) -> Floats:
        """Return (I,) how many times mmdet's Resize with keep_ratio enlarges each."""
        sides = np.sort(self.sizes, axis=1)
        return np.asarray(
            np.minimum(max(scale) / sides[:, 1], min(scale) / sides[:, 0])
        )

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
