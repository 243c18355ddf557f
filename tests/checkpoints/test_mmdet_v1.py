"""Detectors of MMDetection v1 are converted: rows move, names move, nothing else."""

import json

import pytest
import torch

from eca_mmdet.catalog.configs import shipped_configs
from eca_mmdet.checkpoints import convert, inspect
from eca_mmdet.checkpoints.io import read_weights
from eca_mmdet.utils.errors import WeightsError
from tests.conftest import REPOSITORY
from tests.references.networks import (
    AuthorsResNet,
    detector_state,
    randomise,
    retinanet_state,
)

pytestmark = pytest.mark.openmmlab

BACKBONE = randomise(AuthorsResNet(50, (5, 5, 5, 5)))
KINDS = {
    'Faster R-CNN': dict(),
    'Mask R-CNN': dict(masks=True),
    'Cascade R-CNN': dict(cascade=True),
    'Cascade Mask R-CNN': dict(cascade=True, masks=True),
}


def v1_state(kind, classes=80):
    """A v1 detector whose rows are numbered: row r holds the number r."""
    state = detector_state(BACKBONE, 1, classes=classes, **KINDS[kind])
    for key in list(state):
        layer = key.split('.')[-2]
        if layer in ('fc_cls', 'fc_reg', 'conv_logits'):
            rows = torch.arange(float(len(state[key])))
            shape = (len(rows), *[1] * (state[key].dim() - 1))
            state[key] = rows.reshape(shape).expand(state[key].shape).clone()
            state[key.replace('weight', 'bias')] = rows.clone()
    return state


@pytest.mark.parametrize('prefix', ['', 'module.'])
@pytest.mark.parametrize('classes', [80, 1, 20])
@pytest.mark.parametrize('kind', sorted(KINDS))
def test_two_stage(kind, classes, prefix):
    state = v1_state(kind, classes)
    before = {key: value.clone() for key, value in state.items()}
    converted, report = convert({prefix + k: v for k, v in state.items()})
    assert report.network == f'{kind} on ECA-ResNet-50'
    assert report.classes == classes and not report.dropped
    assert (report.source, report.target) == ('MMDetection v1', 'MMDetection v3')
    assert list(report.mapped.values()) == list(converted)
    assert len(report.mapped) == len(state)
    moved = set()
    for old, value in before.items():
        head = old.startswith(('bbox_head.', 'mask_head.'))
        new = converted[f'roi_head.{old}' if head else old]
        assert report.mapped[prefix + old] == (f'roi_head.{old}' if head else old)
        rows = new.reshape(len(new), -1)[:, 0].tolist() if new.dim() else []
        if '.fc_cls.' in old:
            assert rows == [*range(1, classes + 1), 0]
        elif '.fc_reg.' in old and 'cascade' not in KINDS[kind]:
            assert rows == list(range(4, 4 * (classes + 1)))
        elif '.conv_logits.' in old:
            assert rows == list(range(1, classes + 1))
        else:
            assert torch.equal(new, value), old
            continue
        moved.add(prefix + old)
    assert set(report.changed) == moved
    assert all(torch.equal(state[key], before[key]) for key in state)


@pytest.mark.parametrize('old_towers', [True, False])
def test_retinanet(old_towers):
    state = retinanet_state(BACKBONE, classes=7, old_towers=old_towers)
    converted, report = convert(state, v1_retinanet=True)
    assert report.classes == 7 and not report.changed
    tower = 'bbox_head.cls_convs.0.conv.weight'
    assert tower in converted
    old = 'bbox_head.cls_convs.0.weight' if old_towers else tower
    assert torch.equal(converted[tower], state[old])
    rest = state.keys() - {old}
    assert all(torch.equal(converted[key], state[key]) for key in rest)
    if not old_towers:
        with pytest.raises(WeightsError, match='add --v1-retinanet'):
            convert(state)


