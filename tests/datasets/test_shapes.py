"""The generated data set: what it says is what it drew."""

import hashlib
import json
from collections import Counter

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from eca_mmdet.datasets import shapes as module
from eca_mmdet.datasets.shapes import (
    CLASSES,
    draw_image,
    write_shapes,
)


def digest(folder):
    files = sorted(f for f in folder.rglob('*') if f.is_file())
    content = b''.join(f.read_bytes() for f in files)
    return [f.name for f in files], hashlib.sha256(content).hexdigest()


def test_equal_seeds_give_equal_files(tmp_path):
    sizes = {'train': 2, 'val': 1}
    roots = [
        write_shapes(tmp_path / name, seed=seed, sizes=sizes)
        for name, seed in (('a', 1), ('b', 1), ('c', 2))
    ]
    first, second, other = map(digest, roots)
    assert first == second
    assert first != other
    assert first[0] == ['train.json', 'val.json', '00000.png', '00001.png', '00000.png']


def test_demo_draws_only_data(command, tmp_path):
    words = ('demo', '--data-only', tmp_path / 'new', '--quick', '--seed', '3')
    code, out, _ = command(*words)
    assert code == 0 and out.startswith('60 images: ')
    assert command(*words)[0] == 2  # nothing is overwritten
    content = json.loads((tmp_path / 'new/annotations/photos.json').read_text())
    assert len(content['images']) == 60
    train = write_shapes(tmp_path / 'train', 3, {'train': 2}) / 'train'
    for image in train.iterdir():
        drawn = tmp_path / 'new' / 'photos' / image.name
        assert drawn.read_bytes() == image.read_bytes()


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / 'mine').write_text('data')
    with pytest.raises(FileExistsError):
        write_shapes(tmp_path)
    assert (tmp_path / 'mine').read_text() == 'data'


def test_training_and_held_out_images_differ():
    train, _ = draw_image(0, 'train', 0)
    val, _ = draw_image(0, 'val', 0)
    assert np.abs(train.astype(int) - val).mean() > 10


@pytest.mark.parametrize('index', range(12))
def test_boxes_and_areas_are_those_of_the_polygons(index):
    side = module.SIDE_PX
    _, annotations = draw_image(0, 'val', index)
    assert annotations
    for annotation in annotations:
        points = np.concatenate(
            [np.reshape(p, (-1, 2)) for p in annotation['segmentation']]
        )
        x, y, w, h = annotation['bbox']
        np.testing.assert_allclose([x, y], points.min(axis=0), atol=0.011)
        np.testing.assert_allclose([x + w, y + h], points.max(axis=0), atol=0.021)
        assert points.min() >= 0 and points.max() <= side
        rle = coco_mask.merge(
            coco_mask.frPyObjects(annotation['segmentation'], side, side)
        )
        pixels = float(coco_mask.area(rle))
        # A polygon and its pixels differ by at most about half the outline.
        assert abs(pixels - annotation['area']) <= 0.6 * (w + h) + 3


def test_masks_lie_on_what_was_painted():
    """Undo the painting: what differs from the background is the union of the masks."""
    side = module.SIDE_PX
    kernel = np.ones((3, 3), np.uint8)
    for index in range(10):
        image, annotations = draw_image(3, 'val', index)
        rng = np.random.default_rng([3, 1, index])
        background = module._background(rng, side)
        changed = (image != background).any(axis=2)
        union = np.zeros((side, side), np.uint8)
        for annotation in annotations:
            rle = coco_mask.frPyObjects(annotation['segmentation'], side, side)
            union |= coco_mask.decode(coco_mask.merge(rle))
        assert changed[cv2.erode(union, kernel) > 0].mean() > 0.999
        # Slivers of an occluded object (under 4 square pixels) have no mask.
        assert changed[cv2.dilate(union, kernel, iterations=2) == 0].sum() <= 8


def test_an_object_hidden_by_another_is_cut_or_left_out():
    """No two visible regions of one image share more than their borders."""
    for index in range(20):
        _, annotations = draw_image(0, 'train', index)
        side = module.SIDE_PX
        total = np.zeros((side, side), int)
        for annotation in annotations:
            rle = coco_mask.frPyObjects(annotation['segmentation'], side, side)
            total += coco_mask.decode(coco_mask.merge(rle))
        enclosed = sum(a['area'] for a in annotations)  # holes are filled, so allowed
        assert (total > 2).sum() <= 0.05 * enclosed


def test_files_are_coco(tmp_path):
    root = write_shapes(tmp_path / 's', sizes={'train': 30, 'val': 2})
    content = json.loads((root / 'annotations' / 'train.json').read_text())
    assert [c['name'] for c in content['categories']] == list(CLASSES)
    assert [a['id'] for a in content['annotations']] == list(
        range(1, len(content['annotations']) + 1)
    )
    images = {i['id']: i for i in content['images']}
    assert {a['image_id'] for a in content['annotations']} <= images.keys()
    for image in images.values():
        pixels = cv2.imread(str(root / 'train' / image['file_name']))
        assert pixels.shape == (image['height'], image['width'], 3)
    counts = Counter(a['category_id'] for a in content['annotations'])
    assert set(counts) == {1, 2, 3} and min(counts.values()) > 15
