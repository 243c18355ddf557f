"""Training and testing by the library's functions, without the command line."""

import json
import logging

import pytest

from eca_mmdet.datasets.shapes import write_shapes
from eca_mmdet.engine import testing
from eca_mmdet.utils.errors import UserError
from tests.support.in_process import fresh_mmengine
from tests.support.training_runs import write_config


def test_train_then_test(mmdet_ready, tmp_path, caplog, capfd):
    import eca_mmdet

    caplog.set_level(logging.INFO, 'eca_mmdet')
    shapes = write_shapes(tmp_path / 'shapes', sizes={'train': 6, 'val': 2}, side=64)
    config = write_config(tmp_path / 'config.py', shapes)
    with fresh_mmengine():
        trained = eca_mmdet.train(
            config, tmp_path / 'work', seed=0, options=['auto_scale_lr=None']
        )
    assert trained.checkpoint == tmp_path / 'work' / 'iter_6.pth'
    assert trained.work_dir == tmp_path / 'work' and trained.bad_images is None
    assert 'as written: the config names no base batch size' in caplog.text
    loaded = eca_mmdet.load_config(config)
    with fresh_mmengine():
        tested = eca_mmdet.test(loaded, trained.checkpoint, tmp_path / 'test')
    assert 'load_from' not in loaded or loaded.load_from is None  # a copy was changed
    record = json.loads((trained.log_dir / 'metrics.json').read_text())
    for task, result in record['results'].items():
        assert tested.metrics[f'coco/{task}_AP'] == result['metrics']['AP']
    assert tested.table in capfd.readouterr().out
    assert tested.baseline is None and (tested.log_dir / 'metrics.json').is_file()
    with pytest.raises(UserError) as caught:
        eca_mmdet.train(config, tmp_path / 'work')
    assert caught.value.code == 'output-exists'


def test_comparing_needs_a_fast_test(tmp_path):
    with pytest.raises(UserError) as caught:
        testing.test('config', 'a.pth', compare=True)
    assert caught.value.code == 'option-conflict'
