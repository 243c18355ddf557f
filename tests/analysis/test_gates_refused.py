"""What ``measure_gates`` leaves out, and what it refuses."""

import pytest

from eca_mmdet import ECALayer
from eca_mmdet.analysis.gates import measure_gates
from eca_mmdet.utils.errors import UserError
from tests.support.gate_detectors import build, gates_of, write_images

pytestmark = pytest.mark.usefixtures('mmdet_ready')


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp('images'))


def test_what_adds_is_named_as_left_out(images):
    def change(cfg):
        cfg.model.backbone.plugins = [
            dict(cfg=dict(type='ECALayer'), position='after_conv2'),
            dict(
                cfg=dict(type='ContextBlock', ratio=1 / 4),
                position='after_conv1',
                stages=(True, False, False, False),
            ),
        ]

    found = measure_gates(build('none', change=change), images[:1])
    assert len(found['gates']) == 8
    assert {one['name'] for one in found['left_out']} == {
        'backbone.layer1.0.context_block',
        'backbone.layer1.1.context_block',
    }


def test_gates_that_nothing_runs(images):
    detector = build('eca')
    detector.model.spare = ECALayer(8)
    found = measure_gates(detector, images[:1])
    assert [one['name'] for one in found['left_out']] == ['spare']
    assert len(found['gates']) == 8
    detector = build('none')
    detector.model.spare = ECALayer(8)
    with pytest.raises(UserError, match=r'spare, ...\), and its backbone and neck run'):
        measure_gates(detector, images[:1])


@pytest.mark.parametrize(
    ('key', 'part'),
    [
        ('none', 'backbone PluginResNet, and has no gates. Expected'),
        ('a2', 'It has Do'),
    ],
)
def test_a_detector_without_gates_is_refused(images, key, part):
    with pytest.raises(UserError, match=part):
        measure_gates(build(key), images)


def test_bad_images_are_named(images, tmp_path):
    detector = build('eca')
    (tmp_path / 'cut.png').write_bytes(images[0].read_bytes()[:300])
    (tmp_path / 'none.png').write_bytes(b'')
    for bad, part in (
        ([], 'there are no images'),
        ([images[0], tmp_path / 'cut.png'], r"1 of 2 images.*cut.png': OpenCV"),
        ([tmp_path / 'none.png'], "none.png': it is empty"),
        ([tmp_path / 'gone.png'], r"1 of 1 images do not exist.*gone.png'"),
    ):
        with pytest.raises(UserError, match=part):
            measure_gates(detector, bad)


def test_diverged_weights_are_said(images):
    detector = build('eca')
    gates_of(detector.model)[3][1].conv.weight.data[0, 0, 1] = float('nan')
    with pytest.raises(
        UserError, match='layer2.1.eca is not a number on image .*a.png'
    ):
        measure_gates(detector, images)


def test_a_map_too_small_for_a_gate(images):
    def change(cfg):
        steps = cfg.test_dataloader.dataset.pipeline
        steps[1].scale = (32, 32)

    with pytest.raises(UserError, match="a.png': CBAM needs a map of 4 pixels"):
        measure_gates(build('cbam', change=change), images)
