"""A converted detector gives what MMDetection v1.1.0 itself computed.

``tests/data/v1_faster_rcnn.npz`` was recorded from v1 (commit 3839478, torch 1.4) on
weights, an image and RoIs that ``tests/data/v1_recording.py`` makes from numpy alone.
"""

import json

import numpy as np
import pytest
import torch

from eca_mmdet.catalog.configs import shipped_configs
from eca_mmdet.checkpoints import convert
from tests.conftest import REPOSITORY
from tests.data import v1_recording as recording
from tests.tolerances import matching_order

pytestmark = [pytest.mark.openmmlab, pytest.mark.slow]

DATA = REPOSITORY / 'tests' / 'data'
# What torch 1.4 and 2.x can differ by: pixels, probabilities, logits.
BOXES, SCORES, LOGITS = 2e-3, 5e-5, 3e-4


@pytest.fixture(scope='module')
def v1():
    return np.load(DATA / 'v1_faster_rcnn.npz')


@pytest.fixture(scope='module')
def v1_state(v1):
    spec, _ = recording.load_spec(DATA / 'v1_faster_rcnn_keys.json')
    calibration = {k: v1[k] for k in v1.files if k.startswith(('gain:', 'bias:'))}
    state = recording.make_state('faster_rcnn', spec, calibration)
    assert (
        recording.state_hash(state) == json.loads(str(v1['meta_json']))['state_sha256']
    )
    return {key: torch.from_numpy(np.array(value)) for key, value in state.items()}


@pytest.fixture(scope='module')
def detector(mmdet_ready, v1_state):
    from mmdet.registry import MODELS
    from mmengine.config import Config

    state, _ = convert(v1_state)
    name = 'faster-rcnn_eca-r50-k5555_fpn_v1_coco'
    model = MODELS.build(Config.fromfile(shipped_configs()[name]).model)
    model.load_state_dict(state, strict=True)
    model.eval()
    return model


@pytest.fixture(scope='module')
def sample(mmdet_ready):
    from mmdet.structures import DetDataSample

    return DetDataSample(
        metainfo=dict(
            img_shape=recording.IMG_SHAPE[:2],
            ori_shape=recording.ORI_SHAPE[:2],
            pad_shape=recording.PAD_SHAPE[:2],
            batch_input_shape=recording.PAD_SHAPE[:2],
            scale_factor=(recording.SCALE_FACTOR,) * 2,
        )
    )


@pytest.fixture(scope='module')
def features(detector):
    with torch.no_grad():
        stages = detector.backbone(torch.from_numpy(recording.make_input()))
        return stages, detector.neck(stages)


@pytest.fixture(scope='module')
def proposals(detector, features, sample):
    with torch.no_grad():
        return detector.rpn_head.predict(features[1], [sample], rescale=False)


def close(ours, theirs, tolerance):
    assert tuple(ours.shape) == tuple(theirs.shape)
    difference = np.abs(ours.double().numpy() - theirs.astype(np.float64)).max()
    assert difference < tolerance


def compare(found, recorded, labels):
    """Boxes and scores, in any order among scores that differ by rounding only."""
    order = matching_order(found.bboxes, found.labels, recorded[:, :4], labels)
    close(found.bboxes[order], recorded[:, :4], BOXES)
    close(found.scores[order], recorded[:, 4], SCORES)


def test_feature_maps(features, v1):
    stages, levels = features
    for i, (feature, step) in enumerate(zip(stages, [997] * 4, strict=True), 2):
        close(feature.flatten()[::step], v1[f'c{i}_sub'], LOGITS)
    for i, (feature, step) in enumerate(
        zip(levels, (499, 499, 97, 97, 97), strict=True)
    ):
        close(feature.flatten()[::step], v1[f'fpn{i}_sub'], LOGITS)


def test_rpn_maps(detector, features, v1):
    with torch.no_grad():
        scores, offsets = detector.rpn_head(features[1])
    for i in range(5):
        close(scores[i][0], v1[f'rpn_cls{i}'], LOGITS)
        close(
            offsets[i][0] if i else offsets[0].flatten()[::3], v1[f'rpn_reg{i}'], LOGITS
        )


def test_proposals(proposals, v1):
    (found,), recorded = proposals, v1['proposals']
    assert (found.scores.diff() <= 0).all()
    compare(found, recorded, np.zeros(len(recorded)))


def test_fixed_rois(detector, features, v1):
    """Levels, features, scores and boxes of 62 RoIs, tiny and oversized ones too."""
    rois = torch.from_numpy(recording.make_rois())
    head = detector.roi_head
    levels = head.bbox_roi_extractor.map_roi_levels(rois, 4)
    assert levels.tolist() == v1['roi_lvls'].tolist()
    assert set(levels.tolist()) == {0, 1, 2, 3}
    with torch.no_grad():
        cut = head.bbox_roi_extractor(features[1][:4], rois)
        scores, offsets = head.bbox_head(cut)
    close(cut[:, ::32], v1['roi_feats_sub'], LOGITS)
    as_v1 = torch.cat([scores[:, -1:], scores[:, :-1]], dim=1)
    close(as_v1, v1['roi_cls'], LOGITS)
    close(as_v1.softmax(dim=1), v1['roi_scores'], SCORES)
    close(offsets, v1['roi_reg'][:, 4:], LOGITS)
    boxes = head.bbox_head.bbox_coder.decode(
        rois[:, 1:], offsets, max_shape=recording.IMG_SHAPE[:2]
    )
    close(boxes, v1['roi_decoded'][:, 4:], BOXES)


