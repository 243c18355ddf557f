"""mmdet's preparation of images and pasting of masks, in numpy.

mmdet resizes with OpenCV, then normalises, then pads to the right and below. Without
OpenCV the same is done in numpy: Pillow's own resizing averages over what it shrinks,
so the detector would see another image.

mmdet's ``_do_paste_mask`` interpolates a pixel's probability between the cells of the
map, zero beyond its rim. The weights of rows and columns are separate, so a mask is
rows @ map @ columns, computed only for the pixels around the box.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eca_mmdet.utils.errors import UserError

Array = npt.NDArray[Any]

MOST_AREA = 1 << 26  # largest input in pixels that fits in memory
_ONE = 2048  # a weight of 1 in OpenCV's fixed-point arithmetic of 8-bit pixels


@dataclass(frozen=True)
class ImageRule:
    """How to prepare images for a detector.

    With ``keep_ratio`` the larger side of ``scale`` bounds the longer side of an image,
    the smaller the shorter one.
    """

    mean: tuple[float, ...]  # by channel, in the detector's order of channels
    std: tuple[float, ...]
    to_rgb: bool  # True for channels in the order RGB, False for BGR
    scale: tuple[int, int]  # width and height of mmdet's ``Resize``, in pixels
    keep_ratio: bool  # False to resize to ``scale`` itself
    size: tuple[int, int] | None  # height and width of the only input; None for any
    pad_divisor: int  # both sides are padded to a multiple, where there is no size
    pad_value: float  # after normalising

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width that an image is resized to.

        They are mmdet's, reduced to fit ``size``, in the same ratio if it is kept.
        """
        room_y, room_x = self.size or (2**31, 2**31)
        if not self.keep_ratio:
            return min(self.scale[1], room_y), min(self.scale[0], room_x)
        factor = min(
            max(self.scale) / max(height, width),
            min(self.scale) / min(height, width),
            room_y / height,
            room_x / width,
        )
        return int(height * factor + 0.5), int(width * factor + 0.5)

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of the input for a resized image."""
        if self.size is not None:
            return self.size
        step = self.pad_divisor
        return -(-height // step) * step, -(-width // step) * step


@dataclass(frozen=True)
class Prepared:
    """A detector's inputs for one image."""

    images: Array  # (1, 3, H, W) float32, normalised and padded
    sizes: Array  # (1, 2) float32, height and width before padding
    factors: tuple[float, float]  # new / old width, and new / old height


def prepare(image: Array, rule: ImageRule) -> Prepared:
    """Resize, normalise and pad an (H, W, 3) uint8 RGB image."""
    old = image.shape[:2]
    height, width = rule.resized(*old)
    high, wide = rule.padded(height, width)
    if not 0 < height * width <= high * wide <= MOST_AREA:
        raise UserError(
            f'an image of {old[1]} x {old[0]} cannot be prepared for the detector: it '
            f'would become {width} x {height}. Cut it into parts.',
            code='broken-image',
        )
    small = resize(image, height, width)
    if not rule.to_rgb:
        small = small[..., ::-1]
    images = np.full((1, 3, high, wide), rule.pad_value, np.float32)
    for channel, (mean, std) in enumerate(zip(rule.mean, rule.std, strict=True)):
        pixels = small[..., channel].astype(np.float32)
        images[0, channel, :height, :width] = (pixels - np.float32(mean)) / np.float32(
            std
        )
    return Prepared(
        images,
        np.array([[height, width]], np.float32),
        (width / old[1], height / old[0]),
    )


def resize(image: Array, height: int, width: int) -> Array:
    """Resize (H, W, 3) uint8 as ``cv2.resize`` does, with or without OpenCV."""
    try:
        import cv2
    except ImportError:
        return resize_in_numpy(image, height, width)
    resized: Array = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return resized


