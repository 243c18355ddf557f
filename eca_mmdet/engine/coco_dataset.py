"""CocoDataset over the index of an annotation file: starts at once, in little memory.

mmdet's own class reads the file into dictionaries and copies them into one array for
its workers. Here an image's annotations are decoded when the image is asked for.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.dataset import force_full_init

from eca_mmdet.datasets.index import Array, CocoIndex, Entries, read_index

_LOCAL: tuple[dict[str, str], ...] = ({'backend': 'local'}, {})


@DATASETS.register_module()
class CocoIndexDataset(CocoDataset):  # type: ignore[misc]
    """The samples of ``CocoDataset`` in the same order, from a :class:`CocoIndex`.

    Arguments are those of ``CocoDataset``. What it does differently: ``data_list`` is a
    read-only sequence, also with ``serialize_data``, which has nothing to do. A remote
    file, proposals, and files that the index refuses are read as ``CocoDataset`` reads
    them.
    """

    def load_data_list(self) -> Any:
        """Return the images of the annotation file, as a sequence of dicts."""
        index = self._usable_index()
        if index is None:
            return super().load_data_list()
        self._index = index
        coco = self.COCOAPI()
        coco.dataset = {'categories': index.categories()}
        self.cat_ids = coco.get_cat_ids(cat_names=self.metainfo['classes'])
        self.cat2label = {key: label for label, key in enumerate(self.cat_ids)}
        samples = Entries(self._parse, index.distinct_images())
        samples[0]  # what fails on every image fails now, as in CocoDataset
        return samples

    def _parse(self, positions: Array) -> list[dict[str, Any]]:
        """Return images with their objects, by their positions in the file."""
        found = self._index.images(positions)
        samples = []
        for image, position in zip(found, positions.tolist(), strict=True):
            image['img_id'] = image['id']
            objects = self._index.annotations(self._index.of_image(position))
            raw = {'raw_img_info': image, 'raw_ann_info': objects}
            samples.append(self.parse_data_info(raw))
        return samples

    def _usable_index(self) -> CocoIndex | None:
        """Return the index, None where ``CocoDataset`` would not do the same with it.

        It fails on an object without box or area and on an image without size, and on
        an id that is used twice.
        """
        as_coco = self.COCOAPI is CocoDataset.COCOAPI and self.ANN_ID_UNIQUE
        remote = self.backend_args is not None and self.backend_args not in _LOCAL
        if remote or not as_coco or self.proposal_file is not None:
            return None
        index = read_index(self.ann_file)
        if index is None or len(np.unique(index.ids)) < len(index):
            return None
        columns = (index.boxes, index.areas, index.image_sizes)
        return None if any(np.isnan(column).any() for column in columns) else index

    @functools.cached_property
    def cat_img_map(self) -> dict[int, list[int]]:
        """For each category id, the image id of each of its objects."""
        images = defaultdict[int, list[int]](list)
        pairs = zip(self._index.category_id, self._index.image_id, strict=True)
        for category, image in pairs:
            images[int(category)].append(int(image))
        return images

    def filter_data(self) -> Any:
        """Apply ``filter_cfg``: the images that ``CocoDataset`` would keep."""
        samples = self.data_list
        if (
            not isinstance(samples, Entries)
            or self.test_mode
            or self.filter_cfg is None
        ):
            return super().filter_data()
        index = self._index
        kept = index.image_sizes.min(1) >= self.filter_cfg.get('min_size', 0)
        if self.filter_cfg.get('filter_empty_gt', False):
            in_use = np.isin(index.category_id, self.cat_ids) & (index.image >= 0)
            kept &= np.bincount(index.image[in_use], minlength=len(kept)) > 0
        return samples[kept[samples.rows]]

    def _serialize_data(self) -> Any:
        if not isinstance(self.data_list, Entries) or not self.data_list:
            return super()._serialize_data()
        self.serialize_data = False  # the index is what all processes share
        return np.empty(0, np.uint8), np.empty(0, np.int64)

    def _get_unserialized_subset(self, indices: Any) -> Any:
        if isinstance(self.data_list, Entries) and isinstance(indices, Sequence):
            return self.data_list[np.array(indices, np.int64)]
        return super()._get_unserialized_subset(indices)

    @force_full_init  # type: ignore[untyped-decorator]
    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return an image with its objects."""
        samples = getattr(self, 'data_list', None)  # serialized subsets have none
        if not isinstance(samples, Entries):
            found: dict[str, Any] = super().get_data_info(idx)
            return found
        info: dict[str, Any]
        (info,) = self._parse(samples.rows[[idx]])
        info['sample_idx'] = idx if idx >= 0 else len(self) + idx
        return info
