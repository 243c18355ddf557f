"""Detectors whose heads can be exported.

The heads are not traced as mmdet has them: what surrounds their layers is rewritten in
this package, for exactly these classes and settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from eca_mmdet.utils.errors import UserError


def require_covered(model: Any) -> None:
    """Raise UserError naming a part that the exported graph does not follow."""
    for problem in _problems(model):
        raise UserError(
            f'{type(model).__name__} cannot be exported whole: {problem}. Faster '
            'R-CNN, Mask R-CNN and RetinaNet as mmdet 3 has them are covered. Of this '
            'one the backbone can be: --part backbone.',
            code='unsupported-model',
        )


def _problems(model: Any) -> Iterator[str]:
    from mmdet import models

    kinds = (models.TwoStageDetector, models.SingleStageDetector)
    base = next((kind for kind in kinds if isinstance(model, kind)), None)
    if base is None or _overridden(model, base, 'predict', 'extract_feat'):
        yield 'it is another kind of detector'
    elif base is models.SingleStageDetector:
        yield from _dense_head(model.bbox_head, 'bbox_head')
        yield from _test_cfg(model.bbox_head.test_cfg, 'test_cfg', dense=True)
        if (model.bbox_head.test_cfg or {}).get('min_bbox_size', 0) > 0:
            yield 'min_bbox_size is in pixels of the original image'
    else:
        rpn, roi = getattr(model, 'rpn_head', None), model.roi_head
        yield from _other_type(rpn, models.RPNHead, 'rpn_head')
        yield from _other_type(roi, models.StandardRoIHead, 'roi_head')
        yield from _dense_head(rpn, 'rpn_head')
        yield from _test_cfg(rpn.test_cfg, 'test_cfg.rpn', dense=True)
        if roi.with_shared_head:
            yield 'its roi_head has a shared_head'
        yield from _box_head(roi.bbox_head)
        yield from _extractor(roi.bbox_roi_extractor, 'bbox_roi_extractor')
        yield from _test_cfg(roi.test_cfg, 'test_cfg.rcnn', dense=False)
        if roi.with_mask:
            yield from _other_type(roi.mask_head, models.FCNMaskHead, 'mask_head')
            yield from _extractor(roi.mask_roi_extractor, 'mask_roi_extractor')


def _overridden(part: Any, base: type, *names: str) -> list[str]:
    """Return the methods that are not those of mmdet's ``base``."""
    kind = type(part)
    return [n for n in names if getattr(kind, n, None) is not getattr(base, n, None)]


def _other_type(part: Any, expected: type, name: str) -> Iterator[str]:
    if type(part) is not expected:
        yield f'its {name} is a {type(part).__name__}, not {expected.__name__}'


def _dense_head(head: Any, name: str) -> Iterator[str]:
    from mmdet.models import AnchorHead, RPNHead
    from mmdet.models.task_modules import AnchorGenerator

    if not isinstance(head, AnchorHead):
        yield f'its {name}, a {type(head).__name__}, has no anchors'
    own = _overridden(head, AnchorHead, 'forward', 'predict', 'predict_by_feat')
    base = RPNHead if type(head) is RPNHead else AnchorHead
    own += _overridden(head, base, '_predict_by_feat_single', '_bbox_post_process')
    if own:
        yield f'its {name}, a {type(head).__name__}, has its own {own[0]}'
    if type(head.prior_generator) is not AnchorGenerator:
        yield f'its {name} has anchors of {type(head.prior_generator).__name__}'
    yield from _coder(head, name)


def _coder(head: Any, name: str) -> Iterator[str]:
    from mmdet.models.task_modules import DeltaXYWHBBoxCoder

    kind = type(head.bbox_coder)
    if kind is not DeltaXYWHBBoxCoder or head.bbox_coder.add_ctr_clamp:
        how = ' with add_ctr_clamp' if kind is DeltaXYWHBBoxCoder else ''
        yield f'its {name} has boxes coded by {kind.__name__}{how}'
    if getattr(head.loss_cls, 'custom_cls_channels', False):
        loss = type(head.loss_cls).__name__
        yield f'its {name} has scores of {loss}, which are neither softmax nor sigmoid'


def _box_head(head: Any) -> Iterator[str]:
    from mmdet.models import ConvFCBBoxHead

    methods = ('forward', 'predict_by_feat', '_predict_by_feat_single')
    known = isinstance(head, ConvFCBBoxHead)
    if not known or _overridden(head, ConvFCBBoxHead, *methods):
        yield f'its bbox_head is a {type(head).__name__}, not ConvFCBBoxHead'
    if not (head.with_cls and head.with_reg):
        yield 'its bbox_head gives no scores, or no boxes'
    yield from _coder(head, 'bbox_head')


def _extractor(extractor: Any, name: str) -> Iterator[str]:
    from mmcv.ops import RoIAlign
    from mmdet.models import SingleRoIExtractor

    yield from _other_type(extractor, SingleRoIExtractor, name)
    for layer in extractor.roi_layers:
        if type(layer) is not RoIAlign or layer.pool_mode != 'avg':
            kind = type(layer).__name__
            yield f'its {name} pools by {kind}, not by averaging RoIAlign'


def _test_cfg(cfg: Any, name: str, dense: bool) -> Iterator[str]:
    cfg = cfg or {}
    nms = cfg.get('nms') or {}
    kind, threshold = nms.get('type', 'nms'), nms.get('iou_threshold')
    if kind != 'nms' or not isinstance(threshold, float):
        yield f'{name}.nms is {dict(nms)}, not of type nms with an iou_threshold'
    if other := set(nms) - {'type', 'iou_threshold', 'split_thr'}:
        yield f'{name}.nms has {min(other)}'
    for key in ('nms_pre', 'max_per_img') if dense else ('max_per_img',):
        value = cfg.get(key)
        if type(value) is not int or value < 1:
            yield f'{name}.{key} is {value!r}, not a number from 1'
    if not dense and not isinstance(cfg.get('score_thr'), (int, float)):
        yield f'{name}.score_thr is {cfg.get("score_thr")!r}, not a number'
