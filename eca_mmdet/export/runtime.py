"""Exported detectors: images in, predictions out, without torch or mmdet."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from eca_mmdet.export.metadata import (
    ADVICE,
    KEY,
    image_rule,
    mask_threshold,
    parse_metadata,
)
from eca_mmdet.export.processing import Prepared, paste_masks, prepare
from eca_mmdet.inference.prediction import Prediction
from eca_mmdet.utils.errors import MissingPackageError, RunError, UserError
from eca_mmdet.utils.images import read_rgb, to_rgb
from eca_mmdet.utils.io import read_file
from eca_mmdet.utils.text import clipped

Array = npt.NDArray[Any]
Form = dict[str, tuple[str, int]]  # type and number of dimensions, by name

_INPUTS: Form = {'images': ('float', 4), 'sizes': ('float', 2)}
_OUTPUTS: Form = {'boxes': ('float', 3), 'scores': ('float', 2), 'labels': ('int64', 2)}
_MASKS: Form = {'masks': ('float', 4)}
_MOST_BYTES = 2**31  # an ONNX graph is smaller
_ELSEWHERE = re.compile(rb'(?:\n|\x8a\x80*\x00)(?:\x08|\x88\x80*\x00)location')
"""Protobuf's bytes of the key of a tensor whose values are in another file."""

_FROM_HALF = 0.5 + 1e-5
"""Largest distance of a score from 0.5; float32 may round beyond 0 and 1."""


