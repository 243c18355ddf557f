"""Training starts from a detector of other classes: what comes from the file."""

import contextlib
import copy
import itertools

import numpy as np
import pytest
import torch

from eca_mmdet.demo.config import compose
from eca_mmdet.errors import UserError, WeightsError
from eca_mmdet.weights.class_layers import find_class_layers
from eca_mmdet.weights.class_names import match, read_names
from eca_mmdet.weights.class_rows import (
    Layout,
    layout_between,
    layout_by_name,
    move_rows,
)
from eca_mmdet.weights.files import WeightFile, read_weights
from eca_mmdet.weights.start import plan_start
from eca_mmdet.weights.start_lines import describe_start, other_classes
from tests.detectors import CLASSES, build
from tests.in_process import fresh_mmengine
from tests.test_legacy_commands import as_v1

EIGHTY = tuple(f'thing {index}' for index in range(80))


def labels(kind, names):
    """What each row of a layer is for, by the loops of mmdet's heads."""
    rows = []
    if kind == 'fc_cls':
        for name in names:
            rows.append(name)
        rows.append(0)  # background
    elif kind in ('conv_logits', 'gfl_cls', 'label_embedding'):
        for name in names:
            rows.append(name)
    elif kind == 'fc_reg':
        for name in names:
            for side in range(4):
                rows.append((name, side))
    elif kind in ('retina_cls', 'cls_score'):
        for anchor in range(9):
            for name in names:
                rows.append((anchor, name))
    elif kind in ('cls_convs.2.0', 'conv_cls'):  # softmax: SSD, YOLACT
        for anchor in range(4):
            for name in names:
                rows.append((anchor, name))
            rows.append((anchor, 0))
    elif kind == 'convs_pred.1':
        for anchor in range(3):
            for part in range(5):
                rows.append((anchor, part))
            for name in names:
                rows.append((anchor, name))
    return rows


KINDS = (
    'fc_cls conv_logits gfl_cls label_embedding fc_reg retina_cls cls_score '
    'cls_convs.2.0 conv_cls convs_pred.1'
).split()


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('mine', [1, 2, 81, 1203])
def test_rows(kind, mine):
    """Against a loop over labels: from the file where it has the label, else own."""
    for theirs, shape in itertools.product((1, 80, 1203), ((3, 2), ())):
        order = np.random.default_rng(mine * 10000 + theirs)
        names = [f'n{i}' for i in order.permutation(mine + theirs)[:mine]]
        others = [f'n{i}' for i in order.permutation(mine + theirs)[:theirs]]
        others[-1] = names[-1] if names[-1] not in others else others[-1]
        own_labels, file_labels = labels(kind, names), labels(kind, others)
        own = torch.arange(1.0, len(own_labels) + 1).reshape(-1, *[1] * len(shape))
        file = -torch.arange(1.0, len(file_labels) + 1).reshape(-1, *[1] * len(shape))
        own, file = own.expand(-1, *shape), file.expand(-1, *shape).double()
        larger = (len(labels(kind, [*names, 'more'])), *shape)
        layer = f'bbox_head.{kind}.{"weight" if shape else "bias"}'
        layout = layout_between(layer, own.shape, larger, mine)
        assert layout.size(theirs) == len(file) and layout.classes(len(file)) == theirs
        new = move_rows(own, file, layout, theirs, match(names, others).kept)
        place = {label: row for row, label in enumerate(file_labels)}
        rows = [place.get(label) for label in own_labels]
        expected = [
            -float(at + 1) if at is not None else float(row + 1)
            for row, at in enumerate(rows)
        ]
        values = torch.tensor(expected).reshape(-1, *[1] * len(shape)).expand(own.shape)
        assert torch.equal(new, values)  # and of float32, as the model's
        assert own.min() == 1


