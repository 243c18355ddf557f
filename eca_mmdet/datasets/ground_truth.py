"""COCO annotation files as columns, with the traps of their ids closed.

pycocotools marks a match with the id of the object, so that an object of id 0 is never
found; an id used twice hides an object. Here ids of images and categories become
positions in sorted order, and those of annotations are left behind: no evaluator sees
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eca_mmdet.datasets.coco import read_annotations, require_annotations
from eca_mmdet.datasets.entries import (
    as_json,
    is_box,
    is_crowd_flag,
    is_finite_number,
    whole,
)
from eca_mmdet.datasets.index import CocoIndex, Entries, Mask
from eca_mmdet.datasets.masks import mask_api, mask_boxes, mask_faults, to_rle
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.text import clipped

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
ImageId = int | str

_COLUMNS = ('image', 'category', 'boxes', 'areas', 'crowd', 'sound_masks')


@dataclass(frozen=True)
class GroundTruth:
    """The objects of an annotation file, N of them on M images in K categories.

    Attributes:
        source: where it came from, for messages.
        image_ids: M ids, ascending.
        sizes: (M, 2) height and width in pixels; 0 where the file has none.
        category_ids: K ids, ascending.
        category_names: K names in the same order.
        file_order: the K positions in the order in which the file lists the
            categories, which is how mmdet numbers its labels.
        image: (N,) positions in ``image_ids``, in the file's order.
        category: (N,) positions in ``category_ids``.
        boxes: (N, 4) x, y, width, height in pixels.
        areas: (N,) in pixels: the file's, else the mask's, else the box's.
        crowd: (N,) bool.
        segmentations: N polygons or RLEs as in the file, None where there is none.
        sound_masks: (N,) bool: masks that the index of the file found usable, if the
            size of their image is known.
        annotated: the file has a list of annotations, though it may be empty.
        file_names: M names of image files, '' where the file has none.
        notes: one line for each thing of the file that does not count.
        sha256: of the file; '' if it was none.
    """

    source: str
    image_ids: tuple[ImageId, ...]
    sizes: Ints
    category_ids: tuple[ImageId, ...]
    category_names: tuple[str, ...]
    file_order: Ints
    image: Ints
    category: Ints
    boxes: Floats
    areas: Floats
    crowd: npt.NDArray[np.bool_]
    segmentations: Sequence[Any]
    sound_masks: npt.NDArray[np.bool_]
    annotated: bool
    file_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sha256: str = ''

    @cached_property
    def id_columns(self) -> tuple[Ints, Ints]:
        """The ids of images and categories; empty arrays unless all are int64."""
        return _as_ints(self.image_ids), _as_ints(self.category_ids)

    def only(self, names: Iterable[str]) -> GroundTruth:
        """Return the part in some categories; names that are not there are ignored."""
        wanted = set(names)
        kept = np.array([name in wanted for name in self.category_names], bool)
        if kept.all():
            return self
        new = np.cumsum(kept) - 1
        part = self.take(np.flatnonzero(kept[self.category]))
        order = self.file_order[kept[self.file_order]]
        return replace(
            part,
            category_ids=_take(self.category_ids, kept),
            category_names=_take(self.category_names, kept),
            file_order=new[order],
            category=new[part.category],
        )

    def part(self, start: int, stop: int) -> GroundTruth:
        """Return some images, by their positions."""
        inside = (self.image >= start) & (self.image < stop)
        part = self.take(np.flatnonzero(inside))
        return replace(
            part,
            image_ids=self.image_ids[start:stop],
            sizes=self.sizes[start:stop],
            file_names=self.file_names[start:stop],
            image=part.image - start,
        )

    def take(self, rows: Ints) -> GroundTruth:
        """Return some objects, by their positions, on all images."""
        return replace(
            self,
            segmentations=_take(self.segmentations, rows),
            **{name: getattr(self, name)[rows] for name in _COLUMNS},
        )

    def mask_faults(self) -> dict[int, str]:
        """Return the masks that cannot be used: position to code, ascending."""
        rows, masks = self._doubtful_masks()
        faults = mask_faults(masks, self.sizes[self.image[rows]].tolist())
        return {int(rows[at]): fault for at, fault in faults.items()}

    def count_masks_without_pixel(self) -> int:
        """Return how many masks, all usable, have no pixel in their image."""
        rows, masks = self._doubtful_masks()
        boxes = mask_boxes(masks, self.sizes[self.image[rows]][:, ::-1])
        return int(np.isnan(boxes[:, 0]).sum())

    def _doubtful_masks(self) -> tuple[Ints, list[Any]]:
        """Return the masks that the file's index leaves open, after their positions."""
        sizes = self.sizes[self.image]
        drawable = (sizes > 0).all(1) & (sizes.prod(1) < 2**32)
        rows = np.flatnonzero(~(self.sound_masks & drawable))
        return rows, [*_take(self.segmentations, rows)]

    def without_masks(self) -> GroundTruth:
        """Return it for boxes alone: polygons as lists are most of its memory."""
        nothing = np.zeros(len(self.image), bool)
        segmentations = (None,) * len(nothing)
        return replace(self, segmentations=segmentations, sound_masks=nothing)


