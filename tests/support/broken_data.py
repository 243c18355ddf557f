"""A small sound data set, and every way to break it that one file can show."""

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from eca_mmdet.datasets.rules.check import check_content
from eca_mmdet.datasets.rules.rule import Content

IMAGES = {'é.png': (64, 48), 'b.jpg': (40, 34), 'sub/c.png': (36, 36)}


def sound() -> dict[str, Any]:
    """Three images, four objects with masks, two categories, keys of other tools."""
    images = [
        {'id': 10 * n, 'file_name': name, 'width': w, 'height': h, 'license': 3}
        for n, (name, (w, h)) in enumerate(IMAGES.items(), 1)
    ]
    annotations = [box(n, 10 * (1 + n // 2), 1 + n % 2) for n in range(1, 5)]
    return {
        'info': {'year': 2024, 'note': 'naïve'},
        'licenses': [{'id': 3}],
        'images': images,
        'annotations': annotations,
        'categories': [{'id': 1, 'name': 'cat'}, {'id': 2, 'name': 'dog', 'x': [1]}],
        'tool': {'version': None},
    }


def box(key, image, category):
    return {
        'id': key,
        'image_id': image,
        'category_id': category,
        'bbox': [2, 3, 8, 6],
        'area': 48,
        'iscrowd': 0,
        'segmentation': [[2, 3, 10, 3, 10, 9, 2, 9]],
        'score_by': 'hand',
    }


def check_annotations(content, classes=None):
    """Return the faults that show without the images."""
    return check_content(Content.of(content, classes))


def write_images(folder):
    for name, (width, height) in IMAGES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        image = rng.integers(0, 255, (height, width, 3), np.uint8)
        path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
    return folder


@dataclass
class Case:
    """One fault: how to make it, and what is to be said and left."""

    code: str
    edits: dict[str, Any]
    count: int
    example: str
    left: set[str] = field(default_factory=set)  # codes that --fix cannot mend
    name: str = ''

    def content(self):
        content = copy.deepcopy(sound())
        for path, value in self.edits.items():
            *parents, last = [int(p) if p.isdigit() else p for p in path.split('.')]
            node = content
            for part in parents:
                node = node[part]
            if value is DELETE:
                del node[last]
            elif last == 'append':
                node.append(value)
            else:
                node[last] = value
        return content


DELETE = object()
OTHER = {'id': 40, 'file_name': 'd.png', 'width': 39, 'height': 39}
TWICE = {'id': 10, 'file_name': 'é.png', 'width': 64, 'height': 48, 'license': 3}

CASES = [
    Case('malformed-image', {'images.append': {'id': 7}}, 1, 'images[3]'),
    Case('malformed-image', {'images.append': 'a.png'}, 1, 'images[3]'),
    Case('malformed-category', {'categories.append': {'id': 7}}, 1, 'categories[2]'),
    Case('malformed-annotation', {'annotations.append': [1]}, 1, 'annotations[4]'),
    Case('malformed-annotation', {'annotations.0.image_id': None}, 1, 'annotations[0]'),
    Case('id-type', {'annotations.0.id': DELETE}, 1, 'annotation None'),
    Case('id-type', {'annotations.0.id': True}, 1, 'annotation True'),
    Case('id-type', {'annotations.0.id': 'x7'}, 1, "annotation 'x7'"),
    Case(
        'id-type',
        {'images.2.id': 30.5, 'annotations.3.image_id': 30.5},
        1,
        'image 30.5',
    ),
    Case('id-type', {'annotations.0.image_id': '10'}, 1, "image_id '10'"),
    Case('id-type', {'annotations.0.category_id': '1'}, 1, "category_id '1'"),
    Case(
        'category-id-form',
        {'categories.0.id': 1.0, 'annotations.0.category_id': 1.0},
        1,
        '1.0',
    ),
    Case('zero-annotation-id', {'annotations.3.id': 0}, 1, 'annotation 0'),
    Case('zero-annotation-id', {'annotations.3.id': 0.0}, 1, 'annotation 0.0'),
    Case('duplicate-annotation-id', {'annotations.3.id': 1}, 1, 'annotation 1'),
    Case('duplicate-image-id', {'images.append': TWICE}, 1, "'é.png'"),
    Case(
        'duplicate-image-id',
        {'images.append': OTHER | {'id': 10}},
        1,
        "'d.png'",
        left={'duplicate-image-id'},
    ),
    Case(
        'orphan-annotation',
        {'annotations.0.image_id': 11},
        1,
        'annotation 1 of image 11',
    ),
    Case(
        'unknown-category',
        {'annotations.0.category_id': 0},
        1,
        'annotation 1 of category 0',
    ),
    Case(
        'duplicate-category-id',
        {'categories.append': {'id': 2, 'name': 'dog', 'x': [1]}},
        1,
        "'dog' of id 2",
    ),
    Case(
        'duplicate-category-id',
        {'categories.append': {'id': 2, 'name': 'cow'}},
        1,
        "'cow' of id 2",
        left={'duplicate-category-id'},
    ),
    Case(
        'duplicate-category-name',
        {'categories.append': {'id': 3, 'name': 'dog'}, 'annotations.0.category_id': 3},
        1,
        "'dog' of id 3",
    ),
    Case(
        'similar-category-names',
        {'categories.append': {'id': 3, 'name': ' Dog'}},
        2,
        "' Dog', 'dog'",
        left={'similar-category-names'},
    ),
    Case('missing-iscrowd', {'annotations.0.iscrowd': DELETE}, 1, 'annotation 1'),
    Case('missing-iscrowd', {'annotations.0.iscrowd': None}, 1, 'annotation 1'),
    Case('missing-area', {'annotations.0.area': DELETE}, 1, 'annotation 1'),
    Case('missing-area', {'annotations.0.area': '48'}, 1, 'annotation 1'),
    Case('zero-area', {'annotations.0.area': 0}, 1, 'annotation 1'),
    Case('missing-bbox', {'annotations.0.bbox': DELETE}, 1, 'annotation 1'),
    Case('missing-bbox', {'annotations.0.bbox': None}, 1, 'annotation 1'),
    Case('malformed-bbox', {'annotations.0.bbox': [1, 2, 3]}, 1, 'annotation 1'),
    Case('malformed-bbox', {'annotations.0.bbox': [2, 3, 8, '6']}, 1, 'annotation 1'),
    Case(
        'malformed-bbox', {'annotations.0.bbox': [1, 2, 3, math.nan]}, 1, 'annotation 1'
    ),
    Case(
        'malformed-bbox', {'annotations.0.bbox': [1, 2, math.inf, 4]}, 1, 'annotation 1'
    ),
    Case('malformed-bbox', {'annotations.0.bbox': [1, 2, 3, 10**400]}, 1, 'annotation'),
    Case('empty-bbox', {'annotations.0.bbox': [1, 2, 0, 4]}, 1, '1: [1, 2, 0, 4]'),
    Case('empty-bbox', {'annotations.0.bbox': [1, 2, 3, -4]}, 1, '1: [1, 2, 3, -4]'),
    Case('bbox-outside', {'annotations.0.bbox': [64, 2, 3, 4]}, 1, '[64, 2, 3, 4]'),
    Case('bbox-outside', {'annotations.0.bbox': [-9, 2, 9, 4]}, 1, '[-9, 2, 9, 4]'),
    Case(
        'bbox-over-edge',
        {
            'annotations.0.bbox': [60, 2, 6, 4],
            'annotations.0.segmentation': [[60, 2, 64, 2, 64, 6, 60, 6]],
        },
        1,
        '[60, 2, 6, 4]',
    ),
    Case(
        'bbox-over-edge',
        {
            'annotations.0.bbox': [9, -2, 3, 4],
            'annotations.0.segmentation': [[9, 0, 12, 0, 12, 2, 9, 2]],
        },
        1,
        '[9, -2, 3, 4]',
    ),
    Case('thin-bbox', {'annotations.0.bbox': [2, 3, 0.5, 6]}, 1, '[2, 3, 0.5, 6]'),
    Case('ignored-object', {'annotations.0.ignore': 'false'}, 1, 'annotation 1'),
    Case(
        'ignored-object',
        {'annotations.0.ignore': 1},
        1,
        'annotation 1',
        left={'ignored-object'},
    ),
    Case('small-image', {'images.0.height': 31}, 1, "'é.png'", left={'small-image'}),
    Case(
        'class-not-trained',
        {'annotations.0.iscrowd': 1, 'annotations.2.iscrowd': True},
        1,
        "'dog'",
        left={'class-not-trained'},
    ),
    Case(
        'mask-without-pixel',
        {'annotations.0.segmentation': [[90, 3, 99, 3, 99, 9]]},
        1,
        'annotation 1',
        name='outside',
    ),
    Case(
        'mask-without-pixel',
        {'annotations.0.segmentation': [[5.2, 3, 5.2, 9, 5.2, 3]]},
        1,
        'annotation 1',
        name='a line',
    ),
    Case(
        'mask-without-pixel',
        {'annotations.0.segmentation': {'size': [48, 64], 'counts': [3072]}},
        1,
        'annotation 1',
        name='RLE of zeros',
    ),
    Case(
        'mask-without-pixel',
        {'annotations.0.segmentation': [[2 / 64, 3 / 48, 10 / 64, 3 / 48, 0.1, 0.1]]},
        1,
        'annotation 1',
        name='normalised',
    ),
    Case(
        'mask-off-bbox',
        {'annotations.0.segmentation': [[40, 30, 48, 30, 48, 36, 40, 36]]},
        1,
        '[2, 3, 8, 6]',
        left={'mask-off-bbox'},
    ),
    Case(
        'mask-off-bbox',
        {'annotations.0.segmentation': {'size': [48, 64], 'counts': [3000, 9, 63]}},
        1,
        '[2, 3, 8, 6]',
        left={'mask-off-bbox'},
        name='RLE',
    ),
    Case(
        'normalised-bbox',
        {'annotations.0.bbox': [2 / 64, 3 / 48, 8 / 64, 6 / 48]},
        1,
        '[0.03125, 0.0625, 0.125, 0.125]',
    ),
    *(
        Case(
            'file-name-outside',
            {'images.0.file_name': name},
            1,
            repr(name),
            left={'file-name-outside'},
        )
        for name in (
            '../é.png',
            'sub/../../é.png',
            '/data/upload/1/é.png',
            '..\\images\\é.png',
            'C:\\é.png',
            'C:/é.png',
            'D:sub\\é.png',
            '\\\\host\\share\\é.png',
            'é\0.png',
        )
    ),
    Case(
        'malformed-segmentation',
        {'annotations.0.segmentation': [[1, 2, 3, 4, 5, 'a']]},
        1,
        'annotation 1',
    ),
    Case(
        'malformed-segmentation',
        {'annotations.0.segmentation': [[1, 2, 3, 4, 5, math.nan]]},
        1,
        'annotation 1',
    ),
    Case(
        'malformed-segmentation',
        {'annotations.0.segmentation': [2, 3, 10, 3, 10, 9, 2, 9]},
        1,
        'annotation 1',
        name='not nested',
    ),
    Case(
        'malformed-segmentation',
        {'annotations.0.segmentation': {'counts': 'abc'}},
        1,
        'annotation 1',
    ),
    Case(
        'malformed-segmentation',
        {'annotations.0.segmentation': {'size': [48, 64], 'counts': [1, 2]}},
        1,
        'annotation 1',
        name='RLE that ends early',
    ),
    Case('short-polygon', {'annotations.0.segmentation': [[1, 2, 3, 4]]}, 1, '1'),
    Case(
        'short-polygon',
        {'annotations.0.segmentation.append': [1, 2, 3, 4, 5, 6, 7]},
        1,
        'annotation 1',
    ),
    Case(
        'rle-size',
        {'annotations.0.segmentation': {'size': [64, 48], 'counts': [10, 9, 3053]}},
        1,
        'annotation 1',
        left={'rle-size'},
    ),
    Case(
        'missing-segmentation',
        {'annotations.0.segmentation': []},
        1,
        'annotation 1',
        left={'missing-segmentation'},
    ),
    Case(
        'image-size-missing',
        {'images.0.width': DELETE},
        1,
        "'é.png'",
        left={'image-size-missing'},
    ),
    Case(
        'image-size-missing',
        {'images.0.height': 0},
        1,
        "'é.png'",
        left={'image-size-missing'},
    ),
    Case(
        'image-size-missing',
        {'images.0.height': 48.5},
        1,
        "'é.png'",
        left={'image-size-missing'},
    ),
    Case(
        'duplicate-file-name',
        {'images.append': OTHER | {'file_name': 'b.jpg'}},
        1,
        "'b.jpg'",
        left={'duplicate-file-name'},
    ),
]


def case_id(case):
    value = next(iter(case.edits.values()))
    short = 'absent' if value is DELETE else str(value)[:16]
    return f'{case.code}: {case.name or next(iter(case.edits))} {short}'
