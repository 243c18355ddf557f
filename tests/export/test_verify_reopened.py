"""What a whole file says of its images: held against the config, before it is kept."""

import dataclasses
import types

import pytest

from tests.support import exporting

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from eca_mmdet.export import writer
from eca_mmdet.export.parity import require_same_input
from eca_mmdet.export.writer import _resize, properties
from eca_mmdet.inference.detector import load_detector
from eca_mmdet.utils.errors import UserError
from tests.support import onnx_files

NOTHING = onnx_files.objects([[0, 0, 9, 9]], [0.5], [0])


@pytest.fixture(scope='module')
def paths(mmdet_ready, shapes, tmp_path_factory):
    cfg, model = exporting.random_detector('faster', shapes)
    return exporting.save(tmp_path_factory.mktemp('paths'), cfg, model)


@pytest.fixture(scope='module')
def trained(paths):
    return load_detector(str(paths[1]), str(paths[0]), 'cpu')


def changed(trained, **changes):
    """Return the detector with another rule of resizing in its config."""
    from mmengine import Config

    cfg = Config(trained.cfg.to_dict(), filename=trained.cfg.filename)
    for key in ('scale', 'keep_ratio'):
        if key in changes:
            resize = cfg.test_dataloader.dataset.pipeline[1]
            assert resize.type == 'Resize'
            resize[key] = changes[key]
    return dataclasses.replace(trained, cfg=cfg)


@pytest.mark.parametrize(
    ('scale', 'keep_ratio', 'size'),
    [
        ((96, 64), True, None),
        ((99999, 70), True, None),
        ((70.0, 99999), True, None),
        ((101, 75), False, None),
        ((101, 75), True, (128, 96)),
        ((300, 200), True, (64, 64)),
    ],
)
def test_what_is_said_is_what_mmdet_does(scale, keep_ratio, size, trained, tmp_path):
    mine = changed(trained, scale=scale, keep_ratio=keep_ratio)
    said = properties(mine, 'all', size)
    assert said['scale'] == list(scale) and said['keep_ratio'] is keep_ratio
    path = onnx_files.save(tmp_path / 'a.onnx', NOTHING, said)
    require_same_input(path, mine)


@pytest.mark.parametrize(
    ('change', 'what'),
    [
        ({'mean': [123.675, 116.28, 103.6]}, '160 x 90 the metadata'),
        ({'std': [58.395, 57.12, 57.376]}, 'another input'),
        ({'to_rgb': False}, 'another input'),
        ({'scale': [129, 97]}, 'another input'),
        ({'keep_ratio': False}, 'another input'),
        ({'pad_divisor': 1}, 'another input'),
        ({'pad_value': 1}, 'another input'),
        ({'classes': ['square', 'circle', 'triangle']}, 'has the classes square, ci'),
        ({'score_threshold': 2}, 'cannot be used: score_threshold: Expected'),
    ],
)
def test_what_is_said_wrongly(change, what, trained, tmp_path):
    mine = changed(trained, scale=(128, 96))
    said = properties(mine, 'all', None) | change
    path = onnx_files.save(tmp_path / 'a.onnx', NOTHING, said)
    with pytest.raises(UserError, match=what):
        require_same_input(path, mine)


@pytest.mark.parametrize('scale', [(160.7, 160), (float('inf'), 160), ('96', 96)])
def test_a_scale_that_is_not_whole(scale, trained):
    with pytest.raises(UserError, match='two whole numbers, .* is expected'):
        properties(changed(trained, scale=scale), 'all', None)


@pytest.mark.parametrize(
    ('key', 'value', 'refused'),
    [
        ('to_float32', True, True),
        ('color_type', 'grayscale', True),
        ('color_type', 'color_ignore_orientation', True),
        ('color_type', 'unchanged', True),
        ('imdecode_backend', 'pillow', True),
        ('imdecode_backend', 'cv2', False),
        ('color_type', 'color', False),
    ],
)
def test_images_that_are_read_otherwise(key, value, refused, mmdet_ready):
    """Who has the file alone reads them as ever, and gets other objects."""
    from mmengine import Config

    steps = [
        {'type': 'mmcv.LoadImageFromFile', 'backend_args': None, key: value},
        {'type': 'Resize', 'scale': (96, 64), 'keep_ratio': True},
        {'type': 'PackDetInputs'},
    ]
    loader = {'dataset': {'type': 'CocoDataset', 'pipeline': steps}}
    trained = types.SimpleNamespace(
        path='a.pth', cfg=Config({'test_dataloader': loader})
    )
    if not refused:
        assert _resize(trained) == ([96, 64], True)
        return
    with pytest.raises(UserError, match=f'with {key}={value!r}, .* --part backbone'):
        _resize(trained)


def test_what_no_file_can_say(trained, monkeypatch):
    test = trained.model.roi_head.test_cfg
    for key, value in (('score_thr', 1.5), ('score_thr', -0.1)):
        monkeypatch.setitem(test, key, value)
        with pytest.raises(UserError, match=f'mine.py .*; got {value}. Change it'):
            properties(changed(trained), 'all', None)
        assert properties(changed(trained), 'heads', None)['score_threshold'] == value


def test_the_command_opens_what_it_wrote(paths, command, monkeypatch, tmp_path):
    right = writer._preprocessing
    monkeypatch.setattr(
        writer, '_preprocessing', lambda one: right(one) | {'to_rgb': False}
    )
    code, out, err = command('export', 'onnx', *paths, tmp_path / 'a.onnx')
    assert code == 1 and 'another input' in err, out
    assert str(tmp_path / 'a.failed.onnx') in err
    assert [one.name for one in tmp_path.iterdir()] == ['a.failed.onnx']
