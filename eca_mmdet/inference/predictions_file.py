"""The predictions of many images as one COCO file, written as they come."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TextIO

from eca_mmdet.inference.prediction import Prediction


class PredictionsFile:
    """A COCO annotation file of what was found; ``annotations`` are COCO results too.

    Only a line an image is kept in memory.

    Attributes:
        objects: how many were added.
        images: the entries so far.

    Args:
        stream: to write to.
        classes: names by label; the category of label 0 has id 1.
        info: what is said of the run.
    """

    def __init__(
        self, stream: TextIO, classes: Sequence[str], info: dict[str, Any]
    ) -> None:
        self._stream, self.objects = stream, 0
        self.images: list[dict[str, Any]] = []
        categories = [{'id': id_, 'name': name} for id_, name in enumerate(classes, 1)]
        stream.write(f'{{"info": {json.dumps(info)},\n')
        stream.write(f'"categories": {json.dumps(categories)},\n"annotations": [')

    def add(self, found: Prediction, file_name: str, **more: Any) -> None:
        """Write the objects of one image.

        Args:
            found: in the image.
            file_name: as the file shall name it.
            **more: keys of its entry.
        """
        image_id = len(self.images) + 1
        height, width = found.image.shape[:2]
        size = {'width': width, 'height': height}
        self.images.append({'id': image_id, 'file_name': file_name, **size, **more})
        for at, entry in enumerate(found.to_coco(image_id)):
            area = entry['bbox'][2] * entry['bbox'][3]
            if found.masks is not None:
                area = int(found.masks[at].sum())
            comma = ',' if self.objects else ''
            self.objects += 1
            full = {'id': self.objects, **entry, 'area': area, 'iscrowd': 0}
            self._stream.write(f'{comma}\n{json.dumps(full)}')

    def finish(self) -> None:
        """Write the images, and what ends the file."""
        entries = ',\n'.join(map(json.dumps, self.images))
        self._stream.write(f'\n],\n"images": [\n{entries}\n]}}\n')