def _take(items: Sequence[Any], kept: npt.NDArray[Any]) -> Any:
    if isinstance(items, Entries):
        return items[kept]
    rows = np.flatnonzero(kept) if kept.dtype == bool else kept
    return tuple(items[row] for row in rows.tolist())


def _as_ints(ids: Sequence[ImageId]) -> Ints:
    whole_numbers = all(type(each) is int and abs(each) < 2**63 for each in ids)
    return np.array(ids if whole_numbers else (), np.int64)


def read_ground_truth(source: str | Path | Mapping[str, Any]) -> GroundTruth:
    """Read a COCO annotation file or its content; every entry must be usable."""
    if not isinstance(source, (str, Path)):
        content = as_json(source)
        require_annotations('annotations', content)
        return ground_truth(content, 'annotations')
    file = read_annotations(source)
    found = ground_truth(file.content, str(source), file.index)
    return replace(found, sha256=file.sha256)


def ground_truth(
    content: Mapping[str, Any],
    source: str = 'ground truth',
    index: CocoIndex | None = None,
) -> GroundTruth:
    """Turn the content of a COCO annotation file into columns.

    ``content`` has the lists that ``datasets.coco.require_annotations`` asks for.
    Missing ``info``, ``licenses``, ``iscrowd`` and ``area`` are no fault. Objects on
    images or in categories that the file does not list do not count, as in pycocotools,
    and are listed in ``notes``. Annotations are not looked at where ``index`` has what
    is needed.

    Raises:
        UserError: an entry cannot be used; the first and their number are named.
    """
    images = _entries(content, 'images', source)
    categories = _entries(content, 'categories', source)
    image_ids, by_position = _sorted_ids(images, 'image', source)
    category_ids, categories_sorted = _sorted_ids(categories, 'category', source)
    names = tuple(_text(one.get('name', one['id'])) for one in categories_sorted)
    category_at = {key: index for index, key in enumerate(category_ids)}
    order = [category_at[normal_id(one['id'])] for one in categories]
    sizes = [_size(one, source) for one in by_position]
    annotations = content.get('annotations')
    left_out: dict[str, list[Any]] = {'image': [], 'category': []}
    columns = None
    if index is not None:
        columns = _columns_of(index, image_ids, category_ids, left_out)
    if columns is None:
        image_at = {key: index for index, key in enumerate(image_ids)}
        columns = _columns(
            annotations or (), source, image_at, category_at, sizes, left_out
        )
    repeated = [
        f'{more} {kind} entries of {source} repeat an id; the last one counts'
        for kind, more in (
            ('image', len(images) - len(image_ids)),
            ('category', len(categories) - len(category_ids)),
        )
        if more
    ]
    ignored = [
        f'{len(ids)} annotations of {source} do not count: their {kind} ids '
        f'are not in the file ({", ".join(map(repr, ids[:3]))})'
        for kind, ids in left_out.items()
        if ids
    ]
    return GroundTruth(
        source=source,
        image_ids=image_ids,
        sizes=np.array(sizes, np.int64).reshape(-1, 2),
        category_ids=category_ids,
        category_names=names,
        file_order=np.array(list(dict.fromkeys(order)), np.int64),
        **columns,
        annotated=annotations is not None,
        file_names=tuple(_text(one.get('file_name', '')) for one in by_position),
        notes=(*repeated, *ignored),
    )


def _columns_of(
    index: CocoIndex,
    image_ids: tuple[ImageId, ...],
    category_ids: tuple[ImageId, ...],
    left_out: dict[str, list[Any]],
) -> dict[str, Any] | None:
    """Return the columns of an index; None if an annotation has to be looked at."""
    known = [index.image >= 0, index.category >= 0]
    rows = np.flatnonzero(known[0] & known[1])
    boxes, areas = index.boxes[rows], index.areas[rows]
    # No NaN for what is missing, and the sum of four numbers is finite.
    if not ((abs(boxes) < 1e300).all() and np.isfinite(areas).all()):
        return None
    left_out['image'] += index.image_id[~known[0]].tolist()
    left_out['category'] += index.category_id[known[0] & ~known[1]].tolist()
    return {
        'image': np.searchsorted(_as_ints(image_ids), index.image_id[rows]),
        'category': np.searchsorted(_as_ints(category_ids), index.category_id[rows]),
        'boxes': boxes,
        'areas': areas,
        'crowd': index.crowd[rows] == 1,
        'segmentations': Entries(index.segmentations, rows),
        'sound_masks': index.masks[rows] == Mask.SOUND,
    }


