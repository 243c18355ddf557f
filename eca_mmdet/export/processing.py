"""Images into network inputs and mask maps into masks, as mmdet does it, in numpy.

mmdet resizes by OpenCV, then normalises, then pads to the right and below. Without
OpenCV the same is done in numpy: Pillow's own resizing averages over what it shrinks,
so the detector would see another image.

Masks are pasted as by mmdet's ``_do_paste_mask``, for which a pixel's probability is
interpolated between the cells of the map, and zero beyond its rim. That weighs rows
and columns separately: a mask is rows @ map @ columns, and only the pixels about the
box are computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eca_mmdet.utils.errors import UserError

Array = npt.NDArray[Any]

MOST_AREA = 1 << 26
"""Pixels of an input; one of more would not fit in memory."""

_ONE = 2048
"""OpenCV's weights of 8-bit pixels are whole numbers, of which this is 1."""


@dataclass(frozen=True)
class ImageRule:
    """How a detector wants its images.

    Attributes:
        mean: three, subtracted; in the order of the channels that the detector takes.
        std: three, by which is divided then.
        to_rgb: True for channels in the order RGB, False for BGR.
        scale: width and height of mmdet's ``Resize``, in pixels. With ``keep_ratio``
            the larger bounds the longer side, the smaller the shorter one.
        keep_ratio: False to resize to ``scale`` itself.
        size: height and width of the only input that the detector takes; None for any.
        pad_divisor: both sides are padded to a multiple of it where there is no size.
        pad_value: of the padding, after normalising.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    to_rgb: bool
    scale: tuple[int, int]
    keep_ratio: bool
    size: tuple[int, int] | None
    pad_divisor: int
    pad_value: float

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width that an image is resized to.

        It is mmdet's, but never larger than ``size``: what a fixed input cannot hold
        is made smaller, in the same ratio if the ratio is kept.
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
    """One image as a detector takes it.

    Attributes:
        images: (1, 3, H, W) float32, normalised and padded.
        sizes: (1, 2) float32, height and width before padding.
        factors: new width / old width, and the same of the heights.
    """

    images: Array
    sizes: Array
    factors: tuple[float, float]


def prepare(image: Array, rule: ImageRule) -> Prepared:
    """Resize, normalise and pad.

    Args:
        image: (H, W, 3) uint8, RGB.
        rule: of the detector.

    Raises:
        UserError: the image is so narrow that nothing would be left of a side, or that
            the other would be too long.
    """
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
    """Resize (H, W, 3) uint8 as ``cv2.resize`` does, by it or without it."""
    try:
        import cv2
    except ImportError:
        return resize_in_numpy(image, height, width)
    resized: Array = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return resized


def resize_in_numpy(image: Array, height: int, width: int) -> Array:
    """Resize between the two nearest pixels of each direction, rounding as OpenCV.

    Args:
        image: (H, W, 3) uint8.
        height: of the result.
        width: of the result.

    Returns:
        (height, width, 3) uint8; those of OpenCV 4.12 on x86-64.
    """
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
    """Return the two pixels that each new one lies between, and their weights.

    Beyond the outermost pixel both are that one: horizontally OpenCV gives the first
    the whole weight, vertically it shares it out, which rounds differently.
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
        threshold: least probability of a pixel of the object.

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
        found = rows @ cells.astype(np.float32) @ columns.T
        mask[down, across] = found >= np.float32(threshold)
    return masks


def _span(low: Any, high: Any, length: int) -> slice:
    """Return the pixels of a direction that mmdet looks at: a rim about the box."""
    start = int(np.clip(np.floor(low) - 1, 0, length))
    return slice(start, max(start, int(np.clip(np.ceil(high) + 1, 0, length))))


def _weights(pixels: slice, low: Any, high: Any, cells: int) -> Array:
    """Return what each cell of a map counts for each pixel, in one direction.

    Args:
        pixels: of the image.
        low: where the box begins, float32.
        high: where it ends.
        cells: of the map.

    Returns:
        (pixels, cells) float32; at most two of a row are not zero.
    """
    middles = np.arange(pixels.start, pixels.stop, dtype=np.float32) + np.float32(0.5)
    with np.errstate(divide='ignore', invalid='ignore', over='ignore'):
        places = (middles - low) / (high - low) * 2 - 1  # -1 to 1 over the box
    places[np.isinf(places)] = 0  # a box without extent: mmdet takes its middle
    places = ((places + 1) * np.float32(cells) - 1) / 2  # 0: middle of the first cell
    away = np.abs(places[:, None] - np.arange(cells, dtype=np.float32))
    # Nothing where 0 / 0 says no place.
    weights: Array = np.nan_to_num(np.maximum(1 - away, 0), nan=0).astype(np.float32)
    return weights
