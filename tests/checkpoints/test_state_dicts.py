"""The tensors of a network are found in whatever a training wrapped them in."""

import pytest
import torch

from eca_mmdet.checkpoints import convert, inspect
from eca_mmdet.checkpoints.conversion import convert_weights
from eca_mmdet.checkpoints.io import find_state, read_weights
from eca_mmdet.utils.errors import WeightsError
from tests.references.networks import AuthorsResNet
from tests.support import fine_tuning

pytestmark = pytest.mark.openmmlab

STATE = {
    'conv1.weight': torch.full((2, 2), 1.0),
    'layer1.0.conv1.weight': torch.full((2, 2), 2.0),
    'layer1.0.eca.conv.weight': torch.full((1, 1, 3), 3.0),
    'fc.weight': torch.full((2, 2), 4.0),
}
DETECTOR = {
    **{f'backbone.{k}': v for k, v in STATE.items() if k != 'fc.weight'},
    'bbox_head.fc_cls.weight': torch.full((2, 2), 5.0),
}
COUNT = torch.tensor(3)


def under(prefix, state=STATE, more=0):
    return {f'{prefix}{key}': value + more for key, value in state.items()}


def same(left, right):
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)


PREFIXES = (
    *('_orig_mod.module.', 'module._orig_mod.', 'a._fsdp_wrapped_module.', 'net.'),
    *('module.module.', 'model.module.', 'model.', 'network.', 'encoder.', '0.'),
    *('_forward_module.module.', 'backbone.', 'lit.model.backbone.', 'teacher.'),
)


@pytest.mark.parametrize('prefix', PREFIXES)
@pytest.mark.parametrize('beside', [{}, {'n_averaged': COUNT}, {'loss.weight': COUNT}])
def test_prefixes_before_known_names(prefix, beside):
    found = find_state({'state_dict': {**under(prefix), **beside}})
    same(found.state, STATE)
    assert (found.wrapper, found.prefix) == ('state_dict', prefix)
    assert found.sources['conv1.weight'] == f'{prefix}conv1.weight'
    kept = {'loss.': {'weight': COUNT}} if 'loss.weight' in beside else beside
    assert found.extras == kept and found.choices == ()


def test_names_that_wrapping_inserts_inside():
    state = {
        key.replace('layer1.0.', f'layer1.0.{inserted}.'): value
        for inserted in ('_fsdp_wrapped_module', '_checkpoint_wrapped_module')
        for key, value in STATE.items()
        if ('eca' in key) == ('fsdp' in inserted)
    }
    found = find_state(state)
    same(found.state, STATE)
    assert found.prefix == ''
    with pytest.raises(WeightsError, match='has one tensor twice'):
        find_state({**STATE, '_orig_mod.fc.weight': COUNT})


@pytest.mark.parametrize(
    ('content', 'expected', 'prefix'),
    [
        (under('model.', DETECTOR) | {'criterion.weight': COUNT}, DETECTOR, 'model.'),
        (DETECTOR | under('neck.rfp_modules.0.'), None, ''),
        (under('module.', {'a.weight': COUNT}), {'a.weight': COUNT}, 'module.'),
        ({'module.a': torch.zeros(1), 'b': torch.zeros(1)}, None, ''),
        (
            {'model.features.0.0.weight': COUNT},
            {'features.0.0.weight': COUNT},
            'model.',
        ),
        (DETECTOR, None, ''),
        (under('_orig_mod.') | {'n_averaged': COUNT}, STATE, '_orig_mod.'),
    ],
    ids=['model', 'two backbones', 'unknown', 'some', 'MobileNetV2', 'plain', 'SWA'],
)
def test_which_prefix_is_taken(content, expected, prefix):
    found = find_state(content)
    same(found.state, content if expected is None else expected)
    assert found.prefix == prefix


AVERAGE = under('', more=1)
SEVERAL = {
    'timm': ({'state_dict': STATE, 'state_dict_ema': AVERAGE}, 'state_dict_ema'),
    'torchvision': (
        {
            'model_ema': {'n_averaged': COUNT, **under('module.', AVERAGE)},
            'model': STATE,
        },
        'model_ema',
    ),
    'DINO': (
        {'teacher': under('backbone.', AVERAGE), 'student': under('module.backbone.')},
        'teacher',
    ),
    'RT-DETR': ({'ema': {'module': AVERAGE, 'updates': 7}, 'model': STATE}, 'ema'),
    'mmengine': (
        {'state_dict': STATE, 'ema_state_dict': {'steps': COUNT} | AVERAGE},
        'ema_state_dict',
    ),
    'Lightning': (
        {'state_dict': under('ema_model.', AVERAGE) | under('model.')},
        'ema_model',
    ),
    'in one': (STATE | under('ema_model.module.', AVERAGE), 'ema_model.module'),
    'SoftTeacher': (under('teacher.', AVERAGE) | under('student.'), 'teacher'),
    'MoCo': (
        under('module.encoder_k.', AVERAGE) | under('module.encoder_q.'),
        'module.encoder_k',
    ),
}


