"""Small data sets as users have them: odd names, odd files, any number of classes."""

import json
from pathlib import Path

import cv2
import numpy as np

SIDE = 96
KINDS = ('rgb', 'grey', 'rgba', '16-bit', 'exif')
ODD_NAMES = ('traffic light', 'Ampel grün', '信号', 'Cat', 'cat', "dog's {{ x }}")
TINY = 'mask-rcnn_eca-r18-w16'
NO_WORKERS = [
    f'{name}_dataloader.{key}'
    for name in ('train', 'val', 'test')
    for key in ('num_workers=0', 'persistent_workers=False')
]
QUICK = ['--cfg-options', 'train_dataloader.batch_size=3', *NO_WORKERS]


def write_data(
    root, name, classes, images=4, kinds=('rgb',), masks=True, first=0, least=24
):
    """Write images with coloured rectangles, and a COCO file beside them.

    Args:
        root: folder; images go below ``images/``, half of them in a subfolder.
        name: of the annotation file.
        classes: names, or (id, name) pairs, in the order of the file.
        images: how many.
        kinds: 'rgb', 'grey', 'rgba', '16-bit', 'exif', in turn.
        masks: give each object a polygon.
        first: number of the first image.
        least: side of the objects in pixels.

    Returns:
        Path of the annotation file.
    """
    rng = np.random.default_rng([first, len(classes)])
    pairs = [
        one if isinstance(one, tuple) else (n, one) for n, one in enumerate(classes, 1)
    ]
    content = dict(
        images=[],
        annotations=[],
        categories=[dict(id=number, name=one) for number, one in pairs],
    )
    for number in range(first, first + images):
        folder = 'deep/er' if number % 2 else '.'
        kind = kinds[number % len(kinds)]
        boxes = _boxes(rng, least)
        file = _write_image(Path(root) / 'images', folder, number, kind, boxes)
        content['images'].append(
            dict(id=number + 1, file_name=file, width=SIDE + 32, height=SIDE)
        )
        for at, (x, y, w, h) in enumerate(boxes):
            # Every class is met at least once, where there are enough objects.
            category = pairs[(number * len(boxes) + at) % len(pairs)][0]
            one = dict(
                id=len(content['annotations']) + 1,
                image_id=number + 1,
                category_id=category,
                bbox=[x, y, w, h],
                area=w * h,
                iscrowd=0,
            )
            if masks:
                one['segmentation'] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            content['annotations'].append(one)
    path = Path(root) / name
    path.write_text(json.dumps(content))
    return path


def _boxes(rng, least):
    """Return three boxes (x, y, w, h) in different thirds of the image."""
    boxes = []
    for third in range(3):
        w, h = rng.integers(least, 38, 2)
        boxes.append((2 + third * 42, int(rng.integers(2, SIDE - h)), int(w), int(h)))
    return boxes


def _write_image(root, folder, number, kind, boxes):
    image = np.full((SIDE, SIDE + 32, 3), 60, np.uint8)
    for x, y, w, h in boxes:
        image[y : y + h, x : x + w] = (200, 120, 40)
    (root / folder).mkdir(parents=True, exist_ok=True)
    name = f'{folder}/bild {number}.png' if folder != '.' else f'bild {number}.png'
    if kind == 'exif':
        from PIL import Image

        # Stored on its side; tag 274 says to turn it, which mmdet does.
        turned = Image.fromarray(np.rot90(image[..., ::-1]))
        exif = turned.getexif()
        exif[274] = 6
        name = name.replace('.png', '.jpg')
        turned.save(root / name, exif=exif)
        return name
    image = {
        'rgb': lambda: image,
        'grey': lambda: image[..., 0],
        'rgba': lambda: np.dstack([image, np.full(image.shape[:2], 9, np.uint8)]),
        '16-bit': lambda: image.astype(np.uint16) * 257,
    }[kind]()
    assert cv2.imwrite(str(root / name), image)
    return name
