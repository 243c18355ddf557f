"""Metadata of an exported file: written from a detector, validated when read.

A file may come from anywhere, so every value is checked before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eca_mmdet import __version__
from eca_mmdet.export.processing import MOST_AREA, ImageRule
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.text import clipped

KEY = 'eca_mmdet'  # name of the metadata in the file
FORMAT = 1  # newest version of the metadata that is known here
ADVICE = 'Export the detector again: eca-mmdet export onnx.'

_MOST_SIDE = 1 << 15
_MOST_OBJECTS = 5000  # objects per image; the masks of more would not fit in memory
_MOST_OF_SCALE = 1 << 31
"""Large values are usual for a side without a bound, e.g. 99999."""

_THRESHOLDS = ('mask_threshold', 'score_threshold', 'nms_iou', 'max_per_image')
_KEPT = ('LoadImageFromFile', 'LoadAnnotations', 'PackDetInputs', 'Resize')
_LOADING = {'to_float32': False, 'color_type': 'color', 'imdecode_backend': 'cv2'}
"""How a user of the file reads images: mmcv's defaults."""


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
    from mmdet.utils import get_test_pipeline_cfg

    where = f'the test pipeline of {trained.cfg.filename or trained.path}'
    try:
        steps = get_test_pipeline_cfg(trained.cfg)
    except (AttributeError, KeyError, RuntimeError, TypeError, IndexError) as error:
        raise UserError(
            f'{where} cannot be read: {error}', code='config-invalid'
        ) from error
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
    head = detection_head(model)
    test, masks = head.test_cfg, getattr(head, 'with_mask', False)
    return {
        'mask_threshold': test['mask_thr_binary'] if masks else None,
        'score_threshold': test.get('score_thr', 0),
        'nms_iou': test['nms']['iou_threshold'],
        'max_per_image': test['max_per_img'],
    }


def detection_head(model: Any) -> Any:
    """Return the head whose ``test_cfg`` applies to the objects."""
    return getattr(model, 'roi_head', None) or model.bbox_head


def parse_metadata(text: str, path: str) -> dict[str, Any]:
    """Read the JSON metadata of the file at ``path``; reject any invalid value."""
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong(path, 'they are no JSON') from error
    if not isinstance(metadata, dict):
        raise _wrong(path, 'they are no object')
    number = metadata.get('format')
    if _whole(FORMAT + 1, 1 << 31)(number):
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
        raise _wrong(path, wrong)
    return metadata


def fault(metadata: dict[str, Any]) -> str | None:
    """Return what is wrong with the metadata of a whole detector, or None."""
    for key, (fits, meaning) in _VALUES.items():
        if key not in metadata:
            return f'{key} is missing'
        if not fits(metadata[key]):
            return f'{key} must be {meaning}; it is {clipped(repr(metadata[key]))}'
    # With keep_ratio, the resized area depends on the image.
    for name in ('size',) if metadata['keep_ratio'] else ('scale', 'size'):
        sides = metadata[name]
        if sides is not None and sides[0] * sides[1] > MOST_AREA:
            return f'{name} of {sides[0]} x {sides[1]} px is too large'
    return None


def _wrong(path: str, what: str) -> UserError:
    return UserError(
        f'the metadata of {path} cannot be used: {what}. {ADVICE}',
        code='unsupported-format',
    )


def image_rule(metadata: dict[str, Any]) -> ImageRule:
    """Return how to prepare images."""
    size = metadata['size']
    return ImageRule(
        mean=tuple(map(float, metadata['mean'])),
        std=tuple(map(float, metadata['std'])),
        to_rgb=metadata['to_rgb'],
        scale=(metadata['scale'][0], metadata['scale'][1]),
        keep_ratio=metadata['keep_ratio'],
        size=None if size is None else (size[0], size[1]),
        pad_divisor=metadata['pad_divisor'],
        pad_value=float(metadata['pad_value']),
    )


def mask_threshold(metadata: dict[str, Any], path: str) -> float:
    """Return the lowest probability of a mask's pixel; raise UserError without one."""
    if metadata['mask_threshold'] is None:
        raise _wrong(path, 'it gives masks, and mask_threshold is null')
    return float(metadata['mask_threshold'])


_Test = Callable[[Any], bool]


def _number(low: float, high: float) -> _Test:
    # False for a NaN.
    return lambda value: type(value) in (int, float) and low <= value <= high


def _whole(low: int, high: int) -> _Test:
    return lambda value: type(value) is int and low <= value <= high


def _optional(fits: _Test) -> _Test:
    return lambda value: value is None or fits(value)


def _list(count: int, fits: _Test) -> _Test:
    return lambda value: (
        isinstance(value, list) and len(value) == count and all(map(fits, value))
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _are_names(value: Any) -> bool:
    return (
        isinstance(value, list)
        and value != []
        and all(isinstance(name, str) and name for name in value)
    )


_FRACTION = _optional(_number(0, 1)), 'null or 0 to 1'
_VALUES: dict[str, tuple[_Test, str]] = {
    'format': (_whole(FORMAT, FORMAT), f'{FORMAT}'),
    'eca_mmdet': (_optional(_is_text), 'a version'),
    'part': (lambda value: value == 'all', 'all, backbone or heads'),
    'detector': (_is_text, 'a name'),
    'classes': (_are_names, 'a list of names'),
    'mean': (_list(3, _number(-1e6, 1e6)), 'three numbers'),
    'std': (_list(3, _number(1e-6, 1e6)), 'three numbers above 0'),
    'to_rgb': (_is_flag, 'true or false'),
    'scale': (
        _list(2, _whole(1, _MOST_OF_SCALE)),
        f'a width and a height, whole numbers from 1 to {_MOST_OF_SCALE}',
    ),
    'keep_ratio': (_is_flag, 'true or false'),
    'pad_divisor': (_whole(1, _MOST_SIDE), f'1 to {_MOST_SIDE}'),
    'pad_value': (_number(-1e6, 1e6), 'a number'),
    'size': (
        _optional(_list(2, _whole(1, _MOST_SIDE))),
        f'null, or a height and a width, each 1 to {_MOST_SIDE}',
    ),
    'mask_threshold': _FRACTION,
    'score_threshold': _FRACTION,
    'nms_iou': _FRACTION,
    'max_per_image': (
        _whole(1, _MOST_OBJECTS),
        f'a whole number from 1 to {_MOST_OBJECTS}',
    ),
    'config': (_optional(_is_text), 'a name'),
    'checkpoint': (_optional(_is_text), 'a name'),
    'checkpoint_sha256': (_optional(_is_text), 'a text'),
}
"""Test of each value of the metadata, and its description."""
