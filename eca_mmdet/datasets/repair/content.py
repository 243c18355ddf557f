"""Write a repaired copy of an annotation file's content; the source is not changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from eca_mmdet.datasets.entries import (
    Entry,
    Size,
    has_mask,
    is_annotation,
    is_category,
    is_image,
    size_of,
)
from eca_mmdet.datasets.images import ImageFiles
from eca_mmdet.datasets.repair.ids import merge_categories, renumber, whole_ids
from eca_mmdet.datasets.repair.objects import mend

Done = Counter[str]
"""How often each repair was made, by what it says to the user."""


def repair(
    content: Mapping[str, Any], files: ImageFiles | None = None
) -> tuple[dict[str, Any], Done]:
    """Return a copy without the faults that can be mended, and what was done.

    Args:
        content: of the annotation file; keys that are not COCO's are kept.
        files: what is known of the images.
    """
    done: Done = Counter()
    repaired = dict(content)
    repaired['images'] = _copies(content['images'], is_image, 'image', done)
    repaired['categories'] = _copies(
        content['categories'], is_category, 'category', done
    )
    if 'annotations' in content:
        repaired['annotations'] = _copies(
            content['annotations'], is_annotation, 'annotation', done
        )
    annotations: list[Entry] = repaired.get('annotations', [])
    whole_ids(repaired['images'], annotations, 'image', done)
    whole_ids(repaired['categories'], annotations, 'category', done)
    _mend_images(repaired, files, done)
    repaired['categories'] = merge_categories(repaired['categories'], annotations, done)
    if annotations:
        repaired['annotations'] = _mend_annotations(repaired, done)
    return repaired, done


def _copies(
    entries: list[Any], usable: Callable[[Any], bool], kind: str, done: Done
) -> list[Entry]:
    kept = [dict(one) for one in entries if usable(one)]
    done[f'malformed {kind} entries dropped'] += len(entries) - len(kept)
    return kept


def _mend_images(content: dict[str, Any], files: ImageFiles | None, done: Done) -> None:
    """Correct sizes, merge equal entries, drop those without a usable file."""
    kept: dict[int, Entry] = {}
    seen: dict[Any, list[Entry]] = {}
    dropped = set[Any]()
    for index, image in enumerate(content['images']):
        name = image['file_name']
        if files and name in files.unusable:
            dropped.add(image['id'])
            done['images without a usable file dropped'] += 1
            continue
        size = files.sizes.get(name) if files else None
        if size and size != size_of(image):
            image['width'], image['height'] = size
            done['image sizes corrected'] += 1
        if image in seen.setdefault(image['id'], []):
            done['repeated image entries dropped'] += 1
            continue
        seen[image['id']].append(image)
        kept[index] = image
    content['images'] = list(kept.values())
    gone = dropped - {image['id'] for image in content['images']}
    _drop(content, lambda one: one['image_id'] in gone, 'of dropped images', done)


def _drop(
    content: dict[str, Any], unwanted: Callable[[Entry], bool], why: str, done: Done
) -> None:
    annotations = content.get('annotations', [])
    kept = [one for one in annotations if not unwanted(one)]
    done[f'annotations {why} dropped'] += len(annotations) - len(kept)
    if 'annotations' in content:
        content['annotations'] = kept


def _mend_annotations(content: dict[str, Any], done: Done) -> list[Entry]:
    sizes: dict[Any, Size | None] = {
        one['id']: size_of(one) for one in content['images']
    }
    categories = {one['id'] for one in content['categories']}
    _drop(content, lambda one: one['image_id'] not in sizes, 'of no image', done)
    _drop(
        content,
        lambda one: one['category_id'] not in categories,
        'of no category',
        done,
    )
    annotations: list[Entry] = content['annotations']
    masks = any(map(has_mask, annotations))
    kept = [
        one for one in annotations if mend(one, sizes[one['image_id']], masks, done)
    ]
    renumber(kept, done)
    return kept
