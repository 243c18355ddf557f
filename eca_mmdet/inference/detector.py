"""Trained detectors: images in, predictions out."""

from __future__ import annotations

import functools
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from eca_mmdet import registration
from eca_mmdet.checkpoints.download import fetch, is_address
from eca_mmdet.checkpoints.io import Checkpoint, read_weights
from eca_mmdet.checkpoints.transfer import (
    UnfilledParameters,
    class_heads,
    require_fit,
)
from eca_mmdet.engine import config as engine_config
from eca_mmdet.engine.checkpointing import checkpoint_of
from eca_mmdet.inference.prediction import (
    SHOWN_FROM,
    Detector,
    ImageInput,
    Order,
    Prediction,
    in_rgb,
)
from eca_mmdet.utils.errors import UserError, require_fraction
from eca_mmdet.utils.images import decode, other_format, require_image_file, to_rgb
from eca_mmdet.utils.text import first, first_line

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[Any]

logger = logging.getLogger(__name__)

_ADVICE = 'Name a config with a test_dataloader for images: --config NAME|FILE.'


@dataclass(frozen=True, eq=False, repr=False)
class ECADetector(Detector):
    """A trained detector: images in, predictions out.

    Attributes:
        path: checkpoint file.
        cfg: mmengine's Config that the model was built from.
        model: mmdet's detector, in evaluation mode.
        classes: names by label.
        sha256: of the file.

    Example:
        >>> detector = ECADetector.from_checkpoint('epoch_12.pth')  # doctest: +SKIP
        >>> detector.predict('image.jpg').names  # doctest: +SKIP
        ['dog', 'bicycle']
    """

    path: str
    cfg: Any
    model: Any
    classes: tuple[str, ...]
    sha256: str = ''

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

    def _predict_one(self, image: Any) -> Prediction:
        """Find objects with the test pipeline of the config.

        A file is read as mmdet reads it in a test, so that predictions are those of
        ``eca-mmdet test``: by OpenCV, turned as its EXIF data say, alpha dropped, 16
        bits made 8. Arrays and PIL images are brought to the same form
        (:func:`eca_mmdet.utils.images.to_rgb`).
        """
        import torch

        original, batch, path = self._batch(image)
        with torch.no_grad():
            (sample,) = self.model.test_step(batch)
        return Prediction.from_instances(
            sample.pred_instances, classes=self.classes, image=original, path=path
        ).finite()

    def cam(
        self,
        image: ImageInput,
        score_thr: float | Array = SHOWN_FROM,
        channel_order: Order = 'rgb',
    ) -> Array:
        """Return where the evidence for the objects lies: see :mod:`.cam`.

        The map is (H, W) float32, 0-1: the largest value is 1, and all are 0 without
        objects of at least the score, which may be an array of one for each class;
        above 1 leaves a class out.
        """
        from eca_mmdet.inference.cam import evidence_map

        if np.ndim(score_thr) == 0:
            require_fraction('score_thr', float(score_thr))
        original, batch, _ = self._batch(in_rgb(image, channel_order))
        height, width = original.shape[:2]
        return evidence_map(self.model, batch, (height, width), score_thr)

    def prepared(self, image: Any) -> tuple[Tensor, tuple[int, int]]:
        """Return the network's input for an image, and the image's size in it.

        The input is (1, 3, H, W) float32, normalised and padded.
        """
        _, batch, _ = self._batch(image)
        data = self.model.data_preprocessor(batch, False)
        height, width = data['data_samples'][0].img_shape[:2]
        return data['inputs'], (int(height), int(width))

    def _batch(self, image: Any) -> tuple[Array, dict[str, Any], str | None]:
        """Return the image (H, W, 3) RGB, what the model takes, and the path."""
        path = os.fspath(image) if isinstance(image, (str, os.PathLike)) else None
        loaded = self._as_loaded(to_rgb(image)) if path is None else self.read(path)
        # Transforms may draw into the array.
        original = np.ascontiguousarray(loaded['img'][..., ::-1]).astype(np.uint8)
        height, width = original.shape[:2]
        try:
            packed = dict(self._pipeline[1](loaded))
        except Exception as error:  # OpenCV, numpy and torch each raise their own
            raise UserError(
                f'{path or "an image"} of {width} x {height} cannot be prepared for '
                f'the detector: {first_line(error)}',
                code='broken-image',
            ) from error
        return original, {key: [value] for key, value in packed.items()}, path

    def read(self, path: str) -> dict[str, Any]:
        """Read an image file with the first transform of the config's pipeline.

        The result is mmdet's dict, the pixels in ``img``: (H, W, 3) BGR.
        """
        require_image_file(path)
        read, _ = self._pipeline
        try:
            loaded = read({'img_path': path, 'img_id': 0})
        except Exception as error:  # OpenCV, mmcv and decoders each raise their own
            decoded = decode(Path(path))
            reason = decoded if isinstance(decoded, str) else str(error)
            return self._as_loaded(other_format(path, reason))
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
        from mmengine.dataset import Compose

        steps = pipeline_steps(self.cfg, self.path)
        # Annotations are not needed here, and may need more than an image.
        wanted = [s for s in steps if not str(s['type']).endswith('Annotations')]
        try:
            reading, *others = [Compose([step]) for step in wanted]
        except Exception as error:  # a transform may raise anything on wrong arguments
            raise UserError(
                f'the test pipeline in the config of {self.path} cannot be built: '
                f'{type(error).__name__}: {error} {_ADVICE}',
                code='config-invalid',
            ) from error
        return reading, Compose(others)