def test_heads_on_the_proposals(detector, features, v1):
    head = detector.roi_head
    boxes = torch.from_numpy(v1['proposals'][:, :4])
    rois = torch.cat([boxes.new_zeros(len(boxes), 1), boxes], dim=1)
    with torch.no_grad():
        cut = head.bbox_roi_extractor(features[1][:4], rois)
        scores, offsets = head.bbox_head(cut)
    as_v1 = torch.cat([scores[:, -1:], scores[:, :-1]], dim=1)
    close(as_v1[::7], v1['prop_cls_sub'], LOGITS)
    columns = torch.arange(5, 324, 5)  # column 0 was background's
    close(offsets[::7][:, columns - 4], v1['prop_reg_sub'][:, 1:], LOGITS)


@pytest.mark.parametrize('rescale', [False, True])
def test_detections(detector, features, proposals, sample, v1, rescale):
    suffix = '_rescale' if rescale else ''
    with torch.no_grad():
        (found,) = detector.roi_head.predict(
            features[1], proposals, [sample], rescale=rescale
        )
    assert (found.scores.diff() <= 0).all()
    compare(found, v1[f'det_bboxes_raw{suffix}'], v1[f'det_labels_raw{suffix}'])


def test_few_detections_come_class_by_class(detector, features, proposals, sample, v1):
    """Under 100 boxes v1 does not sort: recorded at a threshold that leaves 47."""
    recorded = v1['hi_bboxes_raw_rescale']
    config = detector.roi_head.test_cfg
    usual = config.score_thr
    try:
        config.score_thr = float(recorded[:, 4].min()) - SCORES
        with torch.no_grad():
            (found,) = detector.roi_head.predict(
                features[1], proposals, [sample], rescale=True
            )
    finally:
        config.score_thr = usual
    labels = v1['hi_labels_raw_rescale']
    assert found.labels.tolist() == labels.tolist()
    assert not np.all(np.diff(recorded[:, 4]) <= 0)  # not by score
    compare(found, recorded, labels)


def test_the_stock_components_differ(detector, features, v1):
    """mmdet's own box coder and RoI extractor are far out of tolerance."""
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
    from mmdet.models.task_modules.coders import LegacyDeltaXYWHBBoxCoder

    head = detector.roi_head
    rois = torch.from_numpy(recording.make_rois())
    stock = SingleRoIExtractor(
        roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=2),
        out_channels=256,
        featmap_strides=[4, 8, 16, 32],
    )
    with torch.no_grad():
        cut = stock(features[1][:4], rois)
    theirs = torch.from_numpy(v1['roi_feats_sub'])
    assert (cut[:, ::32] - theirs).abs().max() > 100 * LOGITS
    coder = head.bbox_head.bbox_coder
    legacy = LegacyDeltaXYWHBBoxCoder(coder.means, coder.stds)
    offsets = torch.from_numpy(v1['roi_reg'])[:, 4:].clone()
    boxes = legacy.decode(rois[:, 1:], offsets, max_shape=recording.IMG_SHAPE[:2])
    difference = (boxes - torch.from_numpy(v1['roi_decoded'])[:, 4:]).abs()
    assert difference.median() == pytest.approx(0.5, abs=0.01)


def test_a_detector_of_stock_components_finds_others(mmdet_ready, v1_state, sample, v1):
    """Converted by the rules, but with mmdet's legacy_1.x parts: some are lost."""
    from mmdet.registry import MODELS
    from mmengine.config import Config

    name = 'faster-rcnn_eca-r50-k5555_fpn_v1_coco'
    cfg = Config.fromfile(shipped_configs()[name]).model
    coder = dict(cfg.roi_head.bbox_head.bbox_coder, type='LegacyDeltaXYWHBBoxCoder')
    cfg.rpn_head.type, cfg.roi_head.type = 'RPNHead', 'StandardRoIHead'
    cfg.rpn_head.bbox_coder.type = 'LegacyDeltaXYWHBBoxCoder'
    cfg.roi_head.bbox_head.type = 'Shared2FCBBoxHead'
    cfg.roi_head.bbox_head.bbox_coder = coder
    cfg.roi_head.bbox_roi_extractor.type = 'SingleRoIExtractor'
    cfg.roi_head.bbox_roi_extractor.roi_layer.aligned = False
    model = MODELS.build(cfg)
    model.load_state_dict(convert(v1_state)[0], strict=True)
    model.eval()
    with torch.no_grad():
        (result,) = model.predict(torch.from_numpy(recording.make_input()), [sample])
    found = result.pred_instances
    matched = 0
    for row, label in zip(
        v1['det_bboxes_raw_rescale'], v1['det_labels_raw_rescale'], strict=True
    ):
        same = found.labels == int(label)
        boxes = (found.bboxes[same] - torch.from_numpy(row[:4])).abs().amax(dim=1)
        scores = (found.scores[same] - row[4]).abs()
        matched += bool(((boxes < 2) & (scores < 0.02)).any())
    assert 50 < matched < 100
