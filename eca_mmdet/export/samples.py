"""Images that an exported file is checked on."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from eca_mmdet.engine.config import leaf_datasets
from eca_mmdet.inference import media
from eca_mmdet.utils.errors import UserError

Image = npt.NDArray[np.uint8]

_COUNT = 4
_SCALE = (640, 480)  # where the config names none


@dataclass(frozen=True)
class Batch:
    """(N, 3, H, W) normalised and padded images; their heights and widths unpadded."""

    images: Tensor
    sizes: list[tuple[int, int]]

    def samples(self) -> list[Any]:
        """Return mmdet's data samples; no image was rescaled."""
        from mmdet.structures import DetDataSample

        padded = tuple(self.images.shape[2:])
        shared = dict(
            scale_factor=(1.0, 1.0), batch_input_shape=padded, pad_shape=padded
        )
        return [
            DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, **shared))
            for size in self.sizes
        ]


def find_samples(folder: str | None, cfg: Any) -> tuple[list[Image], str]:
    """Return some images (H, W, 3) BGR, and where they are from.

    Without a folder, use the config's test images, or generated ones.
    """
    if folder is not None:
        root = Path(folder)
        if not root.is_dir():
            raise UserError(f'--images {folder} is no folder.', code='file-not-found')
        images = _read(root, media.find_images(root))
        if not images:
            raise UserError(
                f'--images {folder} has no image that OpenCV reads.', code='no-images'
            )
        return images, f'of {folder}'
    test_folder = _test_folder(cfg)
    if test_folder is not None and test_folder.is_dir():
        with contextlib.suppress(UserError):
            if images := _read(test_folder, media.find_images(test_folder)):
                return images, f'of {test_folder}, where the config has its test images'
    from eca_mmdet.datasets.shapes import draw_image

    drawn = [draw_image(0, 'val', index)[0] for index in range(_COUNT)]
    return drawn, "of generated shapes: the config's test images are not here"


def _test_folder(cfg: Any) -> Path | None:
    dataset = next(iter(leaf_datasets(cfg.get('test_dataloader'))), None)
    if not isinstance(dataset, dict):
        return None
    prefix = dataset.get('data_prefix')
    below = prefix.get('img') if isinstance(prefix, dict) else None
    parts = [str(part) for part in (dataset.get('data_root'), below) if part]
    return Path(*parts) if parts else None


def _read(root: Path, names: Sequence[str]) -> list[Image]:
    """Read the first few readable images."""
    images: list[Image] = []
    for name in names[: 4 * _COUNT]:
        image = cv2.imread(str(root / name))
        if image is not None and len(images) < _COUNT:
            images.append(image.astype(np.uint8))
    return images


def make_batches(images: list[Image], model: Any, metadata: Any) -> list[Batch]:
    """Return inputs of one image and of two; where any size is allowed, of two sizes.

    ``images`` are (H, W, 3) BGR, at least one; ``model`` prepares them. UserError is
    raised where a layer needs a larger image than the file is for.
    """
    size = metadata['size']
    width, height = metadata['scale'] or _SCALE
    if size is not None:
        height, width = min(height, size[0]), min(width, size[1])
    problem = ''
    # Some layers need a map of a few pixels: then the other size is a larger one.
    for scales in ((1.0, 0.6, 1.0, 0.7), (1.0, 1.4, 1.0, 0.7)):
        resized = [
            _fit(images[index % len(images)], (height * scale, width * scale), size)
            for index, scale in enumerate(scales)
        ]
        groups = [resized[:1], resized[1:2], resized[2:]]
        batches = [_batch(group, model, size) for group in groups]
        try:
            with torch.no_grad():
                for batch in batches:
                    model.backbone(batch.images)
            return batches
        except ValueError as error:  # the map is too small for a layer
            problem = str(error)
    raise UserError(
        f'the detector does not take images of this size: {problem}',
        code='option-invalid',
    )


def _fit(image: Image, bounds: tuple[float, float], size: Any) -> Image:
    """Resize as mmdet does: the longer side to the larger bound, or the other."""
    sides = image.shape[:2]
    factor = min(max(bounds) / max(sides), min(bounds) / min(sides))
    if size is not None:  # landscape or portrait, it must fit
        factor = min(factor, size[0] / sides[0], size[1] / sides[1])
    height, width = (max(1, int(side * factor + 0.5)) for side in sides)
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def _batch(images: list[Image], model: Any, size: Any) -> Batch:
    tensors = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
    with torch.no_grad():
        data = model.data_preprocessor({'inputs': tensors, 'data_samples': None})
    inputs = data['inputs']
    if size is not None:
        right, bottom = size[1] - inputs.shape[3], size[0] - inputs.shape[2]
        value = float(model.data_preprocessor.pad_value)
        inputs = F.pad(inputs, (0, right, 0, bottom), value=value)
    return Batch(inputs, [(image.shape[0], image.shape[1]) for image in images])
