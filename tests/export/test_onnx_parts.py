"""Pieces of exported graphs, each in onnxruntime against mmdet or a loop."""

import io
import types

import numpy as np
import pytest
import torch

from eca_mmdet.catalog.mechanisms import KEYS
from eca_mmdet.demo import run as demo
from eca_mmdet.export import writer as graph_file
from eca_mmdet.export.heads import best, decode, grid_anchors, level_of, pool, suppress
from eca_mmdet.export.parity import make_batches
from eca_mmdet.export.writer import OPSET, make_part, quiet, write_graph
from eca_mmdet.utils.errors import UserError
from tests.support import exporting
from tests.tolerances import assert_near

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')


class _Call(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *arrays):
        return self.function(*arrays)


def exported(function, arrays, axes, outputs=('out',)):
    """Return a function that runs another as a graph; ``axes``: {input: [any, ...]}."""
    names = [f'in{index}' for index in range(len(arrays))]
    file = io.BytesIO()
    with torch.no_grad(), quiet():
        torch.onnx.export(
            *(_Call(function), tuple(arrays), file),
            dynamo=False,
            opset_version=OPSET,
            input_names=names,
            output_names=list(outputs),
            dynamic_axes={
                name: {axis: f'{name}_{axis}' for axis in own}
                for name, own in zip(names, axes, strict=True)
            },
        )

    def call(*inputs):
        given = dict(zip(names, inputs, strict=True))
        found = exporting.run(file.getvalue(), **given)
        return [found[name] for name in outputs]

    return call


