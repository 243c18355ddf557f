"""Predictions: equal to mmdet's own, from every form of image, in every form."""

import copy
import dataclasses
import json
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle

import eca_mmdet
from eca_mmdet.inference.prediction import Prediction, in_rgb
from eca_mmdet.utils.errors import MissingPackageError, UserError
from eca_mmdet.utils.images import to_rgb
from tests.support import detectors


def prediction(masks=True):
    """Three objects, not in order."""
    drawn = np.zeros((3, 20, 30), bool)
    drawn[0, 2:5, 3:9] = drawn[1, :, 29] = True
    return Prediction(
        boxes=np.array([[3, 2, 9, 5], [29, 0, 30, 20], [1.5, 2, 4, 8]], np.float32),
        scores=np.array([0.25, 0.75, 0.5], np.float32),
        labels=np.array([1, 0, 1]),
        masks=drawn if masks else None,
        classes=('cat', 'dog'),
        image=np.full((20, 30, 3), 90, np.uint8),
    )


@pytest.fixture(scope='module')
def checkpoint(mmdet_ready, shapes, tmp_path_factory):
    return detectors.save(tmp_path_factory.mktemp('p') / 'mask.pth', 'mask', shapes)


@pytest.fixture(scope='module')
def detector(checkpoint):
    return eca_mmdet.ECADetector.from_checkpoint(checkpoint, device='cpu')


@pytest.fixture(scope='module')
def picture(shapes):
    path = sorted((shapes / 'val').iterdir())[0]
    return cv2.imread(str(path))[:80, :, ::-1]  # wider than high


def equal(one, other):
    np.testing.assert_array_equal(one.boxes, other.boxes)
    np.testing.assert_array_equal(one.scores, other.scores)
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(one.masks, other.masks)
    np.testing.assert_array_equal(one.image, other.image)


def files(picture):
    """Return name to (PIL image, options of save): one picture in many forms."""
    rgb = Image.fromarray(np.ascontiguousarray(picture))
    alpha = rgb.copy()
    alpha.putalpha(Image.linear_gradient('L').resize(rgb.size))
    deep = (picture[..., 1].astype(np.uint16) << 8) + 200
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    return {
        'plain.png': (rgb, {}),
        'grey.png': (rgb.convert('L'), {}),
        'alpha.png': (alpha, {}),
        'palette.png': (rgb.quantize(16), {}),
        'deep.png': (Image.fromarray(deep), {}),
        'turned.png': (rgb, {'exif': turned}),
        'turned.jpg': (rgb, {'exif': turned, 'quality': 95}),
    }


@pytest.mark.sweep(fast=4)
@pytest.mark.openmmlab
@pytest.mark.parametrize('name', list(files(np.zeros((2, 2, 3), np.uint8))))
def test_predictions_equal_those_of_mmdet(name, detector, picture, tmp_path):
    from mmdet.apis import inference_detector

    image, options = files(picture)[name]
    path = tmp_path / name
    image.save(path, **options)
    found = detector.predict(path)
    theirs = inference_detector(detector.model, str(path)).pred_instances.numpy()
    assert len(found) == len(theirs) > 20 and found.path == str(path)
    order = np.argsort(-theirs.scores, kind='stable')
    np.testing.assert_array_equal(found.boxes, theirs.bboxes[order])
    np.testing.assert_array_equal(found.scores, theirs.scores[order])
    np.testing.assert_array_equal(found.labels, theirs.labels[order])
    np.testing.assert_array_equal(found.masks, theirs.masks[order])
    assert found.masks.dtype == bool and found.boxes.dtype == np.float32
    height, width = (96, 80) if name.startswith('turned') else (80, 96)
    assert found.image.shape == (height, width, 3)
    assert found.masks.shape[1:] == (height, width)
    # The same image, opened by PIL or OpenCV, is the same image.
    equal(found, detector.predict(Image.open(path)))
    read = cv2.imread(str(path), cv2.IMREAD_COLOR)
    equal(found, detector.predict(read[..., ::-1]))
    equal(found, detector.predict(read, channel_order='bgr'))


