"""Exported detectors: images in, predictions out, without torch or mmdet.

A file may come from anywhere, so its metadata are checked before they are used.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct, ValidationError, convert

from eca_mmdet.inference.prediction import Detector, Prediction
from eca_mmdet.utils.errors import RunError, UserError, require_package
from eca_mmdet.utils.images import read_rgb, to_rgb
from eca_mmdet.utils.io import read_file
from eca_mmdet.utils.text import clipped, first_line

Array = npt.NDArray[Any]

KEY = 'eca_mmdet'  # name of the metadata in the file
FORMAT = 1  # newest version of the metadata that is known here
MOST_AREA = 1 << 26  # largest input in pixels that fits in memory

_INPUTS = 'images (float, 4 axes), sizes (float, 2 axes)'
_OUTPUTS = 'boxes (float, 3 axes), labels (int64, 2 axes), scores (float, 2 axes)'
_OUTPUTS_WITH_MASKS = _OUTPUTS.replace(', scores', ', masks (float, 4 axes), scores')
_CPU = ('CPUExecutionProvider',)
_MOST_BYTES = 2**31  # an ONNX graph is smaller
_ELSEWHERE = re.compile(rb'(?:\n|\x8a\x80*\x00)(?:\x08|\x88\x80*\x00)location')
"""Protobuf's bytes of the key of a tensor whose values are in another file."""

_FROM_HALF = 0.5 + 1e-5
"""Largest distance of a score from 0.5; float32 may round beyond 0 and 1."""


_Number = Annotated[float, Meta(ge=-1e6, le=1e6)]
_Deviation = Annotated[float, Meta(ge=1e-6, le=1e6)]
_Fraction = Annotated[float, Meta(ge=0, le=1)]
_Side = Annotated[int, Meta(ge=1, le=1 << 15)]
# Large values are usual for a side without a bound, e.g. 99999.
_Bound = Annotated[int, Meta(ge=1, le=1 << 31)]
_Name = Annotated[str, Meta(min_length=1)]


def fitted(
    height: int,
    width: int,
    scale: tuple[float, float],
    size: tuple[int, int] | None,
) -> tuple[int, int]:
    """Return the height and width of an image resized as mmdet does, in its ratio.

    The larger side of ``scale`` bounds the longer side, the smaller the shorter one,
    and ``size``, a height and a width, bounds both.
    """
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    if size is not None:
        factor = min(factor, size[0] / height, size[1] / width)
    return int(height * factor + 0.5), int(width * factor + 0.5)


class FileError(UserError):
    """An exported file that cannot be used; ``problem`` is a sentence."""

    code = 'unsupported-format'

    def __init__(self, problem: str) -> None:
        super().__init__(f'{problem} Export the detector again: eca-mmdet export onnx.')


