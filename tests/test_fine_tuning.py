"""Training starts from a detector of other classes: what comes from the file."""

import copy
import itertools

import numpy as np
import pytest
import torch

from eca_mmdet.demo.config import compose
from eca_mmdet.errors import UserError, WeightsError
from eca_mmdet.weights.class_layers import find_class_layers
from eca_mmdet.weights.class_names import match, read_names
from eca_mmdet.weights.class_rows import Layout, layout_between, move_rows
from eca_mmdet.weights.files import WeightFile, read_weights
from eca_mmdet.weights.start import plan_start
from eca_mmdet.weights.start_lines import describe_start, other_classes
from tests.in_process import fresh_mmengine
from tests.test_legacy_commands import as_v1

EIGHTY = tuple(f'thing {index}' for index in range(77)) + ('disk', 'box', 'Triangle')
"""Of the data's names (disk, box, triangle) two; one in other letters."""


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
COUNTS = (1, 2, 81, 1203)


@pytest.mark.parametrize('part', ['weight', 'bias'])
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(('mine', 'theirs'), itertools.product(COUNTS, (1, 80, 1203)))
def test_rows(kind, mine, theirs, part):
    """Against a loop over labels: from the file where it has the label, else own."""
    order = np.random.default_rng(mine * 10000 + theirs)
    names = [f'n{i}' for i in order.permutation(mine + theirs)[:mine]]
    others = [f'n{i}' for i in order.permutation(mine + theirs)[:theirs]]
    others[-1] = names[-1] if names[-1] not in others else others[-1]
    shape = (3, 2) if part == 'weight' else ()
    own_labels, file_labels = labels(kind, names), labels(kind, others)
    own = torch.arange(1.0, len(own_labels) + 1).reshape(-1, *[1] * len(shape))
    file = -torch.arange(1.0, len(file_labels) + 1).reshape(-1, *[1] * len(shape))
    own, file = own.expand(-1, *shape), file.expand(-1, *shape).half()
    larger = (len(labels(kind, [*names, 'more'])), *shape)
    layout = layout_between(f'bbox_head.{kind}.{part}', own.shape, larger, mine)
    assert layout.size(theirs) == len(file) and layout.classes(len(file)) == theirs
    new = move_rows(own, file, layout, theirs, match(names, others).kept)
    place = {label: row for row, label in enumerate(file_labels)}
    for row, label in enumerate(own_labels):
        expected = file[place[label]].float() if label in place else own[row]
        assert torch.equal(new[row], expected), label
    assert new.dtype == torch.float32 and own.min() == 1


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
            'test_dataloader.persistent_workers': False,
        }
    )
    if detector != 'retinanet':
        cfg.model.roi_head.bbox_head.fc_out_channels = 32
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=1, val_interval=10)
    cfg.param_scheduler = []
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
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
    torch.save({'state_dict': state, 'meta': meta, 'message_hub': {}}, path)
    return state


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
    with fresh_mmengine():
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


@pytest.mark.openmmlab
@pytest.mark.parametrize('keep', [False, True])
@pytest.mark.parametrize('detector', ['faster', 'mask', 'retinanet'])
def test_start_of_a_training(detector, keep, shapes, tmp_path, mmdet_ready):
    """Under mmengine's own Runner, as mmdet's tools/train.py has it."""
    names = ('disk', 'box', 'triangle')
    cfg = tiny(detector, shapes, tmp_path / 'run')
    names = tuple(cfg.train_dataloader.dataset.metainfo.classes)
    file_names = EIGHTY[:77] + (names[2], names[0].upper(), names[1])
    state = save(tmp_path / 'x.pth', tiny(detector, shapes, tmp_path, 80), file_names)
    own = before_training(cfg)['model']
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
