"""``OnnxDetector``: what goes into the graph, what comes out, and what is refused."""

import copy
import json
import subprocess
import sys
import warnings

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from eca_mmdet.export.runtime import ImageRule, paste_masks, prepare
from eca_mmdet.utils import images
from eca_mmdet.utils.errors import MissingPackageError, UserError
from tests.conftest import REPOSITORY

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

import onnx
from onnx import helper, numpy_helper

from eca_mmdet.export import OnnxDetector
from tests.support import onnx_files

BOXES = [[4, 2, 20, 30], [0, 0, 64, 48], [10.5, 7.25, 12, 9]]
SIDES = [(37, 53), (1, 1), (48, 64), (64, 48), (3, 90), (300, 200), (33, 31), (500, 9)]


def picture(height, width, seed=0):
    """Return noise over a ramp: (H, W, 3) uint8."""
    ramp = np.linspace(0, 200, width)[None, :, None] * np.array([1, 0.5, 0.2])
    noise = np.random.default_rng(seed).integers(0, 56, (height, width, 3))
    return (ramp + noise).astype(np.uint8)


def rule(**changes):
    values = dict(
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
        to_rgb=True,
        scale=(64, 48),
        keep_ratio=True,
        size=None,
        pad_divisor=32,
        pad_value=0,
    )
    return ImageRule(**{**values, **changes})


@pytest.fixture(scope='module')
def maps():
    """Three 28 x 28 maps without a plateau at the threshold."""
    return np.random.default_rng(1).random((3, 28, 28)).astype(np.float32)


@pytest.fixture(scope='module')
def path(tmp_path_factory, maps):
    """A detector that always finds three objects, with masks, and two empty places."""
    found = onnx_files.objects(BOXES, [0.9, 0.8, 0.3], [2, 0, 1], maps, places=5)
    folder = tmp_path_factory.mktemp('an onnx Käfer 龍')
    return onnx_files.save(folder / 'm 龍.onnx', found)


@pytest.fixture(scope='module')
def detector(path):
    return OnnxDetector(path)


# Into the graph


def of_mmdet(image, wanted):
    """Return mmdet's own input and scale factors."""
    from mmdet.datasets.transforms import PackDetInputs, Resize
    from mmdet.models import DetDataPreprocessor

    results = {'img': np.ascontiguousarray(image[..., ::-1]), 'img_id': 0}
    results |= {'img_path': '', 'ori_shape': image.shape[:2]}
    resized = Resize(scale=wanted.scale, keep_ratio=wanted.keep_ratio)(results)
    keys = ('img_shape', 'scale_factor')
    packed = PackDetInputs(meta_keys=keys)(resized)
    preprocessor = DetDataPreprocessor(
        mean=wanted.mean,
        std=wanted.std,
        bgr_to_rgb=wanted.to_rgb,
        pad_size_divisor=wanted.pad_divisor,
        pad_value=wanted.pad_value,
    )
    data = preprocessor({key: [value] for key, value in packed.items()})
    return data['inputs'].numpy(), data['data_samples'][0].metainfo


RULES = {
    'usual': rule(),
    'bgr': rule(to_rgb=False, mean=(103.5, 116.3, 123.7), std=(1.0, 1.0, 1.0)),
    'stretched': rule(keep_ratio=False, scale=(70, 41), pad_divisor=1),
    'upright scale': rule(scale=(41, 95), pad_value=7.5, pad_divisor=16),
    'large': rule(scale=(333, 200)),
    'shorter side alone': rule(scale=(99999, 60)),
}


@pytest.mark.openmmlab
@pytest.mark.parametrize('name', RULES)
def test_preparation_is_mmdets(name, mmdet_ready):
    wanted = RULES[name]
    for height, width in SIDES:
        image = picture(height, width)
        if not min(wanted.resized(height, width)):
            continue
        found = prepare(image, wanted)
        expected, meta = of_mmdet(image, wanted)
        np.testing.assert_array_equal(found.images, expected)
        assert found.images.dtype == np.float32 and found.sizes.dtype == np.float32
        assert found.sizes.tolist() == [list(meta['img_shape'])]
        assert found.factors == meta['scale_factor']


