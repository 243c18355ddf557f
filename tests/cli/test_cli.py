"""The command line: help, names, options, and one line for each user's mistake."""

import json
import logging
import subprocess
from pathlib import Path

import pytest
import torch

from eca_mmdet.catalog import configs as paths
from eca_mmdet.cli import printed_messages
from eca_mmdet.engine import config as engine_config
from eca_mmdet.engine.config import parse_options
from eca_mmdet.engine.distributed import is_main_process
from eca_mmdet.utils.errors import UserError
from tests.conftest import PYTHON, REPOSITORY

pytestmark = pytest.mark.openmmlab

NAME = 'mask-rcnn_eca-r50_fpn_4xb2-1x_coco'


@pytest.mark.parametrize(
    'words',
    [[], ['train'], ['test'], ['configs'], ['demo'], ['data', 'check']],
    ids=' '.join,
)
def test_help_needs_no_heavy_import(words):
    code = (
        'import sys; from eca_mmdet.cli import main\n'
        'try: main(sys.argv[1:])\n'
        'except SystemExit as e: print(e.code)\n'
        'print(sorted({"torch", "numpy", "mmengine"} & set(sys.modules)))'
    )
    done = subprocess.run(
        [PYTHON, '-c', code, *words, '--help'],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.stdout.startswith('usage: eca-mmdet')
    assert done.stdout.splitlines()[-2:] == ['0', '[]']


def test_configs_lists_names(command):
    code, out, _ = command('configs', 'eca-r101_')
    assert code == 0
    reported = {'faster-rcnn': 40.3, 'mask-rcnn': 41.3, 'retinanet': 39.1}
    for family, box in reported.items():
        row = f'{family}_eca-r101_fpn_4xb2-1x_coco {family} r101 ECA 4xb2-1x {box}'
        assert row in ' '.join(out.split())


def test_configs_path_and_json(command):
    code, out, _ = command('configs', '--path', NAME)
    assert code == 0 and Path(out.strip()).name == f'{NAME}.py'
    assert Path(out.strip()).is_file()
    _, out, _ = command('configs', f'{NAME}*', '--json')
    assert list(json.loads(out)) == [NAME]


def test_configs_without_a_match(command):
    code, _, err = command('configs', 'yolo')
    assert code == 2 and "no shipped config matches 'yolo'" in err


@pytest.mark.parametrize('words', [['train'], ['test', 'nothing.pth'], []])
def test_bad_usage_exits_with_two(words):
    done = subprocess.run(
        [PYTHON, '-m', 'eca_mmdet.cli', *words], capture_output=True, cwd=REPOSITORY
    )
    assert done.returncode == 2


def test_unknown_config_suggests_close_names(command):
    code, _, err = command('train', 'mask-rcnn_eca-r50_fpn_4xb2_coco')
    assert code == 2
    assert NAME in err and 'eca-mmdet configs' in err


def test_missing_checkpoint(command):
    code, _, err = command('test', NAME, 'nowhere/epoch_12.pth')
    assert code == 2 and "'nowhere/epoch_12.pth' does not exist" in err


def test_missing_checkpoint_to_resume(command):
    code, _, err = command('train', NAME, '--resume', 'nowhere.pth')
    assert code == 2 and "checkpoint 'nowhere.pth' does not exist" in err


def test_file_that_is_no_config(command, tmp_path):
    for text, message in (
        ('x = ', 'not a config that mmengine reads'),
        ('x = 1', 'is not a detector config'),
        ("_base_ = './nothing.py'", 'not a config that mmengine reads'),
    ):
        file = tmp_path / 'bad.py'
        file.write_text(text)
        code, _, err = command('train', file)
        assert code == 2 and message in err, text


def test_option_without_value(command):
    code, _, err = command('train', NAME, '--cfg-options', 'lr')
    assert code == 2 and 'KEY=VALUE' in err and "'lr'" in err


def test_missing_backbone_file_says_what_to_get(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = command('train', NAME)
    assert code == 2
    for part in (
        'checkpoints/eca_resnet50_k3557.pth.tar',
        'eca-mmdet weights download eca_resnet50_k3557.pth.tar.',
        '--from-scratch',
    ):
        assert part in err
    # Nothing was started or written.
    assert list(tmp_path.iterdir()) == []


def config(**changes):
    """A config of 8 base images with lr 0.01 and what apply_lr_policy reads."""
    from mmengine.config import Config

    return Config(
        {
            'launcher': 'none',
            'train_dataloader': {'batch_size': 2},
            'optim_wrapper': {'optimizer': {'lr': 0.01}},
            'auto_scale_lr': {'enable': True, 'base_batch_size': 8},
            **changes,
        }
    )


@pytest.mark.parametrize(
    ('changes', 'scale', 'lr', 'line'),
    [
        ({}, True, 0.0025, 'lr 0.01 -> 0.0025: 2 of 8 images a step'),
        ({}, False, 0.01, 'lr 0.01 as written: 2 images a step, config made for 8'),
        (
            {'train_dataloader': {'batch_size': 8}},
            True,
            0.01,
            'lr 0.01 -> 0.01: 8 of 8 images a step',
        ),
        (
            {'optim_wrapper': {'optimizer': {'lr': 0.01}, 'accumulative_counts': 4}},
            True,
            0.01,
            'lr 0.01 -> 0.01: 8 of 8 images a step',
        ),
        (
            {'auto_scale_lr': None},
            True,
            0.01,
            'lr 0.01 as written: the config names no base batch size',
        ),
    ],
)
def test_learning_rate_follows_the_batch(caplog, changes, scale, lr, line):
    cfg = config(**changes)
    caplog.set_level(logging.INFO, 'eca_mmdet')
    engine_config.apply_lr_policy(cfg, scale)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(lr)
    assert caplog.messages == [line]
    # mmengine must not scale a second time.
    assert cfg.auto_scale_lr.enable is False


def test_only_the_first_process_prints(monkeypatch, capsys):
    monkeypatch.setenv('RANK', '1')
    with printed_messages(is_main_process()):
        engine_config.apply_lr_policy(config(), scale=True)
    assert capsys.readouterr().out == ''


def test_options_are_read_as_mmdet_reads_them(mmdet_ready):
    options = ['a.b=2', 'c=[1,2]', 'd=None', 'e="(1,2)"', 'f=x']
    assert parse_options(options) == {
        'a.b': 2,
        'c': [1, 2],
        'd': None,
        'e': (1, 2),
        'f': 'x',
    }
    assert parse_options([]) == {}


def test_from_scratch_and_amp(monkeypatch):
    import mmengine.device
    from mmengine.config import Config

    monkeypatch.setattr(mmengine.device, 'get_device', lambda: 'cuda')
    cfg = Config(
        {
            'model': {
                'backbone': {
                    'init_cfg': {'checkpoint': 'x'},
                    'frozen_stages': 1,
                    'norm_eval': True,
                }
            },
            'optim_wrapper': {'type': 'OptimWrapper'},
        }
    )
    engine_config.start_from_scratch(cfg)
    engine_config.use_amp(cfg)
    assert cfg.optim_wrapper == {'type': 'MixedPrecisionOptimWrapper'}
    engine_config.use_amp(cfg, 'float16')
    assert cfg.optim_wrapper.dtype == 'float16'
    assert cfg.model.backbone == {
        'init_cfg': None,
        'frozen_stages': -1,
        'norm_eval': False,
    }


def test_amp_without_a_gpu(monkeypatch):
    import mmengine.device

    monkeypatch.setattr(mmengine.device, 'get_device', lambda: 'cpu')
    for dtype, code in (('float16', 'no-gpu'), ('half', 'option-invalid')):
        with pytest.raises(UserError) as refused:
            engine_config.use_amp(config(), dtype)
        assert refused.value.code == code


@pytest.mark.parametrize(
    'option', ['model.backbone.depth.x=1', 'param_scheduler.9.x=1']
)
def test_option_that_does_not_fit_the_config(command, option):
    code, _, err = command('train', NAME, '--cfg-options', option)
    assert code == 2 and option in err and 'does not fit' in err


def test_resuming_where_nothing_was_saved_starts_afresh(mmdet_ready, tmp_path, caplog):
    from eca_mmdet.engine.checkpointing import resume_from

    caplog.set_level(logging.INFO, 'eca_mmdet')
    cfg = config(work_dir=str(tmp_path))
    resume_from(cfg, 'auto')
    assert 'nothing to resume' in caplog.text
    assert not cfg.get('resume') and not cfg.get('load_from')
    meta = {'epoch': 3, 'iter': 30, 'seed': 5}
    path = tmp_path / 'epoch_3.pth'
    torch.save(
        {'state_dict': {'a': torch.ones(1)}, 'optimizer': {}, 'meta': meta}, path
    )
    (tmp_path / 'last_checkpoint').write_text('elsewhere/epoch_3.pth')
    resume_from(cfg, 'auto')
    assert (cfg.resume, cfg.load_from) == (True, str(path))
    assert cfg.randomness.seed == 5
    engine_config.apply_lr_policy(cfg, scale=True)
    assert caplog.messages[-1] == 'lr continues from the checkpoint'


def test_work_dir_order(tmp_path):
    from mmengine.config import Config

    file = tmp_path / 'name.py'
    file.write_text('')
    cfg = Config({}, filename=str(file))
    engine_config.set_work_dir(cfg, None)
    assert cfg.work_dir == 'work_dirs/name'
    cfg = Config({'work_dir': 'own'})
    engine_config.set_work_dir(cfg, None)
    assert cfg.work_dir == 'own'
    engine_config.set_work_dir(cfg, 'given')
    assert cfg.work_dir == 'given'


def test_paths_resolve_names_and_files(tmp_path):
    assert paths.resolve_config(NAME) == paths.resolve_config(f'{NAME}.py')
    file = tmp_path / 'mine.py'
    file.write_text('')
    assert paths.resolve_config(str(file)) == file
    with pytest.raises(UserError, match='neither a file nor a shipped name'):
        paths.resolve_config(str(tmp_path))
    of_mmdet = 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'
    with pytest.raises(UserError, match=f'Did you mean mmdet::{of_mmdet}'):
        paths.resolve_config(of_mmdet)