def pipeline_steps(cfg: Any, path: str) -> list[Any]:
    """Return the transforms of the test pipeline in the config of a checkpoint."""
    from mmdet.utils import get_test_pipeline_cfg

    try:
        return list(get_test_pipeline_cfg(cfg))
    except (AttributeError, KeyError, RuntimeError, TypeError, IndexError) as error:
        raise UserError(
            f'the config of {path} has no test pipeline. {_ADVICE}',
            code='config-invalid',
        ) from error


def load_detector(
    checkpoint: str | os.PathLike[str],
    config: str | None = None,
    device: str | None = None,
) -> ECADetector:
    """Load a detector from a checkpoint that mmengine saved in training.

    Args:
        checkpoint: path or https:// address, or the work folder of a training, whose
            best or else last checkpoint is loaded. Loading never executes code in it.
        config: name or path of a config, in place of the embedded one; it is Python
            and is executed.
        device: e.g. 'cuda:0'; None selects an accelerator if there is one.

    Example:
        >>> import eca_mmdet
        >>> detector = eca_mmdet.load_detector('epoch_12.pth')  # doctest: +SKIP
        >>> detector.predict('image.jpg').plot()  # doctest: +SKIP
    """
    path = os.fspath(checkpoint)
    if path.lower().endswith('.onnx'):
        raise UserError(
            f'{path} is an exported detector: eca_mmdet.OnnxDetector({path!r}).',
            code='checkpoint-unrecognised',
        )
    detector = load_model(path, config, device)
    _ = detector._pipeline  # fails here, not at the first image
    return detector


def load_model(
    checkpoint: str, config: str | None = None, device: str | None = None
) -> ECADetector:
    """Load a checkpoint as :func:`load_detector`, whatever its test pipeline is."""
    from mmengine.device import get_device

    path = checkpoint_of(checkpoint)
    path = str(fetch(path)) if is_address(path) else path
    file = read_weights(path)
    engine_config.forbid_code_in_files()
    registration.register()
    if config is not None:
        cfg = engine_config.load_config(config)
    else:
        cfg = engine_config.embedded_config(file)
    engine_config.drop_init(cfg.get('model'))
    cfg.default_scope = 'mmdet'
    source = cfg.filename or f'the config of {path}'
    with UnfilledParameters():  # require_fit demands each from the file
        model = engine_config.build_model(cfg, source=source)
    require_fit(file.named_as(model.state_dict()).state, model, path)
    classes = class_names(file, cfg)
    for _, head in class_heads(cfg.model):
        if head['num_classes'] not in (1, len(classes)):  # 1: all classes at once
            raise UserError(
                f'{path} names {len(classes)} classes ({first(classes)}), and its '
                f'{head.get("type")} has {head["num_classes"]}. Name a config with the '
                'right test_dataloader.dataset.metainfo.classes: --config NAME|FILE.',
                code='class-mismatch',
            )
    model.dataset_meta = {'classes': classes}
    model.cfg = cfg
    if 'ema_state_dict' in file.extras:
        logger.info('%s: the moving average of the weights', path)
    device = device or str(get_device())
    try:
        model.to(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f'device {device!r} cannot be used: {first_line(error)}',
            code='no-gpu',
        ) from error
    model.train(False)  # mmdet's ResNet returns None from eval()
    return ECADetector(path, cfg, model, classes, file.sha256)


def class_names(file: Checkpoint, cfg: Any) -> tuple[str, ...]:
    """Return the class names: the file's, or those of the test data in its config."""
    data = file.meta.get('dataset_meta')
    names: Any = data.get('classes') if isinstance(data, dict) else None
    names = (names,) if isinstance(names, str) else names
    names = names or engine_config.class_names(cfg, 'test_dataloader') or ()
    listed = isinstance(names, (list, tuple)) and len(names) > 0
    if not listed or not all(isinstance(name, str) for name in names):
        raise UserError(
            f'{file.path} does not name its classes, and neither does its config: '
            'set test_dataloader.dataset.metainfo.classes there.',
            code='unknown-class',
        )
    return tuple(names)
