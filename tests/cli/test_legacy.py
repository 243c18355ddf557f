"""From a v1 file to an AP table, and on to training, as a user does it."""

import copy
import json
import os

import numpy as np
import pytest
import torch

from eca_mmdet.catalog.configs import shipped_configs
from tests.conftest import REPOSITORY
from tests.data import v1_recording as recording
from tests.support.legacy import as_v1

pytestmark = [pytest.mark.openmmlab, pytest.mark.slow]

DATA = REPOSITORY / 'tests' / 'data'


def test_v1_checkpoint_on_real_photos(command, coco_tiny, tmp_path, monkeypatch):
    """Inspect, convert, test: the AP table of a Faster R-CNN with made-up weights."""
    monkeypatch.chdir(tmp_path)
    spec, _ = recording.load_spec(DATA / 'v1_faster_rcnn_keys.json')
    v1 = np.load(DATA / 'v1_faster_rcnn.npz')
    calibration = {k: v1[k] for k in v1.files if k.startswith(('gain:', 'bias:'))}
    state = recording.make_state('faster_rcnn', spec, calibration)
    tensors = {f'module.{k}': torch.from_numpy(np.array(v)) for k, v in state.items()}
    torch.save({'state_dict': tensors, 'meta': {'epoch': 12}}, 'old.pth')

    code, out, _ = command('weights', 'inspect', 'old.pth')
    assert code == 0 and 'Faster R-CNN of MMDetection v1 on ECA-ResNet-50' in out
    assert 'eca-mmdet weights convert old.pth NEW.pth' in out
    code, out, _ = command('weights', 'convert', 'old.pth', 'new.pth')
    assert code == 0

    annotations = json.loads(
        (coco_tiny / 'annotations' / 'instances_val2017.json').read_text()
    )
    annotations['images'] = annotations['images'][:3]
    kept = {image['id'] for image in annotations['images']}
    annotations['annotations'] = [
        a for a in annotations['annotations'] if a['image_id'] in kept
    ]
    (tmp_path / 'three.json').write_text(json.dumps(annotations))
    code, out, err = command(
        'test',
        'faster-rcnn_eca-r50-k5555_fpn_v1_coco',
        'new.pth',
        '--work-dir',
        'run',
        '--cfg-options',
        f'test_dataloader.dataset.ann_file={tmp_path}/three.json',
        f'test_dataloader.dataset.data_root={coco_tiny}/',
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False',
        f'test_evaluator.ann_file={tmp_path}/three.json',
        'test_evaluator.outfile_prefix=found',
    )
    assert code == 0, err
    assert 'AP50' in out and 'box' in out
    found = json.loads((tmp_path / 'found.bbox.json').read_text())
    assert 0 < len(found) <= 300
    sizes = {image['id']: image for image in annotations['images']}
    for row in found:
        x, y, width, height = row['bbox']
        assert x >= 0 and y >= 0 and width >= 1 and height >= 1
        assert x + width <= sizes[row['image_id']]['width'] + 1
        assert y + height <= sizes[row['image_id']]['height'] + 1


def test_training_on_from_a_converted_detector(
    command, shapes, tmp_path, monkeypatch, mmdet_ready
):
    """Five classes become the data's three: only the class layers begin new."""
    from mmdet.registry import MODELS
    from mmengine.config import Config

    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(shipped_configs()['mask-rcnn_eca-r18-w16_fpn_shapes'])
    for name in ('train', 'val', 'test'):
        cfg[f'{name}_dataloader'].dataset.data_root = str(shapes)
    for name in ('val', 'test'):
        cfg[f'{name}_evaluator'].ann_file = f'{shapes}/annotations/val.json'
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=1, val_interval=10)
    cfg.param_scheduler = []
    cfg.optim_wrapper.optimizer.lr = 0.0
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    cfg.work_dir, cfg.load_from = 'run', 'new.pth'
    five = copy.deepcopy(cfg)
    for head in ('bbox_head', 'mask_head'):
        five.model.roi_head[head].num_classes = 5
    state = MODELS.build(five.model).state_dict()
    torch.save({'state_dict': as_v1(state, 5), 'meta': {}}, 'old.pth')
    code, out, err = command('weights', 'convert', 'old.pth', 'new.pth')
    assert code == 0, err
    converted = torch.load('new.pth')['state_dict']
    assert converted.keys() == state.keys()
    assert all(torch.equal(converted[key], state[key]) for key in state)

    cfg.dump('config.py')
    code, out, err = command('train', 'config.py')
    assert code == 0, err
    assert '6 tensors start new: roi_head.bbox_head.fc_cls.weight (file (6, ' in out
    (checkpoint,) = [name for name in os.listdir('run') if name.endswith('.pth')]
    from eca_mmdet.checkpoints.io import read_weights

    trained = read_weights(f'run/{checkpoint}').state
    for key, value in state.items():
        classes = key.split('.')[-2] in ('fc_cls', 'fc_reg', 'conv_logits')
        counted = key.endswith(('running_mean', 'running_var', 'tracked'))
        if not classes and not counted:
            assert torch.equal(trained[key], value), key
        elif classes:
            assert trained[key].shape != value.shape