def open_session(
    path: str, providers: Sequence[Any] | None = None, threads: int | None = None
) -> Any:
    """Open an ONNX file with onnxruntime; arguments as for :class:`OnnxDetector`."""
    if threads is not None and (type(threads) is not int or threads < 1):
        raise UserError(
            f'threads must be a whole number from 1; got {threads!r}.',
            code='option-invalid',
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError(
            'running an ONNX file needs the package onnxruntime: pip install '
            'onnxruntime'
        ) from error
    names = _providers(providers, onnxruntime.get_available_providers())
    content = _read(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised as well
    options.intra_op_num_threads = threads or 0
    try:
        session = onnxruntime.InferenceSession(
            content, options, providers=names, enable_fallback=False
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f'onnxruntime cannot start {clipped(repr(names))}: {_first_line(error)} '
            'Without providers the CPU is used.',
            code='option-invalid',
        ) from error
    except Exception as error:  # onnxruntime has a class for each of its codes
        raise UserError(
            f'{path} is not an ONNX file that onnxruntime {onnxruntime.__version__} '
            f'reads: {_first_line(error)} Is it whole, and what eca-mmdet export onnx '
            'wrote?',
            code='unsupported-format',
        ) from error
    wanted = names[0] if isinstance(names[0], str) else names[0][0]
    if wanted not in session.get_providers():  # it took the CPU instead
        raise UserError(
            f'onnxruntime has {wanted} but cannot start it here: its driver or its '
            'libraries are missing. Without providers the CPU is used.',
            code='option-invalid',
        )
    session.disable_fallback()  # to the CPU between images
    return session


def _read(path: str) -> bytes:
    """Read the file; onnxruntime would follow a path to other files that it names."""
    content = read_file(Path(path), 'ONNX file', _MOST_BYTES)
    if not content:
        raise UserError(f'{path} is empty. {ADVICE}', code='file-empty')
    if _ELSEWHERE.search(content):
        raise UserError(
            f'{path} has weights in another file, which is not opened: a file from '
            f'anywhere could name any of yours. {ADVICE}',
            code='unsupported-format',
        )
    return content


def _providers(wanted: Sequence[Any] | None, there: list[str]) -> list[Any]:
    """Return onnxruntime's providers: names, or pairs of a name and its options."""
    cpu = ['CPUExecutionProvider']
    providers = [wanted] if isinstance(wanted, str) else list(wanted or cpu)
    for provider in providers:
        name = provider
        if isinstance(provider, (tuple, list)) and provider:
            name = provider[0]
        if name not in there:
            raise UserError(
                f'the onnxruntime here has no provider {name!r}; it has '
                f'{", ".join(there)}. For an NVIDIA GPU: pip install onnxruntime-gpu',
                code='option-invalid',
            )
    return providers


def _first_line(error: Exception) -> str:
    """Return the first line of onnxruntime's message, without its code."""
    text = next(iter(str(error).splitlines()), '') or type(error).__name__
    text = clipped(re.sub(r'^\[ONNXRuntimeError\] : \d+ : \w+ : ', '', text), 300)
    return text if text.endswith('.') else f'{text}.'


def _require_form(session: Any, path: str) -> bool:
    """Require a detector's inputs and outputs; return True if it gives masks."""
    inputs, outputs = map(_form, (session.get_inputs(), session.get_outputs()))
    masks = 'masks' in outputs
    expected = {**_OUTPUTS, **_MASKS} if masks else _OUTPUTS
    if inputs != _INPUTS or outputs != expected:
        raise UserError(
            f'{path} is no detector as its metadata say: {_described(inputs)} to '
            f'{_described(outputs)}; {_described(_INPUTS)} to {_described(expected)} '
            f'is expected. {ADVICE}',
            code='unsupported-format',
        )
    return masks


def _form(arrays: Sequence[Any]) -> Form:
    """Return the type and axes of each by name; onnxruntime writes tensor(float)."""
    return {
        array.name: (array.type.removeprefix('tensor(')[:-1], len(array.shape or ()))
        for array in arrays
    }


def _described(form: Form) -> str:
    """Return e.g. 'images (float, 4 axes), sizes (float, 2 axes)'."""
    parts = (f'{name} ({kind}, {axes} axes)' for name, (kind, axes) in form.items())
    return clipped(', '.join(parts), 200)


class OnnxDetector:
    """An exported detector: images in, predictions out.

    It needs onnxruntime, numpy, and OpenCV or Pillow to read files, and returns what
    :class:`~eca_mmdet.inference.detector.ECADetector` returns.

    Attributes:
        path: ONNX file.
        classes: names by label.
        metadata: thresholds, sizes and origin, as stored in the file.
        rule: how images are prepared.

    Args:
        path: file written by ``eca-mmdet export onnx``.
        providers: onnxruntime's execution providers in order of preference, e.g.
            ``['CUDAExecutionProvider']``; None for the CPU, which the export is
            checked on.
        threads: number of threads; None for one per core.

    Raises:
        UserError: the file cannot be used; the message says why.
        MissingPackageError: onnxruntime is not installed.

    Example:
        >>> detector = OnnxDetector('model.onnx')  # doctest: +SKIP
        >>> detector.predict('image.jpg').names  # doctest: +SKIP
        ['dog', 'bicycle']
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        providers: list[Any] | None = None,
        threads: int | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self._session = open_session(self.path, providers, threads)
        text = self._session.get_modelmeta().custom_metadata_map.get(KEY)
        if text is None:
            raise UserError(
                f'{self.path} is an ONNX file, but not one of eca-mmdet: it does not '
                f'say its classes and how it wants its images. {ADVICE}',
                code='unsupported-format',
            )
        self.metadata = parse_metadata(text, self.path)
        self.classes: tuple[str, ...] = tuple(self.metadata['classes'])
        self.rule = image_rule(self.metadata)
        self._mask_threshold = (
            mask_threshold(self.metadata, self.path)
            if _require_form(self._session, self.path)
            else None
        )

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
            image: path, (H, W, 3) uint8 RGB array, or PIL image; or a list of these,
                which are run one after the other and give a list.

        Raises:
            UserError: there is no such image, or it cannot be read.
        """
        if isinstance(image, (list, tuple)):
            return [self._predict_one(item) for item in image]
        return self._predict_one(image)

    def read(self, path: str) -> Array:
        """Read an image file as mmdet does: (H, W, 3) uint8, RGB."""
        return read_rgb(path)

    def _predict_one(self, image: Any) -> Prediction:
        path = os.fspath(image) if isinstance(image, (str, os.PathLike)) else None
        pixels = to_rgb(image) if path is None else self.read(path)
        prepared = prepare(pixels, self.rule)
        outputs = self._run(prepared)
        labels, scores = outputs['labels'], outputs['scores']
        boxes = self._scale_back(outputs['boxes'], prepared.factors)
        kept = (labels >= 0) & np.isfinite(scores) & np.isfinite(boxes).all(1)
        return Prediction(
            boxes=boxes[kept],
            scores=scores[kept],
            labels=labels[kept],
            masks=self._masks(outputs, boxes, kept, pixels),
            classes=self.classes,
            image=pixels,
            path=path,
        )

    def _masks(
        self, outputs: dict[str, Array], boxes: Array, kept: Array, image: Array
    ) -> Array | None:
        if self._mask_threshold is None:
            return None
        size = (image.shape[0], image.shape[1])
        maps = outputs['masks'][kept]
        try:
            return paste_masks(maps, boxes[kept], size, self._mask_threshold)
        except MemoryError as error:
            raise RunError(
                f'{len(maps)} masks of {size[1]} x {size[0]} pixels do not fit in '
                'memory; give a smaller image.',
                code='out-of-memory',
            ) from error

    def _scale_back(self, boxes: Array, factors: tuple[float, float]) -> Array:
        """Return boxes in pixels of the image, rounded as mmdet's are."""
        with np.errstate(over='ignore', invalid='ignore'):  # infinite boxes are dropped
            if self._mask_threshold is not None:  # before it pastes, mmdet divides
                scaled: Array = boxes / np.array(factors * 2, np.float32)
            else:
                inverse = [1 / factor for factor in factors]
                scaled = boxes * np.array(inverse * 2, np.float32)
        return scaled.astype(np.float32)

    def _run(self, prepared: Prepared) -> dict[str, Array]:
        """Return the outputs of one image by name, of M places each."""
        names = [output.name for output in self._session.get_outputs()]
        inputs = {'images': prepared.images, 'sizes': prepared.sizes}
        try:
            outputs = self._session.run(names, inputs)
        except Exception as error:  # onnxruntime has a class for each of its codes
            height, width = prepared.images.shape[2:]
            raise UserError(
                f'{self.path} cannot be run on an input of {width} x {height}: '
                f'{_first_line(error)} {ADVICE}',
                code='unsupported-format',
            ) from error
        arrays = dict(zip(names, outputs, strict=True))
        self._require_fit(arrays)
        return {name: value[0] for name, value in arrays.items()}

    def _require_fit(self, outputs: dict[str, Array]) -> None:
        """Reject outputs that do not fit a detector of these classes."""
        places = (1, self.metadata['max_per_image'])
        expected = {'boxes': (*places, 4), 'scores': places, 'labels': places}
        shapes = {name: value.shape for name, value in outputs.items()}
        side = shapes.pop('masks', (*places, 1, 1))
        real = outputs['labels'] >= 0
        if shapes != expected or side[:2] != places or 0 in side:
            what = 'boxes, scores and labels that do not belong together'
        elif real.any() and outputs['labels'].max() >= len(self.classes):
            label = outputs['labels'].max()
            what = f'the label {label} and names {len(self.classes)} classes'
        elif (wrong := real & (np.abs(outputs['scores'] - 0.5) > _FROM_HALF)).any():
            what = f'the score {outputs["scores"][wrong][0]:g}, and scores are 0 to 1'
        else:
            return
        raise UserError(
            f'{self.path} is broken: it gives {what}. {ADVICE}',
            code='unsupported-format',
        )