@pytest.mark.parametrize(
    ('extras', 'flag', 'version', 'part'),
    [
        ({'meta': {'mmdet_version': '1.1.0+3839478'}}, False, 'v1', ''),
        ({'meta': {'mmdet_version': '1.0rc1'}}, True, 'v1', ''),
        ({'meta': {'mmdet_version': '2.10.0'}}, True, 'v2', 'already a .* v2'),
        ({'meta': {'mmengine_version': '0.10.7'}}, True, 'v3', 'already a .* v3'),
        ({'message_hub': {}}, False, 'v3', 'already a RetinaNet .* v3'),
        ({'meta': {'epoch': 12}}, False, 'v1, v2 or v3', 'add --v1-retinanet'),
        ({'meta': 'text'}, False, 'v1, v2 or v3', 'add --v1-retinanet'),
    ],
)
def test_retinanets_metadata_tells_the_version(
    command, tmp_path, monkeypatch, extras, flag, version, part
):
    monkeypatch.chdir(tmp_path)
    state = retinanet_state(BACKBONE)
    torch.save({'state_dict': state, **extras}, 'old.pth')
    words = ['--v1-retinanet'] if flag else []
    found = inspect('old.pth')
    assert found.origin == f'MMDetection {version}'
    if part:
        with pytest.raises(WeightsError, match=part):
            convert(state, v1_retinanet=flag, extras=extras)
        assert command('weights', 'convert', 'old.pth', 'new.pth', *words)[0] == 2
    else:
        assert found.command == 'eca-mmdet weights convert old.pth NEW.pth'
        assert command(*found.command.split()[1:], *words)[0] == 0


def test_heads_that_were_moved_but_not_reordered():
    state = v1_state('Mask R-CNN')
    moved = {
        f'roi_head.{k}' if k.startswith(('bbox_head', 'mask_head')) else k: v
        for k, v in state.items()
    }
    converted, report = convert(moved)
    expected, _ = convert(state)
    assert converted.keys() == expected.keys() and len(report.changed) == 6
    assert all(torch.equal(converted[key], expected[key]) for key in expected)


def test_other_detectors_are_not_converted():
    fcos = {k: v for k, v in retinanet_state(BACKBONE).items() if 'retina' not in k}
    fcos['bbox_head.fcos_cls.weight'] = torch.zeros(80, 16, 3, 3)
    rpn = detector_state(BACKBONE, 1)
    rpn = {k: v for k, v in rpn.items() if not k.startswith('bbox_head.')}
    for state in (fcos, rpn):
        with pytest.raises(WeightsError, match='that is none of Faster'):
            convert(state)


@pytest.mark.parametrize('kind', sorted(KINDS))
def test_twice_is_refused(kind):
    converted, _ = convert(v1_state(kind))
    with pytest.raises(WeightsError, match=f'already a {kind} of MMDetection v2 or v3'):
        convert(converted)


@pytest.mark.parametrize(
    ('change', 'part'),
    [
        (
            {
                'bbox_head.fc_reg.weight': torch.zeros(320, 16),
                'bbox_head.fc_reg.bias': torch.zeros(320),
            },
            'has 320 rows.* has 324',
        ),
        (
            {
                'mask_head.conv_logits.weight': torch.zeros(80, 16, 1, 1),
                'mask_head.conv_logits.bias': torch.zeros(80),
            },
            'has 80 rows.* has 81',
        ),
        (
            {'semantic_head.x.weight': torch.zeros(1)},
            'semantic_head.* is not part',
        ),
        ({'bbox_head.fc_reg.bias': torch.zeros(4)}, 'has 4 rows, its weight another'),
        ({'shared_head.layer4.0.conv1.weight': torch.zeros(1)}, 'is not part'),
        ({'backbone.layer1.0.odd.weight': torch.zeros(1)}, 'no layer that is known'),
    ],
)
def test_what_is_no_such_detector_is_refused(change, part):
    with pytest.raises(WeightsError, match=part):
        convert(v1_state('Mask R-CNN') | change)


def test_cascade_with_boxes_by_class_is_refused():
    state = v1_state('Cascade R-CNN', 3)
    for stage in range(3):
        state[f'bbox_head.{stage}.fc_reg.weight'] = torch.zeros(16, 16)
        state[f'bbox_head.{stage}.fc_reg.bias'] = torch.zeros(16)
    with pytest.raises(WeightsError, match='whose boxes differ by class'):
        convert(state)


def test_without_scores_the_classes_are_unknown():
    state = {k: v for k, v in v1_state('Faster R-CNN').items() if 'fc_cls' not in k}
    with pytest.raises(WeightsError, match='without bbox_head.fc_cls'):
        convert(state)