def test_unknown_kinds_have_no_rows():
    for name, shape, larger in (
        ('fc.weight', (6, 4), (8, 4)),  # two a class, in whichever order
        ('fc_logits.weight', (3, 259), (4, 260)),  # classes among the inputs
        ('fc_cls.weight', (5, 4), (6, 4)),  # two that are of no class
        ('scale', (), ()),
        ('fc_cls.weight', (3, 4), (1, 4)),
    ):
        assert layout_between(name, shape, larger, 3) is None
    assert Layout(9).classes(80) is None and Layout(after=1).classes(1) is None


def test_names_are_compared_letter_by_letter():
    found = match(
        ('龍', 'traffic light', 'Käfer', 'cat', 'KÄFER'),
        ('cat', 'traffic_light', 'käfer', '龍', 'dog'),
    )
    assert found.kept == {0: 3, 3: 0}
    assert found.new == ('traffic light', 'Käfer', 'KÄFER')
    assert found.near == (
        ('traffic light', 'traffic_light'),
        ('Käfer', 'käfer'),
        ('KÄFER', 'käfer'),
    )


@pytest.mark.parametrize(
    'meta',
    [
        {'dataset_meta': {'classes': ['a', 'b']}},
        {'dataset_meta': {'CLASSES': ('a', 'b')}, 'CLASSES': ('x',)},
        {'CLASSES': ('a', 'b'), 'mmdet_version': '2.25.0'},
    ],
)
def test_names_in_a_file(meta):
    assert read_names({'meta': meta}, 'x.pth') == ('a', 'b')


@pytest.mark.parametrize('extras', [{}, {'meta': 3}, {'meta': {'dataset_meta': []}}])
def test_a_file_without_names(extras):
    assert read_names(extras, 'x.pth') is None


HOSTILE = [
    ('person', "got 'person'"),
    ([], 'got list'),
    (7, 'got int'),
    ({'a': 1}, 'got dict'),
    (['a', 3], 'one of them is 3'),
    (['a', ['b']], "one of them is ['b']"),
    (['a', 'b\x1b[2J', 'b\x1b[2J'], r'has b\x1b[2J twice'),
]


@pytest.mark.parametrize(('names', 'said'), HOSTILE)
def test_names_that_are_none(names, said):
    with pytest.raises(WeightsError, match='source_classes') as caught:
        read_names({'meta': {'CLASSES': names}}, 'x.pth')
    assert said in str(caught.value) and str(caught.value).isprintable()


# A model of two layers: 2 classes of the names below; the file has 3.
LAYERS = {'head.fc_cls.weight': Layout(after=1), 'head.fc_reg.weight': Layout(1, 0, 4)}
OWN = {
    'head.fc_cls.weight': torch.zeros(3, 2),
    'head.fc_reg.weight': torch.zeros(8, 2),
    'backbone.a': torch.zeros(2),
}
STATE = {
    'head.fc_cls.weight': torch.arange(4.0)[:, None].expand(4, 2) + 1,
    'head.fc_reg.weight': torch.arange(12.0)[:, None].expand(12, 2) + 1,
    'backbone.a': torch.ones(2),
}


def of(state=STATE, names=('cat', 'dog', 'owl')):
    extras = {'meta': {'dataset_meta': {'classes': names}}} if names else {}
    return WeightFile('x.pth', dict(state), 'PyTorch', 'state_dict', extras=extras)


def test_plan():
    start = plan_start(of(), OWN, LAYERS, ('owl', 'ant'))
    assert start.classes == 3
    assert start.new['head.fc_cls.weight'][:, 0].tolist() == [3, 0, 4]
    assert start.new['head.fc_reg.weight'][:, 0].tolist() == [9, 10, 11, 12, 0, 0, 0, 0]
    assert start.new.keys() == LAYERS.keys()
    assert not any(OWN[name].any() for name in OWN)
    # No name in common: background begins with the others.
    start = plan_start(of(), OWN, LAYERS, ('ape', 'ant'))
    assert not any(tensor.any() for tensor in start.new.values())
    start = plan_start(of(names=7), OWN, LAYERS)  # names that are not needed
    assert not any(tensor.any() for tensor in start.new.values())


