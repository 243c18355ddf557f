"""Images that an exported file is checked on."""

from __future__ import annotations

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
    """Images as the network takes them.

    Attributes:
        images: (N, 3, H, W), normalised and padded.
        sizes: height and width in px of each, without padding.
    """

    images: Tensor
    sizes: list[tuple[int, int]]

    def samples(self) -> list[Any]:
        """Return what mmdet asks about the images beside them; none is rescaled."""
        from mmdet.structures import DetDataSample

        return [
            DetDataSample(
                metainfo=dict(
                    img_shape=size,
                    ori_shape=size,
                    scale_factor=(1.0, 1.0),
                    batch_input_shape=tuple(self.images.shape[2:]),
                    pad_shape=tuple(self.images.shape[2:]),
                )
            )
            for size in self.sizes
        ]


def find_samples(folder: str | None, cfg: Any) -> tuple[list[Image], str]:
    """Return some images (H, W, 3) BGR, and where they are from.

    Args:
        folder: with images; None takes those of the config's test, or draws some.
        cfg: the config.

    Raises:
        UserError: the folder has no image that can be read.
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
    of_test = _test_folder(cfg)
    if of_test is not None and of_test.is_dir():
        try:
            images = _read(of_test, media.find_images(of_test))
        except UserError:
            images = []
        if images:
            return images, f'of {of_test}, where the config has its test images'
    from eca_mmdet.datasets.shapes import draw_image

    drawn = [draw_image(0, 'val', index)[0] for index in range(_COUNT)]
    return drawn, "of generated shapes: the config's test images are not here"


def _test_folder(cfg: Any) -> Path | None:
    dataset = next(iter(leaf_datasets(cfg.get('test_dataloader'))), None)
    if not isinstance(dataset, dict):
        return None
    prefix = dataset.get('data_prefix')
    below = prefix.get('img') if isinstance(prefix, dict) else None
    parts = [str(one) for one in (dataset.get('data_root'), below) if one]
    return Path(*parts) if parts else None


def _read(root: Path, names: Sequence[str]) -> list[Image]:
    """Read the first few images that can be."""
    images: list[Image] = []
    for name in names[: 4 * _COUNT]:
        image = cv2.imread(str(root / name))
        if image is not None and len(images) < _COUNT:
            images.append(image.astype(np.uint8))
    return images


def make_batches(images: list[Image], model: Any, metadata: Any) -> list[Batch]:
    """Return inputs of one image and of two, for any size at two sizes.

    Args:
        images: (H, W, 3) BGR, at least one.
        model: whose preprocessing it is.
        metadata: of the file.

    Raises:
        UserError: a layer of the model needs a larger image than the file is for.
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
        problem = next(filter(None, (_refusal(model, one) for one in batches)), '')
        if not problem:
            return batches
    raise UserError(
        f'the detector does not take images of this size: {problem}',
        code='option-invalid',
    )


def _refusal(model: Any, batch: Batch) -> str:
    """Return what a layer says of a map that is too small for it."""
    try:
        with torch.no_grad():
            model.backbone(batch.images)
    except ValueError as error:
        return str(error)
    return ''


def _fit(image: Image, bounds: tuple[float, float], size: Any) -> Image:
    """Resize as mmdet does: the longer side to the larger bound, or the other."""
    sides = image.shape[:2]
    factor = min(max(bounds) / max(sides), min(bounds) / min(sides))
    if size is not None:  # whichever way it lies, it is to fit
        factor = min(factor, size[0] / sides[0], size[1] / sides[1])
    height, width = (max(1, int(side * factor + 0.5)) for side in sides)
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def _batch(images: list[Image], model: Any, size: Any) -> Batch:
    tensors = [torch.from_numpy(one).permute(2, 0, 1) for one in images]
    with torch.no_grad():
        data = model.data_preprocessor({'inputs': tensors, 'data_samples': None})
    inputs = data['inputs']
    if size is not None:
        missing = (size[1] - inputs.shape[3], size[0] - inputs.shape[2])
        value = float(model.data_preprocessor.pad_value)
        inputs = F.pad(inputs, (0, missing[0], 0, missing[1]), value=value)
    return Batch(inputs, [(one.shape[0], one.shape[1]) for one in images])
