"""Metadata of an exported file: written from a detector, validated when read.

A file may come from anywhere, so every value is checked before it is used.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, ValidationError, convert

from eca_mmdet import __version__
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.text import clipped

KEY = 'eca_mmdet'  # name of the metadata in the file
FORMAT = 1  # newest version of the metadata that is known here
MOST_AREA = 1 << 26  # largest input in pixels that fits in memory

_THRESHOLDS = ('mask_threshold', 'score_threshold', 'nms_iou', 'max_per_image')
_KEPT = ('LoadImageFromFile', 'LoadAnnotations', 'PackDetInputs', 'Resize')
_LOADING = {'to_float32': False, 'color_type': 'color', 'imdecode_backend': 'cv2'}
"""How a user of the file reads images: mmcv's defaults."""

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


def properties(trained: Any, part: str, size: tuple[int, int] | None) -> dict[str, Any]:
    """Return the metadata of a file, as described in docs/export.md.

    ``trained`` is an :class:`~eca_mmdet.inference.detector.ECADetector`. UserError is
    raised where these entries cannot describe how the images are prepared.
    """
    model, cfg = trained.model, trained.cfg
    prepared = _preprocessing(model.data_preprocessor)
    resize: tuple[list[int] | None, bool | None] = None, None
    try:
        resize = _resize(trained)
    except UserError:
        if part != 'backbone':
            raise
    metadata = {
        'format': FORMAT,
        'eca_mmdet': __version__,
        'part': part,
        'detector': type(model).__name__,
        'classes': list(trained.classes),
        **prepared,
        'scale': resize[0],
        'keep_ratio': resize[1],
        'size': None if size is None else list(size),
        **(dict.fromkeys(_THRESHOLDS) if part == 'backbone' else _thresholds(model)),
        'config': Path(cfg.filename).name if cfg.filename else None,
        'checkpoint': Path(trained.path).name,
        'checkpoint_sha256': trained.sha256,
    }
    if part == 'all' and (wrong := fault(metadata)):
        raise UserError(
            f'the metadata of {cfg.filename or trained.path} cannot be used: {wrong}. '
            'Change it in the config; or export the parts: --part backbone, --part '
            'heads.',
            code='config-invalid',
        )
    return metadata


def _preprocessing(preprocessor: Any) -> dict[str, Any]:
    from mmdet.models import DetDataPreprocessor

    if type(preprocessor) is not DetDataPreprocessor:
        raise UserError(
            f'images are prepared by {type(preprocessor).__name__}, and the exported '
            'file can say how DetDataPreprocessor does it alone; set '
            'model.data_preprocessor.type in the config.',
            code='unsupported-model',
        )
    means, stds = [0.0] * 3, [1.0] * 3
    if preprocessor._enable_normalize:
        means = preprocessor.mean.flatten().tolist()
        stds = preprocessor.std.flatten().tolist()
    if len(means) != 3:
        raise UserError(
            f'images of three colours are expected; got mean={means}.',
            code='unsupported-model',
        )
    return {
        'mean': means,
        'std': stds,
        'to_rgb': bool(preprocessor._channel_conversion),
        'pad_divisor': preprocessor.pad_size_divisor,
        'pad_value': preprocessor.pad_value,
    }


def _resize(trained: Any) -> tuple[list[int], bool]:
    """Return width and height to resize to, and whether the aspect is kept."""
    from eca_mmdet.inference.detector import pipeline_steps

    where = f'the test pipeline of {trained.cfg.filename or trained.path}'
    steps = pipeline_steps(trained.cfg, trained.path)
    names = [str(step['type']).split('.')[-1] for step in steps]
    for name, step in zip(names, steps, strict=True):
        if name not in _KEPT:
            raise UserError(
                f'{where} has {name}, which no user of an exported file would do; '
                f'{", ".join(_KEPT)} are covered. The backbone can be exported: --part '
                'backbone.',
                code='unsupported-model',
            )
        for key, usual in _LOADING.items() if name == 'LoadImageFromFile' else ():
            if (value := step.get(key, usual)) != usual:
                raise UserError(
                    f'{where} has LoadImageFromFile with {key}={value!r}, and a user '
                    f'of an exported file reads images with {key}={usual!r}: it would '
                    'find other objects. Train and test with that; or export the '
                    'backbone: --part backbone.',
                    code='unsupported-model',
                )
    resizing = [dict(s) for n, s in zip(names, steps, strict=True) if n == 'Resize']
    step = resizing[0] if len(resizing) == 1 else {}
    scale: Any = step.get('scale')
    method = step.get('backend', 'cv2'), step.get('interpolation', 'bilinear')
    if not _is_scale(scale) or method != ('cv2', 'bilinear'):
        raise UserError(
            f'{where} has {resizing or "no Resize"}; one with scale=(width, height), '
            'two whole numbers, bilinear by cv2, is expected.',
            code='config-invalid',
        )
    return [int(side) for side in scale], bool(step.get('keep_ratio', False))


def _is_scale(value: Any) -> bool:
    pair = isinstance(value, (tuple, list)) and len(value) == 2
    return pair and all(isinstance(s, (int, float)) and s % 1 == 0 for s in value)


def _thresholds(model: Any) -> dict[str, Any]:
    head = getattr(model, 'roi_head', None) or model.bbox_head
    test, masks = head.test_cfg, getattr(head, 'with_mask', False)
    return {
        'mask_threshold': test['mask_thr_binary'] if masks else None,
        'score_threshold': test.get('score_thr', 0),
        'nms_iou': test['nms']['iou_threshold'],
        'max_per_image': test['max_per_img'],
    }


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