def test_predictions_equal_those_of_the_test_loop(detector, shapes):
    """As ``eca-mmdet test`` has them: through the data set and its collation."""
    from mmengine.runner import Runner

    loader = detector.cfg.test_dataloader.copy()
    loader.update(num_workers=0, persistent_workers=False, batch_size=1)
    loader.dataset.test_mode = True
    batch = next(iter(Runner.build_dataloader(loader)))
    with torch.no_grad():
        (theirs,) = detector.model.test_step(batch)
    found = detector.predict(theirs.img_path)
    np.testing.assert_array_equal(found.boxes, theirs.pred_instances.bboxes)
    np.testing.assert_array_equal(found.masks, theirs.pred_instances.masks)


def test_a_list_gives_a_list(detector, picture):
    one, two = detector.predict([picture, picture[:, ::-1]])
    equal(one, detector.predict(picture))
    equal(two, detector.predict(picture[:, ::-1]))
    assert detector.predict([]) == []
    assert picture.flags.writeable and 'MaskRCNN' in repr(detector)


def test_arrays_follow_the_loading_of_the_config(detector, picture, tmp_path):
    """Resizing floats gives other pixels than resizing bytes."""
    cfg = copy.deepcopy(detector.cfg)
    cfg.test_dataloader.dataset.pipeline[0].to_float32 = True
    changed = dataclasses.replace(detector, cfg=cfg)
    path = str(tmp_path / 'a.png')
    cv2.imwrite(path, np.ascontiguousarray(picture[..., ::-1]))
    equal(changed.predict(picture), changed.predict(path))
    assert (changed.predict(path).scores != detector.predict(path).scores).any()


@pytest.mark.parametrize(
    ('image', 'expected'),
    [
        (np.full((2, 3), 7, np.uint8), 7),
        (np.full((2, 3, 1), 7, np.uint8), 7),
        (np.full((2, 3, 4), 7, np.uint8), 7),
        (np.full((2, 3), 0x07FF, np.uint16), 7),
        (np.full((2, 3, 3), 0xFFFF, np.uint16), 255),
        (Image.new('1', (3, 2), 1), 255),
        (Image.new('I', (3, 2), 0x07FF), 7),
        (Image.new('CMYK', (3, 2), (0, 0, 0, 0)), 255),
    ],
)
def test_forms_of_images(image, expected):
    found = to_rgb(image)
    assert found.shape == (2, 3, 3) and found.dtype == np.uint8
    assert (found == expected).all()


