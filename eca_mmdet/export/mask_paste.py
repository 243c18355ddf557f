"""Masks of objects, each a small map over its box, as masks of the image.

As ``_do_paste_mask`` of mmdet, for which a pixel's probability is interpolated between
the cells of the map, and zero beyond its rim. That weighs rows and columns separately:
a mask is rows @ map @ columns, and only the pixels about the box are worked out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


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
