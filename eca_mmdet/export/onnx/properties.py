"""What an exported file says of its detector, for whoever runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eca_mmdet import __version__
from eca_mmdet.export.onnx.metadata import FORMAT, fault
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import sha256_of

_THRESHOLDS = ('mask_threshold', 'score_threshold', 'nms_iou', 'max_per_image')
_KEPT = ('LoadImageFromFile', 'LoadAnnotations', 'PackDetInputs', 'Resize')
_LOADING = {'to_float32': False, 'color_type': 'color', 'imdecode_backend': 'cv2'}
"""How a user of the file reads images: mmcv's defaults."""


def properties(trained: Any, part: str, size: tuple[int, int] | None) -> dict[str, Any]:
    """Return the metadata of a file; docs/export.md says what each entry is.

    Args:
        trained: a :class:`~eca_mmdet.inference.load.TrainedDetector`.
        part: 'all', 'backbone' or 'heads'.
        size: height and width in px of every input, or None for any.

    Raises:
        UserError: the images are prepared in a way that these entries cannot say.
    """
    model, cfg = trained.model, trained.cfg
    prepared = _preprocessing(model.data_preprocessor)
    scale: list[int] | None
    keep_ratio: bool | None
    try:
        scale, keep_ratio = _resize(trained)
    except UserError:
        if part != 'backbone':
            raise
        scale, keep_ratio = None, None
    found = {
        'format': FORMAT,
        'eca_mmdet': __version__,
        'part': part,
        'detector': type(model).__name__,
        'classes': list(trained.classes),
        **prepared,
        'scale': scale,
        'keep_ratio': keep_ratio,
        'size': None if size is None else list(size),
        **(dict.fromkeys(_THRESHOLDS) if part == 'backbone' else _thresholds(model)),
        'config': Path(str(cfg.filename)).name,
        'checkpoint': Path(trained.path).name,
        'checkpoint_sha256': sha256_of(trained.path),
    }
    if part == 'all':
        _require_right(found, cfg.filename)
    return found


def _require_right(metadata: dict[str, Any], name: str) -> None:
    wrong = fault(metadata)
    if wrong is not None:
        raise UserError(
            f'what a file would say of the detector of {name} cannot be used: {wrong}. '
            'Change it in the config; or export the parts: --part backbone, --part '
            'heads.'
        )


def _preprocessing(preprocessor: Any) -> dict[str, Any]:
    from mmdet.models import DetDataPreprocessor

    if type(preprocessor) is not DetDataPreprocessor:
        raise UserError(
            f'images are prepared by {type(preprocessor).__name__}, and the exported '
            'file can say how DetDataPreprocessor does it alone; set '
            'model.data_preprocessor.type in the config.'
        )
    means, stds = [0.0] * 3, [1.0] * 3
    if preprocessor._enable_normalize:
        means, stds = (
            preprocessor.mean.flatten().tolist(),
            preprocessor.std.flatten().tolist(),
        )
    if len(means) != 3:
        raise UserError(f'images of three colours are expected; got mean={means}.')
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

    where = f'the test pipeline of {trained.cfg.filename}'
    try:
        steps = get_test_pipeline_cfg(trained.cfg)
    except (AttributeError, KeyError, RuntimeError, TypeError, IndexError) as error:
        raise UserError(f'{where} cannot be read: {error}') from error
    names = [str(step['type']).split('.')[-1] for step in steps]
    for name in names:
        if name not in _KEPT:
            raise UserError(
                f'{where} has {name}, which no user of an exported file would do; '
                f'{", ".join(_KEPT)} are covered. The backbone can be exported: --part '
                'backbone.'
            )
        if name == 'LoadImageFromFile':
            _require_usual_loading(steps[names.index(name)], where)
    if names.count('Resize') != 1:
        raise UserError(f'{where} has {names.count("Resize")} Resize; 1 is expected.')
    step = steps[names.index('Resize')]
    scale = step.get('scale')
    plain = step.get('backend', 'cv2') == 'cv2'
    plain &= step.get('interpolation', 'bilinear') == 'bilinear'
    if not plain or not isinstance(scale, (tuple, list)) or len(scale) != 2:
        raise UserError(
            f'{where} has {dict(step)}; a Resize with scale=(width, height), bilinear '
            'by cv2, is expected.'
        )
    if not all(_is_whole(side) for side in scale):
        raise UserError(f'{where} has a Resize to {scale}; whole numbers are expected.')
    return [int(side) for side in scale], bool(step.get('keep_ratio', False))


def _is_whole(side: Any) -> bool:
    return isinstance(side, int) or (isinstance(side, float) and side.is_integer())


def _require_usual_loading(step: Any, where: str) -> None:
    for key, usual in _LOADING.items():
        value = step.get(key, usual)
        if value != usual:
            raise UserError(
                f'{where} has LoadImageFromFile with {key}={value!r}, and a user of an '
                f'exported file reads images with {key}={usual!r}: it would find other '
                'objects. Train and test with that; or export the backbone: --part '
                'backbone.'
            )


def _thresholds(model: Any) -> dict[str, Any]:
    roi_head = getattr(model, 'roi_head', None)
    head = model.bbox_head if roi_head is None else roi_head
    test = head.test_cfg
    masks = roi_head is not None and roi_head.with_mask
    values = (
        test['mask_thr_binary'] if masks else None,
        test.get('score_thr', 0),
        test['nms']['iou_threshold'],
        test['max_per_img'],
    )
    return dict(zip(_THRESHOLDS, values, strict=True))
