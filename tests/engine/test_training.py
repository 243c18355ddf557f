"""Training and testing by the library's functions, without the command line."""

import copy
import json
import logging

import pytest
import torch

from eca_mmdet.checkpoints.io import read_weights
from eca_mmdet.datasets.shapes import write_shapes
from eca_mmdet.engine import testing
from eca_mmdet.engine.training import compile_features
from eca_mmdet.utils.errors import UserError
from tests.support.in_process import fresh_mmengine
from tests.support.training_runs import write_config
from tests.tolerances import assert_near


def test_train_then_test(mmdet_ready, tmp_path, caplog, capfd):
    import eca_mmdet

    caplog.set_level(logging.INFO, 'eca_mmdet')
    shapes = write_shapes(tmp_path / 'shapes', sizes={'train': 6, 'val': 2}, side=64)
    config = write_config(tmp_path / 'config.py', shapes)
    with fresh_mmengine():
        trained = eca_mmdet.train(
            config,
            tmp_path / 'work',
            seed=0,
            options=['auto_scale_lr=None'],
            resume='auto',
        )
    assert caplog.text.count('nothing to resume') == 1
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


@pytest.mark.slow
@pytest.mark.openmmlab
def test_mixed_precision_on_a_cpu_goes_on_bit_for_bit(mmdet_ready, tmp_path, caplog):
    import eca_mmdet

    caplog.set_level(logging.INFO, 'eca_mmdet')
    shapes = write_shapes(tmp_path / 'shapes', sizes={'train': 6, 'val': 2}, side=64)
    config = write_config(tmp_path / 'config.py', shapes)
    states = {}
    options = ['default_hooks.checkpoint.max_keep_ckpts=-1']
    for name, given in {
        'float32': {},
        'amp': {'amp': True},
        'resumed': {'amp_dtype': 'bfloat16', 'resume': tmp_path / 'amp' / 'iter_2.pth'},
    }.items():
        with fresh_mmengine():
            given = {key: str(v) if key == 'resume' else v for key, v in given.items()}
            trained = eca_mmdet.train(
                config, tmp_path / name, seed=0, options=options, **given
            )
        states[name] = read_weights(trained.checkpoint).state
        assert ('mixed precision: bfloat16' in caplog.text) == (name != 'float32')
    key = 'backbone.layer1.0.conv1.weight'
    difference = states['amp'][key] - states['float32'][key]
    assert 0 < difference.norm() < 0.1 * states['float32'][key].norm()
    for key, value in states['amp'].items():
        assert torch.equal(value, states['resumed'][key]), key


def test_nothing_to_compile(mmdet_ready):
    with pytest.raises(UserError) as caught:
        compile_features({'backbone': {'type': 'ResNet'}})
    assert caught.value.code == 'unsupported-model'


@pytest.mark.slow
def test_compiled_features_are_trained_as_the_layers(mmdet_ready):
    """By Inductor, for images of two sizes; statistics of norms included."""
    from torch import nn

    from eca_mmdet import ECAResNet

    torch.manual_seed(0)
    plain = nn.Module()
    plain.backbone = ECAResNet(
        **dict(depth=18, num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,)),
        **dict(kernel_sizes=3, base_channels=4, norm_eval=False),
    )
    plain.neck = nn.Conv2d(4, 3, 3)
    compiled = copy.deepcopy(plain)
    compile_features(compiled)
    for side in (32, 48):
        image = torch.randn(2, 3, side, 32)
        found, expected = (
            each.neck(each.backbone(image)[0]) for each in (compiled, plain)
        )
        assert_near(found, expected, 1e-4)
        for features in (found, expected):
            (features.sin() * features).sum().backward()
    expected = dict(plain.named_parameters())
    assert expected['backbone.conv1.weight'].grad is not None
    for name, parameter in compiled.named_parameters():
        if expected[name].grad is not None:
            assert_near(parameter.grad, expected[name].grad, 1e-3)
    state = compiled.state_dict()
    assert state.keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        if 'running' in name:
            assert_near(state[name], value, 1e-4)