@pytest.mark.openmmlab
@pytest.mark.parametrize(
    'settings',
    [
        dict(scales=[4], center_offset=0.0),
        dict(scales=[8, 11], center_offset=0.5),
        dict(octave_base_scale=4, scales_per_octave=3),
        dict(scales=[2, 3], scale_major=False, centers=[(3.0, 5.0), (1.0, 2.0)]),
    ],
)
def test_anchors_are_those_of_mmdet(settings, mmdet_ready):
    from mmdet.models.task_modules import AnchorGenerator

    strides = [(4, 8), (16, 12)]  # along x, along y
    generator = AnchorGenerator(strides=strides, ratios=[0.5, 1.0, 2.0], **settings)

    def function(image):
        return tuple(
            grid_anchors(base, stride, image.shape[0] // cut, image.shape[1] // cut)
            for base, stride, cut in zip(
                generator.base_anchors, generator.strides, (1, 2), strict=True
            )
        )

    call = exported(function, [torch.zeros(6, 4)], [[0, 1]], ('fine', 'coarse'))
    for height, width in ((1, 1), (2, 7), (13, 3), (25, 42)):
        sizes = [(height, width), (height // 2, width // 2)]
        wanted = generator.grid_priors(sizes, device='cpu')
        found = call(np.zeros((height, width), np.float32))
        for one, other in zip(wanted, found, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.openmmlab
@pytest.mark.parametrize('clip', [True, False])
def test_decoding_is_that_of_mmdet(clip, mmdet_ready):
    from mmdet.models.task_modules import DeltaXYWHBBoxCoder

    coder = DeltaXYWHBBoxCoder((0.1, -0.2, 0, 0.3), (0.1, 0.1, 0.2, 0.5), clip)
    generator = torch.Generator().manual_seed(3)
    boxes = torch.rand(2, 50, 1, 4, generator=generator) * 60
    boxes[..., 2:] += boxes[..., :2]
    deltas = torch.randn(2, 50, 3, 4, generator=generator) * 12  # some past the limits
    sizes = torch.tensor([[70.0, 90.0], [33.0, 121.0]])

    def function(boxes, deltas, sizes):
        return decode(coder, boxes, deltas, sizes) + 0 * sizes.sum()  # always an input

    call = exported(function, (boxes[:1], deltas[:1], sizes[:1]), [[0]] * 3)
    (found,) = call(boxes, deltas, sizes)
    for index in range(2):
        wanted = coder.decode(
            *(boxes[index].flatten(0, 1), deltas[index].flatten(1)),
            max_shape=tuple(sizes[index].tolist()),
        )
        np.testing.assert_allclose(
            found[index].reshape(50, 12), wanted, rtol=1e-5, atol=1e-4
        )


@pytest.mark.openmmlab
@pytest.mark.parametrize('levels', [2, 4, 5])
def test_levels_are_those_of_mmdet(levels, mmdet_ready):
    from mmdet.models import SingleRoIExtractor

    layer = dict(type='RoIAlign', output_size=7, sampling_ratio=0)
    strides = [2 ** (2 + level) for level in range(levels)]
    extractor = SingleRoIExtractor(layer, 8, strides)
    sides = torch.cat((torch.rand(500) * 1500, 56 * 2.0 ** torch.arange(-2, 6)))
    near = torch.tensor([0.999, 1 - 4e-7, 1.0, 1.001])
    sides = torch.cat((sides, torch.outer(sides, near).flatten(), torch.zeros(2)))
    boxes = torch.stack((sides * 0, sides * 0 + 5, sides, 5 + sides.flip(0)), 1)
    boxes = torch.cat((boxes, boxes[:, [0, 1, 2, 2]] + torch.tensor([0, -5, 0, 0])))
    wanted = extractor.map_roi_levels(torch.cat((boxes[:, :1], boxes), 1), levels)
    assert set(wanted.tolist()) == set(range(levels))
    (found,) = exported(lambda b: level_of(b, levels, 56), [boxes[:3]], [[0]])(boxes)
    np.testing.assert_array_equal(found, wanted)


def _greedy(boxes, scores, iou):
    """Suppress one class in float64, box by box."""
    kept = np.full(len(scores), -1.0)
    alive = []
    for at in np.argsort(-scores, kind='stable'):
        x1, y1, x2, y2 = boxes[at]
        over = [
            min(x2, c) - max(x1, a) > 0
            and min(y2, d) - max(y1, b) > 0
            and _overlap((x1, y1, x2, y2), (a, b, c, d)) > iou
            for a, b, c, d in alive
        ]
        if scores[at] >= 0 and not any(over):
            alive.append(boxes[at])
            kept[at] = scores[at]
    return kept


def _overlap(one, other):
    inter = (min(one[2], other[2]) - max(one[0], other[0])) * (
        min(one[3], other[3]) - max(one[1], other[1])
    )
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return inter / (sum(areas) - inter)


@pytest.mark.parametrize(
    ('batch', 'classes', 'count'), [(1, 1, 40), (3, 4, 25), (2, 1203, 9)]
)
def test_suppression_is_greedy_within_a_class(batch, classes, count):
    rng = np.random.default_rng(classes)
    boxes = rng.integers(0, 3, (batch, count, 4)) * 300.0  # far out: few digits left
    boxes[..., 2:] = boxes[..., :2] + rng.integers(3, 6, (batch, count, 2)) * 197.0
    scores = rng.permutation(batch * classes * count).reshape(batch, classes, count)
    scores = scores / scores.size
    scores[rng.random(scores.shape) < 0.2] = -1
    boxes, scores = boxes.astype(np.float32), scores.astype(np.float32)
    wanted = [
        [_greedy(own, values, 0.45) for values in of_image]
        for own, of_image in zip(boxes.astype(float), scores, strict=True)
    ]
    example = torch.zeros(2, 3, 4), torch.zeros(2, 2, 3)
    call = exported(lambda b, s: suppress(b, s, 0.45), example, [[0, 1], [0, 1, 2]])
    (found,) = call(boxes, scores)
    np.testing.assert_allclose(found, wanted, atol=1e-7)
    assert 0 < (found < 0).sum() - (scores < 0).sum()  # some were suppressed
    (none,) = call(boxes, np.full_like(scores, -1))
    assert (none == -1).all()


def test_the_best_of_too_few():
    call = exported(
        lambda s: best(s, 4), [torch.zeros(1, 9)], [[0, 1]], ('values', 'places')
    )
    values, places = call(np.array([[0.5, -1, 0.0], [0.2, 0.7, 0.7]], np.float32))
    np.testing.assert_array_equal(
        values, np.array([[0.5, 0, -1, -1], [0.7, 0.7, 0.2, -1]], np.float32)
    )
    np.testing.assert_array_equal(places, [[0, 2, 0, 0], [1, 2, 0, 0]])


@pytest.mark.parametrize('scales', [1, 3])
def test_pooling_is_that_of_mmdet(scales, mmdet_ready):
    from mmdet.models import SingleRoIExtractor

    generator = torch.Generator().manual_seed(0)
    maps = [
        torch.randn(2, 5, 64 >> level, 48 >> level, generator=generator)
        for level in range(scales)
    ]
    layer = dict(type='RoIAlign', output_size=(7, 5), sampling_ratio=0)
    extractor = SingleRoIExtractor(layer, 5, [4 << i for i in range(scales)], 20)
    boxes = torch.rand(2, 40, 4, generator=generator) * 90
    boxes[..., 2:] = boxes[..., :2] + boxes[..., 2:] * 1.7
    boxes[:, :3] = 0  # places without a region
    image = torch.arange(2.0).repeat_interleave(40)[:, None]
    wanted = extractor(maps, torch.cat((image, boxes.flatten(0, 1)), 1))
    call = exported(
        lambda b, *m: pool(extractor, m, b), (boxes, *maps), [[0, 1], *[[0]] * scales]
    )
    (found,) = call(boxes, *maps)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    (small,) = call(boxes[:, :2], *maps)  # levels without any
    assert not small.any()


def _backbone(key, shapes, **settings):
    from mmdet.registry import MODELS

    cfg = demo.compose('faster', key, 18, shapes, 0)
    torch.manual_seed(0)
    backbone = MODELS.build(dict(cfg.model.backbone, **settings))
    backbone.train(False)
    for one in backbone.parameters():
        if one.ndim < 2:  # gates and norms that do something
            one.data += torch.randn_like(one) / 10
    return backbone


def _write(backbone, path):
    model = types.SimpleNamespace(backbone=backbone)
    part = make_part(model, 'backbone')
    write_graph(path, part, {'eca_mmdet': '0'})


def _assert_features(path, backbone, sizes=((2, 160, 224), (1, 192, 160))):
    for count, *size in sizes:
        images = torch.randn(count, 3, *size)
        found = exporting.run(path, images=images)
        with torch.no_grad():
            wanted = backbone(images)
        for one, other in zip(wanted, found.values(), strict=True):
            assert_near(other, one, 1e-5)


@pytest.mark.sweep(fast=4)
@pytest.mark.parametrize('key', ['none', *KEYS])
def test_every_mechanism_at_any_size(key, mmdet_ready, shapes, tmp_path):
    backbone = _backbone(key, shapes)
    _write(backbone, tmp_path / 'a.onnx')
    _assert_features(tmp_path / 'a.onnx', backbone)


def test_a_transform_of_the_traced_size(mmdet_ready, shapes, tmp_path, monkeypatch):
    """FcaNet's filters have the size of these maps, and no other."""
    backbone = _backbone('fca', shapes)
    monkeypatch.setattr(graph_file, '_ANY_SIZE', (224, 224))
    _write(backbone, tmp_path / 'a.onnx')
    _assert_features(tmp_path / 'a.onnx', backbone, ((1, 224, 224), (2, 160, 224)))


@pytest.mark.openmmlab
@pytest.mark.parametrize('key', ['eca', 'se'])
def test_lean_and_plain_memory_give_one_file(key, mmdet_ready, shapes, tmp_path):
    backbones = [_backbone(key, shapes, memory=name) for name in ('lean', 'plain')]
    backbones[1].load_state_dict(backbones[0].state_dict())
    for index, backbone in enumerate(backbones):
        _write(backbone, tmp_path / f'{index}.onnx')
        _assert_features(tmp_path / f'{index}.onnx', backbones[1 - index])


def test_sizes_of_the_check_are_those_that_the_layers_take(mmdet_ready):
    """A layer that needs some pixels gets a larger image in place of a smaller one."""
    from mmdet.models import DetDataPreprocessor

    prepare = DetDataPreprocessor(mean=[0, 0, 0], std=[1, 1, 1], pad_size_divisor=32)

    def sides(least):
        def backbone(images):
            if min(images.shape[2:]) < least:
                raise ValueError(f'needs {least} pixels')

        model = types.SimpleNamespace(backbone=backbone, data_preprocessor=prepare)
        images = [np.zeros((160, 160, 3), np.uint8)]
        batches = make_batches(images, model, {'size': None, 'scale': [160, 160]})
        return [one.images.shape[2] for one in batches]

    assert sides(96) == [160, 96, 160]
    assert sides(97) == [160, 224, 160]
    with pytest.raises(UserError, match='of this size: needs 161 pixels'):
        sides(161)
