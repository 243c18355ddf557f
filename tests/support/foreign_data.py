"""Data sets as other tools write them, for the tests of to-coco."""

import json
from xml.sax.saxutils import escape

import cv2
import numpy as np
from PIL import Image


def photo(path, size=(100, 50), orientation=None):
    """Write a picture of a width and height, as stored; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    pixels = np.full((height, width, 3), 90, np.uint8)
    if orientation is None:
        path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
    else:
        image = Image.fromarray(pixels)
        exif = image.getexif()
        exif[274] = orientation
        image.save(path, exif=exif)
    return path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text), 'utf-8')
    return path


def voc_object(name, box, extra=''):
    tags = zip(('xmin', 'ymin', 'xmax', 'ymax'), box, strict=True)
    corners = ''.join(f'<{tag}>{value}</{tag}>' for tag, value in tags)
    return (
        f'<object><name>{escape(name)}</name><bndbox>{corners}</bndbox>{extra}</object>'
    )


def voc_file(name, objects, size=(100, 50)):
    return (
        f'<annotation><filename>{escape(name)}</filename><size><width>{size[0]}</width>'
        f'<height>{size[1]}</height><depth>3</depth></size>{"".join(objects)}'
        '</annotation>'
    )


def shape(label, points, kind='polygon', group=None):
    return {'label': label, 'points': points, 'shape_type': kind, 'group_id': group}


def labelme_file(name, shapes, size=(100, 50)):
    return {
        'version': '5.5.0',
        'flags': {},
        'shapes': shapes,
        'imagePath': name,
        'imageData': None,
        'imageWidth': size[0],
        'imageHeight': size[1],
    }


def cvat_file(images, labels=()):
    names = ''.join(f'<label><name>{one}</name></label>' for one in labels)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>'
        f'<meta><task><labels>{names}</labels></task></meta>{"".join(images)}'
        '</annotations>'
    )


def content(one):
    return json.loads(one.file.read_text())


def objects(one):
    """Class name, box and mask of each annotation, by file name."""
    found = content(one)
    names = {c['id']: c['name'] for c in found['categories']}
    files = {i['id']: i['file_name'] for i in found['images']}
    result = {name: [] for name in files.values()}
    for a in found['annotations']:
        entry = names[a['category_id']], a['bbox'], a['segmentation']
        result[files[a['image_id']]].append(entry)
    return result


def yolo(folder, lines, names=('cat', 'dog'), **more):
    """One image, 100 x 50, and the lines of its label file."""
    photo(folder / 'images' / 'a.jpg')
    write(folder / 'labels' / 'a.txt', '\n'.join(lines))
    names = list(names) if isinstance(names, tuple) else names
    write(folder / 'data.yaml', {'train': 'images', 'names': names, **more})
    return folder


def voc(folder, files):
    """Images of 100 x 50 and their objects."""
    for name, entries in files.items():
        photo(folder / 'JPEGImages' / f'{name}.jpg')
        text = voc_file(f'{name}.jpg', entries)
        write(folder / 'Annotations' / f'{name}.xml', text)
    return folder


def labelme(folder, shapes, name='a.jpg', **more):
    photo(folder / 'a.jpg')
    write(folder / 'a.json', labelme_file(name, shapes) | more)
    return folder


def cvat(folder, shapes, labels=('zebra', 'ant')):
    photo(folder / 'images' / 'a.png')
    entry = f'<image id="0" name="a.png" width="100" height="50">{shapes}</image>'
    write(folder / 'annotations.xml', cvat_file([entry], labels))
    return folder


def random_coco(rng):
    """A data set of boxes and polygons, single and several, in folders."""
    names = ['zebra', 'ant', 'Ärger & <Co>', 'two words']
    categories = [{'id': at, 'name': name} for at, name in enumerate(names, 1)]
    images, annotations = [], []
    for number in range(1, 7):
        width, height = (int(v) for v in rng.integers(40, 90, 2))
        name = f'{"sub/" if number % 2 else ""}bild ö{number}.png'
        images.append(
            {'id': number, 'file_name': name, 'width': width, 'height': height}
        )
        for _ in range(int(rng.integers(0, 5))):
            points = rng.uniform(1, 39, (int(rng.integers(3, 8)), 2)).round(3)
            low, high = points.min(0), points.max(0)
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': number,
                    'category_id': int(rng.integers(1, 5)),
                    'bbox': [*low, *(high - low)],
                    'segmentation': [points.ravel().tolist()],
                }
            )
    return {'images': images, 'annotations': annotations, 'categories': categories}


def as_yolo(coco, folder, masks):
    names = {one['id'] - 1: one['name'] for one in coco['categories']}
    write(folder / 'data.yaml', {'train': 'images', 'names': names})
    for image, objects in _by_image(coco):
        photo(folder / 'images' / image['file_name'], (image['width'], image['height']))
        scale = [image['width'], image['height']]
        lines = []
        for one in objects:
            x, y, w, h = one['bbox']
            values = [(x + w / 2) / scale[0], (y + h / 2) / scale[1]]
            values += [w / scale[0], h / scale[1]]
            if masks:
                points = np.reshape(one['segmentation'][0], (-1, 2)) / scale
                values = points.ravel()
            lines.append(
                ' '.join(map(repr, [one['category_id'] - 1, *map(float, values)]))
            )
        label = folder / 'labels' / image['file_name'].replace('.png', '.txt')
        write(label, '\n'.join(lines))


def as_voc(coco, folder, masks):
    """Count pixels from 0, as tools that write fractions do."""
    names = {one['id']: one['name'] for one in coco['categories']}
    for image, objects in _by_image(coco):
        size = image['width'], image['height']
        photo(folder / 'JPEGImages' / image['file_name'], size)
        entries = []
        for one in objects:
            x, y, w, h = map(float, one['bbox'])
            points = one['segmentation'][0]
            pairs = zip(points[::2], points[1::2], strict=True)
            polygon = ''.join(
                f'<x{n}>{x!r}</x{n}><y{n}>{y!r}</y{n}>'
                for n, (x, y) in enumerate(pairs, 1)
            )
            entries.append(
                voc_object(
                    names[one['category_id']],
                    [x, y, x + w, y + h],
                    f'<polygon>{polygon}</polygon>' if masks else '',
                )
            )
        label = image['file_name'].replace('.png', '.xml')
        text = voc_file(image['file_name'].rpartition('/')[2], entries, size)
        write(folder / 'Annotations' / label, text)


def as_labelme(coco, folder, masks):
    names = {one['id']: one['name'] for one in coco['categories']}
    for image, objects in _by_image(coco):
        size = image['width'], image['height']
        path = photo(folder / image['file_name'], size)
        shapes = []
        for one in objects:
            x, y, w, h = map(float, one['bbox'])
            points = np.reshape(one['segmentation'][0], (-1, 2)).tolist()
            corners = [[x, y], [x + w, y + h]]
            kind, points = ('polygon', points) if masks else ('rectangle', corners)
            shapes.append(shape(names[one['category_id']], points, kind))
        write(path.with_suffix('.json'), labelme_file(path.name, shapes, size))


def as_cvat(coco, folder, masks):
    names = {one['id']: escape(one['name']) for one in coco['categories']}
    entries = []
    for image, objects in _by_image(coco):
        photo(folder / 'images' / image['file_name'], (image['width'], image['height']))
        text = ''
        for one in objects:
            x, y, w, h = map(float, one['bbox'])
            pairs = np.reshape(one['segmentation'][0], (-1, 2)).tolist()
            points = ';'.join(f'{x!r},{y!r}' for x, y in pairs)
            label = names[one['category_id']]
            box = f'xtl="{x!r}" ytl="{y!r}" xbr="{x + w!r}" ybr="{y + h!r}"'
            text += (
                f'<polygon label="{label}" points="{points}"/>'
                if masks
                else (f'<box label="{label}" {box}/>')
            )
        entries.append(
            f'<image name="{image["file_name"]}" width="{image["width"]}" '
            f'height="{image["height"]}">{text}</image>'
        )
    write(folder / 'annotations.xml', cvat_file(entries, names.values()))


def _by_image(coco):
    for image in coco['images']:
        yield (
            image,
            [one for one in coco['annotations'] if one['image_id'] == image['id']],
        )