@pytest.mark.parametrize('detector', ['faster_rcnn', 'mask_rcnn', 'retinanet'])
@pytest.mark.parametrize('eca', [True, False])
def test_recorded_names_load_strictly(mmdet_ready, detector, eca):
    """MMDetection v1.1.0's own names and shapes fit the legacy configs, all of them."""
    from mmdet.registry import MODELS
    from mmengine.config import Config

    source = REPOSITORY.parent / 'shared' / 'golden' / f'{detector}_v1_keys.json'
    if detector == 'faster_rcnn':
        source = REPOSITORY / 'tests' / 'data' / 'v1_faster_rcnn_keys.json'
    if not source.is_file():
        pytest.skip(f'the recorded names are not here: {source}')
    state = {
        key: torch.zeros((), dtype=getattr(torch, dtype)).expand(shape)
        for key, shape, dtype in json.loads(source.read_text())['state_dict']
        if eca or '.eca.' not in key
    }
    converted, _ = convert(state, v1_retinanet=detector == 'retinanet')
    family = detector.replace('_', '-')
    sizes = '5555' if detector == 'faster_rcnn' else '3377'
    attention = f'eca-r50-k{sizes}' if eca else 'r50'
    cfg = Config.fromfile(shipped_configs()[f'{family}_{attention}_fpn_v1_coco'])
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    own = model.state_dict()
    assert converted.keys() == own.keys()
    assert all(converted[key].shape == own[key].shape for key in own)


def test_mmdets_own_script_shifts_what_has_no_background(mmdet_ready, tmp_path):
    """The difference is real: these tensors come out wrong from the stock script."""
    import runpy
    import sys
    from pathlib import Path

    import mmdet

    tools = Path(mmdet.__file__).parent / '.mim' / 'tools'
    script = tools / 'model_converters' / 'upgrade_model_version.py'
    if not script.is_file():
        pytest.skip(f'this mmdet comes without {script.name}')
    state = v1_state('Mask R-CNN')
    for name in ('cls', 'reg'):
        rows = len(state[f'rpn_head.rpn_{name}.weight'])
        state[f'rpn_head.rpn_{name}.bias'] = torch.arange(float(rows))
    config = 'mask_rcnn.py\nmodel = dict(rpn_head=dict(), bbox_head=dict())\n'
    meta = {'config': config, 'mmdet_version': '1.1.0'}
    torch.save({'state_dict': state, 'meta': meta}, tmp_path / 'old.pth')
    words = [f'{tmp_path}/old.pth', f'{tmp_path}/new.pth', '--num-classes', '81']
    argv, sys.argv = sys.argv, [str(script), *words]
    try:
        runpy.run_path(str(script), run_name='__main__')
    finally:
        sys.argv = argv
    theirs = torch.load(tmp_path / 'new.pth', weights_only=False)['state_dict']
    ours, _ = convert(state)
    different = {
        key
        for key in ours
        if key not in theirs
        or theirs[key].shape != ours[key].shape
        or not torch.equal(theirs[key], ours[key])
    }
    assert different == {
        'rpn_head.rpn_cls.bias',
        'roi_head.bbox_head.fc_reg.bias',
        'roi_head.mask_head.conv_logits.bias',
    }


@pytest.mark.parametrize('meta', [None, {'config': 'model = dict()', 'epoch': 12}])
def test_command(command, tmp_path, meta):
    old, new = tmp_path / 'old.pth', tmp_path / 'new.pth'
    content = {'state_dict': v1_state('Mask R-CNN', 5), 'optimizer': {}}
    torch.save(content | ({'meta': meta} if meta else {}), old)
    code, out, err = command('weights', 'convert', old, new)
    assert (code, err) == (0, '')
    assert 'Mask R-CNN on ECA-ResNet-50, MMDetection v1 -> MMDetection v3' in out
    assert 'bbox_head.fc_cls.weight: background moved to the last row' in out
    assert "mask_head.conv_logits.bias: background's channel dropped" in out
    file = read_weights(new)
    assert file.metadata['classes'] == '5'
    assert file.metadata['kernel_sizes'] == '5,5,5,5'
    assert inspect(new).what.startswith('Mask R-CNN of MMDetection v')
    code, _, err = command('weights', 'convert', new, tmp_path / 'again.pth')
    assert code == 2 and 'already' in err and not (tmp_path / 'again.pth').exists()


def test_command_for_retinanet(command, tmp_path):
    old, new = tmp_path / 'old.pth', tmp_path / 'new.pth'
    torch.save(retinanet_state(BACKBONE), old)
    other = tmp_path / 'new.safetensors'
    code, _, err = command('weights', 'convert', old, other, '--v1-retinanet')
    assert code == 2 and 'write to a name in .pth' in err and not other.exists()
    code, _, err = command('weights', 'convert', old, new)
    assert code == 2 and '--v1-retinanet' in err and not new.exists()
    assert command('weights', 'convert', old, new, '--v1-retinanet')[0] == 0
    again = tmp_path / 'again.pth'
    code, _, err = command('weights', 'convert', new, again, '--v1-retinanet')
    assert code == 2 and 'already' in err and not again.exists()