@pytest.mark.parametrize(
    'image',
    [
        np.zeros((2, 3, 3)),
        np.zeros((2, 3, 3), np.int64),
        np.zeros((2, 3, 3), bool),
        np.zeros((3, 2, 9), np.uint8),
        np.zeros((0, 3, 3), np.uint8),
        np.zeros((1, 2, 3, 3), np.uint8),
        Image.new('F', (3, 2)),
        b'bytes',
        None,
        5,
    ],
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(UserError, match='image'):
        to_rgb(image)


def test_objects_are_sorted_with_all_that_is_theirs():
    found = prediction()
    assert found.scores.tolist() == [0.75, 0.5, 0.25]
    assert found.names == ['cat', 'dog', 'dog'] and len(found) == 3
    assert found.boxes[:, 0].tolist() == [29, 1.5, 3]
    assert found.masks.sum((1, 2)).tolist() == [20, 0, 18]
    assert repr(found) == '<Prediction 30x20: 3 objects with masks>'


def test_threshold_of_predict(detector, picture):
    found = detector.predict(picture)
    middle = float(found.scores[len(found) // 2])
    (kept,) = detector.predict([picture], score_thr=middle)
    equal(kept, found.above(middle))
    assert 0 < len(kept) < len(found) and kept.scores.min() == np.float32(middle)
    for call in (detector.predict, detector.cam):
        for wrong in (1.1, -0.1, float('nan')):
            with pytest.raises(UserError) as error:
                call(picture, wrong)
            assert error.value.code == 'option-invalid'


def test_order_of_channels(detector, picture):
    """Only arrays of colours are swapped."""
    swapped = detector.predict(picture, channel_order='bgr')
    equal(swapped, detector.predict(picture[..., ::-1]))
    np.testing.assert_array_equal(swapped.image, picture[..., ::-1])
    assert (swapped.scores != detector.predict(picture).scores).any()
    np.testing.assert_array_equal(
        detector.cam(picture, channel_order='bgr'), detector.cam(picture[..., ::-1])
    )
    bgra = np.dstack([picture[..., ::-1], picture[..., 0]])
    np.testing.assert_array_equal(in_rgb(bgra, 'bgr'), picture)
    pil = Image.fromarray(np.ascontiguousarray(picture))
    np.testing.assert_array_equal(in_rgb(pil, 'bgr'), picture)
    deep = (picture[..., ::-1].astype(np.uint16) << 8) + 7
    np.testing.assert_array_equal(in_rgb(deep, 'bgr'), picture)
    np.testing.assert_array_equal(
        in_rgb(picture[..., 0], 'bgr')[..., 2], picture[..., 0]
    )
    with pytest.raises(UserError) as error:
        detector.predict('a.jpg', channel_order='BGR')
    assert error.value.code == 'option-invalid'


def test_an_exported_detector_is_named(tmp_path):
    with pytest.raises(UserError, match='OnnxDetector') as error:
        eca_mmdet.load_detector(tmp_path / 'model.ONNX')
    assert error.value.code == 'checkpoint-unrecognised'


@pytest.mark.parametrize(
    ('rows', 'expected'),
    [
        (0, [0]),
        (-1, [2]),
        (np.int64(1), [1]),
        (slice(1, None), [1, 2]),
        (slice(None, None, -2), [2, 0]),
        (slice(9, 12), []),
        ([2, 0], [2, 0]),
        ([], []),
        (range(2), [0, 1]),
        (np.array([1, 1]), [1, 1]),
        ([True, False, True], [0, 2]),
        (np.zeros(3, bool), []),
        (torch.tensor([False, True, True]), [1, 2]),
        (torch.tensor([2, 1]), [2, 1]),
    ],
)
def test_selected_objects_keep_what_is_theirs(rows, expected):
    whole = prediction()
    part = whole[rows]
    assert isinstance(part, Prediction) and len(part) == len(expected)
    for name in ('boxes', 'scores', 'labels', 'masks'):
        values = getattr(whole, name)[expected]
        np.testing.assert_array_equal(getattr(part, name), values)
    assert part.names == [whole.names[row] for row in expected]
    assert part.image is whole.image and part.classes == whole.classes
    assert [one['score'] for one in part.to_coco()] == part.scores.tolist()
    assert prediction(masks=False)[rows].masks is None
    assert len(whole) == 3  # and is as it was
    np.testing.assert_array_equal(whole.scores, [0.75, 0.5, 0.25])


@pytest.mark.parametrize(
    'rows',
    [3, -4, [0, 3], [True], np.ones(4, bool), np.ones((3, 4), bool), 'a', 0.5, (0, 1)]
    + [None, True, [[0, 1]], np.array([0.5, 1])],
)
def test_what_selects_no_objects(rows):
    with pytest.raises(IndexError):
        prediction()[rows]


def test_iteration():
    whole = prediction()
    assert [(len(one), one.names[0]) for one in whole] == [
        (1, 'cat'),
        (1, 'dog'),
        (1, 'dog'),
    ]
    assert [one.scores[0] for one in reversed(whole)] == [0.25, 0.5, 0.75]
    assert list(whole[:0]) == [] and whole[:0].masks.shape == (0, 20, 30)
    with pytest.raises(IndexError):
        whole[:0][0]
    assert whole in [prediction(), whole] and len({whole, prediction()}) == 2


@pytest.mark.parametrize(('score', 'count'), [(0, 3), (0.5, 2), (0.51, 1), (1, 0)])
def test_above_keeps_what_reaches_the_score(score, count):
    kept = prediction().above(score_thr=score)
    assert len(kept) == len(kept.boxes) == len(kept.masks) == count
    assert prediction(masks=False).above(score).masks is None


def test_coco_entries():
    entries = prediction().to_coco(image_id='x')
    assert [one['category_id'] for one in entries] == [1, 2, 2]
    assert entries[1]['bbox'] == [1.5, 2, 2.5, 6] and entries[1]['score'] == 0.5
    assert {one['image_id'] for one in entries} == {'x'}
    decoded = [rle.decode(one['segmentation']) for one in entries]
    np.testing.assert_array_equal(decoded, prediction().masks)
    assert json.loads(json.dumps(entries)) == entries
    ids = prediction(masks=False).to_coco(category_ids=np.array([7, 90]))
    assert [one['category_id'] for one in ids] == [7, 90, 90]
    assert 'segmentation' not in ids[0]
    json.dumps(ids)
    assert prediction().above(1).to_coco() == []
    with pytest.raises(UserError, match='2 ids'):
        prediction().to_coco(category_ids=[1])


def test_supervision_detections():
    pytest.importorskip('supervision')
    found = prediction().to_supervision()
    np.testing.assert_array_equal(found.xyxy, prediction().boxes)
    np.testing.assert_array_equal(found.mask, prediction().masks)
    assert found.confidence.tolist() == [0.75, 0.5, 0.25]
    assert found.class_id.tolist() == [0, 1, 1]
    assert found.data['class_name'].tolist() == ['cat', 'dog', 'dog']
    assert len(found[found.confidence > 0.6]) == 1
    assert len(prediction().above(1).to_supervision()) == 0
    assert prediction(masks=False).to_supervision().mask is None


def test_without_supervision(monkeypatch):
    monkeypatch.setitem(sys.modules, 'supervision', None)
    with pytest.raises(MissingPackageError, match='pip install supervision'):
        prediction().to_supervision()


def test_plot_shows_and_saves(tmp_path):
    drawn = prediction().plot(score_thr=0.6)
    np.testing.assert_array_equal(drawn, prediction()[:1].plot())
    assert drawn.shape == (20, 30, 3) and (drawn != 90).any()
    raw = np.frombuffer(drawn._repr_png_(), np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(raw, 1)[..., ::-1], drawn)
    assert prediction()._repr_png_() == prediction().plot()._repr_png_()
    assert drawn[0]._repr_png_() is None  # a row is no picture
    drawn.save(tmp_path / 'a.png')
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / 'a.png'))[..., ::-1], drawn)
    with pytest.raises(UserError) as raised:
        drawn.save(tmp_path / 'a.png')
    assert raised.value.code == 'output-exists'
    prediction().plot().save(tmp_path / 'a.png', overwrite=True)
    assert (cv2.imread(str(tmp_path / 'a.png'))[..., ::-1] != drawn).any()
    with pytest.raises(UserError, match='format'):
        drawn.save(tmp_path / 'a.doc')
    assert (prediction().plot(1) == 90).all()


def test_plot_draws_what_was_chosen():
    """By itself objects of 0.3 or more; of a part all, the one of 0.25 as well."""
    image = np.full((200, 300, 3), 90, np.uint8)  # with room for each name
    whole = dataclasses.replace(prediction(masks=False), image=image)
    everything = whole.plot(0)
    assert (whole.plot() != everything).any()
    for part in (whole[:], whole.above(0.2), whole[whole.scores > 0], whole[[0, 1, 2]]):
        np.testing.assert_array_equal(part.plot(), everything)
    np.testing.assert_array_equal(whole[2].plot(), whole[2].plot(0))
    np.testing.assert_array_equal(whole[:].plot(0.3), whole.plot())
    np.testing.assert_array_equal(whole.finite().plot(), whole.plot())
