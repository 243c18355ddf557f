"""An exported detector as an object: images in, arrays out, without torch or mmdet."""

from __future__ import annotations

import os
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from eca_mmdet.errors import UserError, clipped
from eca_mmdet.export.onnx_file import first_line, open_onnx
from eca_mmdet.export.pasting import paste_masks
from eca_mmdet.export.preparation import Prepared, prepare
from eca_mmdet.inference.images import read_rgb, to_rgb
from eca_mmdet.inference.prediction import Prediction

Array = npt.NDArray[Any]


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
        labels, scores = found['labels'], found['scores'].astype(np.float32)
        kept = (labels >= 0) & np.isfinite(scores) & np.isfinite(found['boxes']).all(1)
        boxes, masks = self._scale_back(found['boxes'][kept], prepared.factors), None
        if self._file.mask_threshold is not None:
            masks = paste_masks(
                found['masks'][kept],
                boxes,
                (pixels.shape[0], pixels.shape[1]),
                self._file.mask_threshold,
            )
        return Prediction(
            boxes=boxes,
            scores=scores[kept],
            labels=labels[kept].astype(np.int64),
            masks=masks,
            classes=self.classes,
            image=pixels,
            path=path,
        )

    def _scale_back(self, boxes: Array, factors: tuple[float, float]) -> Array:
        """Return boxes in pixels of the image, rounded as mmdet's are."""
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
        found = {name: value[0] for name, value in zip(names, outputs, strict=True)}
        self._require_fit(found)
        return found

    def _require_fit(self, found: dict[str, Array]) -> None:
        """Refuse outputs that are not those of a detector of these classes."""
        count = len(found['labels'])
        right = found['boxes'].shape == (count, 4) and found['scores'].shape == (count,)
        if 'masks' in found:
            right = right and len(found['masks']) == count
        labels = found['labels']
        if not right or labels.dtype.kind not in 'iu':
            what = 'boxes, scores and labels that do not belong together'
        elif count and labels.max() >= len(self.classes):
            what = f'the label {labels.max()} and names {len(self.classes)} classes'
        else:
            return
        raise UserError(
            f'{self.path} is broken: it gives {what}. Export the detector again: '
            'eca-mmdet export onnx.'
        )
