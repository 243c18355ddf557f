"""Trained detectors: images in, predictions out."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from eca_mmdet.inference.load import load_model
from eca_mmdet.inference.prediction import SHOWN_FROM, Prediction
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.images import decode, require_image_file, to_rgb
from eca_mmdet.utils.text import clipped

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[Any]

_ANNOTATION_TRANSFORMS = (
    'LoadAnnotations',
    'LoadPanopticAnnotations',
    'FilterAnnotations',
)


@dataclass(frozen=True, eq=False, repr=False)
class ECADetector:
    """A trained detector: images in, predictions out.

    Attributes:
        path: checkpoint file.
        cfg: mmengine's Config that the model was built from.
        model: mmdet's detector, in evaluation mode.
        classes: names by label.

    Example:
        >>> detector = ECADetector.from_checkpoint('epoch_12.pth')  # doctest: +SKIP
        >>> detector.predict('image.jpg').names  # doctest: +SKIP
        ['dog', 'bicycle']
    """

    path: str
    cfg: Any
    model: Any
    classes: tuple[str, ...]

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike[str],
        config: str | None = None,
        device: str | None = None,
    ) -> ECADetector:
        """Load a checkpoint; arguments and errors as :func:`load_detector`."""
        return load_detector(path, config, device)

    def __repr__(self) -> str:
        kind = type(self.model).__name__
        return f'<ECADetector {kind} of {self.path}: {", ".join(self.classes)}>'

    @overload
    def predict(self, image: list[Any] | tuple[Any, ...]) -> list[Prediction]: ...

    @overload
    def predict(self, image: Any) -> Prediction: ...

    def predict(self, image: Any) -> Prediction | list[Prediction]:
        """Find objects, with the test pipeline of the config.

        A file is read as mmdet reads it in a test, so that predictions are those of
        ``eca-mmdet test``: by OpenCV, turned as its EXIF data say, alpha dropped, 16
        bits made 8. Arrays and PIL images are brought to the same form
        (:func:`eca_mmdet.utils.images.to_rgb`).

        Args:
            image: path, (H, W, 3) uint8 RGB array, or PIL image; or a list of such,
                which are done one after the other.

        Returns:
            The prediction; for a list a list.

        Raises:
            UserError: there is no such image, or it cannot be read.
        """
        if isinstance(image, (list, tuple)):
            return [self._predict_one(one) for one in image]
        return self._predict_one(image)

    def _predict_one(self, image: Any) -> Prediction:
        import torch

        original, batch, path = self._batch(image)
        with torch.no_grad():
            (sample,) = self.model.test_step(batch)
        return Prediction.from_instances(
            sample.pred_instances, classes=self.classes, image=original, path=path
        ).finite()

    def cam(self, image: Any, score: float = SHOWN_FROM) -> Array:
        """Return where the evidence for the objects lies: see :mod:`.cam`.

        Args:
            image: as for :meth:`predict`.
            score: least score of the objects to explain.

        Returns:
            (H, W) float32, 0-1; the largest is 1, and all are 0 without objects.

        Raises:
            UserError: the detector is neither two-stage nor one-stage with anchors or
                points.
        """
        from eca_mmdet.inference.cam import evidence_map

        original, batch, _ = self._batch(image)
        height, width = original.shape[:2]
        return evidence_map(self.model, batch, (height, width), score)

    def prepared(self, image: Any) -> tuple[Tensor, tuple[int, int]]:
        """Return the network's input for an image.

        Args:
            image: as for :meth:`predict`, no list.

        Returns:
            (1, 3, H, W) float32, normalised and padded, and the height and width of
            the image in it.
        """
        _, batch, _ = self._batch(image)
        data = self.model.data_preprocessor(batch, False)
        height, width = data['data_samples'][0].img_shape[:2]
        return data['inputs'], (int(height), int(width))

    def _batch(self, image: Any) -> tuple[Array, dict[str, Any], str | None]:
        """Return the image (H, W, 3) RGB, what the model takes, and the path."""
        path = os.fspath(image) if isinstance(image, (str, os.PathLike)) else None
        if path is not None:
            loaded = self.read(path)
        else:
            loaded = self._as_loaded(to_rgb(image))
        # Transforms may draw into the array.
        original = np.ascontiguousarray(loaded['img'][..., ::-1]).astype(np.uint8)
        packed = self._prepared(loaded, path)
        batch = {key: [value] for key, value in packed.items()}
        return original, batch, path

    def _prepared(self, loaded: dict[str, Any], path: str | None) -> dict[str, Any]:
        """Run the transforms; one of them may not take an image of such a shape."""
        height, width = loaded['img'].shape[:2]
        try:
            return dict(self._pipeline[1](loaded))
        except Exception as error:  # OpenCV, numpy and torch each raise their own
            line = next(iter(str(error).splitlines()), '') or type(error).__name__
            raise UserError(
                f'{path or "an image"} of {width} x {height} cannot be prepared for '
                f'the detector: {clipped(line, 200)}',
                code='broken-image',
            ) from error

    def read(self, path: str) -> dict[str, Any]:
        """Read an image file with the first transform of the config's pipeline.

        Returns:
            mmdet's dict, the pixels in ``img``: (H, W, 3) BGR.

        Raises:
            UserError: it is no file, or no image.
        """
        require_image_file(path)
        read, _ = self._pipeline
        try:
            loaded = read({'img_path': path, 'img_id': 0})
        except Exception as error:  # OpenCV, mmcv and decoders each raise their own
            found = decode(Path(path))
            reason = found if isinstance(found, str) else str(error)
            raise UserError(
                f'{path} is not an image that can be read: {reason}.',
                code='broken-image',
            ) from error
        if loaded is None or loaded['img'].ndim != 3:
            raise UserError(
                f'{path} is not read as a picture of three colours.',
                code='broken-image',
            )
        return dict(loaded)

    def _as_loaded(self, image: Array) -> dict[str, Any]:
        """Return an RGB image as the first transform would have, in BGR."""
        size = image.shape[:2]
        bgr = np.ascontiguousarray(image[..., ::-1])
        if getattr(self._pipeline[0].transforms[0], 'to_float32', False):
            bgr = bgr.astype(np.float32)
        return dict(img=bgr, img_id=0, img_path=None, img_shape=size, ori_shape=size)

    @functools.cached_property
    def _pipeline(self) -> tuple[Any, Any]:
        """Return the transform that reads an image, and those that prepare it."""
        from mmdet.utils import get_test_pipeline_cfg
        from mmengine.dataset import Compose

        advice = 'Name a config with a test_dataloader for images: --config NAME|FILE.'
        try:
            steps = get_test_pipeline_cfg(self.cfg)
        except (AttributeError, KeyError, RuntimeError, TypeError, IndexError) as error:
            raise UserError(
                f'the config of {self.path} has no test pipeline. {advice}',
                code='config-invalid',
            ) from error
        # Annotations are not needed here, and may need more than an image.
        steps = [
            step
            for step in steps
            if str(step['type']).split('.')[-1] not in _ANNOTATION_TRANSFORMS
        ]
        try:
            first, *others = [Compose([step]) for step in steps]
        except Exception as error:  # a transform may raise anything on wrong arguments
            raise UserError(
                f'the test pipeline in the config of {self.path} cannot be built: '
                f'{type(error).__name__}: {error} {advice}',
                code='config-invalid',
            ) from error
        return first, Compose(others)


def load_detector(
    checkpoint: str | os.PathLike[str],
    config: str | None = None,
    device: str | None = None,
) -> ECADetector:
    """Load a detector from a checkpoint that mmengine saved in training.

    Args:
        checkpoint: path or https:// address. Loading never executes code in the file.
        config: name or path of a config, in place of the embedded one.
        device: e.g. 'cuda:0'; None selects an accelerator if there is one.

    Raises:
        UserError: the checkpoint cannot be used; the message says why.

    Example:
        >>> import eca_mmdet
        >>> detector = eca_mmdet.load_detector('epoch_12.pth')  # doctest: +SKIP
        >>> detector.predict('image.jpg').plot()  # doctest: +SKIP
    """
    detector = ECADetector(*load_model(os.fspath(checkpoint), config, device))
    _ = detector._pipeline  # fails here, not at the first image
    return detector
