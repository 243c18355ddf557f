"""A checkpoint's config: read as values; nothing in it is run or imported."""

import math
import os
import sys

import pytest

from eca_mmdet.checkpoints.embedded_config import (
    parse_config,
    registered,
    require_registered,
    use_registered_names,
)
from eca_mmdet.engine.config import drop_init
from eca_mmdet.utils.errors import UserError


def parse(text):
    return parse_config(text, 'the file')


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('dict(a=1, b=[2.5, None, True])', {'a': 1, 'b': [2.5, None, True]}),
        ("dict({'a-b': 1, 2: 'x'}, c=())", {'a-b': 1, 2: 'x', 'c': ()}),
        ("dict(a=1, **{'b-c': 2})", {'a': 1, 'b-c': 2}),
        ("{'a': {1, 2}}", {'a': {1, 2}}),
        ('-1', -1),
        ('-1e-4', -1e-4),
        ('(-2, (3, ))', (-2, (3,))),
        ("'龍\\n'", '龍\n'),
        ('-inf', -math.inf),
        ('1 + 2j', 1 + 2j),
    ],
)
def test_literals_and_dict_calls_are_read(text, value):
    assert parse(f'a = {text}') == {'a': value}


def test_not_a_number_is_read():
    assert math.isnan(parse('a = nan')['a'])


@pytest.mark.parametrize(
    'text',
    [
        "__import__('os').system('touch ran')",
        "open('ran', 'w')",
        "dict.fromkeys('ab')",
        "(lambda: open('ran', 'w'))()",
        "[open('ran', 'w') for _ in range(1)]",
        "{k: open('ran', 'w') for k in 'a'}",
        "f'{open(chr(114), chr(119))}'",
        '[*(1, 2)]',
        "{**{'a': 1}}",
        'dict(**[1])',
        "dict(**'ab')",
        'dict([(1, 2)])',
        'dict(dict)',
        '10 ** 9',
        "'a' * 10 ** 9",
        '1 << 99',
        '9' * 5000,
        'a',
        'os.environ',
        'a[0]',
        'a.b',
        '(a := 1)',
        '1 if 2 else 3',
        '{[]: 1}',
        '{[1]}',
        "-'a'",
        '-{}',
        '...x',
        '[' * 500 + ']' * 500,
        '-' * 5000 + '1',
        '+'.join(['1'] * 50_000),
        'dict(a=' * 150 + '1' + ')' * 150 + '\x00',
    ],
)
def test_anything_else_is_refused_and_not_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match='the file is not plain values'):
        parse(f'b = {text}')
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    'text',
    [
        'import os',
        'from os import system',
        'class A: pass',
        'def f(): pass',
        'a += 1',
        'a = b = 1',
        'a, b = 1, 2',
        'a.b = 1',
        'a[0] = 1',
        "print('x')",
        'if 1: a = 2',
        'a: int = 1',
        'del a',
        'model = dict(',
    ],
)
def test_only_assignments_are_read(text):
    with pytest.raises(UserError, match='not plain values'):
        parse(text)


def test_text_of_absurd_length_is_not_parsed():
    with pytest.raises(UserError, match='letters'):
        parse('a = 1\n' * 400_000)


def test_escapes_in_strings_make_no_noise(recwarn):
    assert parse(r"a = '\d'") == {'a': r'\d'}
    assert not recwarn.list


@pytest.mark.parametrize(
    'text',
    [
        "custom_imports = dict(imports=['os'])",
        "custom_imports = dict(imports=['eca_mmdet', 'evil'])",
        "custom_imports = dict(imports='eca_mmdet.evil')",
        "custom_imports = 'evil'",
        "custom_imports = ['evil']",
        'custom_imports = 5',
    ],
)
def test_imports_are_refused(text):
    with pytest.raises(UserError, match='imports'):
        parse(text)


def test_our_own_import_is_allowed():
    imports = {'imports': ['eca_mmdet'], 'allow_failed_imports': False}
    assert parse(f'custom_imports = {imports}')['custom_imports'] == imports


@pytest.mark.parametrize('scope', ["'evil'", '5', 'None'])
def test_other_scopes_are_refused(scope):
    with pytest.raises(UserError, match='not for mmdet'):
        parse(f'model = dict(a=[dict(_scope_={scope})])')