@pytest.mark.parametrize(('content', 'key'), SEVERAL.values(), ids=SEVERAL)
def test_averages_beside_plain_weights_are_a_choice(content, key):
    found = find_state(content)
    same(found.state, STATE)
    assert [choice.split('.')[0] for choice in found.choices] == [key.split('.')[0]]
    same(find_state(content, found.choices[0]).state, AVERAGE)
    same(find_state(content, key).state, AVERAGE)
    with pytest.raises(WeightsError, match=f"no weights called 'x', only .*{key}"):
        find_state(content, 'x')


@pytest.mark.parametrize(
    ('content', 'wrapper'),
    [
        ({'module': STATE, 'buffer_names': ['a'], 'optimizer': None}, 'module'),
        ({'model': None, 'ema': STATE, 'updates': 4}, 'ema'),
        ({'teacher': STATE}, 'teacher'),
        ({'checkpoint': {'state_dict': STATE}, 'step': 3}, 'checkpoint.state_dict'),
        ({'mine': STATE, 'rng': {'cpu': COUNT}}, 'mine'),
        ({'epoch': 3, **STATE}, ''),
        ({'state_dict': STATE, 'eca_mmdet_gradients': STATE}, 'state_dict'),
    ],
)
def test_entries_of_other_trainings(content, wrapper):
    found = find_state(content)
    same(found.state, STATE)
    assert (found.wrapper, found.choices) == (wrapper, ())
    assert 'epoch' not in content or found.extras == {'epoch': 3}


@pytest.mark.parametrize(
    'content', [{}, [1], {'rng': {'cpu': COUNT}}, {'optimizer': {'a': COUNT}}, COUNT]
)
def test_nothing_to_find(content):
    assert find_state(content) is None


@pytest.fixture(scope='module')
def network():
    return AuthorsResNet(18, (3, 5, 7, 7), width=8).state_dict()


@pytest.mark.parametrize('prefix', ['_orig_mod.module.', 'model.', 'module.'])
def test_inspecting_converting_and_loading_agree(
    mmdet_ready, network, tmp_path, prefix
):
    from mmdet.registry import MODELS

    file, written = tmp_path / 'x.ckpt', tmp_path / 'y.safetensors'
    average = {k: v + 1 if v.is_floating_point() else v for k, v in network.items()}
    content = {'state_dict': under(prefix, network), 'state_dict_ema': average}
    content['state_dict']['n_averaged'] = COUNT
    torch.save(content, file)
    found = inspect(file)
    assert found.network == 'ECA-ResNet-18' and found.choices == ('state_dict_ema',)
    assert (
        f"'{prefix}' before {len(network)} of {len(network) + 1} names" in found.wrapped
    )
    assert any('--key state_dict_ema' in note for note in found.notes)
    report = convert(content['state_dict'])[1]
    assert report.mapped[f'{prefix}conv1.weight'] == 'conv1.weight'
    assert report.dropped['n_averaged'] == 'of another module'
    for key, expected in (('', network), ('state_dict_ema', average)):
        convert_weights(file, written, force=True, key=key)
        init = dict(type='ECAPretrained', checkpoint=str(file), key=key)
        backbone = MODELS.build(
            dict(
                type='ECAResNet',
                depth=18,
                kernel_sizes=(3, 5, 7, 7),
                base_channels=8,
                stem_channels=8,
                init_cfg=init,
            )
        )
        backbone.init_weights()
        own = {k: v for k, v in expected.items() if not k.startswith('fc.')}
        same(read_weights(written).state, own)
        same({k: v for k, v in backbone.state_dict().items() if k in own}, own)


def test_the_other_weights_of_a_detector(mmdet_ready, shapes, tmp_path, command):
    """They become a checkpoint with config and class names."""
    cfg = fine_tuning.tiny('faster', shapes, tmp_path)
    state = fine_tuning.save(tmp_path / 'x.pth', cfg, ('a', 'b', 'c'), epoch=3)
    words = ('weights', 'convert', tmp_path / 'x.pth', tmp_path / 'y.pth')
    assert command(*words)[0] == 2  # nothing to convert
    code, _, error = command(*words, '--key', 'ema_state_dict')
    assert code == 0, error
    file = read_weights(tmp_path / 'y.pth')
    same(file.state, {key: value + 1 for key, value in state.items()})
    assert file.classes == ('a', 'b', 'c') and file.meta['epoch'] == 3


def test_a_model_that_has_the_prefix_itself_keeps_it(tmp_path):
    """mmdet's teachers have two detectors; a file of one is copied into both."""
    state = under('teacher.', DETECTOR) | under('student.', DETECTOR, more=1)
    torch.save({'state_dict': state}, tmp_path / 'x.pth')
    file = read_weights(tmp_path / 'x.pth')
    same(file.named_as(state).state, state)
    same(file.named_as(DETECTOR).state, under('', DETECTOR, more=1))
