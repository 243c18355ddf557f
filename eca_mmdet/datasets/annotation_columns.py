"""The annotations of a COCO file, looked at one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eca_mmdet.datasets.entries import is_box, is_crowd_flag, is_finite_number
from eca_mmdet.datasets.masks import mask_api, mask_faults, to_rle
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.text import clipped

ImageId = int | str


def normal_id(value: Any) -> ImageId:
    """Return an id as int or str; 1.0 is 1.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        return value
    raise ValueError(f'{clipped(repr(value))} is no id')


class AnnotationColumns:
    """Collects annotations one by one, into the columns of ``GroundTruth``.

    Args:
        source: for messages.
        image_ids: those that the file lists.
        category_at: position by category id.
        sizes: height and width of each image.
    """

    def __init__(
        self,
        source: str,
        image_ids: tuple[ImageId, ...],
        category_at: Mapping[ImageId, int],
        sizes: list[tuple[int, int]],
    ) -> None:
        self._source = source
        self._image_at = {key: index for index, key in enumerate(image_ids)}
        self._category_at = category_at
        self._sizes = sizes
        self._left_out: dict[str, list[Any]] = {'image': [], 'category': []}
        self.image: list[int] = []
        self.category: list[int] = []
        self.boxes: list[Any] = []
        self.areas: list[float] = []
        self.crowd: list[bool] = []
        self.segmentations: list[Any] = []

    def read(self, annotations: Any) -> None:
        """Take every annotation, or raise UserError for those that cannot be used."""
        if not isinstance(annotations, list):
            raise UserError(
                f"{self._source}: 'annotations' must be a list; it is a "
                f'{type(annotations).__name__}.'
            )
        faults: list[tuple[int, Exception]] = []
        for index, one in enumerate(annotations):
            try:
                self._read(one)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                faults.append((index, error))
        if faults:
            index, first = faults[0]
            missing = isinstance(first, KeyError)
            reason = f'it has no {first}' if missing else str(first)
            raise UserError(
                f'{self._source}: {len(faults)} of {len(annotations)} annotations '
                f'cannot be used; the first is number {index}: {reason}. Look at them '
                f'all: eca-mmdet check-data {self._source}'
            )

    def _read(self, one: Any) -> None:
        image = self._image_at.get(normal_id(one['image_id']))
        category = self._category_at.get(normal_id(one['category_id']))
        if image is None or category is None:
            kind = 'image' if image is None else 'category'
            self._left_out[kind].append(one[f'{kind}_id'])
            return
        segmentation = one.get('segmentation') or None
        box, area = one.get('bbox') or None, one.get('area')
        rle = None
        if segmentation is not None and (box is None or area is None):
            size = self._sizes[image]
            fault = mask_faults([segmentation], [size]).get(0)
            # A box is enough: a mask of no use is told when masks are evaluated.
            rle = None if fault else to_rle(segmentation, *size)
        if box is None:
            if rle is None:
                raise ValueError('it has neither bbox nor a usable segmentation')
            box = mask_api().toBbox(rle).tolist()
        if not is_box(box):
            raise ValueError(f'bbox {str(box)[:60]} is not four finite numbers')
        x, y, width, height = (float(value) for value in box)
        if area is None:
            area = float(mask_api().area(rle)) if rle else width * height
        if not is_finite_number(area):
            raise ValueError(f'area {str(area)[:60]} is not a finite number')
        crowd = one.get('iscrowd') or 0
        if not is_crowd_flag(crowd):
            raise ValueError(f'iscrowd {str(crowd)[:60]} is neither 0 nor 1')
        self.image.append(image)
        self.category.append(category)
        self.boxes.append((x, y, width, height))
        self.areas.append(float(area))
        self.crowd.append(bool(crowd))
        self.segmentations.append(segmentation)

    def notes(self) -> tuple[str, ...]:
        """Say what was left out."""
        return tuple(
            f'{len(ids)} annotations of {self._source} do not count: their {kind} ids '
            f'are not in the file ({", ".join(map(repr, ids[:3]))})'
            for kind, ids in self._left_out.items()
            if ids
        )