@pytest.mark.parametrize('keep_ratio', [True, False])
def test_a_fixed_input_bounds_the_image(keep_ratio):
    for size in [(32, 64), (64, 32), (48, 64), (200, 300), (50, 1000)]:
        wanted = rule(size=size, keep_ratio=keep_ratio)
        for height, width in SIDES:
            high, wide = wanted.resized(height, width)
            assert high <= size[0] and wide <= size[1]
            free = rule(keep_ratio=keep_ratio).resized(height, width)
            if free[0] <= size[0] and free[1] <= size[1]:
                assert (high, wide) == free
            elif keep_ratio:
                assert high == size[0] or wide == size[1]
                assert abs(high * width - wide * height) <= max(height, width)
            if high and wide:
                found = prepare(picture(height, width), wanted).images
                assert found.shape == (1, 3, *size)
                assert (found[:, :, high:] == 0).all()
                assert (found[:, :, :, wide:] == 0).all()


def test_an_input_that_would_not_fit_in_memory():
    for wanted, side in [
        (rule(scale=(30000, 30000)), (8, 9)),
        (rule(scale=(10**9, 800)), (1, 200000)),
        (rule(pad_divisor=32768), (40, 8)),
    ]:
        if wanted.pad_divisor == 32768:  # 2 ** 30 pixels
            assert wanted.padded(*wanted.resized(*side)) == (32768, 32768)
        with pytest.raises(UserError, match='cannot be prepared .* Cut it into'):
            prepare(np.zeros((*side, 3), np.uint8), wanted)


def test_the_graph_gets_channels_in_order_and_the_size(tmp_path):
    """The mean of each channel becomes the score of its class."""
    half = numpy_helper.from_array(np.float32([[0.5]]), 'half')
    nodes = [
        helper.make_node('ReduceMean', ['images'], ['m'], axes=[2, 3], keepdims=0),
        helper.make_node('Constant', [], ['half'], value=half),
        helper.make_node('Mul', ['m', 'half'], ['scores']),
    ]
    found = onnx_files.objects(BOXES, [0, 0, 0], [0, 1, 2]) | {'scores': None}
    image = np.full((32, 64, 3), (250, 200, 150), np.uint8)
    changes = {'mean': [100, 110, 120], 'std': [100, 200, 400], 'scale': [64, 32]}
    for to_rgb in (True, False):
        metadata = {**changes, 'to_rgb': to_rgb}
        path = onnx_files.save(tmp_path / 'a.onnx', found, metadata, nodes=nodes)
        result = OnnxDetector(path).predict(image)
        colours = (250, 200, 150) if to_rgb else (150, 200, 250)
        scores = [
            0.5 * (colour - mean) / std
            for colour, mean, std in zip(
                colours, changes['mean'], changes['std'], strict=True
            )
        ]
        order = sorted(range(3), key=lambda label: -scores[label])
        assert result.labels.tolist() == order
        expected = [scores[label] for label in order]
        np.testing.assert_allclose(result.scores, expected, rtol=1e-5)
    tiny = numpy_helper.from_array(np.float32([[0.001]]), 'half')
    nodes = [
        helper.make_node('Constant', [], ['tiny'], value=tiny),
        helper.make_node('Mul', ['sizes', 'tiny'], ['scores']),
    ]
    found = onnx_files.objects(BOXES[:2], [0, 0], [0, 1]) | {'scores': None}
    metadata = {'size': [32, 96]}
    path = onnx_files.save(tmp_path / 'b.onnx', found, metadata, nodes=nodes)
    result = OnnxDetector(path).predict(picture(100, 200))
    assert result.labels.tolist() == [1, 0]
    np.testing.assert_allclose(result.scores, [0.064, 0.032], rtol=1e-5)


# Out of the graph


def hostile_boxes(height, width):
    """Return boxes of every kind that a detector may give, and beyond."""
    random = np.random.default_rng(3)
    corners = random.uniform(-20, max(height, width) + 20, (60, 2, 2))
    boxes = np.sort(corners, 1).reshape(-1, 4).tolist()
    boxes += [
        [0, 0, width, height],
        [-5, -5, width + 5, height + 5],
        [3, 4, 3, 9],  # no width
        [3.25, 4, 3.25, 4],  # no area
        [3.5, 4.5, 3.5, 4.5],  # none, about the middle of a pixel
        [3.1, 4.2, 3.4, 4.3],  # within a pixel
        [0, 0, 1, 1],
        [width - 0.5, height - 0.5, width, height],
        [width, height, width, height],
        [0, 0, 0, height],
    ]
    return np.array(boxes, np.float32)