def _entries(content: Mapping[str, Any], key: str, source: str) -> list[Any]:
    entries: list[Any] = content[key]
    for number, one in enumerate(entries):
        if not isinstance(one, dict) or 'id' not in one:
            raise UserError(
                f'{source} is not a COCO annotation file: {key!r} must be objects with '
                f'an id; number {number} is {clipped(repr(one))}.',
                code='not-annotations',
            )
    return entries


def _sorted_ids(
    entries: list[Any], kind: str, source: str
) -> tuple[tuple[ImageId, ...], list[Any]]:
    """Return ascending ids and their entries; of an id used twice, the last entry."""
    try:
        by_id = {normal_id(one['id']): one for one in entries}
        ids = sorted(by_id)
    except (ValueError, TypeError) as error:
        raise UserError(
            f'{source}: {kind} ids must be whole numbers, or all strings: {error}.',
            code='not-annotations',
        ) from error
    return tuple(ids), [by_id[key] for key in ids]


def _text(value: Any) -> str:
    """Return a value as text that can be written anywhere."""
    return str(value).encode('utf-8', 'replace').decode()


def _size(image: Any, source: str) -> tuple[int, int]:
    """Return height and width, 0 where the file has none."""
    size = [image.get(key) or 0 for key in ('height', 'width')]
    whole_sides = [whole(side) if side else 0 for side in size]
    if any(side is None or not 0 <= side < 2**31 for side in whole_sides):
        raise UserError(
            f'{source}: height and width of image {image["id"]!r} must be whole '
            f'numbers of pixels; got {str(size)[:60]}.',
            code='not-annotations',
        )
    height, width = (side or 0 for side in whole_sides)
    return height, width


def normal_id(value: Any) -> ImageId:
    """Return an id as int or str, e.g. 1.0 as 1; raise ValueError if it is neither."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        return value
    raise ValueError(f'{clipped(repr(value))} is no id')


def _columns(
    annotations: Sequence[Any],
    source: str,
    image_at: Mapping[ImageId, int],
    category_at: Mapping[ImageId, int],
    sizes: list[tuple[int, int]],
    left_out: dict[str, list[Any]],
) -> dict[str, Any]:
    """Look at every annotation; raise UserError for those that cannot be used."""
    found, faults = [], []
    for number, one in enumerate(annotations):
        try:
            image = image_at.get(normal_id(one['image_id']))
            category = category_at.get(normal_id(one['category_id']))
            if image is None or category is None:
                kind = 'image' if image is None else 'category'
                left_out[kind].append(one[f'{kind}_id'])
            else:
                found.append((image, category, *_values(one, sizes[image])))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            missing = isinstance(error, KeyError)
            faults.append((number, f'it has no {error}' if missing else str(error)))
    if faults:
        raise UserError(
            f'{source}: {len(faults)} of {len(annotations)} annotations cannot be '
            f'used; the first is number {faults[0][0]}: {faults[0][1]}. Look at them '
            f'all: eca-mmdet data check {source}',
            code='not-annotations',
        )
    columns: list[Any] = [*zip(*found, strict=True)] or [()] * 6
    images, categories, boxes, areas, crowd, masks = columns
    return {
        'image': np.array(images, np.int64),
        'category': np.array(categories, np.int64),
        'boxes': np.array(boxes, np.float64).reshape(-1, 4),
        'areas': np.array(areas, np.float64),
        'crowd': np.array(crowd, bool),
        'segmentations': masks,
        'sound_masks': np.zeros(len(masks), bool),
    }


def _values(one: Any, size: tuple[int, int]) -> tuple[Any, float, bool, Any]:
    """Return box, area, crowd flag and mask of an annotation, or raise ValueError.

    ``size`` is the height and width of its image.
    """
    mask = one.get('segmentation') or None
    box, area = one.get('bbox') or None, one.get('area')
    rle = None
    if mask is not None and (box is None or area is None):
        # A box is enough: an unusable mask is reported when masks are evaluated.
        rle = None if mask_faults([mask], [size]) else to_rle(mask, *size)
    if box is None:
        if rle is None:
            raise ValueError('it has neither bbox nor a usable segmentation')
        box = mask_api().toBbox(rle).tolist()
    if not is_box(box):
        raise ValueError(f'bbox {str(box)[:60]} is not four finite numbers')
    if area is None:
        area = float(mask_api().area(rle)) if rle else float(box[2]) * float(box[3])
    if not is_finite_number(area):
        raise ValueError(f'area {clipped(repr(area))} is not a finite number')
    crowd = one.get('iscrowd') or 0
    if not is_crowd_flag(crowd):
        raise ValueError(f'iscrowd {clipped(repr(crowd))} is neither 0 nor 1')
    return box, float(area), bool(crowd), one.get('segmentation')
