"""Small COCO data sets and detections, and pycocotools as it is usually called."""

import contextlib
import copy
import io
import random

import numpy as np
from pycocotools import mask as api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

EDGE_AREAS = (1024, 9216, 1023.9, 1024.1, 9215.9, 9216.1)


def polygon(*points):
    """One polygon segmentation."""
    return [[float(value) for point in points for value in point]]


def rle(mask):
    """Compressed RLE, as JSON has it, of an (H, W) mask."""
    encoded = api.encode(np.asfortranarray(np.asarray(mask, np.uint8)))
    return {'size': encoded['size'], 'counts': encoded['counts'].decode()}


def uncompressed(mask):
    """RLE with counts as a list, of an (H, W) mask."""
    flat = np.asarray(mask, np.uint8).flatten('F')
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    counts = np.diff([0, *edges, flat.size]).tolist()
    return {'size': list(np.shape(mask)), 'counts': counts}


def box_mask(box, height, width):
    """(H, W) mask of the pixels of x, y, width, height."""
    x, y, w, h = (max(0, round(value)) for value in box)
    mask = np.zeros((height, width), np.uint8)
    mask[y : y + h, x : x + w] = 1
    return mask


def random_case(seed):
    """Return an annotation file's content and detections, with everything odd in it.

    Ids unsorted and with gaps, crowds, areas at the limits of S, M and L, equal scores,
    more than 100 detections, boxes outside of the image, images without objects,
    polygons and both kinds of RLE.
    """
    draw = random.Random(seed)
    height, width = draw.choice([(40, 50), (120, 96), (1, 7), (64, 64)])
    images = draw.sample(range(1000), draw.randint(1, 5))
    categories = draw.sample(range(90), draw.randint(1, 4))
    content = {
        'images': [{'id': i, 'height': height, 'width': width} for i in images],
        'categories': [{'id': c, 'name': f'class {c}'} for c in categories],
        'annotations': [],
    }

    def segmentation(kind):
        if kind == 'polygon':
            points = draw.randint(3, 8)
            return polygon(
                *(
                    (draw.uniform(-9, width + 9), draw.uniform(-9, height + 9))
                    for _ in range(points)
                )
            )
        box = [draw.randint(0, n) for n in (width, height, width, height)]
        mask = box_mask(box, height, width)
        if draw.random() < 0.3:
            noise = np.random.RandomState(draw.randint(0, 9999))
            mask ^= (noise.rand(height, width) < 0.1).astype(np.uint8)
        return rle(mask) if kind == 'rle' else uncompressed(mask)

    for index in range(draw.randint(0, 12)):
        extent = (width, height)
        box = [draw.uniform(-5, n) for n in extent]
        box += [draw.uniform(0, n) for n in extent]
        content['annotations'].append(
            {
                'id': index + 1,
                'image_id': draw.choice(images),
                'category_id': draw.choice(categories),
                'iscrowd': int(draw.random() < 0.2),
                'bbox': box,
                'area': draw.choice([*EDGE_AREAS, draw.uniform(0, 20000)]),
                'segmentation': segmentation(draw.choice(['polygon', 'rle', 'counts'])),
            }
        )
    return content, _random_results(draw, content, segmentation)


def _random_results(draw, content, segmentation):
    many = draw.random() < 0.3
    size = content['images'][0]['height'], content['images'][0]['width']
    results = []
    for _ in range(draw.randint(0, 150 if many else 20)):
        near = draw.choice(content['annotations'] or [None])
        if near is None or draw.random() < 0.2:
            box = [draw.uniform(0, 40), draw.uniform(0, 40), 32, draw.choice([32, 288])]
            mask = segmentation('rle')
            image = draw.choice(content['images'])['id']
        else:
            box = [value + draw.choice([0, 1, -1, 0.5]) for value in near['bbox']]
            box[2:] = [max(0, value) for value in box[2:]]
            mask = compressed(near['segmentation'], *size)
            image = near['image_id']
        own = near is not None and draw.random() < 0.8
        other = draw.choice(content['categories'])['id']
        category = near['category_id'] if own else other
        results.append(
            {
                'image_id': image,
                'category_id': category,
                'bbox': box,
                'score': draw.choice([0.1, 0.5, 0.9, draw.random()]),
                'segmentation': mask,
            }
        )
    return results


def compressed(segmentation, height, width):
    """Any segmentation as compressed RLE with counts as a string."""
    found = segmentation
    if isinstance(found, list):
        found = api.merge(api.frPyObjects(found, height, width))
    elif isinstance(found['counts'], list):
        found = api.frPyObjects(found, *found['size'])
    counts = found['counts']
    text = counts.decode() if isinstance(counts, bytes) else counts
    return {'size': list(found['size']), 'counts': text}


def pycocotools_curves(content, results, task, max_dets=(1, 10, 100)):
    """Return (precision, recall, the 12 stats) of pycocotools on plain dicts."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(content)
        truth.createIndex()
        entries = copy.deepcopy(results)
        if task == 'segm':  # else the box's area decides S, M and L
            for one in entries:
                one.pop('bbox', None)
        if entries:
            found = truth.loadRes(entries)
        else:  # loadRes fails: cocoapi#450
            found = COCO()
            found.dataset = {**content, 'annotations': []}
            found.createIndex()
        evaluator = COCOeval(truth, found, task)
        evaluator.params.maxDets = list(max_dets)
        evaluator.evaluate()
        evaluator.accumulate()
        stats = None
        if tuple(max_dets) == (1, 10, 100):
            evaluator.summarize()
            stats = evaluator.stats.tolist()
    return evaluator.eval['precision'], evaluator.eval['recall'], stats