@pytest.mark.openmmlab
@pytest.mark.parametrize('size', [(1, 1), (40, 60), (97, 31)])
def test_pasting_is_mmdets(size, mmdet_ready):
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    boxes = hostile_boxes(*size)
    maps = np.random.default_rng(2).random((len(boxes), 28, 28)).astype(np.float32)
    maps[::3] = np.where(maps[::3] > 0.5, 0.97, 0.02)
    found = paste_masks(maps, boxes, size, 0.5)
    assert found.dtype == np.bool_ and found.shape == (len(boxes), *size)
    checked = 0
    for at, box in enumerate(boxes):
        outside = box[:2].max() > 1e3 or (box[:2] - 1 >= size[::-1]).any()
        if outside or (box[2:] + 1 <= 0).any():  # mmdet raises
            assert not found[at].any()
            continue
        one = torch.from_numpy(maps[at][None, None]), torch.from_numpy(box[None])
        part, where = _do_paste_mask(*one, *size, skip_empty=True)
        probability = np.zeros(size, np.float32)
        probability[where] = part[0].numpy()
        sure = ~(np.abs(probability - 0.5) <= 1e-5)  # NaN is: nothing is there
        assert sure.mean() > 0.9, box
        expected = probability >= 0.5
        np.testing.assert_array_equal(found[at][sure], expected[sure], f'{box}')
        checked += 1
    assert checked > 20


def test_pasting_by_hand():
    """A box of four pixels and a map of two cells: one half each."""
    maps = np.float32([[[0.8, 0.2], [0.8, 0.2]], [[0.4, 0.4], [0.4, 0.4]]])
    boxes = np.float32([[1, 1, 5, 3], [0, 0, 6, 4]])
    found = paste_masks(maps, boxes, (4, 6), 0.4)
    # Cells' middles are at 2 and 4 px; the middles of pixels 1-4 lie at 1.5 to 4.5.
    # At 1.5 a quarter of the weight lies beyond the rim: 0.75 * 0.8 = 0.6.
    # Then 0.75 * 0.8 + 0.25 * 0.2 = 0.65, 0.35 and 0.75 * 0.2 = 0.15. The middles of
    # the cells' rows are at 1.5 and 2.5, as those of the pixels.
    expected = [[0] * 6, [0, 1, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0] * 6]
    assert found[0].astype(int).tolist() == expected
    # Half a cell within the rim the probability is that of the map: not below 0.4.
    inside = np.zeros((4, 6), int)
    inside[1:3, 1:5] = 1
    assert found[1].astype(int)[1:3, 2:4].all() and not found[1][0].any()
    assert (found[1] <= inside).all()
    none = paste_masks(np.zeros((0, 28, 28)), np.zeros((0, 4)), (4, 6), 0.5)
    assert none.shape == (0, 4, 6)


@pytest.mark.openmmlab
@pytest.mark.parametrize('side', [(48, 64), (37, 53), (300, 200)])
def test_boxes_and_masks_are_scaled_back_as_mmdet_does(
    side, detector, maps, mmdet_ready
):
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead
    from mmengine import ConfigDict

    image = picture(*side)
    result = detector.predict(image)
    factors = prepare(image, rule()).factors
    boxes = torch.tensor(BOXES)
    head = FCNMaskHead(0, num_classes=3, conv_out_channels=4, class_agnostic=True)
    masks = head._predict_by_feat_single(
        maps[:, None],
        boxes,  # scaled in place
        torch.tensor([2, 0, 1]),
        {'scale_factor': factors, 'ori_shape': side},
        ConfigDict(mask_thr_binary=0.5),
        rescale=True,
        activate_map=True,
    )
    np.testing.assert_array_equal(result.boxes, boxes.numpy())
    assert (result.masks != masks.numpy()).mean() < 1e-4
    assert result.masks.any((1, 2)).sum() >= 2
    assert result.scores.tolist() == np.float32([0.9, 0.8, 0.3]).tolist()
    assert result.labels.tolist() == [2, 0, 1]
    assert result.names == ['龍', 'big cat', 'Käfer']


def test_boxes_alone_are_scaled_back(tmp_path):
    """Without masks mmdet multiplies by the reciprocal."""
    metadata = {'detector': 'RetinaNet', 'mask_threshold': None}
    found = onnx_files.objects(BOXES, [0.9, 0.8, 0.3], [2, 0, 1], places=100)
    detector = OnnxDetector(onnx_files.save(tmp_path / 'r.onnx', found, metadata))
    result = detector.predict(picture(37, 53))
    assert prepare(picture(37, 53), rule()).sizes.tolist() == [[45, 64]]
    across, down = torch.tensor([1 / (64 / 53), 1 / (45 / 37)])
    expected = torch.tensor(BOXES) * torch.stack([across, down, across, down])
    np.testing.assert_array_equal(result.boxes, expected.numpy())
    assert result.masks is None and len(result) == 3
    assert result.boxes.dtype == result.scores.dtype == np.float32
    assert result.labels.dtype == np.int64
    assert result.to_coco(7)[0]['category_id'] == 3


