"""An annotation file like COCO's, and predictions (for benchmark_eval.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = 80
SIDE = (480, 640)


def write_data(
    images: int, detections: int, task: str, folder: Path, kinds: int = CLASSES
) -> None:
    """Write an annotation file like COCO's, and predictions around its objects.

    Half of the predictions are around objects of the same image, the others around
    those of any, with ``kinds`` classes in an image.
    """
    from pycocotools import mask as api

    draw = np.random.default_rng(0)
    count = images * 7
    image = np.sort(draw.integers(0, images, count))
    category = draw.integers(0, CLASSES, count)
    corner = draw.uniform(0, 400, (count, 2))
    size = np.minimum(np.exp(draw.normal(3.8, 1, (count, 2))), 460 - corner) + 2
    boxes = np.hstack([corner, corner + size])
    content = {
        'images': [
            {'id': i, 'file_name': f'{i:012}.jpg', 'height': SIDE[0], 'width': SIDE[1]}
            for i in range(images)
        ],
        'categories': [{'id': i, 'name': f'c{i}'} for i in range(CLASSES)],
        'annotations': [
            {
                'id': index + 1,
                'image_id': int(image[index]),
                'category_id': int(category[index]),
                'bbox': [*boxes[index, :2].tolist(), *size[index].tolist()],
                'area': float(size[index].prod()),
                'iscrowd': 0,
                'segmentation': [ellipse(boxes[index])],
            }
            for index in range(count)
        ],
    }
    (folder / 'A.json').write_text(json.dumps(content))
    source = draw.integers(0, count, images * detections)
    near = draw.random(len(source)) < 0.5
    owner = np.where(near, image[source], np.arange(len(source)) % images)
    order = np.argsort(owner, kind='stable')
    source, owner = source[order], owner[order]
    noise = draw.normal(0, 0.1, (len(source), 4)) * np.tile(size[source], 2)
    columns: dict[str, Any] = {
        'owner': owner,
        'boxes': (boxes[source] + noise).astype(np.float32),
        'scores': draw.random(len(source)).astype(np.float32),
        'labels': category[source],
    }
    if kinds < CLASSES:
        few = (owner * 7 + category[source] % kinds) % CLASSES
        columns['labels'] = np.where(image[source] == owner, category[source], few)
    columns['boxes'][:, 2:] = np.maximum(
        columns['boxes'][:, 2:], columns['boxes'][:, :2] + 1
    )
    if task == 'segm':
        polygons = [ellipse(box) for box in columns['boxes']]
        counts = [api.frPyObjects([one], *SIDE)[0]['counts'] for one in polygons]
        columns['lengths'] = np.array([len(one) for one in counts])
        columns['counts'] = np.frombuffer(b''.join(counts), np.uint8)
    np.savez(folder / 'predictions.npz', **columns)


def ellipse(box: np.ndarray[Any, Any], points: int = 24) -> list[float]:
    """Return a polygon inside a box x1, y1, x2, y2."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    center, radius = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    rim = center + radius * np.stack([np.cos(angle), np.sin(angle)], 1)
    return rim.round(2).ravel().tolist()
