"""Boxes, masks and names drawn over an image."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from eca_mmdet.utils.text import printable

Array = npt.NDArray[Any]
Colour = tuple[int, int, int]
Pixels = tuple[int, int, int, int]
Side = tuple[int, int]

_DARKEST = (0, 114, 178)
COLOURS: tuple[Colour, ...] = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)),
    *(_DARKEST, (213, 94, 0), (204, 121, 167)),
)
"""The colours of Okabe and Ito (2008), which colour-blind people tell apart; black is
left out, since it is lost on a dark image."""

_MASK_OPACITY = 0.45


def draw_objects(
    image: Array,
    boxes: Array,
    labels: Array,
    texts: Sequence[str],
    masks: Array | None = None,
    line: int | None = None,
) -> Array:
    """Return a copy of an image with objects drawn over it, the first on top.

    Lines and letters grow with the image. What lies outside the image, or is not
    finite, is left out. Texts lie where they hide least.

    Args:
        image: (H, W, 3) uint8, RGB.
        boxes: (n, 4) x1, y1, x2, y2 in pixels.
        labels: (n,) whole numbers from 0, which choose the colours.
        texts: n lines to write at the boxes; '' for none.
        masks: (n, H, W) bool.
        line: width of lines in pixels; None for one that suits image and object.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    canvas, size = image.copy(), image.shape[:2]
    if image.shape[2:] != (3,) or image.dtype != np.uint8:
        raise ValueError(
            f'the image must be (H, W, 3) uint8; got {image.shape} {image.dtype}.'
        )
    fits = masks is None or not len(boxes) or masks.shape == (len(boxes), *size)
    if not fits or {len(labels), len(texts)} != {len(boxes)}:
        raise ValueError(f'each box must have a label, a text and a mask of {size}.')
    colours = [COLOURS[int(label) % len(COLOURS)] for label in labels]

    def width(*sides: int) -> int:
        return line or max(1, min(line_width(*size), min(sides) // 6))

    if masks is not None and len(masks):
        import cv2

        overlay, covered = canvas.copy(), np.asarray(masks, bool).any(0)
        for mask, colour in zip(masks[::-1], colours[::-1], strict=True):
            overlay[np.asarray(mask, bool)] = colour
        mixed = (1 - _MASK_OPACITY) * canvas[covered] + _MASK_OPACITY * overlay[covered]
        canvas[covered] = np.rint(mixed)
        kind = (cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        for mask, colour in zip(masks[::-1], colours[::-1], strict=True):
            x, y, wide, high = cv2.boundingRect(np.asarray(mask, np.uint8))
            part = np.asarray(mask[y : y + high, x : x + wide], np.uint8)
            outlines, _ = cv2.findContours(part, *kind, offset=(x, y))
            cv2.drawContours(canvas, outlines, -1, colour, width(wide, high))
    shown: list[tuple[Pixels, Colour, str]] = []  # the last on top
    for box, colour, text in zip(boxes, colours, texts, strict=True):
        pixels = pixels_of(box, size)
        if pixels is not None:
            shown.insert(0, (pixels, colour, printable(text)))
    for (x1, y1, x2, y2), colour, _ in shown:
        box = canvas[y1 : y2 + 1, x1 : x2 + 1]
        thick = width(*box.shape[:2])
        box[:thick] = box[-thick:] = colour  # inside the box
        box[:, :thick] = box[:, -thick:] = colour
    return _with_texts(canvas, shown)


def draw_heat(image: Array, heat: Array) -> Array:
    """Return an image in grey with a map over it, from transparent to bright.

    The image is (H, W, 3) uint8, RGB; the map (H, W) float, 0-1.
    """
    from matplotlib import colormaps

    if image.shape[:2] != heat.shape:
        raise ValueError(f'the map is {heat.shape}, the image {image.shape[:2]}.')
    grey = image @ np.array([0.299, 0.587, 0.114])  # luma, ITU-R BT.601
    glow = colormaps['inferno'](heat)[..., :3] * 255
    opacity = (0.25 + 0.55 * heat)[..., None]
    mixed = (1 - opacity) * grey[..., None] + opacity * glow
    result: Array = np.rint(mixed).clip(0, 255).astype(np.uint8)
    return result


def text_colour(background: Colour) -> Colour:
    """Return white on the darkest colour, black on others: a contrast above 4.5:1."""
    return (255, 255, 255) if background == _DARKEST else (0, 0, 0)


def line_width(height: int, width: int) -> int:
    """Return the width of lines for an image, in pixels: 1 at 64, 2 at 640 x 480."""
    return max(1, round(math.sqrt(height * width) / 300))


def font_size(height: int, width: int) -> int:
    """Return the size of letters for an image, in pixels: 7 at 64, 12 at 640 x 480."""
    side = math.sqrt(height * width)
    smallest = min(9, max(7, round(side / 10)))  # a label must leave room for objects
    return max(smallest, round(side / 45))


def pixels_of(box: Array, size: tuple[int, ...]) -> Pixels | None:
    """Return the first and last pixels of a box; None if it has none in the image."""
    height, width = size
    if not np.isfinite(box).all() or box[2] < box[0] or box[3] < box[1]:
        return None
    x1, y1 = (math.floor(value) for value in box[:2])
    # At least one pixel, so that a box of no width is a line.
    x2, y2 = max(x1, math.ceil(box[2]) - 1), max(y1, math.ceil(box[3]) - 1)
    if x2 < 0 or y2 < 0 or x1 >= width or y1 >= height:
        return None
    return max(x1, 0), max(y1, 0), min(x2, width - 1), min(y2, height - 1)


def _with_texts(canvas: Array, shown: Sequence[tuple[Pixels, Colour, str]]) -> Array:
    """Write each text at its box; the objects on top choose their places first."""
    if not shown:
        return canvas
    from PIL import Image, ImageDraw

    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    height, width = canvas.shape[:2]
    size = font_size(height, width)
    font, margin = _font(size), max(1, size // 8)
    # Every label is as high as the font, whatever letters are in it.
    high = sum(font.getmetrics()) + 2 * margin
    boxes, places = [box for box, _, _ in shown], list[Pixels]()
    labels = [label for label in shown[::-1] if label[2]]
    for box, _, text in labels:
        wide = math.ceil(font.getlength(text)) + 2 * margin
        places.append(_place(box, (wide, high), (width, height), boxes, places))
    for place, (_, colour, text) in list(zip(places, labels, strict=True))[::-1]:
        draw.rectangle(place, fill=colour)
        origin = (place[0] + margin, place[1] + margin)
        draw.text(origin, text, fill=text_colour(colour), font=font)
    return np.array(picture)


def _place(
    box: Pixels, label: Side, image: Side, boxes: list[Pixels], taken: list[Pixels]
) -> Pixels:
    """Return the pixels of a label: above its box, below, beside, or else in it.

    It is where it hides least of the labels that are placed, and then of boxes.
    ``label`` and ``image`` are a width and a height.
    """
    (x1, y1, x2, y2), (wide, high) = box, label
    in_x, in_y = x2 + 1 - wide, y2 + 1 - high
    beside_or_in = (x2 + 1, x1 - wide, x1, in_x)
    corners = [(x, y) for y in (y1 - high, y2 + 1) for x in (x1, in_x)]
    corners += [(x, y) for x in beside_or_in for y in (y1, in_y)]
    first = np.clip(corners, 0, np.maximum(0, np.subtract(image, label)))
    places, hidden = np.hstack([first, first + label - 1]), []
    for others in (boxes, taken):
        other = np.array(others, int).reshape(-1, 4)
        start = np.maximum(places[:, None, :2], other[:, :2])
        end = np.minimum(places[:, None, 2:], other[:, 2:])
        hidden.append((end - start + 1).clip(0).prod(2).sum(1))
    left, top, right, bottom = places[np.lexsort(hidden)[0]].tolist()
    return left, top, right, bottom


@functools.lru_cache(maxsize=16)
def _font(size: int) -> Any:
    """Return DejaVu Sans, which matplotlib brings along."""
    import matplotlib
    from PIL import ImageFont

    path = f'{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf'
    return ImageFont.truetype(path, size)