def test_layers_that_cannot_be_kept_start_new():
    """One box for all classes; a wider layer; an unknown kind; one not in the file."""
    layers = LAYERS | dict.fromkeys(('head.odd', 'head.wide', 'head.absent'))
    layers['head.wide'] = layers['head.absent'] = Layout()
    more = {name: torch.zeros(2, 2) for name in ('head.odd', 'head.wide')}
    own = OWN | more | {'head.absent': torch.zeros(2, 2)}
    state = STATE | {'head.odd': torch.ones(3, 2), 'head.wide': torch.ones(3, 5)}
    state['head.fc_reg.weight'] = torch.ones(4, 2)
    start = plan_start(of(state), own, layers, ('owl', 'ant'))
    assert start.unkept == [
        "head.fc_reg.weight (the file's has 4 rows)",
        'head.odd (a layer whose rows are not known here)',
        'head.wide (the file has (3, 5))',
    ]
    assert start.new['head.fc_cls.weight'][:, 0].tolist() == [3, 0, 4]
    for name in ('head.fc_reg.weight', 'head.odd', 'head.wide'):
        assert torch.equal(start.new[name], own[name])
    assert 'head.absent' not in start.new


@pytest.mark.parametrize(
    ('file', 'wanted', 'source', 'said'),
    [
        (of(names=('a', 'b')), ('a', 'b'), None, 'the file has 2 class names (a, b)'),
        (of(), ('a', 'b'), ('x',), 'source_classes of the FineTuneHook has 1 class'),
        (of(), ('a', 'b'), 'owl', "must be a list of class names; got 'owl'"),
        (of(names=None), ('a', 'b'), None, 'x.pth has no class names'),
        (of(), ('a', 'b', 'c'), None, 'have 3 classes (a, b, c), the heads of the'),
        (
            of({f'roi_head.{name}': STATE[name] for name in STATE}),
            ('a', 'b'),
            None,
            'this model has a detector inside',
        ),
    ],
)
def test_refused(file, wanted, source, said):
    layers, own = LAYERS, OWN
    if 'inside' in said:
        layers = {f'student.roi_head.{name}': LAYERS[name] for name in LAYERS}
        own = {f'student.roi_head.{name}': OWN[name] for name in OWN}
    with pytest.raises(UserError) as caught:
        plan_start(file, own, layers, wanted, source)
    assert said in str(caught.value)


def test_names_from_the_config_win():
    start = plan_start(of(), OWN, LAYERS, ('a', 'b'), ('z', 'b', 'y'))
    assert start.match.kept == {1: 1}


def test_other_classes_warn():
    assert other_classes(of(), ('cat', 'dog', 'owl')) == []
    assert other_classes(of(), ('cat', 'dog')) == []  # they start new by their shape
    assert other_classes(of(names=None), ('a', 'b', 'c')) == []
    assert other_classes(of(names=3), ('a', 'b', 'c')) == []
    (line,) = other_classes(of(), ('cat', 'owl', 'dog'))
    assert (
        'x.pth is of 3 other classes, or of another order (class 1: dog, here owl'
        in (line)
    )
    assert "dict(type='FineTuneHook')" in line


# From here on with mmdet's own detectors, narrow ones.


def tiny(detector, shapes, work_dir, classes=None):
    cfg = compose(detector, 'eca', 18, shapes, 0)
    cfg.merge_from_dict(
        {
            'model.backbone.base_channels': 8,
            'model.neck.in_channels': [8, 16, 32, 64],
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'val_dataloader.num_workers': 0,
            'val_dataloader.persistent_workers': False,
            'test_dataloader.num_workers': 0,
            'train_dataloader.dataset.serialize_data': False,
            'val_dataloader.dataset.serialize_data': False,
            'test_dataloader.dataset.serialize_data': False,
            'test_dataloader.persistent_workers': False,
        }
    )
    if detector != 'retinanet':
        cfg.model.roi_head.bbox_head.fc_out_channels = 32
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=1, val_interval=10)
    cfg.param_scheduler = []
    cfg.default_hooks.checkpoint = dict(
        type='CheckpointHook', interval=1, by_epoch=False
    )
    cfg.work_dir = str(work_dir)
    if classes:
        set_classes(cfg.model, classes)
    return cfg


