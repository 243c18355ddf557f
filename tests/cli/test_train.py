"""Training, saving, reloading and testing through the real commands, tiny."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import torch

from eca_mmdet.catalog import configs as paths
from eca_mmdet.checkpoints.reading import allow_mmengine_checkpoints
from tests.conftest import PYTHON, REPOSITORY
from tests.support.training_runs import DEMO, shapes_options

pytestmark = pytest.mark.slow


def run(*words, cwd):
    return subprocess.run(
        [PYTHON, *map(str, words)], capture_output=True, text=True, cwd=cwd
    )


def installed_tool(name):
    import mmdet

    return Path(mmdet.__file__).parent / '.mim' / 'tools' / f'{name}.py'


def start(launcher, command, config):
    """The words after `python` that start a command on a config."""
    if launcher == 'ours':
        return ['-m', 'eca_mmdet.cli', command, config]
    if launcher == 'tools':
        return [REPOSITORY / 'tools' / f'{command}.py', config]
    if launcher == "mmdet's":
        return [installed_tool(command), config]
    mim = Path(PYTHON).with_name('mim')
    if not mim.is_file():
        pytest.skip('mim is in the environment of the onedl line alone')
    return [mim, command, 'onedl-mmdetection', config]


@pytest.fixture
def written(command, mmdet_ready, shapes, tmp_path):
    """A config that init wrote, for two steps of three images."""
    words = [f'--{name}={shapes}/annotations/{name}.json' for name in ('train', 'val')]
    code, out, err = command('init', *words, '--model', DEMO, '--epochs', 1)
    assert code == 0, err
    config = tmp_path / 'written.py'
    config.write_text(out, encoding='utf-8')
    return config


@pytest.mark.parametrize(
    'launcher',
    [
        pytest.param('ours', marks=pytest.mark.openmmlab),
        'tools',
        pytest.param("mmdet's", marks=pytest.mark.openmmlab),
        'mim',
    ],
)
def test_train_then_test(written, tmp_path, launcher):
    """Two steps, an evaluation, a checkpoint; then the test of that checkpoint."""
    options = [
        f'{name}_dataloader.{key}'
        for name in ('train', 'val', 'test')
        for key in ('num_workers=0', 'persistent_workers=False')
    ]
    options += ['train_dataloader.batch_size=3', 'param_scheduler=None']
    options = ['--cfg-options', *options, 'default_hooks.logger.interval=1']
    work = tmp_path / 'work'
    words = start(launcher, 'train', written)
    words += ['--verbose'] if launcher in ('ours', 'tools') else []
    done = run(*words, '--work-dir', work, *options, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'COCO AP and AR, 0-100' in done.stdout
    assert re.search(r'^mask +[\dn]', done.stdout, re.MULTILINE)
    if launcher in ('ours', 'tools'):
        assert 'lr 0.002 -> 0.00075: 3 of 8 images a step' in done.stdout
    # mmengine logs the rate in use: three eighths of the config's, whoever scaled it.
    assert re.search(r'\[1\]\[2/2\] +lr: 7.5000e-04 .*loss_mask: [\d.]+', done.stdout)
    assert not re.search(r'OneDL|FutureWarning|UserWarning', done.stdout + done.stderr)

    words = start(launcher, 'test', written)
    checkpoint = work / 'epoch_1.pth'
    words += ['--checkpoint', checkpoint] if launcher == 'mim' else [checkpoint]
    done = run(*words, '--work-dir', tmp_path / 'test', *options, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'COCO AP and AR, 0-100' in done.stdout
    # mmdet's test.py imports what it warns about before it reads our config.
    noise = 'OneDL|Warning' if launcher in ('ours', 'tools') else 'weights_only'
    assert not re.search(noise, done.stdout + done.stderr)


@pytest.mark.openmmlab
def test_the_same_weights_give_the_same_ap(command, mmdet_ready, shapes, tmp_path):
    """metrics of `test --json` equal those of a Runner built by hand."""
    from mmengine.config import Config
    from mmengine.runner import Runner

    options = shapes_options(shapes)[1:]
    code, _, err = command(
        'train', DEMO, '--work-dir', tmp_path / 'a', '--cfg-options', *options
    )
    assert code == 0, err
    checkpoint = tmp_path / 'a' / 'iter_2.pth'
    code, out, _ = command(
        'test',
        DEMO,
        checkpoint,
        '--json',
        '--work-dir',
        tmp_path / 'b',
        '--cfg-options',
        *options,
    )
    assert code == 0
    ours = json.loads(out)

    cfg = Config.fromfile(paths.resolve_config(DEMO))
    from eca_mmdet.engine.config import parse_options

    cfg.merge_from_dict(parse_options(options))
    cfg.work_dir = str(tmp_path / 'c')
    cfg.load_from = str(checkpoint)
    assert Runner.from_cfg(cfg).test() == ours
    assert {'coco/bbox_mAP', 'coco/segm_mAP_75'} <= ours.keys()


def test_real_photos(command, mmdet_ready, coco_tiny, tmp_path):
    """Two steps on real COCO (80 classes, crowds, no `info`), then all 80 images."""
    data = ['instances_val2017.json', 'val2017/']
    options = [
        'train_cfg.max_epochs=1',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'train_dataloader.dataset.indices=4',
        'val_dataloader.num_workers=0',
        'val_dataloader.persistent_workers=False',
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False',
        'model.backbone.base_channels=16',
        'model.neck.in_channels=[64,128,256,512]',
        'model.test_cfg.rpn.max_per_img=50',
        'model.test_cfg.rcnn.score_thr=0.0',
        'model.test_cfg.rcnn.max_per_img=10',
        'train_dataloader.dataset.pipeline.2.scale=(160,128)',
        'val_dataloader.dataset.pipeline.1.scale=(160,128)',
        'test_dataloader.dataset.pipeline.1.scale=(160,128)',
        'default_hooks.logger.interval=1',
    ]
    for loader in ('train', 'val', 'test'):
        options += [
            f'{loader}_dataloader.dataset.data_root={coco_tiny}/',
            f'{loader}_dataloader.dataset.ann_file=annotations/{data[0]}',
            f'{loader}_dataloader.dataset.data_prefix.img={data[1]}',
        ]
        if loader != 'train':
            options.append(
                f'{loader}_evaluator.ann_file={coco_tiny}/annotations/{data[0]}'
            )
    name = 'mask-rcnn_eca-r50_fpn_4xb2-1x_coco'
    code, out, err = command(
        'train',
        name,
        '--from-scratch',
        '--work-dir',
        tmp_path / 'train',
        '--cfg-options',
        *options,
    )
    assert code == 0, err
    assert 'lr 0.01 -> 0.0025: 2 of 8 images a step' in out
    checkpoint = tmp_path / 'train' / 'epoch_1.pth'
    allow_mmengine_checkpoints()
    saved = torch.load(checkpoint, weights_only=True)
    assert saved['meta']['iter'] == 2
    assert saved['state_dict']['backbone.layer1.0.eca.conv.weight'].shape == (1, 1, 3)

    code, out, err = command(
        'test',
        name,
        checkpoint,
        '--json',
        '--work-dir',
        tmp_path / 'test',
        '--cfg-options',
        *options,
    )
    assert code == 0, err
    metrics = json.loads(out)
    assert re.search(r'^mask +[\d.]+', err, re.MULTILINE)  # the table, with the logs
    for task in ('bbox', 'segm'):
        for column in ('', '_50', '_75', '_s', '_m', '_l'):
            # Every size has objects in these 80 images, so none is -1.
            assert 0 <= metrics[f'coco/{task}_mAP{column}'] <= 1
