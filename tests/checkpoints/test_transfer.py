"""Which rows of a detector are of which class, and what a file gives to another."""

import itertools

import numpy as np
import pytest
import torch

from eca_mmdet.checkpoints.io import Checkpoint
from eca_mmdet.checkpoints.transfer import (
    RowLayout,
    describe_start,
    find_class_layers,
    layout_between,
    layout_by_name,
    match_classes,
    move_rows,
    other_classes,
    plan_transfer,
)
from eca_mmdet.utils.errors import UserError, WeightsError
from tests.support.fine_tuning import EIGHTY, LAYERS, OWN, STATE, labels, of, save, tiny
from tests.support.legacy import as_v1

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
        new = move_rows(own, file, layout, theirs, match_classes(names, others)[0])
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
    assert RowLayout(9).classes(80) is None and RowLayout(after=1).classes(1) is None


def test_layers_by_name():
    shapes = {
        'roi_head.bbox_head.fc_cls.bias': ((3,), RowLayout(after=1)),
        'roi_head.bbox_head.fc_reg.bias': ((8,), RowLayout(per_class=4)),
        'roi_head.mask_head.conv_logits.bias': ((2,), RowLayout()),
        'bbox_head.retina_cls.bias': ((18,), RowLayout(9)),
        'bbox_head.conv_cls.bias': ((7,), None),
        'roi_head.shared.fc_reg.bias': ((4,), None),
        'rpn_head.rpn_cls.bias': ((6,), None),
        'roi_head.bbox_head.scale': ((), None),
    }
    for name, (shape, expected) in shapes.items():
        assert layout_by_name(name, shape, 2) == expected, name


def test_names_are_compared_letter_by_letter():
    kept, near = match_classes(
        ('龍', 'traffic light', 'Käfer', 'cat', 'KÄFER'),
        ('cat', 'traffic_light', 'käfer', '龍', 'dog'),
    )
    assert kept == {0: 3, 3: 0}
    assert near == [
        'traffic light (file: traffic_light)',
        'Käfer (file: käfer)',
        'KÄFER (file: käfer)',
    ]


@pytest.mark.parametrize(
    ('meta', 'expected'),
    [
        ({'dataset_meta': {'classes': ['a', 'b']}}, ('a', 'b')),
        ({'dataset_meta': {'CLASSES': ('a', 'b')}, 'CLASSES': ('x',)}, ('a', 'b')),
        ({'CLASSES': ('a', 'b'), 'mmdet_version': '2.25.0'}, ('a', 'b')),
        ({'dataset_meta': []}, None),
        (3, None),
    ],
)
def test_names_in_a_file(meta, expected):
    assert Checkpoint({}, path='x.pth', extras={'meta': meta}).classes == expected
    assert Checkpoint({}, path='x.pth').classes is None


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
    extras = {'meta': {'CLASSES': names}}
    file = Checkpoint({}, path='x.pth', extras=extras)
    with pytest.raises(WeightsError, match='source_classes') as caught:
        _ = file.classes
    assert said in str(caught.value) and str(caught.value).isprintable()


def test_plan():
    start = plan_transfer(of(), OWN, LAYERS, ('owl', 'ant'))
    assert start.classes == 3
    assert start.new['head.fc_cls.weight'][:, 0].tolist() == [3, 0, 4]
    assert start.new['head.fc_reg.weight'][:, 0].tolist() == [9, 10, 11, 12, 0, 0, 0, 0]
    assert start.new.keys() == LAYERS.keys()
    assert not any(OWN[name].any() for name in OWN)
    # No name in common: background begins with the others.
    start = plan_transfer(of(), OWN, LAYERS, ('ape', 'ant'))
    assert not any(tensor.any() for tensor in start.new.values())
    start = plan_transfer(of(), OWN, LAYERS, ('a', 'b'), ('z', 'b', 'y'))
    assert start.kept == {1: 1}  # by the names in the config
    start = plan_transfer(of(names=7), OWN, LAYERS)  # names that are not needed
    assert not any(tensor.any() for tensor in start.new.values())


def test_layers_that_cannot_be_kept_start_new():
    """One box for all classes; a wider layer; an unknown kind; one not in the file."""
    layers = LAYERS | dict.fromkeys(('head.odd', 'head.wide', 'head.absent'))
    layers['head.wide'] = layers['head.absent'] = RowLayout()
    more = {name: torch.zeros(2, 2) for name in ('head.odd', 'head.wide')}
    own = OWN | more | {'head.absent': torch.zeros(2, 2)}
    state = STATE | {'head.odd': torch.ones(3, 2), 'head.wide': torch.ones(3, 5)}
    state['head.fc_reg.weight'] = torch.ones(4, 2)
    start = plan_transfer(of(state), own, layers, ('owl', 'ant'))
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
        plan_transfer(file, own, layers, wanted, source)
    assert said in str(caught.value)


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


def test_class_layers_of_a_config(shapes, mmdet_ready):
    from mmengine.config import Config

    cfg = Config.fromfile(mmdet_config('cascade-mask-rcnn_r50_fpn'))
    cfg.model.rpn_head.num_classes = 1  # of objects, and never another number
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
        f'roi_head.{head}.{stage}.{kind}.{part}': RowLayout(after=after)
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
    expected = dict.fromkeys(('fc_cls.weight', 'fc_cls.bias'), RowLayout(after=1))
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
    begin = f'fine-tuning from {path} (80 classes): 2 class layers keep the rows of 1 '
    assert lines[1].startswith(begin)
    assert 'rows of 1 of 3 classes: square; new: circle, triangle; 1 class' in lines[1]
    assert '; 1 class layer starts new: roi_head.mask_head.conv_logits; ' in lines[1]
    assert ', 6 start new: roi_head.mask_head.convs.0.conv.weight' in lines[1]
    assert lines[2:] == [
        'not in the file, so new: roi_head.mask_head.conv_logits.weight, '
        'roi_head.mask_head.conv_logits.bias',
        'similar names are not taken for equal: circle (file: Circle)',
    ]
    lines = describe_start(path, cfg.model, ('a', 'b', 'c'), keep_classes=True)
    assert '3 class layers start new: ' in lines[1]
    assert '; no class has a name of the file: a, b, c; ' in lines[1]
    other = tiny('retinanet', shapes, tmp_path).model
    lines = describe_start(path, other, data, keep_classes=True)
    assert '1 class layer starts new: bbox_head.retina_cls; ' in lines[1]
    assert lines[2].startswith('not in the file, so new: bbox_head.retina_cls.weight')
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
