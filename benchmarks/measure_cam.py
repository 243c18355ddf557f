"""Measure what the maps of ``eca-mmdet predict --cam`` say, on images without answers.

    python benchmarks/measure_cam.py --images demo/data/val demo/train/iter_520.pth ...

For each checkpoint: the share of a map that lies in the boxes of the objects that it
explains, beside the boxes' share of the image; and what is left of the objects' scores
when the brightest fifth of the boxes' pixels is covered with the image's mean colour,
beside smooth patches of the same size at random places in the boxes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from eca_mmdet import ECADetector

SCORE = 0.3
COVERED = 0.2
SAME_BOX = 0.5


def main(argv: list[str] | None = None) -> int:
    """Print a row for each checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('checkpoints', nargs='+')
    parser.add_argument('--images', required=True, type=Path, help='folder')
    parser.add_argument('--limit', type=int, default=100, help='images')
    args = parser.parse_args(argv)
    files = sorted(args.images.glob('*.png'))[: args.limit]
    print(f'{len(files)} images, objects with a score of {SCORE} or more')
    print('in boxes   area   lowest ratio   left, map   left, random')
    for checkpoint in args.checkpoints:
        detector = ECADetector.from_checkpoint(checkpoint)
        draw = np.random.default_rng(0)
        rows = [one for file in files if (one := measure(detector, file, draw))]
        evidence, area, mapped, random = (
            statistics.mean(column) for column in zip(*rows, strict=True)
        )
        lowest = min(one[0] / one[1] for one in rows)
        print(
            f'{evidence:8.2f} {area:6.2f} {lowest:14.2f} {mapped:11.2f} {random:14.2f}'
            f'   {detector!r}'
        )
    return 0


def measure(
    detector: Any, file: Path, draw: np.random.Generator
) -> tuple[float, float, float, float] | None:
    """Return shares of map, area and scores left; None without an object."""
    found = detector.predict(file).above(SCORE)
    heat = detector.cam(file, score_thr=SCORE)
    inside = np.zeros(heat.shape, bool)
    for x1, y1, x2, y2 in found.boxes.round().astype(int):
        inside[y1:y2, x1:x2] = True
    if not inside.any() or not heat.any():
        return None
    smooth = cv2.GaussianBlur(draw.random(heat.shape, np.float32), (0, 0), 8)
    return (
        float(heat[inside].sum() / heat.sum()),
        float(inside.mean()),
        *(left(detector, found, brightest(one, inside)) for one in (heat, smooth)),  # type: ignore[return-value]
    )


def brightest(values: Any, inside: Any) -> Any:
    """Return the pixels of the boxes with the highest values, a fifth of them."""
    edge = np.quantile(values[inside], 1 - COVERED)
    return inside & (values >= edge)


def left(detector: Any, found: Any, covered: Any) -> float:
    """Return the mean share of the objects' scores that is left on a covered image."""
    image = found.image.copy()
    image[covered] = found.image.mean((0, 1)).astype(np.uint8)
    again = detector.predict(image)
    shares = []
    for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
        same = (again.labels == label) & (overlaps(box, again.boxes) >= SAME_BOX)
        best = again.scores[same].max() if same.any() else 0.0
        shares.append(min(1.0, float(best / score)))
    return statistics.mean(shares)


def overlaps(box: Any, others: Any) -> Any:
    """Return IoU of one box with many, corners in pixels."""
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:], others[:, 2:])
    common = (high - low).clip(0).prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1)
    return common / ((box[2:] - box[:2]).prod() + areas - common).clip(1e-9)


if __name__ == '__main__':
    sys.exit(main())