@pytest.mark.parametrize(
    'name',
    [
        'subprocess.Popen',
        'os.system',
        'mmengine.dump',  # writes a file
        'mmdet.registry',
        'mmdet.apis.inference_detector',
        'antigravity',  # a module of Python that opens a web page
        'exec',
        'ResNet ',
        'ResNet\n',
        'mmpretrain.ResNet',
        'LoadImageFromFile',  # registered, but no part of a model
        'CameraMotionCompensation',  # evaluates its warp_mode
        'StrongSORTTracker',
        'BertModel',
        'KnowledgeDistillationSingleStageDetector',  # runs the config of its teacher
        'LAD',
        'Detectron2Wrapper',
        '',
        '__import__("os")',
        'torch.load',
        'torch.hub.load',
        'torch.nn.Module.to',
        'builtins.exec',
        'mmdet.registry.MODELS.build',
        'mmcv.ops.nms.sys',
        'mmcv.transforms.LoadImageFromFile',
        'mmdet.models.detectors.lad.LAD',
        'mmdet.models.detectors.d2_wrapper.Detectron2Wrapper',
        'this.FasterRCNN',  # a module of Python that prints
        'eca_mmdet.utils.io.whole_file',
        'tests.FasterRCNN',
        'mmengine.MODELS',
    ],
)
@pytest.mark.parametrize('place', ['model = {}', 'model = dict(a=[(dict(b={}),)])'])
def test_unknown_parts_of_a_model_are_refused(name, place, mmdet_ready):
    before = set(sys.modules)
    with pytest.raises(UserError, match='no part of an image detector'):
        require_registered(parse(place.format(f'dict(type={name!r})')), 'the file')
    assert set(sys.modules) == before


@pytest.mark.parametrize('name', ['mmengine.dump', 'ResNet', 'RandomLoadText'])
def test_unknown_parts_of_the_test_pipeline_are_refused(name, mmdet_ready):
    text = f'dict(pipeline=[dict(type={name!r})])'
    text = f'test_dataloader = dict(dataset=dict(datasets=[{text}]))'
    with pytest.raises(UserError, match='no part of an image detector'):
        require_registered(parse(text), 'the file')


@pytest.mark.openmmlab
def test_shipped_configs_are_read_as_they_are(mmdet_ready):
    from mmengine.config import Config

    from eca_mmdet.catalog.configs import config_root

    paths = [
        config_root() / 'demo' / 'retinanet_eca-r18-w16_fpn_shapes.py',
        sorted((config_root() / 'mask_rcnn').glob('*eca-r50*coco.py'))[0],
    ]
    for path in paths:
        cfg = Config.fromfile(str(path))
        values = parse(cfg.pretty_text)
        assert values == cfg._cfg_dict.to_dict(), path
        drop_init(values['model'])
        require_registered(values, 'the file')


def test_a_class_is_found_without_importing(mmdet_ready):
    from mmdet.models import ResNet

    assert registered('ResNet', 'MODELS') is registered('mmdet.ResNet', 'MODELS')
    assert registered('ResNet', 'MODELS') is ResNet
    for name in ('antigravity', 'mmdet.models', None, 5, ''):
        assert registered(name, 'MODELS') is None
    assert 'antigravity' not in sys.modules


@pytest.mark.parametrize(
    ('path', 'name'),
    [
        ('mmdet.models.FasterRCNN', 'FasterRCNN'),
        ('mmdet.models.detectors.faster_rcnn.FasterRCNN', 'FasterRCNN'),
        ('torch.nn.BatchNorm2d', 'BN'),
        ('torch.nn.modules.batchnorm.BatchNorm2d', 'BN'),
        ('torch.optim.SGD', 'SGD'),
        ('mmcv.ops.nms', 'nms'),
        ('mmcv.ops.nms.soft_nms', 'soft_nms'),
        ('mmcv.ops.RoIAlign', 'RoIAlign'),
        ('mmdet.datasets.transforms.RandomFlip', 'RandomFlip'),
        ('mmcv.transforms.RandomFlip', 'mmengine.RandomFlip'),  # mmdet has its own
        ('mmengine.dataset.DefaultSampler', 'DefaultSampler'),
        ('eca_mmdet.models.backbones.ECAResNet', 'ECAResNet'),
        ('FasterRCNN', 'FasterRCNN'),
        ('mmdet.FasterRCNN', 'mmdet.FasterRCNN'),
        ('nowhere.FasterRCNN', 'nowhere.FasterRCNN'),
        ('collections.OrderedDict', 'collections.OrderedDict'),
    ],
)
def test_paths_and_classes_become_registered_names(path, name, mmdet_ready):
    by_path = {'a': [({'type': path},)]}
    use_registered_names(by_path)
    assert by_path == {'a': [({'type': name},)]}
    module, _, attribute = path.rpartition('.')
    kind = getattr(sys.modules.get(module), attribute, None)
    if kind is not None and name != path:
        by_class = {'type': kind}
        use_registered_names(by_class)
        assert by_class == {'type': name}
        if name not in ('nms', 'soft_nms', 'RoIAlign'):
            places = ('MODELS', 'TRANSFORMS', 'OPTIMIZERS', 'DATA_SAMPLERS')
            assert registered(name, *places) is kind


def test_classes_that_no_registry_has_stay(mmdet_ready):
    values = {'type': math.hypot, 'b': {'type': None}, 'c': {'type': 5}}
    use_registered_names(values)
    assert values == {'type': math.hypot, 'b': {'type': None}, 'c': {'type': 5}}
