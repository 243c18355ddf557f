"""Selection of the images that gates are measured on, and of the classes on them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eca_mmdet.datasets.coco import read_annotations, require_instances
from eca_mmdet.datasets.entries import is_annotation, is_category, is_image, other_form
from eca_mmdet.inference.predict import IMAGES
from eca_mmdet.utils.errors import UserError, require_classes

_EXPECTED = 'a folder with images, or a COCO annotation file'

MOST_FREQUENT = 4  # number of classes by default, as in the article's figure


@dataclass(frozen=True)
class ImageSet:
    """Image files to measure, and the chosen classes on each, None without classes.

    ``source`` is the folder or annotation file.
    """

    source: str
    images: tuple[Path, ...]
    classes_of: tuple[tuple[str, ...], ...] | None = None


def choose_images(
    source: str,
    folder: str | None = None,
    classes: Sequence[str] | None = None,
    limit: int = 100,
) -> ImageSet:
    """Return the images of a folder, or of classes of an annotation file.

    Args:
        source: a folder, a COCO annotation file or an image.
        folder: folder of the annotation file's images; None searches around the file.
        classes: names; None selects the four on most images.
        limit: number of images. In a folder they are spread over the sorted names; of a
            file each class gives one in turn, by a fixed random order.
    """
    path = Path(source)
    image = path.suffix.lower() in IMAGES
    if not path.exists():
        raise UserError(
            f'--images {source!r} does not exist. It must be {_EXPECTED}.',
            code='file-not-found',
        )
    if path.is_file() and not image:
        return _of_annotations(path, folder, classes, limit)
    for option, given in (('--classes', classes), ('--images-dir', folder)):
        if given:
            raise UserError(
                f'{option} belongs to an annotation file, and --images {source!r} is '
                f'{"an image" if image else "a folder"}, which names no classes.',
                code='option-conflict',
            )
    if image and path.is_file():
        return ImageSet(source, (path,))
    try:
        files = [file for file in path.iterdir() if file.suffix.lower() in IMAGES]
    except OSError as error:
        raise UserError(
            f'--images {str(path)!r}: {error.strerror}.', code='file-unreadable'
        ) from error
    files = [file for file in files if file.is_file()]
    if not files:
        raise UserError(
            f'--images {source!r} has no images ({" ".join(sorted(IMAGES))}) right in '
            f'it; those of its folders do not count. It must be {_EXPECTED}.',
            code='no-images',
        )
    return ImageSet(source, _spread(files, limit))


def _spread(images: list[Path], limit: int) -> tuple[Path, ...]:
    """Return up to ``limit`` images at equal distances, sorted by name."""
    images = sorted(images)
    count = min(limit, len(images))
    return tuple(images[index * len(images) // count] for index in range(count))


def _of_annotations(
    path: Path, folder: str | None, classes: Sequence[str] | None, limit: int
) -> ImageSet:
    content = read_annotations(path).content
    require_instances(path, content)
    images = filter(is_image, content['images'])
    files = {image['id']: image['file_name'] for image in images}
    if not files:
        raise UserError(
            f'{path}: no entry of its images has an id and a file_name.',
            code='no-images',
        )
    root = _image_folder(path, folder, list(files.values()))
    images_of = _images_of(content, files)
    if not any(images_of.values()) and not classes:
        return ImageSet(str(path), _spread([root / f for f in files.values()], limit))
    chosen = _chosen_classes(path, images_of, classes)
    ids = _in_turn([list(images_of[name]) for name in chosen], limit)
    return ImageSet(
        str(path),
        tuple(root / files[key] for key in ids),
        tuple(tuple(name for name in chosen if key in images_of[name]) for key in ids),
    )


def _images_of(
    content: Mapping[str, Any], files: Mapping[Any, str]
) -> dict[str, dict[Any, None]]:
    """Return the ids of each class's images in file order; crowds do not count."""
    categories = filter(is_category, content['categories'])
    names = {category['id']: category['name'] for category in categories}
    images_of: dict[str, dict[Any, None]] = {name: {} for name in names.values()}
    for annotation in filter(is_annotation, content.get('annotations', ())):
        if annotation.get('iscrowd'):
            continue
        image = _known(annotation['image_id'], files)
        category = _known(annotation['category_id'], names)
        if image is not None and category is not None:
            images_of[names[category]][image] = None
    return images_of


def _known(value: Any, ids: Mapping[Any, Any]) -> Any:
    """Return an id as written in ``ids`` ('7' equals 7), None if it is not there."""
    return next((form for form in (value, other_form(value)) if form in ids), None)


def _chosen_classes(
    path: Path, images_of: Mapping[str, Any], classes: Sequence[str] | None
) -> list[str]:
    if classes is None:
        order = sorted(images_of, key=lambda name: -len(images_of[name]))
        return [name for name in order[:MOST_FREQUENT] if images_of[name]]
    require_classes(classes, list(images_of), str(path))
    empty = [name for name in classes if not images_of[name]]
    if empty:
        raise UserError(
            f'--classes: no image of {path} has an object of '
            f'{", ".join(map(repr, empty))}, crowds aside. Leave them out.',
            code='no-objects',
        )
    return list(dict.fromkeys(classes))


def _in_turn(queues: list[list[Any]], limit: int) -> list[Any]:
    """Return up to ``limit`` items, one of each queue in turn, in random order.

    So a rare class has as many images as a frequent one.
    """
    for queue in queues:
        random.Random(0).shuffle(queue)
    taken: dict[Any, None] = {}
    while len(taken) < limit and any(queues):
        for queue in queues:
            while queue and queue[-1] in taken:
                queue.pop()
            if queue and len(taken) < limit:
                taken[queue.pop()] = None
    return list(taken)


def _image_folder(path: Path, folder: str | None, names: list[str]) -> Path:
    """Return the given folder, or the one that has the first image."""
    if folder is not None:
        if not Path(folder).is_dir():
            raise UserError(
                f'--images-dir {folder!r} is no folder.', code='file-not-found'
            )
        return Path(folder)
    beside, above = path.absolute().parent, path.absolute().parent.parent
    split = path.stem.removeprefix('instances_')
    places = [beside, above / split, beside / 'images', above / 'images']
    places += [above / 'images' / split, above]
    for place in places:
        if (place / names[0]).is_file():
            return place
    raise UserError(
        f'the images of {path} are not beside it: {names[0]!r} is not in '
        f'{", ".join(map(str, places))}. Name their folder: --images-dir DIR.',
        code='file-not-found',
    )
