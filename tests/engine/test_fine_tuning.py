"""Training starts from a detector of other classes: what comes from the file."""

import copy
from collections import OrderedDict

import pytest
import torch

from eca_mmdet.checkpoints.io import read_weights
from eca_mmdet.checkpoints.transfer import find_class_layers, plan_transfer
from eca_mmdet.utils.errors import UserError
from tests.support.detectors import CLASSES, build
from tests.support.fine_tuning import (
    EIGHTY,
    before_training,
    is_class_layer,
    labels,
    of,
    quick,
    save,
    tiny,
)
from tests.support.in_process import fresh_mmengine
from tests.support.legacy import as_v1

OWN_START = {}
"""Tensors of each detector as it starts by itself."""


@pytest.mark.sweep(fast=2)
@pytest.mark.parametrize('keep', [False, True])
@pytest.mark.parametrize(
    'detector',
    ['faster', pytest.param('mask', marks=pytest.mark.openmmlab), 'retinanet'],
)
def test_start_of_a_training(detector, keep, shapes, tmp_path, mmdet_ready):
    """Under mmengine's own Runner, as mmdet's tools/train.py has it."""
    cfg = tiny(detector, shapes, tmp_path / 'run')
    names = tuple(cfg.train_dataloader.dataset.metainfo.classes)
    file_names = EIGHTY[:77] + (names[2], names[0].upper(), names[1])
    state = save(tmp_path / 'x.pth', tiny(detector, shapes, tmp_path, 80), file_names)
    if detector not in OWN_START:
        OWN_START[detector] = before_training(cfg)['model']
    own = OWN_START[detector]
    cfg.load_from = str(tmp_path / 'x.pth')
    cfg.custom_hooks = [
        dict(type='MetricsFileHook'),
        dict(type='EMAHook'),
        dict(type='FineTuneHook', keep_classes=keep),
    ]
    seen = before_training(cfg, steps=detector == 'mask')
    for key, value in seen['model'].items():
        expected = state[key]
        if is_class_layer(key):
            kind = key.split('.')[-2]
            mine, theirs = labels(kind, names), labels(kind, file_names)
            place = {label: row for row, label in enumerate(theirs)}
            rows = [
                state[key][place[label]] if keep and label in place else own[key][row]
                for row, label in enumerate(mine)
            ]
            expected = torch.stack(rows)
        assert torch.equal(value, expected), key
        assert torch.equal(seen['average'][key], expected), key
    (line,) = [line for line in seen['lines'] if 'fine-tuning from' in str(line)]
    count = {'faster': 2, 'mask': 3, 'retinanet': 1}[detector]
    others = sum(
        not is_class_layer(key) and not key.endswith('tracked') for key in state
    )
    assert f'x.pth (80 classes): {count} class layer' in line
    assert f'; {others} other tensors are the file' in line
    if keep:
        kept = f'the rows of 2 of 3 classes: {names[1]}, {names[2]}; new: {names[0]};'
        assert f'{count} class layer' in line and kept in line
        similar = f'for equal: {names[0]} (file: {names[0].upper()})'
        assert any(str(one).endswith(similar) for one in seen['lines'])


def test_resumed_trainings_and_tests_are_left_alone(shapes, tmp_path, mmdet_ready):
    """Their checkpoints are of this very model, whatever the names in them."""
    from mmengine.runner import Runner

    cfg = tiny('retinanet', shapes, tmp_path)
    cfg.load_from = str(tmp_path / 'x.pth')
    cfg.custom_hooks = [dict(type='FineTuneHook', keep_classes=True)]
    state = save(cfg.load_from, cfg, ('a', 'b', 'c'), epoch=0, iter=0)
    cfg.resume = True
    seen = before_training(cfg)['model']
    assert all(torch.equal(seen[key], value) for key, value in state.items())
    cfg.resume = False
    with fresh_mmengine(), quick():
        runner = Runner.from_cfg(copy.deepcopy(cfg))
        runner.load_or_resume()  # what test() and val() do first
    seen = runner.model.state_dict()
    assert all(torch.equal(seen[key], value) for key, value in state.items())


def test_a_later_load_is_left_alone(shapes, tmp_path, mmdet_ready):
    """Only load_from is a start; a hook may load what it likes afterwards."""
    cfg = tiny('retinanet', shapes, tmp_path)
    cfg.load_from = str(tmp_path / 'x.pth')
    cfg.custom_hooks = [dict(type='FineTuneHook')]
    state = save(cfg.load_from, cfg, ('a', 'b', 'c'))
    for again in (False, True):
        seen = before_training(cfg, again=again)['model']
        same = {key for key, value in state.items() if torch.equal(seen[key], value)}
        assert {k for k in state if is_class_layer(k)} == state.keys() - same or again
        assert (same == state.keys()) == again


