"""Maps of evidence: their gradients, their places, their form."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import eca_mmdet
from eca_mmdet.inference import cam
from eca_mmdet.utils.errors import UserError
from tests.support import detectors
from tests.tolerances import assert_near

KINDS = ('faster', 'retinanet')
SCORE = 0.3


@pytest.fixture(scope='module', params=KINDS)
def detector(request, mmdet_ready, shapes, tmp_path_factory):
    path = tmp_path_factory.mktemp('cam') / f'{request.param}.pth'
    detectors.save(path, request.param, shapes)
    return eca_mmdet.ECADetector.from_checkpoint(path, device='cpu')


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (70, 96, 3), np.uint8)


@pytest.fixture
def prepared(detector, image):
    """The model in double precision, its maps, and the objects found in them."""
    _, batch, _ = detector._batch(image)
    model = detector.model
    data = model.data_preprocessor(batch, False)
    with torch.no_grad():
        maps = model.extract_feat(data['inputs'])
        model.double()
        maps = tuple(one.double() for one in maps)
        traced = cam.trace(model, maps, data['data_samples'], SCORE)
        yield model, maps, traced, data['data_samples']
    model.float()


@pytest.mark.openmmlab
def test_objects_are_traced_to_their_scores(prepared):
    model, maps, traced, samples = prepared
    if traced.regions is None:
        (found,) = model.bbox_head.predict(maps, samples, rescale=False)
    else:
        proposals = model.rpn_head.predict(maps, samples, rescale=False)
        metas = [one.metainfo for one in samples]
        (found,) = model.roi_head.predict_bbox(
            maps, metas, proposals, model.roi_head.test_cfg, rescale=False
        )
    expected = found.scores[found.scores >= SCORE].double().numpy()
    assert len(expected) > 5
    odds = cam.log_odds(model, maps, traced).numpy()
    np.testing.assert_allclose(odds, np.log(expected / (1 - expected)), atol=1e-6)


def test_gradients_are_those_of_finite_differences(prepared):
    model, maps, traced, _ = prepared
    with torch.enable_grad():
        leaves = [one.clone().requires_grad_() for one in maps]
        total = (cam.log_odds(model, tuple(leaves), traced) * traced.areas).sum()
        slopes = torch.autograd.grad(total, leaves, allow_unused=True)

    def value(level, at, step):
        moved = [one.clone() for one in maps]
        moved[level].view(-1)[at] += step
        return (cam.log_odds(model, tuple(moved), traced) * traced.areas).sum()

    checked = 0
    for level, slope in enumerate(slopes):
        if slope is None:
            continue
        flat = slope.reshape(-1)
        random = torch.randint(len(flat), (2,))
        for at in torch.cat([flat.abs().topk(2).indices, random]).tolist():
            step = 1e-6
            expected = (value(level, at, step) - value(level, at, -step)) / (2 * step)
            assert_near(flat[at], expected, 1e-4, scale=1e-2 * flat.abs().max())
            checked += bool(flat[at] != 0)
    assert checked >= 2


def test_softmax_odds_by_hand():
    logits = torch.tensor([[1.0, 2.0, 4.0], [50.0, 0.0, -50.0]]).double()
    found = cam._odds(logits, torch.tensor([1, 0]), sigmoid=False)
    expected = [2 - np.log(np.exp(1) + np.exp(4)), 50]  # p is 1 to 16 digits
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    found = cam._odds(logits, torch.tensor([1, 0]), sigmoid=True)
    assert found.tolist() == [2, 50]


@pytest.mark.openmmlab
def test_map_has_the_form_that_is_promised(detector, image):
    found = detector.cam(image)
    assert found.shape == (70, 96) and found.dtype == np.float32
    assert found.min() >= 0 and found.max() == 1 and np.isfinite(found).all()
    np.testing.assert_array_equal(found, detector.cam(image))
    assert all(one.grad is None for one in detector.model.parameters())
    large = np.kron(image, np.ones((3, 3, 1), np.uint8))
    assert detector.cam(large).shape == (210, 288)
    _, batch, _ = detector._batch(image)
    nothing = cam.evidence_map(detector.model, batch, (70, 96), 1.1)
    assert nothing.shape == (70, 96) and not nothing.any()


def test_frozen_and_lean_backbones_give_the_same_map(detector, image):
    expected = detector.cam(image)
    backbone = detector.model.backbone
    blocks = [one for one in backbone.modules() if hasattr(one, 'memory')]
    assert blocks and all(one.memory == 'lean' for one in blocks)
    for part in (*blocks, *backbone.parameters()):
        if isinstance(part, torch.nn.Parameter):
            part.requires_grad_(False)
        else:
            part.memory = 'plain'
    with torch.no_grad():  # as in a caller's own loop
        found = detector.cam(image)
    for block in blocks:
        block.memory = 'lean'
    np.testing.assert_allclose(found, expected, atol=1e-3)


def head_for_channel_0():
    """Return a RetinaNet head that sees class 1 where channel 0 is large."""
    from mmdet.registry import MODELS
    from mmengine.config import ConfigDict

    anchors = dict(type='AnchorGenerator', octave_base_scale=2, scales_per_octave=1)
    nms = dict(type='nms', iou_threshold=0.5)
    config = dict(
        type='RetinaHead',
        num_classes=2,
        in_channels=3,
        stacked_convs=0,
        anchor_generator=anchors | dict(ratios=[1.0], strides=[4, 8]),
        test_cfg=dict(nms_pre=100, score_thr=0.05, nms=nms, max_per_img=10),
    )
    head = MODELS.build(ConfigDict(config))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        head.retina_cls.bias.fill_(-9)
        head.retina_cls.weight[1, 0, 1, 1] = 1
        head.retina_cls.weight[1, 1, 1, 2] = 5  # looked at, but 0 in the maps
    return head


def planted(cells):
    """Return a detector, its data and image size, with objects in cells.

    Args:
        cells: (level, row, column, strength) of each; level 0 has 16 x 16 cells of
            4 px, level 1 8 x 8 of 8 px.
    """
    from mmdet.structures import DetDataSample

    maps = [torch.zeros(1, 3, side, side) for side in (16, 8)]
    for level, row, column, strength in cells:
        maps[level][0, 0, row, column] = strength
    sample = DetDataSample(metainfo=dict(img_shape=(64, 64), scale_factor=(1.0, 1.0)))
    model = SimpleNamespace(
        bbox_head=head_for_channel_0(),
        data_preprocessor=lambda batch, training: batch,
        extract_feat=lambda inputs: tuple(maps),
    )
    data = {'inputs': torch.zeros(1, 3, 64, 64), 'data_samples': [sample]}
    return model, data, (64, 64)


@pytest.mark.parametrize(
    ('level', 'row', 'column'), [(0, 5, 3), (0, 0, 15), (1, 4, 6), (1, 0, 0)]
)
def test_evidence_lies_where_it_was_planted(level, row, column, mmdet_ready):
    stride = (4, 8)[level]
    model, data, size = planted([(level, row, column, 12.0)])
    found = cam.evidence_map(model, data, size, 0.5)
    # The bilinear tent of one cell, by hand: 1 at its centre, 0 two centres away.
    pixels = (np.arange(64) + 0.5) / stride - 0.5
    pixels = pixels.clip(0, 64 // stride - 1)
    tents = [np.maximum(0, 1 - np.abs(pixels - at)) for at in (row, column)]
    expected = np.outer(*tents)
    np.testing.assert_allclose(found, expected / expected.max(), atol=1e-5)


def test_large_and_small_objects_are_as_bright(mmdet_ready):
    model, data, size = planted([(0, 2, 2, 12.0), (1, 5, 5, 12.0)])
    found = cam.evidence_map(model, data, size, 0.5)
    # The top of a tent lies between pixels, farther from them in small cells.
    ratio = ((1 - 1 / 8) / (1 - 1 / 16)) ** 2
    assert found[8:12, 8:12].max() == pytest.approx(ratio, abs=1e-5)
    assert found[40:48, 40:48].max() == 1
    assert found[:, 24:30].max() == 0


def test_objects_below_the_score_do_not_count(mmdet_ready):
    model, data, size = planted([(0, 2, 2, 12.0), (0, 10, 10, 9.0)])
    assert cam.evidence_map(model, data, size, 0.3)[40:44, 40:44].max() > 0.5
    assert cam.evidence_map(model, data, size, 0.7)[40:44, 40:44].max() == 0


def test_classes_have_scores_of_their_own(mmdet_ready):
    """Class 1 alone is planted: a score for class 0 changes nothing."""
    model, data, size = planted([(0, 2, 2, 12.0)])
    expected = cam.evidence_map(model, data, size, 0.5)
    scores = np.full(model.bbox_head.num_classes, 0.5, np.float32)
    kept, others = scores.copy(), scores.copy()
    kept[0], others[1] = np.inf, np.inf
    found = cam.evidence_map(model, data, size, kept)
    np.testing.assert_array_equal(found, expected)
    assert expected.any() and not cam.evidence_map(model, data, size, others).any()


def test_padding_is_cut_off_and_the_map_resized(mmdet_ready):
    model, data, _ = planted([(0, 5, 3, 12.0)])
    data['data_samples'][0].set_metainfo({'img_shape': (48, 32)})
    found = cam.evidence_map(model, data, (96, 64), 0.5)
    assert found.shape == (96, 64)
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert 40 <= row < 48 and 24 <= column < 32


@pytest.mark.parametrize(
    'model',
    [
        SimpleNamespace(),
        SimpleNamespace(bbox_head=torch.nn.Linear(1, 1)),
        SimpleNamespace(roi_head=SimpleNamespace(bbox_head=torch.nn.ModuleList())),
    ],
)
def test_other_detectors_are_refused(model):
    with pytest.raises(UserError, match='Faster and Mask R-CNN'):
        cam.require_traceable(model)


def test_box_that_is_of_no_row_is_refused():
    with pytest.raises(UserError, match='1.00 px off'):
        cam._row(torch.zeros(3, 4), torch.ones(4), torch.zeros(3))


def test_measured_shares_by_hand():
    from benchmarks.measure_cam import brightest, overlaps

    values = np.arange(100.0).reshape(10, 10)
    inside = values >= 50
    assert (brightest(values, inside) == (values >= 90)).all()
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], float)
    assert overlaps(others[0], others) == pytest.approx([1, 1 / 3, 0])