def set_classes(model, count):
    heads = [model.bbox_head] if 'bbox_head' in model else []
    if 'roi_head' in model:
        heads = [model.roi_head.bbox_head, model.roi_head.get('mask_head')]
    for head in heads:
        if head:
            head.num_classes = count


def save(path, cfg, names=EIGHTY, **meta):
    """A checkpoint as mmengine writes it, with random numbers in every tensor."""
    from mmdet.registry import MODELS

    state = MODELS.build(cfg.model).state_dict()
    state = {
        key: torch.rand(value.shape) if value.is_floating_point() else value
        for key, value in state.items()
    }
    if names:
        meta['dataset_meta'] = {'classes': names}
    hub = dict(log_scalars={}, runtime_info={}, resumed_keys={})
    torch.save({'state_dict': state, 'meta': meta, 'message_hub': hub}, path)
    return state


@contextlib.contextmanager
def quick():
    """Without what takes a Runner a second: describing machine and config."""
    from mmengine.runner import Runner

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, '_log_env', lambda *_: None)
        patch.setattr(Runner, 'dump_config', lambda *_: None)
        yield


class Seen(Exception):
    """Training would begin."""


def before_training(cfg, steps=0):
    """The runner's tensors, and its moving average's, when training begins."""
    from mmengine.hooks import EMAHook, Hook
    from mmengine.runner import Runner

    class Look(Hook):
        def before_train(self, runner):
            for name, model in models(runner).items():
                state = model.state_dict()
                seen[name] = {key: value.clone() for key, value in state.items()}
            if not steps:
                raise Seen

    def models(runner):
        found = {'model': runner.model}
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                found['average'] = hook.ema_model.module
        return found

    seen = {}
    with fresh_mmengine(), quick():
        runner = Runner.from_cfg(copy.deepcopy(cfg))
        runner.register_hook(Look(), priority='LOWEST')
        log, seen['lines'] = runner.logger.info, []
        runner.logger.info = lambda line: (seen['lines'].append(line), log(line))
        try:
            runner.train()
        except Seen:
            pass
    return seen


def is_class_layer(key):
    parts = key.split('.')
    layer = parts[-2]
    return layer in ('fc_cls', 'fc_reg', 'conv_logits', 'retina_cls')


OWN_START = {}
"""Tensors of each detector as it starts by itself."""


@pytest.mark.openmmlab
@pytest.mark.parametrize('keep', [False, True])
@pytest.mark.parametrize('detector', ['faster', 'mask', 'retinanet'])
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
    source = {names[1]: 79, names[2]: 77} if keep else {}
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
        assert f'keep rows of {len(source)} of 3 classes; new: {names[0]};' in line
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
    from types import SimpleNamespace

    from mmengine.runner import IterBasedTrainLoop

    from eca_mmdet.training.fine_tuning import FineTuneHook

    hook = FineTuneHook()
    hook._done = True
    loop = IterBasedTrainLoop.__new__(IterBasedTrainLoop)
    checkpoint = {'state_dict': {}}
    hook.after_load_checkpoint(
        SimpleNamespace(_train_loop=loop, _resume=False, _load_from='x'), checkpoint
    )
    assert checkpoint == {'state_dict': {}}


@pytest.mark.parametrize(
    'arguments', [dict(keep_classes='yes'), dict(source_classes=('a',))]
)
def test_arguments_of_the_hook(arguments, mmdet_ready):
    from eca_mmdet.training.fine_tuning import FineTuneHook

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
    start = plan_start(file, own, layers, names)
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