def test_checking_leaves_the_class_layers_as_they_start(shapes, tmp_path, mmdet_ready):
    """The check of `train` loads the rest; init_weights may not reach the layers."""
    from types import SimpleNamespace

    from mmdet.registry import MODELS

    from eca_mmdet.engine.load_from import FineTuneHook, check_classes

    cfg = tiny('retinanet', shapes, tmp_path)
    cfg.load_from = str(tmp_path / 'x.pth')
    state = save(cfg.load_from, cfg, ('a', 'b', 'c'))
    model = MODELS.build(cfg.model)
    own = {key: value.clone() for key, value in model.state_dict().items()}
    runner = SimpleNamespace(
        hooks=[FineTuneHook()], model=model, cfg=cfg, _train_loop={}
    )
    assert check_classes(cfg, runner, read_weights(cfg.load_from)) == []
    for key, value in model.state_dict().items():
        assert torch.equal(value, (own if is_class_layer(key) else state)[key]), key


@pytest.mark.parametrize('form', ['as mmengine', 'bare', 'module.', 'half', 'model'])
def test_forms_of_a_file(form, shapes, tmp_path, mmdet_ready):
    """What mmengine takes afterwards is the same in all of them."""
    from types import SimpleNamespace

    from mmdet.registry import MODELS
    from mmengine.runner import IterBasedTrainLoop

    from eca_mmdet.engine.load_from import FineTuneHook

    cfg = tiny('retinanet', shapes, tmp_path)
    state = save(tmp_path / 'x.pth', cfg, None)
    model, lines = MODELS.build(cfg.model), []
    own = {key: value.clone() for key, value in model.state_dict().items()}
    given = OrderedDict(state)
    given._metadata = OrderedDict({'': {'version': 7}})
    if form == 'module.':
        given = OrderedDict((f'module.{key}', value) for key, value in state.items())
    if form == 'half':
        given = OrderedDict((key, value.half()) for key, value in state.items())
    checkpoint = {'model' if form == 'model' else 'state_dict': given}
    checkpoint['meta'] = {'CLASSES': ['a', 'triangle', 'circle']}
    names = ('circle', 'square', 'triangle')
    hook = FineTuneHook(keep_classes=form != 'bare')
    if form == 'bare':
        checkpoint = given
    dataset = SimpleNamespace(metainfo=dict(classes=names))
    hook.after_load_checkpoint(
        SimpleNamespace(
            cfg=cfg,
            model=model,
            logger=SimpleNamespace(info=lines.append),
            train_dataloader=SimpleNamespace(dataset=dataset),
            _train_loop=IterBasedTrainLoop.__new__(IterBasedTrainLoop),
            _resume=False,
            _load_from='x.pth',
        ),
        checkpoint,
    )
    loaded = checkpoint['state_dict']
    assert loaded.keys() == state.keys()
    if form not in ('half', 'module.'):
        assert loaded._metadata == {'': {'version': 7}}
    for key, value in state.items():
        value = value.half() if form == 'half' else value
        if is_class_layer(key):
            anchors = len(value) // 3
            for row in range(len(value)):
                label = row % 3
                source = row + 2 if label == 0 else row - 1
                kept = label != 1 and form != 'bare'
                expected = value[source].float() if kept else own[key][row]
                assert torch.equal(loaded[key][row], expected)
            assert anchors == 9
        else:
            assert torch.equal(loaded[key], value)
    assert len(lines) == 1


@pytest.mark.parametrize(
    'arguments', [dict(keep_classes='yes'), dict(source_classes=('a',))]
)
def test_arguments_of_the_hook(arguments, mmdet_ready):
    from eca_mmdet.engine.load_from import FineTuneHook

    with pytest.raises(UserError, match='FineTuneHook'):
        FineTuneHook(**arguments)


@pytest.mark.openmmlab
@pytest.mark.parametrize('detector', ['mask', 'retinanet'])
def test_the_same_detections_under_permuted_labels(detector, shapes, mmdet_ready):
    """All classes kept, in another order: the same boxes, scores and masks."""
    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample

    cfg, theirs = build(detector, shapes)
    if detector == 'mask':  # some of every class
        theirs.roi_head.test_cfg.update(score_thr=0.0, max_per_img=300)
        cfg.model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=300)
    for key, value in theirs.state_dict().items():
        if is_class_layer(key):  # scores that differ, boxes and masks by class
            torch.nn.init.normal_(value, std=0.05)
            if value.dim() > 1 and 'cls' in key:
                value -= value.mean(dim=1, keepdim=True)
    order = (2, 0, 1)
    names = [CLASSES[at] for at in order]
    file = of(theirs.state_dict(), CLASSES)
    mine = MODELS.build(cfg.model)
    own = mine.state_dict()
    layers = find_class_layers(cfg.model, own)
    start = plan_transfer(file, own, layers, names)
    mine.load_state_dict({**file.state, **start.new})
    image = torch.randint(0, 255, (3, 96, 96), dtype=torch.uint8)
    found = []
    for model in (theirs, mine):
        sample = DetDataSample(metainfo=dict(img_shape=(96, 96), ori_shape=(96, 96)))
        sample.set_metainfo(dict(scale_factor=(1.0, 1.0), batch_input_shape=(96, 96)))
        model.train(False)
        (one,) = model.test_step(dict(inputs=[image], data_samples=[sample]))
        found.append(one.pred_instances)
    expected, got = found
    assert len(expected) == len(got) >= 20
    assert len(set(expected.labels.tolist())) == 3
    assert torch.allclose(expected.scores, got.scores, atol=1e-5)
    assert torch.allclose(expected.bboxes, got.bboxes, atol=1e-3)
    assert [CLASSES[at] for at in expected.labels] == [names[at] for at in got.labels]
    if detector == 'mask':
        assert (
            expected.masks.any()
            and (expected.masks == got.masks).float().mean() > 0.9999
        )


