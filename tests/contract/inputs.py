"""Small inputs drawn from fixed numbers: images, annotations, results, a detector."""

import json
import lzma
import shutil
from pathlib import Path

import cv2
import numpy as np

RUN = Path(__file__).resolve().parents[1] / 'data' / 'run_of_0_1'
"""A training that version 0.1.0 started and that was killed after its fourth step."""

CLASSES = ('circle', 'square', 'triangle')
SIDE = 64
COLOURS = ((40, 60, 200), (60, 200, 40), (200, 80, 60))


def draw_objects(number, side=SIDE):
    """Return an image with two filled rectangles, and their (class, box) pairs."""
    rng = np.random.RandomState(number)
    image = rng.randint(90, 130, (side, side, 3), np.uint8)
    objects = []
    for left in (0, side // 2):
        label = rng.randint(len(CLASSES))
        x, y = left + rng.randint(2, 8), rng.randint(2, side // 2)
        width, height = rng.randint(12, side // 2 - 8, 2)
        image[y : y + height, x : x + width] = COLOURS[label]
        objects.append((int(label), [int(v) for v in (x, y, width, height)]))
    return image, objects


def write_split(root, name, numbers):
    """Write images and their COCO annotations with masks; return the file's path."""
    (root / name).mkdir(parents=True)
    (root / 'annotations').mkdir(exist_ok=True)
    images, annotations = [], []
    for number in numbers:
        image, objects = draw_objects(number)
        file_name = f'{number:03}.png'
        cv2.imwrite(str(root / name / file_name), image)
        images.append(dict(id=number, file_name=file_name, width=SIDE, height=SIDE))
        for label, (x, y, w, h) in objects:
            outline = [x, y, x + w, y, x + w, y + h, x, y + h]
            entry = dict(
                image_id=number, category_id=label + 1, bbox=[x, y, w, h], area=w * h
            )
            entry |= dict(iscrowd=0, segmentation=[outline], id=len(annotations) + 1)
            annotations.append(entry)
    categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES, 1)]
    content = dict(images=images, annotations=annotations, categories=categories)
    path = root / 'annotations' / f'{name}.json'
    path.write_text(json.dumps(content))
    return path


def write_data(root):
    """Write the dataset: 6 images for training, 4 for validation."""
    write_split(root, 'train', range(1, 7))
    write_split(root, 'val', range(11, 15))
    return root


def write_results(annotations, path, shift):
    """Write a result file: the objects, moved by ``shift`` px, and some mistakes."""
    results = []
    for entry in json.loads(annotations.read_text())['annotations']:
        x, y, w, h = entry['bbox']
        moved = (entry['id'] * shift) % 9
        result = dict(image_id=entry['image_id'], category_id=entry['category_id'])
        result['bbox'] = [x + moved, y, w + 1, h]
        result['score'] = round(0.95 - 0.083 * entry['id'], 3)
        results.append(result)
        if entry['id'] % 3 == 0:
            wrong = 1 + entry['category_id'] % 3
            results.append(result | dict(category_id=wrong, score=result['score'] / 2))
    path.write_text(json.dumps(results))
    return path


def write_faulty(annotations, path):
    """Write a copy with a box outside, an unknown category and a double id."""
    content = json.loads(annotations.read_text())
    entries = content['annotations']
    entries[0]['bbox'] = [50, 50, 40, 40]
    entries[1]['category_id'] = 9
    entries[2]['id'] = entries[3]['id']
    entries[4]['bbox'] = [5, 5, 0, 10]
    entries[5]['image_id'] = 999
    del entries[6]['area']
    path.write_text(json.dumps(content))
    return path


def write_backbone(path):
    """Write the tensors of a small backbone, under mmdet's names."""
    import torch
    from mmdet.registry import MODELS

    from eca_mmdet import ECAResNet

    assert MODELS.get('ECAResNet') is ECAResNet
    torch.manual_seed(0)
    backbone = ECAResNet(depth=50, kernel_sizes=(3, 5, 5, 7), base_channels=4)
    torch.save(backbone.state_dict(), path)
    return path


def write_run(folder):
    """Copy the run of version 0.1.0 to ``folder/work`` and draw its data.

    The config names its data relative to ``folder``, which has to be the working
    directory. ``last_checkpoint`` names a path that is gone, as after a move.
    """
    write_data(folder / 'data')
    work = folder / 'work'
    ignored = shutil.ignore_patterns('*.xz', 'README.md', 'losses.json')
    shutil.copytree(RUN, work, ignore=ignored)
    packed = (RUN / 'iter_4.pth.xz').read_bytes()
    (work / 'iter_4.pth').write_bytes(lzma.decompress(packed))


def write_broken(folder):
    """Write files that users pass by mistake."""
    (folder / 'empty.json').write_text('')
    (folder / 'empty_list.json').write_text('[]')
    (folder / 'list.json').write_text('[1, 2]')
    (folder / 'text.json').write_text('not JSON')
    content = json.loads((folder / 'data/annotations/val.json').read_text())
    (folder / 'no_images.json').write_text(
        json.dumps(dict(content, images=[], annotations=[]))
    )
    (folder / 'no_objects.json').write_text(json.dumps(dict(content, annotations=[])))
    results = json.loads((folder / 'good.json').read_text())
    (folder / 'wrong_image.json').write_text(
        json.dumps([results[0] | dict(image_id=777)])
    )
    (folder / 'wrong_category.json').write_text(
        json.dumps([results[0] | dict(category_id=77)])
    )
    checkpoint = (folder / 'work' / 'iter_4.pth').read_bytes()
    (folder / 'truncated.pth').write_bytes(checkpoint[: len(checkpoint) // 2])
    (folder / 'empty.pth').write_bytes(b'')
    (folder / 'taken').mkdir()
    (folder / 'taken' / 'file.txt').write_text('already here')
    (folder / 'no_pictures').mkdir()
    (folder / 'broken_config.py').write_text('model = dict(')
    (folder / 'unknown_type.py').write_text(
        "_base_ = './work/retinanet.py'\nmodel = dict(backbone=dict(type='NoSuch'))\n"
    )


def write_yolo(root):
    """Write two images with labels in the layout of YOLO."""
    for kind in ('images', 'labels'):
        (root / kind / 'train').mkdir(parents=True)
    names = json.dumps(dict(enumerate(CLASSES)))
    (root / 'data.yaml').write_text(f'path: .\ntrain: images/train\nnames: {names}\n')
    for number in (1, 2):
        image, objects = draw_objects(number)
        cv2.imwrite(str(root / 'images' / 'train' / f'{number}.png'), image)
        lines = [
            f'{label} {(x + w / 2) / SIDE} {(y + h / 2) / SIDE} {w / SIDE} {h / SIDE}'
            for label, (x, y, w, h) in objects
        ]
        (root / 'labels' / 'train' / f'{number}.txt').write_text('\n'.join(lines))