def test_places_without_an_object(tmp_path):
    """Labels of -1, NaN and infinity are left out; 0 objects is an answer."""
    bad = np.full((1, 4, 4), np.inf, np.float32)
    bad[0, 0], bad[0, 2] = 5, np.nan
    found = {
        'boxes': bad,
        'scores': np.float32([[0.5, 0.4, 0.3, 0]]),
        'labels': np.int64([[1, 1, 1, -1]]),
    }
    bad[0, 3], found['scores'][0, 3], found['labels'][0, 3] = 5, np.nan, 1
    detector = OnnxDetector(onnx_files.save(tmp_path / 'n.onnx', found))
    assert detector.predict(picture(9, 9)).scores.tolist() == [0.5]
    for places in (1, 3):
        masks = np.zeros((0, 28, 28))
        found = onnx_files.objects([], [], [], masks, places=places)
        detector = OnnxDetector(onnx_files.save(tmp_path / 'n.onnx', found))
        result = detector.predict(picture(9, 12))
        assert len(result) == 0 and result.boxes.shape == (0, 4)
        assert result.masks.shape == (0, 9, 12)


# Images


def photographs(folder):
    """Write images of every form; return their paths."""
    image = picture(40, 30)
    deep = image.astype(np.uint16) * 256 + 200
    grey, alpha = image[..., 0], np.full((40, 30, 1), 9, np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    paletted = Image.fromarray(image).convert('P')
    shown = {
        'turned 龍.jpg': lambda p: Image.fromarray(image).save(p, exif=exif),
        'turned.png': lambda p: Image.fromarray(image).save(p, exif=exif),
        'colour.bmp': lambda p: Image.fromarray(image).save(p),
        'grey.png': lambda p: Image.fromarray(grey).save(p),
        'grey.jpg': lambda p: Image.fromarray(grey).save(p),
        'alpha.png': lambda p: Image.fromarray(np.dstack([image, alpha])).save(p),
        'grey alpha.png': lambda p: Image.fromarray(grey).convert('LA').save(p),
        'palette.png': lambda p: paletted.save(p),
        'see-through palette.png': lambda p: paletted.save(p, transparency=3),
        'bits.png': lambda p: Image.fromarray(grey > 90).save(p),
        'deep grey.png': lambda p: cv2.imwrite(str(p), deep[..., 0]),
        'deep.png': lambda p: cv2.imwrite(str(p), deep),
        'deep grey.tif': lambda p: cv2.imwrite(str(p), deep[..., 0]),
        'one.png': lambda p: Image.fromarray(image[:1, :1]).save(p),
    }
    for name, write in shown.items():
        write(folder / name)
    return [folder / name for name in shown]


@pytest.mark.openmmlab
def test_files_are_read_as_mmdet_reads_them(tmp_path, mmdet_ready):
    from mmcv.transforms import LoadImageFromFile

    for path in photographs(tmp_path):
        expected = LoadImageFromFile()({'img_path': str(path)})['img'][..., ::-1]
        found = images.read_rgb(str(path))
        np.testing.assert_array_equal(found, expected, path.name)
        assert found.dtype == np.uint8
        again = images.to_rgb(Image.open(path))
        most = 2 if path.suffix == '.jpg' else 0
        assert again.shape == found.shape, path.name
        away = np.abs(again.astype(int) - found)
        assert away.max() <= most, path.name
    assert images.read_rgb(str(tmp_path / 'turned 龍.jpg')).shape == (30, 40, 3)


def test_every_form_of_an_image(detector, tmp_path):
    """A path, a PIL image and an array give the same; so does a list of them."""
    paths = photographs(tmp_path)
    for path in paths:
        pixels = images.read_rgb(str(path))
        forms = [path, str(path), pixels, Image.fromarray(pixels)]
        first, *others = detector.predict(forms)
        bgr = detector.predict(pixels[..., ::-1], channel_order='bgr')
        np.testing.assert_array_equal(bgr.image, pixels)
        np.testing.assert_array_equal(bgr.scores, first.scores)
        least = float(first.scores[1])
        (kept,) = detector.predict([path], score_thr=least)
        np.testing.assert_array_equal(kept.boxes, first.above(least).boxes)
        np.testing.assert_array_equal(first.image, pixels)
        assert first.path == str(path) and first.classes == detector.classes
        assert [one.path for one in others] == [str(path), None, None]
        for one in others:
            np.testing.assert_array_equal(one.boxes, first.boxes)
            np.testing.assert_array_equal(one.masks, first.masks)
        assert first.masks.shape == (3, *pixels.shape[:2])
    assert detector.predict([]) == []
    assert isinstance(detector.predict((paths[0],)), list)


def test_images_that_are_refused(detector, tmp_path):
    whole = tmp_path / 'a.png'
    Image.fromarray(picture(20, 20)).save(whole)
    (tmp_path / 'empty.png').touch()
    (tmp_path / 'cut.png').write_bytes(whole.read_bytes()[:400])
    (tmp_path / 'text.png').write_text('hello')
    for name in ('empty.png', 'cut.png', 'text.png'):
        with pytest.raises(UserError, match=f'{name} is not an image that can be'):
            detector.predict(tmp_path / name)
    for wrong, what in [
        (tmp_path / 'none.png', 'does not exist'),
        (tmp_path, 'no regular file'),
        (picture(20, 20) / 255, 'array of uint8'),
        (3, 'a path, a numpy array or a PIL image'),
        (picture(1, 5000), 'would become 64 x 0'),
    ]:
        with pytest.raises(UserError, match=what):
            detector.predict(wrong)


# Files


def test_what_a_detector_says_of_itself(detector, path):
    assert detector.path == str(path)
    assert detector.classes == ('big cat', 'Käfer', '龍')
    assert detector.metadata == onnx_files.METADATA | {'max_per_image': 5}
    expected = f'<OnnxDetector MaskRCNN of {path}: big cat, Käfer, 龍>'
    assert repr(detector) == expected


WRONG = [
    ({'format': 2, 'eca_mmdet': '9.1'}, 'is of format 2, written by eca-mmdet 9.1;'),
    ({'format': True}, 'format: .*; got True'),
    ({'format': 0}, 'got 0'),
    ({'format': 'new\n'}, r"got 'new\\n'"),
    ({'part': 'backbone', 'scale': None}, "part 'backbone' of a detector"),
    ({'part': 'heads'}, "part 'heads' of a detector"),
    (
        {'scale': [30000, 30000], 'keep_ratio': False},
        'scale of 30000 x 30000 px is too large',
    ),
    ({'size': [30000, 30000]}, 'size of 30000 x 30000 px is too large'),
    ({'mask_threshold': None}, 'it gives masks, and mask_threshold is null'),
    ({'max_per_image': 5001}, 'Expected `int` <= 5000; got 5001'),
    *(
        ({key: value}, f'cannot be used: {key}: .*; got ')
        for key, values in {
            'part': [['all']],
            'classes': [[], 'cat', ['a', 1, 'b'], ['a', '']],
            'mean': [[1, 2], [1, 2, 'x'], [1, 2, float('nan')], [1, 2, True]],
            'std': [[1, 0, 1], [1, -1, 1], [1, 10**400, 1], None],
            'to_rgb': [1],
            'scale': [[0, 800], [1333.5, 800], [10**10, 10**10], 800],
            'size': [[800], 'dynamic'],
            'keep_ratio': [None],
            'pad_divisor': [0, 10**6],
            'pad_value': ['a'],
            'mask_threshold': [2],
            'score_threshold': [-1],
            'max_per_image': [0, None],
            'detector': [None],
            'checkpoint': [5],
        }.items()
        for value in values
    ),
]


def test_metadata_from_anywhere(tmp_path, maps):
    found = onnx_files.objects(BOXES, [0.9, 0.8, 0.3], [2, 0, 1], maps)
    path = tmp_path / 'a.onnx'
    for changes, what in WRONG:
        onnx_files.save(path, found, changes)
        with pytest.raises(UserError, match=what) as raised:
            OnnxDetector(path)
        assert str(path) in str(raised.value)
    for key in onnx_files.METADATA:
        short = copy.deepcopy(onnx_files.METADATA)
        del short[key]
        onnx_files.save(path, found, text=json.dumps(short))
        with pytest.raises(UserError, match=f'`{key}`|part|format'):
            OnnxDetector(path)
    for text, what in [
        ('', 'an ONNX file, but not one of eca-mmdet'),
        ('{', 'they are no JSON'),
        ('[' * 100000, 'they are no JSON'),
        ('[1]', 'they are no object'),
        ('{"format": 1' + '0' * 5000 + '}', 'they are no JSON'),
    ]:
        onnx_files.save(path, found, text=text)
        with pytest.raises(UserError, match=what):
            OnnxDetector(path)


def test_graphs_that_are_no_detectors(tmp_path, maps):
    whole = onnx_files.objects(BOXES, [0.9, 0.8, 0.3], [2, 0, 1], maps)
    path = tmp_path / 'a.onnx'
    onnx_files.save(path, {key: whole[key] for key in ('boxes', 'labels')})
    expected = r'images \(float, 4 axes\), sizes .* to boxes .*, labels .*; .* is exp'
    with pytest.raises(UserError, match=expected):
        OnnxDetector(path)
    wrong = [
        ({'labels': np.int64([[3, 0, 1]])}, 'the label 3 and names 3 classes'),
        ({'labels': np.int64([[0, 1]])}, 'that do not belong together'),
        ({'boxes': np.zeros((1, 3, 5), np.float32)}, 'that do not belong together'),
        ({'masks': maps[None, :2]}, 'that do not belong together'),
        ({'masks': maps[None, ..., :0]}, 'that do not belong together'),
        ({name: one[:0] for name, one in whole.items()}, 'do not belong together'),
        ({name: one.repeat(2, 0) for name, one in whole.items()}, 'do not belong tog'),
        ({'scores': np.float32([[8.1, 0, 0]])}, 'the score 8.1, and scores are 0 to 1'),
        ({'scores': np.float32([[0, -0.1, 0]])}, 'the score -0.1'),
        ({'scores': np.float32([[0, 0, np.inf]])}, 'the score inf'),
    ]
    for change, what in wrong:
        onnx_files.save(path, {**whole, **change})
        with pytest.raises(UserError, match=what):
            OnnxDetector(path).predict(picture(9, 9))
    onnx_files.save(path, whole, {'max_per_image': 4})
    with pytest.raises(UserError, match='that do not belong together'):
        OnnxDetector(path).predict(picture(9, 9))


def test_graphs_that_give_other_kinds_of_values(tmp_path, maps):
    whole = onnx_files.objects(BOXES, [0.9, 0.8, 0.3], [2, 0, 1], maps)
    path = tmp_path / 'a.onnx'
    for name, kind in [
        ('boxes', 'double'),
        ('boxes', 'string'),
        ('scores', 'bool'),
        ('labels', 'uint64'),
        ('masks', 'string'),
        ('masks', 'int64'),
    ]:
        values = whole[name].astype(object if kind == 'string' else kind)
        values = values.astype(str).astype(object) if kind == 'string' else values
        onnx_files.save(path, {**whole, name: values})
        with pytest.raises(
            UserError, match=rf'{name} \({kind}, . axes\).* is expected'
        ):
            OnnxDetector(path).predict(picture(9, 9))


def test_graphs_that_stop(tmp_path, maps, capfd):
    whole = onnx_files.objects(BOXES, [0.9, 0.8, 0.3], [2, 0, 1], maps)
    path = tmp_path / 'a.onnx'
    onnx_files.save(path, whole, shape=(1, 3, 32, 32))
    with pytest.raises(UserError, match='cannot be run on an input of 64 x 64'):
        OnnxDetector(path).predict(picture(9, 9))
    shape = numpy_helper.from_array(np.array([1, 7]), 'shape')
    nodes = [
        helper.make_node('Constant', [], ['shape'], value=shape),
        helper.make_node('Reshape', ['images', 'shape'], ['scores']),
    ]
    onnx_files.save(path, {**whole, 'scores': None}, nodes=nodes)
    with pytest.raises(UserError, match='cannot be run on an input of 64 x 64: .*Resh'):
        OnnxDetector(path).predict(picture(9, 9))
    captured = capfd.readouterr()
    assert captured.out == captured.err == ''  # onnxruntime's own lines


@pytest.mark.parametrize('masks', [True, False])
def test_boxes_that_become_infinite(masks, maps, tmp_path):
    """They are finite in the input, but not in the image, which is larger."""
    boxes = np.array([[1, 1, 5, 5], [0, 0, 1e38, 2e38], [2, 2, 3, 3]])
    found = onnx_files.objects(boxes, [0.9, 0.8, 0.3], [2, 0, 1], maps * masks)
    metadata = {} if masks else {'mask_threshold': None}
    if not masks:
        del found['masks']
    path = onnx_files.save(tmp_path / 'a.onnx', found, metadata)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        result = OnnxDetector(path).predict(picture(480, 640))
    assert result.scores.tolist() == np.float32([0.9, 0.3]).tolist()
    np.testing.assert_allclose(result.boxes, boxes[[0, 2]] * 10, rtol=1e-6)


def test_masks_that_do_not_fit_in_memory(detector, monkeypatch):
    from eca_mmdet.export import runtime as onnx_detector

    def full(*_):
        raise MemoryError

    monkeypatch.setattr(onnx_detector, 'paste_masks', full)
    with pytest.raises(UserError, match='3 masks of 12 x 9 pixels do not fit in mem'):
        detector.predict(picture(9, 12))


def test_files_that_are_refused(tmp_path, path, monkeypatch, capfd):
    (tmp_path / 'empty.onnx').touch()
    (tmp_path / 'text.onnx').write_text('hello\n' * 50)
    (tmp_path / 'cut.onnx').write_bytes(path.read_bytes()[:900])
    for name, what in [
        ('none.onnx', "ONNX file '.*none.onnx' does not exist"),
        ('.', 'it is a folder'),
        ('empty.onnx', 'empty.onnx is empty: export it again'),
        (
            'text.onnx',
            'is not an ONNX file that onnxruntime .* reads: Failed to .* Is it whole',
        ),
        ('cut.onnx', 'is not an ONNX file that onnxruntime .* reads'),
    ]:
        with pytest.raises(UserError, match=what) as raised:
            OnnxDetector(tmp_path / name)
        assert '\n' not in str(raised.value)
    for providers in (['TPUExecutionProvider'], 'TPUExecutionProvider', [3], [()]):
        with pytest.raises(UserError, match='cannot start .* It has .*CPUExec'):
            OnnxDetector(path, providers=providers)
    for threads in (0, -1, 1.5, True):
        with pytest.raises(UserError, match='threads must be a whole number from 1'):
            OnnxDetector(path, threads=threads)
    assert len(OnnxDetector(path, 'CPUExecutionProvider', 1).predict(picture(9, 9)))
    for one in (('CPUExecutionProvider', 3), ('CPUExecutionProvider', {}, 3)):
        with pytest.raises(UserError, match='cannot start .*without providers the CPU'):
            OnnxDetector(path, providers=[one])
    there = ['CUDAExecutionProvider', 'CPUExecutionProvider']
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # here it is not even built in
        patch.setattr('onnxruntime.get_available_providers', lambda: there)
        with pytest.raises(UserError, match='cannot start .*CUDA.*its driver'):
            OnnxDetector(path, providers=['CUDAExecutionProvider'])
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(MissingPackageError, match='pip install onnxruntime'):
        OnnxDetector(path)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ''


def external(tensor, key='location', value='other.bin'):
    """Say of a tensor that its values are in another file."""
    tensor.ClearField('raw_data')
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = key, value


def test_a_file_that_names_another(tmp_path, monkeypatch):
    """It is not opened, wherever in the graph it is named and however it is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'other.bin').write_bytes(bytes(48))
    found = onnx_files.objects(BOXES, [0.9, 0.8, 0.3], [2, 0, 1])
    whole = onnx.load(str(onnx_files.save(tmp_path / 'a.onnx', found)))
    initial, constant, offset = (copy.deepcopy(whole) for _ in range(3))
    external(initial.graph.initializer[0])
    value = numpy_helper.from_array(np.zeros(12, np.float32), 'w')
    external(value)
    constant.graph.node.append(helper.make_node('Constant', [], ['w'], value=value))
    external(offset.graph.initializer[0], 'offset', '0')
    external(offset.graph.initializer[0], value=str(tmp_path / 'other.bin'))
    texts = [one.SerializeToString() for one in (initial, constant, offset)]
    long = [
        b'\x0a\x88\x00location',
        b'\x8a\x00\x08location',
        b'\x8a\x80\x00\x08location',
    ]
    texts += [whole.SerializeToString() + one for one in long]
    for text in texts:
        (tmp_path / 'b.onnx').write_bytes(text)
        with pytest.raises(UserError, match='b.onnx has weights in another file, wh'):
            OnnxDetector(tmp_path / 'b.onnx')


def test_onnxruntime_does_not_learn_where_the_file_is(path, monkeypatch):
    import onnxruntime

    given = []
    right = onnxruntime.InferenceSession

    def start(source, *others, **more):
        given.append(source)
        return right(source, *others, **more)

    monkeypatch.setattr(onnxruntime, 'InferenceSession', start)
    OnnxDetector(path)
    assert given == [path.read_bytes()]


def test_a_class_may_be_called_location(tmp_path):
    found = onnx_files.objects(BOXES[:1], [0.9], [0])
    names = {'classes': ['location', 'location of a \n\x08location']}
    path = onnx_files.save(tmp_path / 'a.onnx', found, names)
    assert OnnxDetector(path).classes == tuple(names['classes'])


ALONE = """
import json, sys
BLOCKED = set('''torch torchvision mmcv mmengine mmdet pycocotools hotcoco
    matplotlib rich scipy shapely PIL jinja2 tabulate'''.split())
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in BLOCKED:
            raise ModuleNotFoundError(f'{name} is blocked', name=name)
sys.meta_path.insert(0, Block())
from eca_mmdet.export import OnnxDetector
results = []
for image in sys.argv[2:]:
    found = OnnxDetector(sys.argv[1]).predict(image)
    areas = found.masks.sum((1, 2)).tolist()
    sums = [found.image.shape, int(found.image.sum())]
    lists = found.boxes.tolist(), found.scores.tolist(), found.names
    results.append([*lists, areas, sums])
print(json.dumps(results))
"""


def test_onnxruntime_opencv_and_msgspec_are_enough(path, detector, tmp_path):
    paths = [one for one in photographs(tmp_path) if one.suffix != '.jpg']
    ran = subprocess.run(
        [sys.executable, '-c', ALONE, str(path), *map(str, paths)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert ran.returncode == 0 and not ran.stderr, ran.stderr
    for one, (boxes, scores, names, areas, sums) in zip(
        paths, json.loads(ran.stdout), strict=True
    ):
        expected = detector.predict(one)
        assert boxes == expected.boxes.tolist() and names == expected.names
        assert scores == expected.scores.tolist()
        assert areas == expected.masks.sum((1, 2)).tolist()
        assert sums == [list(expected.image.shape), int(expected.image.sum())]


def test_command_predicts_with_a_file(command, path, detector, tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    Image.fromarray(picture(40, 60)).save(folder / 'a b.png')
    out = tmp_path / 'out'
    (tmp_path / 'M.ONNX').write_bytes(path.read_bytes())
    code, told, err = command('predict', tmp_path / 'M.ONNX', folder, '--out', out)
    assert (code, err) == (0, '')
    assert told.startswith('a b.png: 3 objects (1 龍, 1 big cat, 1 Käfer)')
    content = json.loads((out / 'predictions.json').read_text())
    kept = detector.predict(folder / 'a b.png').above(0.3).to_coco(1)
    assert [one['bbox'] for one in content['annotations']] == [
        one['bbox'] for one in kept
    ]
    drawn = cv2.imread(str(out / 'pictures' / 'a b.png'))
    assert drawn.shape == (40, 60, 3)
    options = ('--classes', 'Käfer', '--max-det', 1, '--save-crop', '--no-labels')
    arguments = (*options, '--out', out, '--force')
    assert command('predict', path, folder, *arguments)[0] == 0
    content = json.loads((out / 'predictions.json').read_text())
    (found,) = content['annotations']
    names = detector.predict(folder / 'a b.png').names
    assert found['bbox'] == kept[names.index('Käfer')]['bbox']
    assert (out / 'crops' / 'Käfer' / 'a b-1.png').is_file()
    others = cv2.imread(str(out / 'pictures' / 'a b.png'))
    assert (others != drawn).any()
    for option in (['--cam'], ['--config', 'x.py'], ['--device', 'cuda:0']):
        arguments = [*option, '--out', tmp_path / 'none']
        code, _, err = command('predict', path, folder, *arguments)
        assert code == 2 and f'{option[0]} goes with a checkpoint of mmengine' in err
    assert not (tmp_path / 'none').exists()


def test_command_says_first_what_is_missing(command, path, tmp_path, monkeypatch):
    Image.fromarray(picture(20, 30)).save(tmp_path / 'a.png')
    monkeypatch.setitem(sys.modules, 'cv2', None)
    out = tmp_path / 'out'
    code, _, err = command('predict', path, tmp_path / 'a.png', '--out', out)
    assert code == 2 and not out.exists()
    assert 'pip install onnxruntime opencv-python [package-missing]' in err
