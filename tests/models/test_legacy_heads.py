"""Heads and configs of MMDetection v1: candidates, order of steps, every part named."""

import math

import numpy as np
import pytest
import torch

from eca_mmdet.catalog.configs import shipped_configs
from eca_mmdet.evaluation.metric import V1CocoMetric
from tests.support.legacy import boxes, inclusive_iou

pytestmark = pytest.mark.openmmlab


def test_retinanet_keeps_anchors_with_all_their_classes(legacy):
    """Two anchors a level; 3.x would keep the two best (anchor, class) pairs."""
    from mmdet.registry import MODELS
    from mmengine.config import Config

    cfg = Config.fromfile(shipped_configs()['retinanet_r50_fpn_v1_coco']).model
    head = MODELS.build(dict(cfg.bbox_head, num_classes=2, test_cfg=cfg.test_cfg))
    scores = torch.full((18, 2, 1), -9.0)
    # anchors 0..8 of cell (0, 0), 9..17 of cell (1, 0); channels are anchor x class
    for anchor, cell, values in (
        (1, 0, (2.0, 1.9)),
        (4, 1, (1.5, -9.0)),
        (7, 1, (1.0, -9.0)),
    ):
        for label, value in enumerate(values):
            scores[2 * anchor + label, cell, 0] = value
    offsets = torch.zeros(36, 2, 1)
    priors = torch.arange(18.0)[:, None] * 40 + torch.tensor([0.0, 0, 9, 9])
    test_cfg = head.test_cfg.copy()
    test_cfg.nms_pre = 2
    found = head._predict_by_feat_single(
        [scores],
        [offsets],
        [None],
        [priors],
        dict(img_shape=(2000, 2000), scale_factor=(2.0, 2.0)),
        test_cfg,
        rescale=True,
    )
    rows = [
        (label, round(score, 4), corners)
        for label, score, corners in zip(
            found.labels.tolist(),
            found.scores.tolist(),
            found.bboxes.tolist(),
            strict=True,
        )
    ]

    def row(label, value, anchor):
        corner = anchor * 40 / 2
        return (
            label,
            round(1 / (1 + math.exp(-value)), 4),
            [corner, corner] + ([corner + 4.5] * 2),
        )

    assert rows == [row(0, 2.0, 1), row(0, 1.5, 9 + 4), row(1, 1.9, 1)]


def test_rpn_suppresses_each_level_by_itself(legacy):
    from mmdet.registry import MODELS
    from mmengine.config import Config

    cfg = Config.fromfile(shipped_configs()['faster-rcnn_r50_fpn_v1_coco']).model
    head = MODELS.build(dict(cfg.rpn_head, test_cfg=cfg.test_cfg.rpn))
    same = boxes((0, 0, 9, 9), (0, 0, 9, 9), (50, 50, 59, 59))
    found = head._predict_by_feat_single(
        [torch.tensor([1.0, 3.0, 2.0])[:, None, None]] * 2,
        [torch.zeros(12, 1, 1)] * 2,
        [None] * 2,
        [same, same],
        dict(img_shape=(100, 100), scale_factor=(2.0, 2.0)),
        None,
        rescale=True,
    )
    assert found.bboxes.tolist() == [[0, 0, 4.5, 4.5]] * 2 + [[25, 25, 29.5, 29.5]] * 2
    assert found.scores.tolist() == pytest.approx(
        [1 / (1 + math.exp(-v)) for v in (3, 3, 2, 2)]
    )
    assert found.labels.tolist() == [0] * 4


def test_results_for_coco_count_both_corners(legacy):
    boxes = V1CocoMetric.to_xywh(np.array([[10.0, 20, 10, 24], [0, 1, 2, 3]]))
    assert boxes.tolist() == [[10, 20, 1, 5], [0, 1, 3, 3]]


@pytest.mark.parametrize(
    ('height', 'width', 'factor'),
    [
        (427, 640, 800 / 427),  # the short side decides
        (300, 1000, 1.333),  # the long side does
        (333, 500, 800 / 333),
    ],
)
def test_resize_remembers_one_factor(legacy, height, width, factor):
    transform = legacy.V1Resize(scale=(1333, 800), keep_ratio=True)
    result = transform(dict(img=np.zeros((height, width, 3), np.uint8)))
    assert result['scale_factor'] == (factor, factor)
    size = int(height * factor + 0.5), int(width * factor + 0.5)
    assert result['img'].shape[:2] == result['img_shape'] == size


def test_resize_without_the_ratio_is_refused(legacy):
    with pytest.raises(ValueError, match='keep_ratio=True'):
        legacy.V1Resize(scale=(10, 10))


def sample(**meta):
    from mmdet.structures import DetDataSample

    usual = dict(
        img_shape=(96, 128),
        ori_shape=(48, 64),
        pad_shape=(96, 128),
        batch_input_shape=(96, 128),
        scale_factor=(2.0, 2.0),
    )
    return DetDataSample(metainfo={**usual, **meta})