def test_check_without_the_hook(shapes, tmp_path, mmdet_ready):
    """Equal counts and other names: one line; other counts: what starts new."""
    from types import SimpleNamespace

    from mmdet.registry import MODELS

    from eca_mmdet.engine.load_from import check_classes

    cfg = tiny('retinanet', shapes, tmp_path)
    cfg.load_from = str(tmp_path / 'x.pth')
    runner = SimpleNamespace(
        hooks=[], model=MODELS.build(cfg.model), cfg=cfg, _train_loop={}
    )
    save(cfg.load_from, cfg, ('a', 'b', 'c'))
    (line,) = check_classes(cfg, runner, read_weights(cfg.load_from))
    assert line.startswith('warning: ') and 'class 0: a, here circle' in line
    save(cfg.load_from, cfg, ('circle', 'square', 'triangle'))
    assert check_classes(cfg, runner, read_weights(cfg.load_from)) == []
    save(cfg.load_from, tiny('retinanet', shapes, tmp_path, 80))
    (line,) = check_classes(cfg, runner, read_weights(cfg.load_from))
    assert line.startswith('2 tensors start new: bbox_head.retina_cls.weight (file')
    # Of equally many other classes, but in heads of other names.
    save(cfg.load_from, tiny('faster', shapes, tmp_path), ('a', 'b', 'c'))
    (line,) = check_classes(cfg, runner, read_weights(cfg.load_from))
    assert 'tensors start new: ' in line and 'warning' not in line


@pytest.mark.openmmlab
def test_command(command, shapes, tmp_path, monkeypatch, mmdet_ready):
    """From MMDetection v1, converted, with the names in the config."""
    monkeypatch.chdir(tmp_path)
    cfg = tiny('mask', shapes, 'run')
    cfg.optim_wrapper.optimizer.lr = 0.0
    cfg.load_from = 'old.pth'
    hook = dict(type='FineTuneHook', keep_classes=True)
    cfg.custom_hooks = [dict(type='MetricsFileHook'), hook]
    state = save('x.pth', tiny('mask', shapes, 'run', 5))
    torch.save({'state_dict': as_v1(state, 5), 'meta': {}}, 'old.pth')
    cfg.dump('config.py')
    with quick():
        code, _, err = command('train', 'config.py')
    assert code == 2 and 'eca-mmdet weights convert old.pth NEW.pth' in err
    assert command('weights', 'convert', 'old.pth', 'new.pth')[0] == 0
    cfg.load_from = 'new.pth'
    cfg.dump('config.py')
    with quick():
        code, _, err = command('train', 'config.py')
    assert (
        code == 2 and 'new.pth has no class names' in err and 'its classes (5)' in err
    )
    hook['source_classes'] = ['square', 'x', 'y', 'circle', 'z']
    cfg.custom_hooks = [hook]
    cfg.dump('config.py')
    with quick():
        code, out, err = command('train', 'config.py')
    assert code == 0, err
    assert 'start new:' not in out.replace('; new: triangle', '')
    logs = [path.read_text() for path in (tmp_path / 'run').glob('*/*.log')]
    said = [line for line in '\n'.join(logs).splitlines() if 'fine-tuning' in line]
    assert len(said) == 1
    assert 'new.pth (5 classes): 3 class layers keep the rows of 2 of 3 ' in said[0]
    trained = read_weights('run/iter_1.pth').state
    kept = {'fc_cls': [3, 0, None, 5], 'conv_logits': [3, 0, None]}
    kept['fc_reg'] = [12, 13, 14, 15, 0, 1, 2, 3, None, None, None, None]
    for key, value in state.items():
        if key.endswith(('running_mean', 'running_var', 'tracked')):
            continue
        layer = key.split('.')[-2]
        rows = kept[layer] if is_class_layer(key) else range(len(value))
        assert len(trained[key]) == len(rows)
        for row, source in enumerate(rows):
            if source is not None:
                assert torch.equal(trained[key][row], value[source]), key
            else:
                assert not torch.equal(trained[key][row], value[2]), key
