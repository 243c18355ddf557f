"""A trained detector as an object: images in, arrays out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from eca_mmdet.inference.images import require_image_file, to_rgb
from eca_mmdet.inference.load import TrainedDetector, load_detector
from eca_mmdet.inference.prediction import SHOWN_FROM, Prediction
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.text import clipped

Array = npt.NDArray[Any]

_OF_ANNOTATIONS = ('LoadAnnotations', 'LoadPanopticAnnotations', 'FilterAnnotations')


class ECADetector:
    """A trained detector: ``ECADetector.from_checkpoint(path).predict(image)``.

    Attributes:
        path: of the checkpoint.
        cfg: the config that it was trained with.
        model: mmdet's detector, in evaluation mode.
        classes: names by label.

    Args:
        trained: a detector with its weights.
    """

    def __init__(self, trained: TrainedDetector) -> None:
        self.path, self.cfg = trained.path, trained.cfg
        self.model, self.classes = trained.model, trained.classes
        self._load, self._prepare = _pipeline(trained)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike[str],
        config: str | None = None,
        device: str | None = None,
    ) -> ECADetector:
        """Load a checkpoint that mmengine saved in training.

        Args:
            path: of the checkpoint, or its https:// address.
            config: name or path of a config, in place of the one in the checkpoint.
            device: as 'cuda:0'; None takes an accelerator if there is one.

        Raises:
            UserError: the checkpoint cannot be used; the message says why.
        """
        return cls(load_detector(os.fspath(path), config, device))

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
        (:func:`eca_mmdet.inference.images.to_rgb`).

        Args:
            image: path, (H, W, 3) uint8 RGB array, or PIL image; or a list of such,
                which are done one after the other.

        Returns:
            What was found; for a list a list.

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
        return self._prediction(sample.pred_instances, original, path)

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

    def prepared(self, image: Any) -> tuple[Array, tuple[int, int]]:
        """Return what the network gets of an image.

        Args:
            image: as for :meth:`predict`, no list.

        Returns:
            (1, 3, H, W) float32, normalised and padded, and the height and width of
            the image in it.
        """
        _, batch, _ = self._batch(image)
        data = self.model.data_preprocessor(batch, False)
        height, width = data['data_samples'][0].img_shape[:2]
        return data['inputs'].cpu().numpy(), (int(height), int(width))

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
            return dict(self._prepare(loaded))
        except Exception as error:  # OpenCV, numpy and torch each raise their own
            line = next(iter(str(error).splitlines()), '') or type(error).__name__
            raise UserError(
                f'{path or "an image"} of {width} x {height} cannot be prepared for '
                f'the detector: {clipped(line, 200)}'
            ) from error

    def read(self, path: str) -> dict[str, Any]:
        """Read an image file with the first transform of the config's pipeline.

        Returns:
            mmdet's dict, the pixels in ``img``: (H, W, 3) BGR.

        Raises:
            UserError: it is no file, or no image.
        """
        from eca_mmdet.datasets.images import read_size

        require_image_file(path)
        try:
            loaded = self._load({'img_path': path, 'img_id': 0})
        except Exception as error:  # OpenCV, mmcv and decoders each raise their own
            found = read_size(Path(path))
            reason = found if isinstance(found, str) else str(error)
            raise UserError(
                f'{path} is not an image that can be read: {reason}.'
            ) from error
        if loaded is None or loaded['img'].ndim != 3:
            raise UserError(f'{path} is not read as a picture of three colours.')
        return dict(loaded)

    def _as_loaded(self, image: Array) -> dict[str, Any]:
        """Return an RGB image as the first transform would have, in BGR."""
        size = image.shape[:2]
        bgr = np.ascontiguousarray(image[..., ::-1])
        if getattr(self._load.transforms[0], 'to_float32', False):
            bgr = bgr.astype(np.float32)
        return dict(img=bgr, img_id=0, img_path=None, img_shape=size, ori_shape=size)

    def _prediction(self, found: Any, image: Array, path: str | None) -> Prediction:
        boxes, scores = found.bboxes.cpu().numpy(), found.scores.cpu().numpy()
        kept = np.isfinite(scores) & np.isfinite(boxes).all(1)
        masks = None
        if 'masks' in found:
            masks = np.asarray(found.masks.cpu().numpy(), bool)[kept]
        return Prediction(
            boxes=boxes[kept].astype(np.float32),
            scores=scores[kept].astype(np.float32),
            labels=found.labels.cpu().numpy()[kept].astype(np.int64),
            masks=masks,
            classes=self.classes,
            image=image,
            path=path,
        )


def _pipeline(trained: TrainedDetector) -> tuple[Any, Any]:
    """Return what reads an image, and what prepares it for the model."""
    from mmdet.utils import get_test_pipeline_cfg
    from mmengine.dataset import Compose

    advice = 'Name a config with a test_dataloader for images: --config NAME|FILE.'
    try:
        steps = get_test_pipeline_cfg(trained.cfg)
    except (AttributeError, KeyError, RuntimeError, TypeError, IndexError) as error:
        raise UserError(
            f'the config of {trained.path} has no test pipeline. {advice}'
        ) from error
    # Annotations are of no use here, and may need more than an image.
    steps = [
        one for one in steps if str(one['type']).split('.')[-1] not in _OF_ANNOTATIONS
    ]
    try:
        first, *others = [Compose([one]) for one in steps]
    except Exception as error:  # a transform may raise anything on wrong arguments
        raise UserError(
            f'the test pipeline in the config of {trained.path} cannot be built: '
            f'{type(error).__name__}: {error} {advice}'
        ) from error
    return first, Compose(others)