class ImageRule(Struct, frozen=True, kw_only=True):
    """How to prepare images for a detector.

    With ``keep_ratio`` the larger side of ``scale`` bounds the longer side of an image,
    the smaller the shorter one.
    """

    mean: tuple[_Number, _Number, _Number]  # by channel, in the detector's order
    std: tuple[_Deviation, _Deviation, _Deviation]
    to_rgb: bool  # True for channels in the order RGB, False for BGR
    scale: tuple[_Bound, _Bound]  # width and height of mmdet's ``Resize``, in pixels
    keep_ratio: bool  # False to resize to ``scale`` itself
    size: tuple[_Side, _Side] | None  # height and width of the only input; None for any
    pad_divisor: _Side  # both sides are padded to a multiple, where there is no size
    pad_value: _Number  # after normalising

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width that an image is resized to.

        They are mmdet's, reduced to fit ``size``, in the same ratio if it is kept.
        """
        if self.keep_ratio:
            return fitted(height, width, self.scale, self.size)
        room_y, room_x = self.size or self.scale[::-1]
        return min(self.scale[1], room_y), min(self.scale[0], room_x)

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of the input for a resized image."""
        if self.size is not None:
            return self.size
        step = self.pad_divisor
        return -(-height // step) * step, -(-width // step) * step


class Metadata(ImageRule, frozen=True, kw_only=True):
    """Metadata of a whole detector, described in docs/export.md."""

    format: Literal[1]
    eca_mmdet: str | None
    part: Literal['all']
    detector: str
    classes: Annotated[tuple[_Name, ...], Meta(min_length=1)]
    mask_threshold: _Fraction | None
    score_threshold: _Fraction | None
    nms_iou: _Fraction | None
    max_per_image: Annotated[int, Meta(ge=1, le=5000)]  # masks of more do not fit
    config: str | None
    checkpoint: str | None
    checkpoint_sha256: str | None


def parse_metadata(text: str, path: str) -> dict[str, Any]:
    """Read the JSON metadata of the file at ``path``; reject any invalid value."""
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise bad_metadata(path, 'they are no JSON') from error
    if not isinstance(metadata, dict):
        raise bad_metadata(path, 'they are no object')
    number = metadata.get('format')
    if type(number) is int and number > FORMAT:
        by = clipped(str(metadata.get('eca_mmdet')))
        raise UserError(
            f'{path} is of format {number}, written by eca-mmdet {by}; this release '
            f'reads format {FORMAT}. Install that one here, or export the detector '
            'again with this one.',
            code='unsupported-format',
        )
    if metadata.get('part') in ('backbone', 'heads'):
        raise UserError(
            f'{path} is the part {metadata["part"]!r} of a detector, which finds no '
            'objects by itself; run it with onnxruntime, or export the whole: '
            'eca-mmdet export onnx --part all.',
            code='unsupported-format',
        )
    if wrong := fault(metadata):
        raise bad_metadata(path, wrong)
    return metadata


def fault(metadata: dict[str, Any]) -> str | None:
    """Return what is wrong with the metadata of a whole detector, or None."""
    try:
        rule = convert(metadata, Metadata)
    except ValidationError as error:
        message, _, path = str(error).partition(' - at `$.')
        key = ''.join(re.findall(r'^\w+', path))
        return (
            f'{key}: {message}; got {clipped(repr(metadata[key]))}' if key else message
        )
    # With keep_ratio, the resized area depends on the image.
    for name in ('size',) if rule.keep_ratio else ('scale', 'size'):
        sides = getattr(rule, name)
        if sides is not None and sides[0] * sides[1] > MOST_AREA:
            return f'{name} of {sides[0]} x {sides[1]} px is too large'
    return None


def bad_metadata(path: str, what: str) -> FileError:
    """Return the error of a file whose metadata are invalid."""
    return FileError(f'the metadata of {path} cannot be used: {what}.')


def open_session(
    path: str, providers: Sequence[Any] | None = None, threads: int | None = None
) -> Any:
    """Open an ONNX file with onnxruntime; arguments as for :class:`OnnxDetector`."""
    if threads is not None and (type(threads) is not int or threads < 1):
        raise UserError(
            f'threads must be a whole number from 1; got {threads!r}.',
            code='option-invalid',
        )
    for package in ('cv2', 'onnxruntime'):
        require_package(package, 'running an ONNX file', 'onnxruntime opencv-python')
    import onnxruntime

    wanted = [providers] if isinstance(providers, str) else list(providers or _CPU)
    content = _read(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised as well
    options.intra_op_num_threads = threads or 0
    problem = 'its driver or its libraries are missing.'
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of providers that are not there
            session = onnxruntime.InferenceSession(
                content, options, providers=wanted, enable_fallback=False
            )
        names = [name if isinstance(name, str) else name[0] for name in wanted]
        if set(names) <= set(session.get_providers()):  # else it took the CPU
            session.disable_fallback()  # to the CPU between images
            return session
    except (ValueError, TypeError, LookupError, RuntimeError) as error:
        problem = _first_line(error)
    except Exception as error:  # onnxruntime has a class for each of its codes
        raise UserError(
            f'{path} is not an ONNX file that onnxruntime {onnxruntime.__version__} '
            f'reads: {_first_line(error)} Is it whole, and what eca-mmdet export onnx '
            'wrote?',
            code='unsupported-format',
        ) from error
    raise UserError(
        f'onnxruntime cannot start {clipped(repr(wanted))}: {problem} It has '
        f'{", ".join(onnxruntime.get_available_providers())}; without providers the '
        'CPU is used. For an NVIDIA GPU: pip install onnxruntime-gpu',
        code='option-invalid',
    )


def _read(path: str) -> bytes:
    """Read the file; onnxruntime would follow a path to other files that it names."""
    content = read_file(Path(path), 'ONNX file', _MOST_BYTES)
    if not content:
        raise UserError(f'{path} is empty: export it again.', code='file-empty')
    if _ELSEWHERE.search(content):
        raise FileError(
            f'{path} has weights in another file, which is not opened: a file from '
            'anywhere could name any of yours.'
        )
    return content


def _first_line(error: Exception) -> str:
    """Return the first line of onnxruntime's message, without its code."""
    text = re.sub(r'^\[ONNXRuntimeError\] : \d+ : \w+ : ', '', first_line(error, 300))
    return text if text.endswith('.') else f'{text}.'


def _require_form(session: Any, path: str) -> bool:
    """Require a detector's inputs and outputs; return True if it gives masks."""
    inputs, outputs = map(_described, (session.get_inputs(), session.get_outputs()))
    masks = any(array.name == 'masks' for array in session.get_outputs())
    expected = _OUTPUTS_WITH_MASKS if masks else _OUTPUTS
    if inputs != _INPUTS or outputs != expected:
        raise FileError(
            f'{path} is no detector as its metadata say: {clipped(inputs, 200)} to '
            f'{clipped(outputs, 200)}; {_INPUTS} to {expected} is expected.'
        )
    return masks


def _described(arrays: Sequence[Any]) -> str:
    """Return e.g. 'images (float, 4 axes), sizes (float, 2 axes)', sorted by name."""
    kinds = {array.name: array.type.removeprefix('tensor(')[:-1] for array in arrays}
    axes = {array.name: len(array.shape or ()) for array in arrays}
    return ', '.join(f'{n} ({kinds[n]}, {axes[n]} axes)' for n in sorted(kinds))


class OnnxDetector(Detector):
    """An exported detector: images in, predictions out.

    It needs onnxruntime, numpy, OpenCV and msgspec, and returns what
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
            raise FileError(
                f'{self.path} is an ONNX file, but not one of eca-mmdet: it does not '
                'say its classes and how it wants its images.'
            )
        self.metadata = parse_metadata(text, self.path)
        self.classes: tuple[str, ...] = tuple(self.metadata['classes'])
        self.rule: ImageRule = convert(self.metadata, ImageRule)
        self._mask_threshold: float | None = None
        if _require_form(self._session, self.path):
            self._mask_threshold = self.metadata['mask_threshold']
            if self._mask_threshold is None:
                what = 'it gives masks, and mask_threshold is null'
                raise bad_metadata(self.path, what)

    def __repr__(self) -> str:
        kind = clipped(self.metadata['detector'])
        names = clipped(', '.join(self.classes), 200)
        return f'<OnnxDetector {kind} of {self.path}: {names}>'

    def read(self, path: str) -> Array:
        """Read an image file as mmdet does: (H, W, 3) uint8, RGB."""
        return read_rgb(path)

    def _predict_one(self, image: Any) -> Prediction:
        """Find objects, with the thresholds and the size rule of the file."""
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
            raise FileError(
                f'{self.path} cannot be run on an input of {width} x {height}: '
                f'{_first_line(error)}'
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
        raise FileError(f'{self.path} is broken: it gives {what}.')


@dataclass(frozen=True)
class Prepared:
    """A detector's inputs for one image."""

    images: Array  # (1, 3, H, W) float32, normalised and padded
    sizes: Array  # (1, 2) float32, height and width before padding
    factors: tuple[float, float]  # new / old width, and new / old height


def prepare(image: Array, rule: ImageRule) -> Prepared:
    """Resize, normalise and pad an (H, W, 3) uint8 RGB image, as mmdet does."""
    import cv2

    old = image.shape[:2]
    height, width = rule.resized(*old)
    high, wide = rule.padded(height, width)
    if not 0 < height * width <= high * wide <= MOST_AREA:
        raise UserError(
            f'an image of {old[1]} x {old[0]} cannot be prepared for the detector: it '
            f'would become {width} x {height}. Cut it into parts.',
            code='broken-image',
        )
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    if not rule.to_rgb:
        small = small[..., ::-1]
    pixels = small.astype(np.float32) - np.array(rule.mean, np.float32)
    images = np.full((1, 3, high, wide), rule.pad_value, np.float32)
    images[0, :, :height, :width] = (pixels / np.array(rule.std, np.float32)).transpose(
        2, 0, 1
    )
    return Prepared(
        images,
        np.array([[height, width]], np.float32),
        (width / old[1], height / old[0]),
    )


def paste_masks(
    maps: Array, boxes: Array, size: tuple[int, int], threshold: float
) -> Array:
    """Paste the maps of n objects into their boxes.

    mmdet's ``_do_paste_mask`` interpolates a pixel's probability between the cells of
    the map, zero beyond its rim. The weights of rows and columns are separate, so that
    a mask is rows @ map @ columns, computed only for the pixels around the box.

    Args:
        maps: (n, h, w) float32, probabilities.
        boxes: (n, 4) float32 x1, y1, x2, y2 in pixels of the image; finite.
        size: height and width of the image, in pixels.
        threshold: lowest probability of a pixel of the object.

    Returns:
        (n, H, W) bool.
    """
    masks = np.zeros((len(maps), *size), np.bool_)
    for mask, cells, (x1, y1, x2, y2) in zip(
        masks, maps, boxes.astype(np.float32), strict=True
    ):
        across, down = _span(x1, x2, size[1]), _span(y1, y2, size[0])
        rows = _weights(down, y1, y2, cells.shape[0])
        columns = _weights(across, x1, x2, cells.shape[1])
        probabilities = rows @ cells.astype(np.float32) @ columns.T
        mask[down, across] = probabilities >= np.float32(threshold)
    return masks


def _span(low: Any, high: Any, length: int) -> slice:
    """Return the pixels of a direction that mmdet computes: the box and a rim."""
    start = int(np.clip(np.floor(low) - 1, 0, length))
    return slice(start, max(start, int(np.clip(np.ceil(high) + 1, 0, length))))


def _weights(pixels: slice, low: Any, high: Any, cells: int) -> Array:
    """Return the (pixels, cells) weights of a map's cells for an image's pixels.

    They are for one direction, in which the box goes from ``low`` to ``high``; at most
    two of a row are not zero.
    """
    middles = np.arange(pixels.start, pixels.stop, dtype=np.float32) + np.float32(0.5)
    with np.errstate(divide='ignore', invalid='ignore', over='ignore'):
        places = (middles - low) / (high - low) * 2 - 1  # -1 to 1 over the box
    places[np.isinf(places)] = 0  # a box without extent: mmdet takes its middle
    places = ((places + 1) * np.float32(cells) - 1) / 2  # 0: middle of the first cell
    away = np.abs(places[:, None] - np.arange(cells, dtype=np.float32))
    # Zero where 0 / 0 gives no place.
    weights: Array = np.nan_to_num(np.maximum(1 - away, 0), nan=0).astype(np.float32)
    return weights
