"""Exported detectors: images in, predictions out, without torch or mmdet."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
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
from eca_mmdet.export.processing import ImageRule, Prepared, paste_masks, prepare
from eca_mmdet.inference.prediction import Prediction
from eca_mmdet.utils.errors import MissingPackageError, RunError, UserError
from eca_mmdet.utils.images import read_rgb, to_rgb
from eca_mmdet.utils.io import read_file
from eca_mmdet.utils.text import clipped

Array = npt.NDArray[Any]
Form = dict[str, tuple[str, int]]

_INPUTS: Form = {'images': ('float', 4), 'sizes': ('float', 2)}
_OUTPUTS: Form = {'boxes': ('float', 3), 'scores': ('float', 2), 'labels': ('int64', 2)}
_MASKS: Form = {'masks': ('float', 4)}
"""Kind of value and number of dimensions by name."""

_MOST_BYTES = 2**31
"""Of a file: what holds an ONNX graph is smaller."""

_ELSEWHERE = re.compile(rb'(?:\n|\x8a\x80*\x00)(?:\x08|\x88\x80*\x00)location')
"""The key of a tensor whose values are in another file, as protobuf writes it."""

_ONLY_CPU = 'CPUExecutionProvider'


@dataclass(frozen=True)
class OnnxFile:
    """An exported detector.

    Attributes:
        session: onnxruntime's.
        metadata: what the file says, as it says it.
        rule: how it wants its images.
        classes: names by label.
        mask_threshold: None for a detector of boxes alone.
    """

    session: Any
    metadata: dict[str, Any]
    rule: ImageRule
    classes: tuple[str, ...]
    mask_threshold: float | None


def open_onnx(
    path: str, providers: Sequence[Any] | None = None, threads: int | None = None
) -> OnnxFile:
    """Open a file that ``eca-mmdet export onnx`` wrote.

    Args:
        path: of the file.
        providers: onnxruntime's names of what runs it; None for the CPU.
        threads: to work with; None for as many as there are cores.

    Raises:
        UserError: it is another file, of a later release, of a part of a detector, or
            says what cannot be; or there is no such provider.
        MissingPackageError: onnxruntime is not installed.
    """
    session = _session(path, providers, threads)
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    if text is None:
        raise UserError(
            f'{path} is an ONNX file, but not one of eca-mmdet: it does not say its '
            f'classes and how it wants its images. {ADVICE}',
            code='unsupported-format',
        )
    metadata = parse_metadata(text, path)
    masks = _require_form(session, path)
    return OnnxFile(
        session=session,
        metadata=metadata,
        rule=image_rule(metadata),
        classes=tuple(metadata['classes']),
        mask_threshold=mask_threshold(metadata, path) if masks else None,
    )


def _session(path: str, providers: Sequence[Any] | None, threads: int | None) -> Any:
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
    return _start(onnxruntime, path, _read(path), names, threads or 0)


def _read(path: str) -> bytes:
    """Read the file here: of a path, onnxruntime opens other files that it names."""
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


def _start(
    onnxruntime: Any, path: str, content: bytes, names: list[Any], threads: int
) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised as well
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(
            content, options, providers=names, enable_fallback=False
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f'onnxruntime cannot start {clipped(repr(names))}: {first_line(error)} '
            'Without providers the CPU is used.',
            code='option-invalid',
        ) from error
    except Exception as error:  # onnxruntime has a class for each of its codes
        raise UserError(
            f'{path} is not an ONNX file that onnxruntime {onnxruntime.__version__} '
            f'reads: {first_line(error)} Is it whole, and what eca-mmdet export onnx '
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
    session.disable_fallback()  # to the CPU in the midst of images
    return session


def _providers(wanted: Sequence[Any] | None, there: list[str]) -> list[Any]:
    """Return what to run on; an element is a name, or a name and its options."""
    names = [wanted] if isinstance(wanted, str) else list(wanted or [_ONLY_CPU])
    for one in names:
        name = one[0] if isinstance(one, (tuple, list)) and one else one
        if name not in there:
            raise UserError(
                f'the onnxruntime here has no provider {name!r}; it has '
                f'{", ".join(there)}. For an NVIDIA GPU: pip install onnxruntime-gpu',
                code='option-invalid',
            )
    return names


def first_line(error: Exception) -> str:
    """Return what onnxruntime says, in one line without its code."""
    text = next(iter(str(error).splitlines()), '') or type(error).__name__
    text = clipped(re.sub(r'^\[ONNXRuntimeError\] : \d+ : \w+ : ', '', text), 300)
    return text if text.endswith('.') else f'{text}.'


def _require_form(session: Any, path: str) -> bool:
    """Hold the inputs and outputs against what a detector's are.

    Returns:
        True if it gives masks.
    """
    given, found = map(_form, (session.get_inputs(), session.get_outputs()))
    masks = 'masks' in found
    expected = {**_OUTPUTS, **_MASKS} if masks else _OUTPUTS
    if given != _INPUTS or found != expected:
        raise UserError(
            f'{path} is no detector as its metadata say: {_described(given)} to '
            f'{_described(found)}; {_described(_INPUTS)} to {_described(expected)} is '
            f'expected. {ADVICE}',
            code='unsupported-format',
        )
    return masks


def _form(arrays: Sequence[Any]) -> Form:
    """Return the kind and axes of each by name; onnxruntime says tensor(float)."""
    kinds = {one.name: one.type.removeprefix('tensor(')[:-1] for one in arrays}
    return {one.name: (kinds[one.name], len(one.shape or ())) for one in arrays}


def _described(form: Form) -> str:
    """Return 'images (float, 4 axes), sizes (float, 2 axes)'."""
    parts = (f'{name} ({kind}, {axes} axes)' for name, (kind, axes) in form.items())
    return clipped(', '.join(parts), 200)


_FROM_HALF = 0.5 + 1e-5
"""Of a score; float32 may round beyond 0 and 1."""


class OnnxDetector:
    """An exported detector: images in, predictions out.

    It needs onnxruntime, numpy, and OpenCV or Pillow to read files, and returns what
    :class:`~eca_mmdet.inference.detector.ECADetector` returns.

    Attributes:
        path: ONNX file.
        classes: names by label.
        metadata: thresholds, sizes and origin, as stored in the file.

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
                'memory; give a smaller image.',
                code='out-of-memory',
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
                f'{first_line(error)} {ADVICE}',
                code='unsupported-format',
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
            'eca-mmdet export onnx.',
            code='unsupported-format',
        )