@pytest.mark.parametrize(
    'name', ['mask-rcnn_r50_fpn_v1_coco', 'cascade-mask-rcnn_r50_fpn_v1_coco']
)
def test_boxes_are_rescaled_before_they_are_suppressed(legacy, monkeypatch, name):
    """And the masks are cut from the resized image again."""
    from mmdet.registry import MODELS
    from mmengine.config import Config

    cfg = Config.fromfile(shipped_configs()[name]).model
    cfg.test_cfg.rcnn.score_thr = 0.0
    cfg.test_cfg.rcnn.max_per_img = 5
    head = MODELS.build(dict(cfg.roi_head, train_cfg=None, test_cfg=cfg.test_cfg.rcnn))
    head.eval()
    features = tuple(torch.randn(1, 256, 24 >> i, 32 >> i) for i in range(4))
    from mmengine.structures import InstanceData

    proposals = [InstanceData(bboxes=boxes((8, 8, 60, 60), (20, 30, 90, 80)))]
    rois = []
    cut = type(head)._mask_forward

    def spy(self, *args, **kwargs):
        rois.append(args[-1])
        return cut(self, *args, **kwargs)

    monkeypatch.setattr(type(head), '_mask_forward', spy)
    with torch.no_grad():
        (large,) = head.predict(features, proposals, [sample()], rescale=False)
        (found,) = head.predict(features, proposals, [sample()], rescale=True)
    torch.testing.assert_close(rois[-1][:, 1:], found.bboxes * 2)
    assert found.masks.shape[1:] == (48, 64) and large.masks.shape[1:] == (96, 128)
    # Suppression counts inclusive pixels of the original image.
    for label in found.labels.unique():
        own = found.bboxes[found.labels == label]
        for i in range(len(own)):
            for j in range(i):
                assert inclusive_iou(own[i], own[j]) <= 0.5 + 1e-6


def test_cascade_refines_with_v1s_coder(legacy):
    from mmdet.registry import MODELS
    from mmengine.config import Config

    cfg = Config.fromfile(shipped_configs()['cascade-rcnn_r50_fpn_v1_coco']).model
    assert [head.bbox_coder.type for head in cfg.roi_head.bbox_head] == (
        ['V1BoxCoder'] * 3
    )
    head = MODELS.build(cfg.roi_head.bbox_head[1])
    roi, offset = boxes((10, 10, 29, 29)), boxes((0.4, 0, math.log(2) * 10, 0))
    refined = head.regress_by_class(
        roi, torch.tensor([0]), offset, dict(img_shape=(100, 100))
    )
    # stds 0.05 and 0.1: the centre moves by 20 * 0.02, the size doubles to 40
    centre = 19.5 + 0.4
    expected = boxes((centre - 19.5, 10, centre + 19.5, 29))
    torch.testing.assert_close(refined, expected, rtol=1e-5, atol=1e-4)


def test_scale_decides_what_is_suppressed(legacy):
    """10 x 10 and 10 x 5 pixels overlap by 0.5; divided by 2, inclusive, by 0.545."""
    from mmdet.registry import MODELS
    from mmengine.config import Config

    corners = boxes((0, 0, 9, 9), (0, 0, 9, 4))
    meta = dict(img_shape=(100, 100), scale_factor=(2.0, 2.0))

    retina = Config.fromfile(shipped_configs()['retinanet_r50_fpn_v1_coco']).model
    head = MODELS.build(dict(retina.bbox_head, num_classes=1, test_cfg=retina.test_cfg))
    faster = Config.fromfile(shipped_configs()['faster-rcnn_r50_fpn_v1_coco']).model
    box_head = MODELS.build(dict(faster.roi_head.bbox_head, num_classes=1))
    for rescale, count in ((False, 2), (True, 1)):
        scores = torch.full((9, 2, 1), -9.0)
        scores[0, 0], scores[0, 1] = 2, 1
        priors = torch.cat([corners[:1], corners[:1].repeat(8, 1) + 50] * 2)
        priors[9] = corners[1]
        found = head._predict_by_feat_single(
            [scores], [torch.zeros(36, 2, 1)], [None], [priors], meta, None, rescale
        )
        assert len(found) == count
        found = box_head._predict_by_feat_single(
            torch.cat([torch.zeros(2, 1), corners], dim=1),
            torch.tensor([[2.0, 0.0], [1.0, 0.0]]),
            torch.zeros(2, 4),
            meta,
            rescale,
            faster.test_cfg.rcnn,
        )
        assert len(found) == count
        expected = corners[:count] / (2 if rescale else 1)
        assert torch.equal(found.bboxes, expected)