def test_class_layers_of_a_config(shapes, mmdet_ready):
    from mmengine.config import Config

    cfg = Config.fromfile(mmdet_config('cascade-mask-rcnn_r50_fpn'))
    state = {}
    for stage in range(3):
        for layer in ('bbox_head', 'mask_head'):
            for kind in ('fc_cls', 'fc_reg', 'conv_logits'):
                for part in ('weight', 'bias'):
                    state[f'roi_head.{layer}.{stage}.{kind}.{part}'] = torch.zeros(0)
    random = torch.get_rng_state()
    found = find_class_layers(cfg.model, state)
    assert torch.equal(torch.get_rng_state(), random)
    assert found == {
        f'roi_head.{head}.{stage}.{kind}.{part}': Layout(after=after)
        for stage in range(3)
        for head, kind, after in (
            ('bbox_head', 'fc_cls', 1),  # fc_reg has 4 rows in all
            ('mask_head', 'conv_logits', 0),
        )
        for part in ('weight', 'bias')
    }
    assert cfg.model.roi_head.bbox_head[0].num_classes == 80


def mmdet_config(name):
    import mmdet

    return f'{mmdet.__path__[0]}/.mim/configs/_base_/models/{name}.py'


@pytest.fixture
def odd(mmdet_ready):
    """A model whose constructor computes with values, or counts its classes."""
    from mmdet.registry import MODELS

    @MODELS.register_module()
    class Odd(torch.nn.Module):
        def __init__(self, num_classes, most=10):
            super().__init__()
            if num_classes > most:
                raise ValueError(num_classes)
            width = int(torch.ones(2).sum().item())
            self.fc_cls = torch.nn.Linear(width, num_classes + 1)
            self.other = torch.nn.Linear(width, 3)

    yield Odd
    MODELS.module_dict.pop('Odd')


def test_class_layers_where_a_model_cannot_be_built_empty(odd):
    state = odd(3).state_dict()
    expected = dict.fromkeys(('fc_cls.weight', 'fc_cls.bias'), Layout(after=1))
    random = torch.get_rng_state()
    assert find_class_layers(dict(type='Odd', num_classes=3), state) == expected
    assert torch.equal(torch.get_rng_state(), random)
    # One class more is refused, or no number is written: by the usual names.
    only = dict(type='Odd', num_classes=3, most=3)
    assert find_class_layers(only, state, 3) == expected
    assert find_class_layers(None, state, 3) == expected
    for wrong in (None, 2):
        with pytest.raises(UserError, match='no layer of this model depends'):
            find_class_layers(only, state, wrong)


def test_layers_by_name():
    shapes = {
        'roi_head.bbox_head.fc_cls.bias': ((3,), Layout(after=1)),
        'roi_head.bbox_head.fc_reg.bias': ((8,), Layout(per_class=4)),
        'roi_head.mask_head.conv_logits.bias': ((2,), Layout()),
        'bbox_head.retina_cls.bias': ((18,), Layout(9)),
        'bbox_head.conv_cls.bias': ((7,), None),
        'roi_head.shared.fc_reg.bias': ((4,), None),
        'rpn_head.rpn_cls.bias': ((6,), None),
        'roi_head.bbox_head.scale': ((), None),
    }
    for name, (shape, expected) in shapes.items():
        assert layout_by_name(name, shape, 2) == expected, name


