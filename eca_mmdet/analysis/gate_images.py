"""Choose the images that gates are measured on, and the classes on them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eca_mmdet.datasets.coco import read_annotations, require_instances
from eca_mmdet.datasets.entries import is_annotation, is_category, is_image, other_form
from eca_mmdet.inference.media import IMAGES
from eca_mmdet.utils.errors import UserError

_EXPECTED = 'a folder with images, or a COCO annotation file'

MOST_FREQUENT = 4
"""Classes by default: as many as in the article's figure."""


@dataclass(frozen=True)
class ImageSet:
    """The images to measure.

    Attributes:
        source: the folder or annotation file.
        images: files.
        classes_of: the chosen classes on each image; None where there are none.
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
        folder: of the annotation file's images; None looks around the file.
        classes: names; None takes the four on most images.
        limit: of images. Of a folder they are spread over the sorted names; of a file
            each class gives one in turn, at random but always the same.

    Raises:
        UserError: there is no such thing, it has no images or no such class.
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
    found = _listed(path)
    if not found:
        raise UserError(
            f'--images {source!r} has no images ({" ".join(sorted(IMAGES))}) right in '
            f'it; those of its folders do not count. It must be {_EXPECTED}.',
            code='no-images',
        )
    return ImageSet(source, tuple(_spread(found, limit)))


def _listed(folder: Path) -> list[Path]:
    """Return the image files right in a folder, by name."""
    try:
        return sorted(
            one
            for one in folder.iterdir()
            if one.suffix.lower() in IMAGES and one.is_file()
        )
    except OSError as error:
        raise UserError(
            f'--images {str(folder)!r}: {error.strerror}.', code='file-unreadable'
        ) from error


def _spread(images: list[Path], limit: int) -> list[Path]:
    """Return ``limit`` of a list, at equal distances."""
    if len(images) <= limit:
        return images
    return [images[index * len(images) // limit] for index in range(limit)]


def _of_annotations(
    path: Path, folder: str | None, classes: Sequence[str] | None, limit: int
) -> ImageSet:
    content = read_annotations(path).content
    require_instances(path, content)
    files = {one['id']: one['file_name'] for one in content['images'] if is_image(one)}
    if not files:
        raise UserError(
            f'{path}: no entry of its images has an id and a file_name.',
            code='no-images',
        )
    root = _image_folder(path, folder, list(files.values()))
    images_of = _images_of(content, files)
    if not any(images_of.values()) and not classes:
        found = [root / name for name in sorted(files.values())]
        return ImageSet(str(path), tuple(_spread(found, limit)))
    chosen = _chosen_classes(path, images_of, classes)
    images = _in_turn({name: images_of[name] for name in chosen}, limit)
    return ImageSet(
        str(path),
        tuple(root / files[one] for one in images),
        tuple(
            tuple(name for name in chosen if one in images_of[name]) for one in images
        ),
    )


def _images_of(
    content: Mapping[str, Any], files: Mapping[Any, str]
) -> dict[str, dict[Any, None]]:
    """Return the ids of each class's images; a crowd is no object of the class."""
    names = {
        one['id']: one['name'] for one in content['categories'] if is_category(one)
    }
    images_of: dict[str, dict[Any, None]] = {name: {} for name in names.values()}
    for one in content.get('annotations', ()):
        if not is_annotation(one) or one.get('iscrowd'):
            continue
        image = _known(one['image_id'], files)
        category = _known(one['category_id'], names)
        if image is not None and category is not None:
            images_of[names[category]][image] = None
    return images_of


def _known(value: Any, ids: Mapping[Any, Any]) -> Any:
    """Return an id as ``ids`` writes it ('7' and 7 are one), None if it has none."""
    return next((one for one in (value, other_form(value)) if one in ids), None)


def _chosen_classes(
    path: Path, images_of: Mapping[str, Any], classes: Sequence[str] | None
) -> list[str]:
    if classes is None:
        order = sorted(images_of, key=lambda name: -len(images_of[name]))
        return [name for name in order[:MOST_FREQUENT] if images_of[name]]
    known = list(images_of)
    unknown = [name for name in classes if name not in images_of]
    if unknown:
        more = ', ...' if len(known) > 10 else ''
        raise UserError(
            f'--classes: {", ".join(map(repr, unknown))} not in {path}, which has '
            f'{", ".join(map(repr, known[:10]))}{more}.',
            code='unknown-class',
        )
    empty = [name for name in classes if not images_of[name]]
    if empty:
        raise UserError(
            f'--classes: no image of {path} has an object of '
            f'{", ".join(map(repr, empty))}, crowds aside. Leave them out.',
            code='no-objects',
        )
    return list(dict.fromkeys(classes))


def _in_turn(images_of: Mapping[str, Mapping[Any, None]], limit: int) -> list[Any]:
    """Return up to ``limit`` images; each class gives one in turn, if it has one left.

    So that a rare class has as many as a frequent one.
    """
    queues = [list(images) for images in images_of.values()]
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
    """Return the folder that the first image is in."""
    if folder is not None:
        if not Path(folder).is_dir():
            raise UserError(
                f'--images-dir {folder!r} is no folder.', code='file-not-found'
            )
        return Path(folder)
    beside, above = path.absolute().parent, path.absolute().parent.parent
    split = path.stem.removeprefix('instances_')
    places = [beside, above / split, *(one / 'images' for one in (beside, above))]
    places += [above / 'images' / split, above]
    for place in places:
        if (place / names[0]).is_file():
            return place
    raise UserError(
        f'the images of {path} are not beside it: {names[0]!r} is not in '
        f'{", ".join(map(str, places))}. Name their folder: --images-dir DIR.',
        code='file-not-found',
    )