@pytest.mark.parametrize('rescale', [False, True])
def test_masks_do_not_keep_boxes_from_being_rescaled(legacy, monkeypatch, rescale):
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.structures import InstanceData

    cfg = Config.fromfile(shipped_configs()['mask-rcnn_r50_fpn_v1_coco']).model
    head = MODELS.build(dict(cfg.roi_head, train_cfg=None, test_cfg=cfg.test_cfg.rcnn))
    head.eval()
    asked = []

    def spy(self, roi, cls_score, bbox_pred, img_meta, rescale, rcnn_test_cfg):
        asked.append(rescale)
        return InstanceData(
            bboxes=boxes((1, 2, 30, 40)),
            scores=torch.ones(1),
            labels=torch.zeros(1, dtype=torch.long),
        )

    monkeypatch.setattr(legacy.V1BBoxHead, '_predict_by_feat_single', spy)
    features = tuple(torch.randn(1, 256, 24 >> i, 32 >> i) for i in range(4))
    proposals = [InstanceData(bboxes=boxes((8, 8, 60, 60)))]
    with torch.no_grad():
        (found,) = head.predict(features, proposals, [sample()], rescale=rescale)
    assert asked == [rescale]
    assert found.bboxes.tolist() == [[1, 2, 30, 40]]


def test_levels_of_large_rois_in_half_precision(legacy):
    """300 x 300 pixels are more than float16 can count."""
    extractor = legacy.V1RoIExtractor(
        roi_layer=dict(type='RoIAlign', output_size=3, sampling_ratio=2, aligned=True),
        out_channels=2,
        featmap_strides=[4, 8, 16, 32],
    )
    features = [torch.randn(1, 2, 80 >> i, 80 >> i) for i in range(4)]
    rois = boxes((0, 0, 0, 299, 299), (0, 0, 0, 260, 260))
    found = extractor([f.half() for f in features], rois.half())
    assert found.dtype == torch.half
    expected = extractor([f.half().float() for f in features], rois)
    torch.testing.assert_close(found.float(), expected, rtol=1e-2, atol=1e-2)


LEGACY = sorted(name for name in shipped_configs() if name.endswith('_v1_coco'))


def test_there_is_a_config_for_every_released_detector():
    eca = [name for name in LEGACY if '_eca-' in name]
    assert len(eca) == 6 and len(LEGACY) == 6 + 10


def parts_of(node):
    """Every dict in a config, at any depth."""
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from parts_of(item)
    elif isinstance(node, dict):
        yield node
        for value in node.values():
            yield from parts_of(value)


def check_parts(model):
    """No part of 3.x where v1 had another, and v1's numbers."""
    kinds = [part['type'] for part in parts_of(model) if 'type' in part]
    stock = {'AnchorGenerator', 'DeltaXYWHBBoxCoder', 'SingleRoIExtractor', 'RPNHead'}
    stock |= {'StandardRoIHead', 'CascadeRoIHead', 'Shared2FCBBoxHead', 'FCNMaskHead'}
    assert not stock & set(kinds)
    for part in parts_of(model):
        if part.get('type') == 'LegacyAnchorGenerator':
            assert part.center_offset == 0.5
        if part.get('type') == 'RoIAlign':
            assert part.sampling_ratio == 2 and part.aligned is True
        if part.get('type') == 'nms':
            assert part.iou_threshold in (0.5, 0.7)
    assert model.backbone.init_cfg is None
    if model.type == 'RetinaNet':
        assert model.neck.add_extra_convs == 'on_input'
        assert (model.test_cfg.nms_pre, model.test_cfg.score_thr) == (1000, 0.05)
        assert model.test_cfg.nms.iou_threshold == 0.5
        assert kinds.count('V1BoxCoder') == kinds.count('LegacyAnchorGenerator') == 1
        return
    rpn, rcnn = model.test_cfg.rpn, model.test_cfg.rcnn
    assert (rpn.nms_pre, rpn.max_per_img, rpn.nms.iou_threshold) == (1000, 1000, 0.7)
    assert (rcnn.score_thr, rcnn.nms.iou_threshold, rcnn.max_per_img) == (
        0.05,
        0.5,
        100,
    )
    heads = model.roi_head.bbox_head
    heads = heads if isinstance(heads, list) else [heads]
    assert [head.bbox_coder.target_stds for head in heads] == [
        [0.1, 0.1, 0.2, 0.2],
        [0.05, 0.05, 0.1, 0.1],
        [0.033, 0.033, 0.067, 0.067],
    ][: len(heads)]
    assert len(heads) == (3 if 'Cascade' in model.roi_head.type else 1)
    assert all(head.reg_class_agnostic == (len(heads) == 3) for head in heads)


@pytest.mark.parametrize('name', LEGACY)
def test_legacy_configs_are_for_testing_alone(command, mmdet_ready, name):
    from mmengine.config import Config

    cfg = Config.fromfile(shipped_configs()[name])
    check_parts(cfg.model)
    assert cfg.test_evaluator.type == 'V1CocoMetric'
    assert cfg.test_evaluator.metric == (
        ['bbox', 'segm'] if 'mask-rcnn' in name else 'bbox'
    )
    assert 'V1Resize' in [t.type for t in cfg.test_dataloader.dataset.pipeline]
    if '-k' in name:
        digits = name.split('-k')[1][:4]
        assert ''.join(map(str, cfg.model.backbone.kernel_sizes)) == digits
    code, _, err = command('train', name)
    assert code == 2 and '[config-invalid]' in err and 'load_from' in err
