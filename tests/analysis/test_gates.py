"""Gates of detectors, measured: against numpy, and against the network itself."""

import json

import cv2
import numpy as np
import pytest
import torch

from eca_mmdet.analysis.gate_images import ImageSet
from eca_mmdet.analysis.gates import (
    Thresholds,
    count_channels,
    gates_record,
    measure_gates,
)
from eca_mmdet.catalog.mechanisms import MECHANISMS, find_mechanism
from tests.support.attention_cases import expected
from tests.support.gate_detectors import build, gates_of, write_images

pytestmark = pytest.mark.usefixtures('mmdet_ready')

# Those that are left out differ from se-var3 in their factors alone.
ALIKE = ('se-var2', 'se-gc1', 'se-gc2', 'se-gc3')
GATES = tuple(row.key for row in MECHANISMS if not row.adds and row.key not in ALIKE)
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp('images'))


def run_plainly(model):
    """Every layer by itself, in float64."""
    for one in model.modules():
        if hasattr(one, 'memory'):
            one.memory = 'plain'
    return model.double()


def network_input(path):
    """The test pipeline by hand: RGB, 160 pixels, normalised, padded to 32."""
    image = cv2.imread(str(path))
    height, width = image.shape[:2]
    scale = 160 / max(height, width)
    size = int(width * scale + 0.5), int(height * scale + 0.5)
    image = (cv2.resize(image, size)[:, :, ::-1] - MEAN) / STD
    rows, columns = (-(-side // 32) * 32 for side in image.shape[:2])
    padded = np.zeros((1, 3, rows, columns))
    padded[0, :, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
    return torch.from_numpy(padded)


def reference_values(detector, images, mechanism):
    """{gate: (images, C)}: numpy's gates on the maps of a plain network in float64."""
    model = run_plainly(detector.model)
    kwargs = {**mechanism.layer, **mechanism.narrow}
    layer = kwargs.pop('type')
    found = {}
    for name, gate in gates_of(model):
        found[name] = []
        given = dict(kwargs, size=gate.size) if layer == 'FcaNet' else kwargs

        def compare(module, args, values=found[name], given=given):
            x = args[0] + 1e-9  # after a ReLU there are zeros, which divide nothing
            gated = expected(layer, module, x, **given)
            values.append((gated / x).mean((2, 3))[0].numpy())

        gate.register_forward_pre_hook(compare)
    with torch.no_grad():
        for image in images:
            model.extract_feat(network_input(image))
    return {name: np.array(values) for name, values in found.items()}


@pytest.mark.parametrize('key', GATES)
def test_values_are_those_of_numpy_on_the_plain_network(images, key):
    mechanism, detector, images = find_mechanism(key), build(key), images[1:]
    found = measure_gates(detector, images)
    wanted = reference_values(detector, images, mechanism)
    assert [one['name'] for one in found['gates']] == list(wanted)
    assert found['left_out'] == []
    # Most say something; of SE's two hidden units here, both may be off.
    assert np.mean([one.std() > 1e-3 for one in wanted.values()]) > 0.7
    for one in found['gates']:
        values = wanted[one['name']]
        assert values.shape == (len(images), one['channels'])  # once an image
        np.testing.assert_allclose(one['mean'], values.mean(0), atol=3e-6)
        np.testing.assert_allclose(one['deviation'], values.std(0), atol=3e-6)
        low, high = one['range']
        assert low <= values.min() and values.max() <= high
        assert one['layer'] == mechanism.layer['type']
        assert one['by_class'] == {} and one['class_spread'] is None
    local = {'cbam', 'bam', 'ge-theta', 'ge-theta-plus'}  # by position
    assert (one['position_deviation'] is not None) == (key in local)


@pytest.mark.openmmlab
@pytest.mark.parametrize(('key', 'depth'), [('eca', 18), ('eca', 50), ('se', 18)])
def test_the_lean_network_uses_these_values(images, key, depth):
    """The factors that lean blocks fold into convolutions, with nobody listening."""
    detector = build(key, depth)
    found = measure_gates(detector, images)
    used = {name: [] for name, _ in gates_of(detector.model)}
    for name, gate in gates_of(detector.model):

        def keep(pooled, factors=gate.factors, values=used[name]):
            values.append(factors(pooled))
            return values[-1]

        gate.factors = keep
    with torch.no_grad():
        for image in images:
            detector.model.extract_feat(network_input(image).float())
    assert len(found['gates']) == {18: 8, 50: 16}[depth]
    for one in found['gates']:
        values = torch.cat(used[one['name']]).double().numpy()
        assert values.shape == (len(images), one['channels'])
        np.testing.assert_allclose(one['mean'], values.mean(0), atol=3e-6)


def test_the_model_is_left_as_it_was(images):
    detector = build('eca')

    def state():
        return {
            name: (one.training, {k: repr(v) for k, v in vars(one).items()})
            for name, one in detector.model.named_modules()
        }

    before = state()
    features = detector.model.extract_feat(network_input(images[0]).float())
    measure_gates(detector, images)
    assert state() == before
    again = detector.model.extract_feat(network_input(images[0]).float())
    assert all(torch.equal(a, b) for a, b in zip(features, again, strict=True))


@pytest.mark.openmmlab
def test_averages_per_class(images):
    detector = build('se')
    a, b, c = (measure_gates(detector, [one])['gates'][5]['mean'] for one in images)
    classes_of = (('cat',), ('dog', 'cat'), ('dog', 'dog', 'cat'))
    found = measure_gates(detector, images, classes_of)
    gate = found['gates'][5]
    assert (gate['name'], gate['stage'], gate['block']) == (
        'backbone.layer3.1.se',
        3,
        1,
    )
    cat, dog = (
        np.mean([a, b, c], axis=0),
        (np.array(b) + c) / 2,
    )
    assert list(gate['by_class']) == ['cat', 'dog']
    np.testing.assert_allclose(gate['by_class']['cat'], cat, atol=2e-6)
    np.testing.assert_allclose(gate['by_class']['dog'], dog, atol=2e-6)
    # Of two values the standard deviation is half their distance.
    assert gate['class_spread'] == pytest.approx(np.abs(cat - dog).mean() / 2, abs=3e-6)
    record = gates_record([found], ImageSet('here', images, classes_of))
    assert record['classes'] == [
        {'name': 'cat', 'images': 3},
        {'name': 'dog', 'images': 2},
    ]
    assert record['thresholds'] == {'dead': 0.05, 'saturated': 0.95, 'constant': 0.001}
    json.dumps(record, allow_nan=False)


@pytest.mark.parametrize(('low', 'high'), [(0.0, 1.0), (1.0, 2.0)])
def test_channels_are_counted_by_hand(low, high):
    share = np.array(
        [  # open, closed, closed once, saturated, saturated once, constant, at the edge
            [0.50, 0.01, 0.01, 0.99, 0.99, 0.3000, 0.0625],
            [0.60, 0.04, 0.06, 0.96, 0.94, 0.3001, 0.0625],
        ]
    )
    values = low + (high - low) * share
    at = Thresholds(dead=0.0625, saturated=0.95, constant=1e-3)
    found = count_channels(values, (low, high), at)
    # Closed in both; 0.06 is below 0.0625 too, 0.0625 itself is not.
    assert found == {'dead': 2, 'saturated': 1, 'constant': 2, 'uniform': False}
    at = Thresholds(dead=0.05, saturated=0.93, constant=0.051)
    found = count_channels(values, (low, high), at)
    assert found == {'dead': 1, 'saturated': 2, 'constant': 7, 'uniform': False}
    one = count_channels(values[:1, :2] * 0 + low, (low, high), at)
    assert one == {'dead': 2, 'saturated': 0, 'constant': None, 'uniform': True}


def test_kernels(images):
    detector = build('eca')
    for one in measure_gates(detector, images[:1])['gates']:
        weight = detector.model.get_submodule(one['name']).conv.weight
        np.testing.assert_allclose(one['kernel'], weight[0, 0].detach(), atol=1e-6)
    detector = build('eca-ns')
    one = measure_gates(detector, images[:1])['gates'][0]
    weight = detector.model.get_submodule(one['name']).weight.detach().double().numpy()
    assert weight.shape == (16, 3)
    np.testing.assert_allclose(one['kernel'], weight.sum(0) / 16, atol=1e-6)
    spread = np.sqrt(((weight - weight.sum(0) / 16) ** 2).sum(0) / 16)
    np.testing.assert_allclose(one['kernel_deviation'], spread, atol=1e-6)


def test_gates_of_a_neck_and_of_mobilenet(images):
    def change(cfg):
        cfg.model.backbone = dict(
            type='ECAMobileNetV2', widen_factor=0.25, out_indices=(1, 2, 4, 6)
        )
        cfg.model.neck.in_channels = [8, 8, 24, 80]
        cfg.model.neck = [
            cfg.model.neck,
            dict(
                type='AttentionNeck',
                in_channels=cfg.model.neck.out_channels,
                num_levels=cfg.model.neck.num_outs,
                attention=dict(type='SqueezeExcite', ratio=4),
            ),
        ]

    found = measure_gates(build('eca', change=change), images[:1])['gates']
    stages = [one['stage'] for one in found]
    assert [stages.count(stage) for stage in range(1, 8)] == [1, 2, 3, 4, 3, 3, 1]
    necks = [one['name'] for one in found if one['stage'] is None]
    assert necks[:2] == ['neck.1.se_0', 'neck.1.se_1']
    assert stages == sorted(stages, key=lambda stage: stage or 9)  # as they run
