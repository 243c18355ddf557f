"""Detectors whose heads can be exported.

The heads are not traced as mmdet has them: what surrounds their layers is rewritten in
this package, for exactly these classes and settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from eca_mmdet.utils.errors import UserError

_KNOWN = 'Faster R-CNN, Mask R-CNN and RetinaNet as mmdet 3 has them are'


def require_covered(model: Any) -> None:
    """Raise UserError naming a part that the exported graph does not follow."""
    for problem in _problems(model):
        raise UserError(
            f'{type(model).__name__} cannot be exported whole: {problem}. {_KNOWN} '
            'covered. Of this one the backbone can be: --part backbone.',
            code='unsupported-model',
        )


def _problems(model: Any) -> Iterator[str]:
    from mmdet.models import SingleStageDetector, TwoStageDetector

    kinds = (TwoStageDetector, SingleStageDetector)
    base = next((kind for kind in kinds if isinstance(model, kind)), None)
    own = [name for name in ('predict', 'extract_feat') if _differs(model, base, name)]
    if base is None or own:
        yield 'it is another kind of detector'
    elif base is TwoStageDetector:
        yield from _two_stages(model)
    else:
        yield from _dense_head(model.bbox_head, 'bbox_head')
        yield from _test_cfg(model.bbox_head.test_cfg, 'test_cfg', dense=True)
        if (model.bbox_head.test_cfg or {}).get('min_bbox_size', 0) > 0:
            yield 'min_bbox_size is in pixels of the original image'


def _differs(model: Any, base: Any, name: str) -> bool:
    """Tell whether a model's method is not that of mmdet's ``base``."""
    return getattr(type(model), name, None) is not getattr(base, name, None)


def _two_stages(model: Any) -> Iterator[str]:
    from mmdet.models import RPNHead, StandardRoIHead

    rpn: Any = getattr(model, 'rpn_head', None)
    roi: Any = model.roi_head
    if type(rpn) is not RPNHead:
        yield f'its rpn_head is a {type(rpn).__name__}, not RPNHead'
    if type(roi) is not StandardRoIHead:
        yield f'its roi_head is a {type(roi).__name__}, not StandardRoIHead'
    yield from _dense_head(rpn, 'rpn_head')
    yield from _test_cfg(rpn.test_cfg, 'test_cfg.rpn', dense=True)
    if roi.with_shared_head:
        yield 'its roi_head has a shared_head'
    yield from _box_head(roi.bbox_head)
    yield from _extractor(roi.bbox_roi_extractor, 'bbox_roi_extractor')
    yield from _test_cfg(roi.test_cfg, 'test_cfg.rcnn', dense=False)
    if roi.with_mask:
        yield from _mask_head(roi)


def _dense_head(head: Any, name: str) -> Iterator[str]:
    from mmdet.models import AnchorHead, RPNHead
    from mmdet.models.task_modules import AnchorGenerator

    if not isinstance(head, AnchorHead):
        yield f'its {name}, a {type(head).__name__}, has no anchors'
    methods = ('forward', 'predict', 'predict_by_feat')
    own = [name for name in methods if _differs(head, AnchorHead, name)]
    base = RPNHead if type(head) is RPNHead else AnchorHead
    after = ('_predict_by_feat_single', '_bbox_post_process')
    own += [name for name in after if _differs(head, base, name)]
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
    own = [name for name in methods if _differs(head, ConvFCBBoxHead, name)]
    if not isinstance(head, ConvFCBBoxHead) or own:
        yield f'its bbox_head is a {type(head).__name__}, not ConvFCBBoxHead'
    if not (head.with_cls and head.with_reg):
        yield 'its bbox_head gives no scores, or no boxes'
    yield from _coder(head, 'bbox_head')


def _extractor(extractor: Any, name: str) -> Iterator[str]:
    from mmcv.ops import RoIAlign
    from mmdet.models import SingleRoIExtractor

    if type(extractor) is not SingleRoIExtractor:
        yield f'its {name} is a {type(extractor).__name__}, not SingleRoIExtractor'
    for layer in extractor.roi_layers:
        if type(layer) is not RoIAlign or layer.pool_mode != 'avg':
            kind = type(layer).__name__
            yield f'its {name} pools by {kind}, not by averaging RoIAlign'


def _mask_head(roi: Any) -> Iterator[str]:
    from mmdet.models import FCNMaskHead

    if type(roi.mask_head) is not FCNMaskHead:
        yield f'its mask_head is a {type(roi.mask_head).__name__}, not FCNMaskHead'
    yield from _extractor(roi.mask_roi_extractor, 'mask_roi_extractor')


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
