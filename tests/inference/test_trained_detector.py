"""From a checkpoint to a detector: tensors, names, and what is missing."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from eca_mmdet.checkpoints.embedded_config import parse_config
from eca_mmdet.engine.config import load_config
from eca_mmdet.inference import detector as checkpoint
from eca_mmdet.inference.detector import load_detector
from eca_mmdet.utils.errors import UserError
from tests.support import detectors


@pytest.fixture(scope='module')
def trained(mmdet_ready, shapes, tmp_path_factory):
    path = tmp_path_factory.mktemp('trained') / 'mask.pth'
    return detectors.save(path, 'faster', shapes)


@pytest.fixture
def changed(trained, tmp_path):
    """Write the checkpoint with another meta, and return its path."""
    content = torch.load(trained, weights_only=True)

    def write(**meta):
        path = tmp_path / 'changed.pth'
        kept = {k: v for k, v in (content['meta'] | meta).items() if v is not None}
        torch.save(content | {'meta': kept}, path)
        return str(path)

    write.cfg = content['meta']['cfg']
    return write


@pytest.mark.openmmlab
def test_detector_has_the_tensors_and_names_of_the_file(trained):
    found = load_detector(str(trained), device='cpu')
    state = torch.load(trained, weights_only=True)['state_dict']
    assert found.classes == detectors.CLASSES and not found.model.training
    for name, tensor in found.model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), state[name].numpy())


@pytest.mark.openmmlab
@pytest.mark.parametrize('kind', ['mask', 'retinanet'])
def test_pure_python_configs_are_like_others(kind, shapes, tmp_path, mmdet_ready):
    from mmengine.config import Config

    cfg, model = detectors.build(kind, shapes)
    path, old, new = tmp_path / 'new.py', tmp_path / 'old.pth', tmp_path / 'new.pth'
    path.write_text(detectors.pure_python(cfg))
    expected = load_config(cfg).to_dict()
    del expected['custom_imports']
    assert load_config(path).to_dict() == expected
    text = Config.fromfile(path).pretty_text  # as mmdet's own train.py saves it
    assert "type='mmdet.models." in text and "type='torch.optim." in text
    detectors.save(old, kind, shapes)
    detectors.save(new, kind, shapes, cfg=text)
    image = sorted((shapes / 'val').iterdir())[0]
    found = [
        load_detector(*arguments, device='cpu').predict(image).to_coco()
        for arguments in ((old,), (new,), (old, str(path)))
    ]
    assert found[0] == found[1] == found[2] and len(found[0]) > 5


@pytest.mark.parametrize(
    ('meta', 'message'),
    [
        (dict(cfg=None), 'has no config in it'),
        (dict(cfg=''), 'has no config in it'),
        (dict(cfg=5), 'has no config in it'),
        (dict(cfg='a = 1'), 'has no model'),
        (dict(cfg="model = 'x'"), 'has no model'),
        (dict(cfg="text = 'x'\nmodel = dict()"), 'mmengine cannot read the config'),
        (dict(cfg='model = dict()'), 'cannot be built'),
        (dict(cfg="model = dict(type='ResNet', depth=7)"), 'cannot be built'),
        (dict(cfg="model = dict(type='ResNet', depth=50)"), 'not a checkpoint of'),
        (dict(dataset_meta=dict(classes=('a', 'b'))), 'names 2 classes'),
        (dict(dataset_meta=dict(classes='abc')), 'names 1 classes'),
        (dict(dataset_meta=dict(classes=('a', 'b', 3))), 'does not name its classes'),
        (dict(dataset_meta=dict(classes={'a': 1})), 'does not name its classes'),
    ],
)
def test_what_a_checkpoint_lacks_is_said(meta, message, changed):
    with pytest.raises(UserError, match=message):
        load_detector(changed(**meta), device='cpu')


@pytest.mark.parametrize(
    'data', [None, 5, {}, {'classes': ()}, {'classes': None}, {'CLASSES': ('x',)}]
)
def test_names_come_from_the_config_then(data, changed):
    path = changed(dataset_meta=data)
    assert load_detector(path, device='cpu').classes == detectors.CLASSES


@pytest.mark.parametrize(
    ('dataset', 'expected'),
    [
        ("dict(type='CityscapesDataset')", 'person'),
        ("dict(type='RepeatDataset', dataset=dict(type='VOCDataset'))", 'aeroplane'),
        ("dict(type='ConcatDataset', datasets=[dict(type='CocoDataset')])", 'person'),
    ],
)
def test_names_come_from_the_data_set_at_last(dataset, expected, mmdet_ready):
    from eca_mmdet.checkpoints.io import Checkpoint

    cfg = parse_config(f'test_dataloader = dict(dataset={dataset})', 'x')
    names = checkpoint.class_names(Checkpoint({}, path='x'), cfg)
    assert names[0] == expected


@pytest.mark.parametrize(
    'loader', ['None', '5', 'dict(dataset=5)', "dict(dataset=dict(type='antigravity'))"]
)
def test_names_that_nobody_knows(loader, mmdet_ready):
    from eca_mmdet.checkpoints.io import Checkpoint

    cfg = parse_config(f'test_dataloader = {loader}', 'x')
    with pytest.raises(UserError, match='does not name its classes'):
        checkpoint.class_names(Checkpoint({}, path='x'), cfg)
    assert 'antigravity' not in sys.modules


def test_weights_alone_need_a_config_by_name(trained, shapes, tmp_path):
    cfg, model = detectors.build('faster', shapes)
    path = tmp_path / 'bare.pth'
    torch.save(model.state_dict(), path)
    with pytest.raises(UserError, match='--config NAME'):
        load_detector(str(path), device='cpu')
    cfg.dump(str(tmp_path / 'mine.py'))
    found = load_detector(str(path), str(tmp_path / 'mine.py'), 'cpu')
    assert found.classes == detectors.CLASSES


def test_a_work_folder_stands_for_its_best_or_last_checkpoint(
    trained, tmp_path, caplog
):
    def add(name, age):
        shutil.copyfile(trained, tmp_path / name)
        os.utime(tmp_path / name, (10**9 - age, 10**9 - age))

    def found():
        caplog.clear()
        return Path(load_detector(str(tmp_path), device='cpu').path).name

    with pytest.raises(UserError, match='without a checkpoint') as caught:
        found()
    assert caught.value.code == 'file-not-found'
    add('epoch_1.pth', 9)
    add('epoch_2.pth', 5)
    assert found() == 'epoch_2.pth'
    (tmp_path / 'last_checkpoint').write_text('/moved/from/epoch_1.pth')
    assert found() == 'epoch_1.pth'  # what the training says
    (tmp_path / 'last_checkpoint').write_text('/moved/from/epoch_7.pth')
    assert found() == 'epoch_2.pth'  # it is gone
    add('best_coco_bbox_mAP_epoch_1.pth', 8)
    assert found() == 'best_coco_bbox_mAP_epoch_1.pth'
    assert 'epoch_1.pth: the best checkpoint in' in caplog.text
    add('best_coco_bbox_mAP_epoch_10.pth', 7)
    assert found() == 'best_coco_bbox_mAP_epoch_10.pth'  # not by alphabet
    demo = tmp_path / 'demo'
    (demo / 'train').mkdir(parents=True)
    shutil.copyfile(trained, demo / 'train' / 'iter_520.pth')
    assert load_detector(str(demo), device='cpu').path == str(
        demo / 'train' / 'iter_520.pth'
    )


def test_device_that_is_not_there(trained):
    with pytest.raises(UserError, match="device 'warp:9' cannot be used"):
        load_detector(str(trained), device='warp:9')


@pytest.mark.parametrize('named', [False, True])
def test_files_that_parts_would_start_from_are_not_looked_for(
    named, trained, changed, tmp_path
):
    start = "init_cfg=dict(type='Pretrained', checkpoint='/nowhere.pth')"
    text = changed.cfg.replace('init_cfg=None', start)
    assert start in text
    (tmp_path / 'mine.py').write_text(text)
    if named:
        load_detector(str(trained), str(tmp_path / 'mine.py'), 'cpu')
    else:
        load_detector(changed(cfg=text), device='cpu')
