"""An exported detector as an object: images in, arrays out, without torch or mmdet."""

from __future__ import annotations

import os
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from eca_mmdet.export.mask_paste import paste_masks
from eca_mmdet.export.onnx.session import first_line, open_onnx
from eca_mmdet.export.preprocess import Prepared, prepare
from eca_mmdet.inference.prediction import Prediction
from eca_mmdet.utils.errors import RunError, UserError
from eca_mmdet.utils.images import read_rgb, to_rgb
from eca_mmdet.utils.text import clipped

Array = npt.NDArray[Any]

_FROM_HALF = 0.5 + 1e-5
"""Of a score; float32 may round beyond 0 and 1."""


class OnnxDetector:
    """An exported detector: ``OnnxDetector('model.onnx').predict(image)``.

    It needs onnxruntime, numpy, and OpenCV or Pillow to read files, and gives what
    :class:`~eca_mmdet.inference.detector.ECADetector` gives.

    Attributes:
        path: of the file.
        classes: names by label.
        metadata: what the file says of itself: thresholds, sizes, where it is from.

    Args:
        path: of what ``eca-mmdet export onnx`` wrote.
        providers: onnxruntime's names of what runs it, the first that can, as
            ``['CUDAExecutionProvider']``; None for the CPU, which the export's own
            check was made with.
        threads: to work with; None for as many as there are cores.

    Raises:
        UserError: the file cannot be used; the message says why.
        MissingPackageError: onnxruntime is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        providers: list[Any] | None = None,
        threads: int | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self._file = open_onnx(self.path, providers, threads)
        self.classes, self.metadata = self._file.classes, self._file.metadata

    def __repr__(self) -> str:
        kind = clipped(self.metadata['detector'])
        names = clipped(', '.join(self.classes), 200)
        return f'<OnnxDetector {kind} of {self.path}: {names}>'

    @overload
    def predict(self, image: list[Any] | tuple[Any, ...]) -> list[Prediction]: ...

    @overload
    def predict(self, image: Any) -> Prediction: ...

    def predict(self, image: Any) -> Prediction | list[Prediction]:
        """Find objects, with the thresholds and the size rule of the file.

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

    def read(self, path: str) -> Array:
        """Read an image file as mmdet does: (H, W, 3) uint8, RGB.

        Raises:
            UserError: it is no file, or no image.
            MissingPackageError: neither OpenCV nor Pillow is installed.
        """
        return read_rgb(path)

    def _predict_one(self, image: Any) -> Prediction:
        path = os.fspath(image) if isinstance(image, (str, os.PathLike)) else None
        pixels = to_rgb(image) if path is None else self.read(path)
        prepared = prepare(pixels, self._file.rule)
        found = self._run(prepared)
        labels, scores = found['labels'], found['scores']
        boxes = self._scale_back(found['boxes'], prepared.factors)
        kept = (labels >= 0) & np.isfinite(scores) & np.isfinite(boxes).all(1)
        return Prediction(
            boxes=boxes[kept],
            scores=scores[kept],
            labels=labels[kept],
            masks=self._masks(found, boxes, kept, pixels),
            classes=self.classes,
            image=pixels,
            path=path,
        )

    def _masks(
        self, found: dict[str, Array], boxes: Array, kept: Array, image: Array
    ) -> Array | None:
        if self._file.mask_threshold is None:
            return None
        size = (image.shape[0], image.shape[1])
        maps, threshold = found['masks'][kept], self._file.mask_threshold
        try:
            return paste_masks(maps, boxes[kept], size, threshold)
        except MemoryError as error:
            raise RunError(
                f'{len(maps)} masks of {size[1]} x {size[0]} pixels do not fit in '
                'memory; give a smaller image.'
            ) from error

    def _scale_back(self, boxes: Array, factors: tuple[float, float]) -> Array:
        """Return boxes in pixels of the image, rounded as mmdet's are."""
        with np.errstate(over='ignore', invalid='ignore'):  # what is infinite is no box
            if self._file.mask_threshold is not None:  # before it pastes, mmdet divides
                scaled: Array = boxes / np.array(factors * 2, np.float32)
            else:
                scaled = boxes * np.array([1 / one for one in factors] * 2, np.float32)
        return scaled.astype(np.float32)

    def _run(self, prepared: Prepared) -> dict[str, Array]:
        """Return the outputs of one image by name, of M places each."""
        session = self._file.session
        names = [one.name for one in session.get_outputs()]
        inputs = {'images': prepared.images, 'sizes': prepared.sizes}
        try:
            outputs = session.run(names, inputs)
        except Exception as error:  # onnxruntime has a class for each of its codes
            height, width = prepared.images.shape[2:]
            raise UserError(
                f'{self.path} cannot be run on an input of {width} x {height}: '
                f'{first_line(error)} Export the detector again: eca-mmdet export onnx.'
            ) from error
        arrays = dict(zip(names, outputs, strict=True))
        self._require_fit(arrays)
        return {name: value[0] for name, value in arrays.items()}

    def _require_fit(self, found: dict[str, Array]) -> None:
        """Refuse outputs that are not those of a detector of these classes."""
        places = (1, self.metadata['max_per_image'])
        expected = {'boxes': (*places, 4), 'scores': places, 'labels': places}
        shapes = {name: value.shape for name, value in found.items()}
        side = shapes.pop('masks', (*places, 1, 1))
        real = found['labels'] >= 0
        if shapes != expected or side[:2] != places or 0 in side:
            what = 'boxes, scores and labels that do not belong together'
        elif real.any() and found['labels'].max() >= len(self.classes):
            label = found['labels'].max()
            what = f'the label {label} and names {len(self.classes)} classes'
        elif (wrong := real & (np.abs(found['scores'] - 0.5) > _FROM_HALF)).any():
            what = f'the score {found["scores"][wrong][0]:g}, and scores are 0 to 1'
        else:
            return
        raise UserError(
            f'{self.path} is broken: it gives {what}. Export the detector again: '
            'eca-mmdet export onnx.'
        )
