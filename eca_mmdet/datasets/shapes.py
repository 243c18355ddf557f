"""A COCO-format dataset of generated shapes, for a first run without a download.

Circles, squares and triangles of many sizes and colours over textured backgrounds,
with occlusion. Every image is a function of (seed, split, index) alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from shapely import affinity
from shapely.geometry import MultiPolygon, Point, Polygon

from eca_mmdet.datasets.coco import completed
from eca_mmdet.utils.images import Array

CLASSES = ('circle', 'square', 'triangle')
SPLITS = {'train': 400, 'val': 100}
"""Number of images of each split by default."""

SIDE_PX = 160
MIN_VISIBLE = 0.7
"""An object less visible than this share of its area is not drawn at all."""


_OUTLINES = (
    Point(0, 0).buffer(0.5, quad_segs=8),
    Polygon([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]),
    Polygon([(0, -0.577), (0.5, 0.289), (-0.5, 0.289)]),
)


def _background(rng: np.random.Generator, side: int) -> Array:
    """Return HWC uint8: muted blotches, stripes and fine noise."""
    cells = int(rng.integers(2, 7))
    coarse = rng.uniform(60, 190) + rng.uniform(-45, 45, (cells, cells, 3))
    image: Array = cv2.resize(
        coarse.astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC
    )
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 40)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)
    image += wave[..., None] * rng.uniform(0, 25, 3).astype(np.float32)
    image += _noise(rng, image.shape, rng.uniform(2, 10))
    return np.clip(image, 0, 255).astype(np.uint8)


def _noise(rng: np.random.Generator, shape: tuple[int, ...], deviation: float) -> Array:
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(deviation)


def _place(rng: np.random.Generator, side: int) -> tuple[int, Polygon]:
    """Draw a class and an outline in image coordinates, cut at the image border."""
    label = int(rng.integers(len(CLASSES)))
    # Log-uniform from 18 px, so that most objects are small in COCO's sense.
    size = float(np.exp(rng.uniform(np.log(18), np.log(side * 0.5))))
    outline = affinity.scale(_OUTLINES[label], size, size, origin=(0, 0))
    outline = affinity.rotate(outline, float(rng.uniform(-12, 12)), origin=(0, 0))
    centre = rng.uniform(size * 0.3, side - size * 0.3, 2)
    outline = affinity.translate(outline, *centre)
    frame = Polygon([(0, 0), (side, 0), (side, side), (0, side)])
    return label, outline.intersection(frame)


def _visible_parts(shape: Any) -> list[Polygon]:
    """Return the pieces of a polygon, holes filled (COCO polygons have none)."""
    parts = shape.geoms if isinstance(shape, MultiPolygon) else [shape]
    return [Polygon(p.exterior) for p in parts if isinstance(p, Polygon) and p.area > 4]


def _arrange(rng: np.random.Generator, side: int) -> list[tuple[int, Polygon, Any]]:
    """Return (label, outline, visible region), back to front.

    A new object that would hide too much of one behind it is left out.
    """
    placed: list[tuple[int, Polygon, Any]] = []
    for _ in range(int(rng.integers(2, 8))):
        label, outline = _place(rng, side)
        behind = [(lab, out, vis.difference(outline)) for lab, out, vis in placed]
        if all(vis.area >= MIN_VISIBLE * out.area for _, out, vis in behind):
            placed = [*behind, (label, outline, outline)]
    return placed


def _colour(rng: np.random.Generator, under: Array) -> Array:
    """Draw a saturated BGR colour that differs from what it will cover."""
    while True:
        hsv = np.array([[[rng.uniform(0, 360), *rng.uniform(0.55, 1, 2)]]], np.float32)
        colour: Array = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0] * 255
        if np.abs(colour - under).sum() > 150:
            return colour


def _paint(image: Array, outline: Polygon, rng: np.random.Generator) -> None:
    """Fill the outline in place with a shaded, slightly noisy colour."""
    left, top, right, bottom = outline.bounds
    x0, y0 = max(int(left) - 1, 0), max(int(top) - 1, 0)
    patch = image[y0 : int(bottom) + 2, x0 : int(right) + 2]
    scale = 8  # three fractional bits, as ``shift`` below
    # COCO puts the centre of the first pixel at (0.5, 0.5), OpenCV at (0, 0).
    corners = np.array(outline.exterior.coords) - (x0 + 0.5, y0 + 0.5)
    alpha = np.zeros(patch.shape[:2], np.uint8)
    points = np.round(corners * scale).astype(np.int32)
    cv2.fillPoly(alpha, [points], 255, cv2.LINE_AA, shift=3)
    cover = alpha[..., None].astype(np.float32) / 255
    under = (patch * cover).sum(axis=(0, 1)) / max(float(cover.sum()), 1.0)
    y, x = np.mgrid[: patch.shape[0], : patch.shape[1]].astype(np.float32)
    slope = rng.uniform(-0.3, 0.3, 2) / max(patch.shape[:2])
    shade = 1 + slope[0] * (x - x.mean()) + slope[1] * (y - y.mean())
    fill = _colour(rng, under) * shade[..., None] + _noise(rng, patch.shape, 6)
    patch[:] = np.clip(patch * (1 - cover) + fill * cover, 0, 255)


def draw_image(
    seed: int, split: str, index: int, side: int = SIDE_PX
) -> tuple[Array, list[dict[str, Any]]]:
    """Return one image of ``side`` x ``side`` pixels and its annotations.

    Returns:
        HWC uint8 (BGR), and COCO annotations without ids: bbox in (x, y, w, h)
        pixels, polygons of the visible part, its area in square pixels.
    """
    rng = np.random.default_rng([seed, int(split == 'val'), index])
    image = _background(rng, side)
    annotations = []
    for label, outline, visible in _arrange(rng, side):
        _paint(image, outline, rng)
        parts = _visible_parts(visible)
        if not parts:
            continue
        x1, y1, x2, y2 = MultiPolygon(parts).bounds
        annotations.append(
            {
                'category_id': label + 1,
                'bbox': [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)],
                'area': round(sum(part.area for part in parts), 2),
                'iscrowd': 0,
                'segmentation': [
                    [round(float(v), 2) for v in np.ravel(part.exterior.coords[:-1])]
                    for part in parts
                ],
            }
        )
    return image, annotations


def write_shapes(
    root: str | Path,
    seed: int = 0,
    sizes: dict[str, int] | None = None,
    side: int = SIDE_PX,
) -> Path:
    """Write the dataset: ``{split}/*.png`` and ``annotations/{split}.json``.

    Equal seeds give equal files. ``sizes`` are the numbers of images of each split,
    ``SPLITS`` by default; ``side`` is that of the square images, in pixels. A split of
    another name has the images of 'train'.

    Raises:
        FileExistsError: ``root`` exists and is not empty; nothing is overwritten.
    """
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    if any(root.iterdir()):
        raise FileExistsError(f'{root} is not empty')
    (root / 'annotations').mkdir()
    for split, count in (sizes or SPLITS).items():
        (root / split).mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(count):
            image, objects = draw_image(seed, split, index, side)
            name = f'{index:05d}.png'
            cv2.imwrite(str(root / split / name), image)
            image_id = index + 1
            images.append(
                {'id': image_id, 'file_name': name, 'width': side, 'height': side}
            )
            for annotation in objects:
                # From 1: COCO's own evaluation ignores a match with annotation 0.
                ids = {'id': len(annotations) + 1, 'image_id': image_id}
                annotations.append(ids | annotation)
        content = {
            'info': {'description': f'eca-mmdet shapes, seed {seed}, split {split}'},
            'images': images,
            'annotations': annotations,
            'categories': [
                {'id': i + 1, 'name': name} for i, name in enumerate(CLASSES)
            ],
        }
        file = root / 'annotations' / f'{split}.json'
        file.write_text(json.dumps(completed(content)))
    return root