def test_describe_start(shapes, tmp_path, mmdet_ready):
    """What init prints: the file, and what training would say."""
    cfg = tiny('mask', shapes, tmp_path)
    path = str(tmp_path / 'x.pth')
    names = (*EIGHTY[:78], 'square', 'Circle')
    save(path, tiny('faster', shapes, tmp_path, 80), names)
    data = ('circle', 'square', 'triangle')
    lines = describe_start(path, cfg.model, data, keep_classes=True)
    assert lines[0] == (
        f'{path}: Faster R-CNN of MMDetection v3, 80 classes: '
        'thing 0, thing 1, thing 2, thing 3, thing 4, thing 5, ...'
    )
    assert (
        f'fine-tuning from {path} (80 classes): 3 class layers keep rows of 1 of 3 '
        in (lines[1])
    )
    assert '; new: circle, triangle; ' in lines[1]
    assert ', 6 start new: roi_head.mask_head.convs.0.conv.weight' in lines[1]
    assert lines[2:] == [
        'not in the file, so new: roi_head.mask_head.conv_logits.weight, '
        'roi_head.mask_head.conv_logits.bias',
        'similar names are not taken for equal: circle (file: Circle)',
    ]
    lines = describe_start(path, cfg.model, ('a', 'b', 'c'), keep_classes=True)
    assert (
        '3 class layers start new, as no class has a name of the file: a, b, c'
        in (lines[1])
    )
    save(path, tiny('faster', shapes, tmp_path, 80), None)
    faster = tiny('faster', shapes, tmp_path, 2).model
    lines = describe_start(path, faster, ('zebra', 'cat'), keep_classes=True)
    assert '80 classes, which it does not name' in lines[0]
    assert '2 class layers keep the rows of all 2 classes; ' in lines[1]
    assert lines[2] == "the file has no class names: COCO's 80 are taken"
    assert (
        '2 class layers start new: roi_head.bbox_head.fc_cls, roi_head'
        in (describe_start(path, faster, ('zebra', 'cat'))[1])
    )


def test_describe_start_refuses(shapes, tmp_path, mmdet_ready):
    cfg = tiny('mask', shapes, tmp_path)
    state = save(tmp_path / 'x.pth', cfg)
    bare = {k[9:]: v for k, v in state.items() if k.startswith('backbone.')}
    torch.save(bare, tmp_path / 'backbone.pth')
    torch.save(as_v1(state, 3), tmp_path / 'v1.pth')
    torch.save({k: v for k, v in state.items() if 'eca' not in k}, tmp_path / 'no.pth')
    for name, said in (
        ('backbone.pth', "init_cfg=dict(type='ECAPretrained'"),
        ('v1.pth', 'eca-mmdet weights convert '),
        ('no.pth', 'is of another backbone'),
        ('none.pth', 'does not exist'),
    ):
        with pytest.raises(UserError) as caught:
            describe_start(str(tmp_path / name), cfg.model, ('a', 'b', 'c'))
        assert said in str(caught.value)


def test_check_without_the_hook(shapes, tmp_path, mmdet_ready):
    """Equal counts and other names: one line; other counts: what starts new."""
    from types import SimpleNamespace

    from mmdet.registry import MODELS

    from eca_mmdet.training.fine_tuning import check_classes

    cfg = tiny('retinanet', shapes, tmp_path)
    cfg.load_from = str(tmp_path / 'x.pth')
    runner = SimpleNamespace(hooks=[], model=MODELS.build(cfg.model))
    save(cfg.load_from, cfg, ('a', 'b', 'c'))
    (line,) = check_classes(cfg, runner, read_weights(cfg.load_from))
    assert line.startswith('warning: ') and 'class 0: a, here circle' in line
    save(cfg.load_from, cfg, ('circle', 'square', 'triangle'))
    assert check_classes(cfg, runner, read_weights(cfg.load_from)) == []
    save(cfg.load_from, tiny('retinanet', shapes, tmp_path, 80))
    (line,) = check_classes(cfg, runner, read_weights(cfg.load_from))
    assert line.startswith('2 tensors start new: bbox_head.retina_cls.weight (file')


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
    assert code == 2 and 'new.pth has no class names' in err and 'its 5 classes' in err
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
    assert 'new.pth (5 classes): 3 class layers keep rows of 2 of 3 classes' in said[0]
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
