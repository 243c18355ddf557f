"""CocoDataset over the index of an annotation file: starts at once, in little memory.

mmdet's own class reads the file into dictionaries and copies them into one array for
its workers. Here an image's annotations are decoded when the image is asked for.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.dataset import force_full_init

from eca_mmdet.datasets.index import Array, CocoIndex, read_index

_LOCAL: tuple[dict[str, str], ...] = ({'backend': 'local'}, {})


class Samples(Sequence[dict[str, Any]]):
    """Some images of an index, each parsed by a dataset when it is asked for."""

    def __init__(
        self,
        source: CocoIndex,
        positions: Array,
        parse: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> None:
        self.source = source
        self.positions = positions
        self.parse = parse

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.positions)

    @overload
    def __getitem__(self, at: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, at: slice) -> Samples: ...
    def __getitem__(self, at: int | slice) -> dict[str, Any] | Samples:
        """Return an image with its objects, or some of the images."""
        return self.take(at) if isinstance(at, slice) else self.parse(self.raw(at))

    def __deepcopy__(self, memo: Any) -> Samples:
        return self

    def take(self, which: Any) -> Samples:
        """Return a part, by a slice, indices or a mask."""
        return Samples(self.source, self.positions[which], self.parse)

    def raw(self, at: int) -> dict[str, Any]:
        """Return the entries of an image as ``parse_data_info`` takes them."""
        position = int(self.positions[at])
        (image,) = self.source.images([position])
        objects = self.source.annotations(self.source.of_image(position))
        image['img_id'] = image['id']
        return {'raw_img_info': image, 'raw_ann_info': objects}


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
        samples = Samples(index, index.distinct_images(), self.parse_data_info)
        samples[0]  # what fails on every image fails now, as in CocoDataset
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
            not isinstance(samples, Samples)
            or self.test_mode
            or self.filter_cfg is None
        ):
            return super().filter_data()
        index = samples.source
        kept = index.image_sizes.min(1) >= self.filter_cfg.get('min_size', 0)
        if self.filter_cfg.get('filter_empty_gt', False):
            in_use = np.isin(index.category_id, self.cat_ids) & (index.image >= 0)
            kept &= np.bincount(index.image[in_use], minlength=len(kept)) > 0
        return samples.take(kept[samples.positions])

    def _serialize_data(self) -> Any:
        if not isinstance(self.data_list, Samples) or not self.data_list:
            return super()._serialize_data()
        self.serialize_data = False  # the index is what all processes share
        return np.empty(0, np.uint8), np.empty(0, np.int64)

    def _get_unserialized_subset(self, indices: Any) -> Any:
        if isinstance(self.data_list, Samples) and isinstance(indices, Sequence):
            return self.data_list.take(np.array(indices, np.int64))
        return super()._get_unserialized_subset(indices)

    @force_full_init  # type: ignore[untyped-decorator]
    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return an image with its objects."""
        samples = getattr(self, 'data_list', None)  # serialized subsets have none
        if not isinstance(samples, Samples):
            found: dict[str, Any] = super().get_data_info(idx)
            return found
        info: dict[str, Any] = self.parse_data_info(samples.raw(idx))
        info['sample_idx'] = idx if idx >= 0 else len(self) + idx
        return info