def resize_in_numpy(image: Array, height: int, width: int) -> Array:
    """Resize (H, W, 3) uint8 bilinearly, rounding as OpenCV 4.12 does on x86-64."""
    (left, right), (of_left, of_right) = _neighbours(image.shape[1], width)
    (upper, lower), (of_upper, of_lower) = _neighbours(image.shape[0], height, True)

    def across(rows: Array) -> Array:
        pixels: Array = rows[:, left] * of_left[:, None]
        pixels += rows[:, right] * of_right[:, None]
        return pixels >> 4  # OpenCV drops these bits before the second direction

    first = across(image[upper]) * of_upper[:, None, None] >> 16
    second = across(image[lower]) * of_lower[:, None, None] >> 16
    return ((first + second + 2) >> 2).clip(0, 255).astype(np.uint8)


def _neighbours(
    old: int, new: int, vertical: bool = False
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Return the two pixels that each new pixel lies between, and their weights.

    Beyond the outermost pixel both are that pixel: horizontally OpenCV gives the first
    the whole weight, vertically it divides it, which rounds differently.
    """
    places = ((np.arange(new) + 0.5) * (1 / (new / old)) - 0.5).astype(np.float32)
    first = np.floor(places).astype(np.int64)
    part = places - first.astype(np.float32)
    if not vertical:
        part[(first < 0) | (first >= old - 1)] = 0
        first = first.clip(0, old - 1)
    weights = (
        np.rint((1 - part) * np.float32(_ONE)).astype(np.int32),
        np.rint(part * np.float32(_ONE)).astype(np.int32),
    )
    return (first.clip(0, old - 1), (first + 1).clip(0, old - 1)), weights


def paste_masks(
    maps: Array, boxes: Array, size: tuple[int, int], threshold: float
) -> Array:
    """Paste the maps of n objects into their boxes.

    Args:
        maps: (n, h, w) float32, probabilities.
        boxes: (n, 4) float32 x1, y1, x2, y2 in pixels of the image; finite.
        size: height and width of the image, in pixels.
        threshold: lowest probability of a pixel of the object.

    Returns:
        (n, H, W) bool.
    """
    masks = np.zeros((len(maps), *size), np.bool_)
    for mask, cells, (x1, y1, x2, y2) in zip(
        masks, maps, boxes.astype(np.float32), strict=True
    ):
        across, down = _span(x1, x2, size[1]), _span(y1, y2, size[0])
        rows = _weights(down, y1, y2, cells.shape[0])
        columns = _weights(across, x1, x2, cells.shape[1])
        probabilities = rows @ cells.astype(np.float32) @ columns.T
        mask[down, across] = probabilities >= np.float32(threshold)
    return masks


def _span(low: Any, high: Any, length: int) -> slice:
    """Return the pixels of a direction that mmdet computes: the box and a rim."""
    start = int(np.clip(np.floor(low) - 1, 0, length))
    return slice(start, max(start, int(np.clip(np.ceil(high) + 1, 0, length))))


def _weights(pixels: slice, low: Any, high: Any, cells: int) -> Array:
    """Return the (pixels, cells) weights of a map's cells for an image's pixels.

    They are for one direction, in which the box goes from ``low`` to ``high``; at most
    two of a row are not zero.
    """
    middles = np.arange(pixels.start, pixels.stop, dtype=np.float32) + np.float32(0.5)
    with np.errstate(divide='ignore', invalid='ignore', over='ignore'):
        places = (middles - low) / (high - low) * 2 - 1  # -1 to 1 over the box
    places[np.isinf(places)] = 0  # a box without extent: mmdet takes its middle
    places = ((places + 1) * np.float32(cells) - 1) / 2  # 0: middle of the first cell
    away = np.abs(places[:, None] - np.arange(cells, dtype=np.float32))
    # Zero where 0 / 0 gives no place.
    weights: Array = np.nan_to_num(np.maximum(1 - away, 0), nan=0).astype(np.float32)
    return weights
