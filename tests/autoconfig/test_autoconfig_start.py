"""init and train --data from folders of other formats, and from trained detectors."""

import json

import pytest
import torch

from eca_mmdet.autoconfig import proposals
from eca_mmdet.autoconfig.inputs import from_detector, read_base, resolve_model
from eca_mmdet.autoconfig.sections import model_of
from eca_mmdet.checkpoints.io import read_checkpoint
from eca_mmdet.utils.text import assignment
from tests.support.own_data import QUICK, SIDE, TINY, write_data

TRAIN = ('--model', TINY, '--epochs', 1)


@pytest.fixture
def here(tmp_path, monkeypatch, mmdet_ready):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_yolo(root, classes):
    """A YOLO folder with the images and boxes of ``write_data``."""
    for split, first in (('train', 0), ('val', 30)):
        path = write_data(root / 'raw', f'{split}.json', classes, first=first)
        content = json.loads(path.read_text())
        (root / 'images').mkdir(parents=True, exist_ok=True)
        (root / 'labels' / split / 'deep' / 'er').mkdir(parents=True)
        (root / 'raw' / 'images').rename(root / 'images' / split)
        path.unlink()
        for image in content['images']:
            name = image['file_name'].rpartition('.')[0]
            lines = []
            for one in content['annotations']:
                if one['image_id'] == image['id']:
                    x, y, w, h = one['bbox']
                    cx, cy = (x + w / 2) / (SIDE + 32), (y + h / 2) / SIDE
                    size = f'{w / (SIDE + 32)} {h / SIDE}'
                    lines.append(f'{one["category_id"] - 1} {cx} {cy} {size}')
            (root / 'labels' / split / f'{name}.txt').write_text('\n'.join(lines))
    (root / 'raw').rmdir()
    names = ''.join(f'  {n}: {name}\n' for n, name in enumerate(classes))
    (root / 'data.yaml').write_text(
        f'path: .\ntrain: images/train\nval: images/val\nnames:\n{names}'
    )


@pytest.mark.slow
def test_trains_on_a_yolo_folder(command, here):
    write_yolo(here / 'pets', ('cat', 'dog'))
    before = sorted((here / 'pets').rglob('*'))
    words = ['--model', 'faster-rcnn_eca-r18-w16', '--epochs', 1, '--work-dir', 'run']
    code, out, err = command('train', '--data', 'pets', *words, *QUICK)
    assert code == 0, err
    assert 'pets-coco/train.json: written' in out
    assert sorted((here / 'pets').rglob('*')) == before  # nothing in the source
    written = json.loads((here / 'pets-coco' / 'val.json').read_text())
    assert [one['name'] for one in written['categories']] == ['cat', 'dog']
    assert len(written['annotations']) == 12
    assert read_checkpoint('run/epoch_1.pth').extras['meta']['iter'] == 2
    # Masks are not there to be learnt, and a second call finds the files.
    code, out, err = command('init', '--train', 'pets', '--model', TINY)
    assert code == 2 and '12 of 12 objects' in err
    assert 'there already, with the same content' in err


def test_a_folder_without_validation_is_refused(command, here):
    write_yolo(here / 'pets', ('cat',))
    (here / 'pets' / 'data.yaml').write_text(
        'path: .\ntrain: images/train\nnames: [cat]\n'
    )
    code, out, err = command('init', '--train', 'pets')
    assert code == 2 and not out
    assert 'eca-mmdet data split' in err and 'pets-coco/train.json --val 0.2' in err


@pytest.mark.slow
@pytest.mark.openmmlab
def test_fine_tunes_from_a_detector(command, here, monkeypatch):
    """Two classes, then three of which one is known; the rows of that one stay."""
    files = [
        write_data(here, f'{name}.json', ('cat', 'dog'), first=first)
        for name, first in (('train', 0), ('val', 10))
    ]
    words = ['--data', *files, *TRAIN, '--work-dir', 'first']
    code, _, err = command('train', *words, *QUICK)
    assert code == 0, err
    start = here / 'first' / 'epoch_1.pth'
    pairs = [(4, 'cow'), (9, 'dog'), (2, 'Cat')]
    files = [
        write_data(here, f'{name}3.json', pairs, first=first)
        for name, first in (('train', 20), ('val', 30))
    ]
    words = ['--data', *files, *TRAIN, '--work-dir', 'second', '--weights', start]
    frozen = ['optim_wrapper.optimizer.lr=0', 'optim_wrapper.optimizer.weight_decay=0']
    code, out, err = command('train', *words, '--keep-classes', *QUICK, *frozen)
    assert code == 0, err
    assert 'keep the rows of 1 of 3 classes: dog; new: cow, Cat' in out
    assert 'Cat (file: cat)' in out
    old, new = (
        read_checkpoint(str(path)).state
        for path in (start, here / 'second' / 'epoch_1.pth')
    )
    for name, rows in (('fc_cls', 1), ('fc_reg', 4)):
        for kind in ('weight', 'bias'):
            key = f'roi_head.bbox_head.{name}.{kind}'
            theirs, ours = old[key], new[key]
            # dog is 1 in both; background comes last.
            assert torch.equal(ours[rows : 2 * rows], theirs[rows : 2 * rows])
            assert name == 'fc_reg' or torch.equal(ours[3], theirs[2])
            if kind == 'weight':
                assert not torch.equal(ours[:rows], theirs[:rows])
    key = 'roi_head.bbox_head.shared_fcs.0.weight'
    assert torch.equal(old[key], new[key])
    # Without the rows: the same, but all class layers are new.
    code, out, err = command(
        'init', '--train', files[0], '--val', files[1], *TRAIN, '--weights', start
    )
    assert code == 0, err
    assert '3 class layers start new' in err
    assert (
        "dict(type='FineTuneHook')" in out
        and 'keep_classes' not in out.partition('_base_')[2]
    )
    # The detector brings its backbone, whose own weights are not looked for.
    (here / 'own.py').write_text(
        f"_base_ = '{resolve_model(TINY)}'\n"
        'model = dict(backbone=dict(init_cfg=dict(_delete_=True, '
        "type='ECAPretrained', checkpoint='gone.pth')))"
    )
    words = ['--train', files[0], '--val', files[1], '--model', 'own.py']
    code, out, err = command('init', *words, '--weights', start)
    assert code == 0, err
    assert 'backbone=dict(init_cfg=None)' in out
    # Thin objects: other anchors are proposed, but the weights know theirs.
    monkeypatch.setattr(proposals, 'LEAST_BOXES', 1)
    content = json.loads(files[0].read_text())
    for one in content['annotations']:
        one['bbox'][2] = 5
    files[0].write_text(json.dumps(content))
    words = ['--train', files[0], '--val', files[1], *TRAIN]
    assert 'anchor_generator' in command('init', *words)[1]
    code, out, err = command('init', *words, '--weights', start)
    assert 'anchor_generator' not in out
    assert "the config's own, which" in err and 'was trained with' in err


@pytest.mark.parametrize(
    ('config', 'told', 'written'),
    [
        ('scales=[11.0], ratios=[0.5, 1.0, 2.0]', 'those that', 'scales=[11.0]'),
        ('scales=[4], ratios=[0.5, 1.0, 2.0]', "the config's own, which", ''),
        ('scales=[4, 5], ratios=[1.0, 2.0]', 'which do not fit it', ''),
        ('scales="x", ratios=[0.5, 1.0, 2.0]', 'does not say', ''),
        (None, 'does not say', ''),
    ],
)
def test_anchors_of_a_detector(here, config, told, written):
    """Those in the config that a checkpoint has in it are written into the new one."""
    base = read_base(resolve_model(TINY))
    state = {'backbone.conv1.weight': torch.zeros(16, 3, 7, 7)}
    strides = 'strides=[4, 8, 16, 32, 64]'
    text = (
        'model = dict(rpn_head=dict(anchor_generator=dict('
        f"type='AnchorGenerator', {config}, {strides})))"
    )
    meta = {} if config is None else {'cfg': text}
    torch.save({'state_dict': state, 'meta': meta}, 'd.pth')
    start = from_detector('d.pth', False, base, 'd.pth')
    proposal = start.anchors_of(base.anchors)
    assert told in proposal.why and 'd.pth' in proposal.why
    model = model_of(base, 2, proposal, start)
    assert (written in assignment('model', model)) and (
        bool(written) == ('rpn_head' in model)
    )


def test_a_config_that_starts_from_a_detector(command, here):
    """Its load_from is as --weights; a backbone in its place is not loaded over."""
    files = [
        write_data(here, f'{name}.json', ('cat',), first=first)
        for name, first in (('train', 0), ('val', 10))
    ]
    from mmdet.registry import MODELS

    from eca_mmdet.engine.config import load_config

    cfg = load_config('mask-rcnn_eca-r18-w16_fpn_shapes')
    model = MODELS.build(cfg.model)
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, 'whole.pth')
    torch.save(model.backbone.state_dict(), 'backbone.pth')
    (here / 'own.py').write_text(
        f"_base_ = '{resolve_model(TINY)}'\nload_from = 'whole.pth'\n"
    )
    words = ['--train', files[0], '--val', files[1], '--model', 'own.py']
    code, out, err = command('init', *words)
    assert code == 0, err
    assert "load_from = 'whole.pth'" in out and "type='FineTuneHook'" in out
    assert 'images from a detector on' in err
    code, out, err = command('init', *words, '--weights', 'backbone.pth')
    assert code == 0, err
    assert 'load_from = None' in out and "checkpoint='backbone.pth'" in out
    assert 'images from a backbone on' in err


def test_a_backbone_is_no_detector(command, here):
    files = [
        write_data(here, f'{name}.json', ('cat',), first=first)
        for name, first in (('train', 0), ('val', 10))
    ]
    from mmdet.registry import MODELS

    from eca_mmdet.engine.config import load_config

    backbone = MODELS.build(
        load_config('mask-rcnn_eca-r18-w16_fpn_shapes').model.backbone
    )
    torch.save(backbone.state_dict(), here / 'backbone.pth')
    words = ['--train', files[0], '--val', files[1], '--model', TINY]
    words += ['--weights', 'backbone.pth']
    code, out, err = command('init', *words)
    assert code == 0, err
    assert "type='ECAPretrained', checkpoint='backbone.pth'" in out
    assert 'load_from' not in out and 'before you train' not in err
    code, out, err = command('init', *words, '--keep-classes')
    assert code == 2 and '--keep-classes needs a detector' in err
    (here / 'cut.pth').write_bytes((here / 'backbone.pth').read_bytes()[:5000])
    code, out, err = command('init', *words[:-1], 'cut.pth')
    assert code == 2 and 'cut.pth' in err and not out


@pytest.mark.parametrize(
    ('words', 'told', 'code'),
    [
        (
            [],
            'eca-mmdet weights download hf://timm/ecaresnet50d.miil_in1k --dir . ',
            'download-failed',
        ),
        (
            ['--model', 'mask-rcnn_eca-r50'],
            'eca-mmdet weights download eca_resnet50_k3557.pth.tar. ',
            'file-not-found',
        ),
        (['--weights', 'no.pth'], "'no.pth' not found", 'file-not-found'),
    ],
)
def test_missing_weights_are_reported_once_before_data_are_converted(
    command, here, monkeypatch, words, told, code
):
    """Without a network: what to run on another machine, and the other ways."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(here / 'hub'))
    write_yolo(here / 'pets', ('cat',))
    status, out, err = command('train', '--data', 'pets', *words)
    assert (status, out) == (2, '')
    line = err.splitlines()[-1]
    assert told in line and line.endswith(f'[{code}]') and err.count(told) == 1
    for way in ('--weights FILE', 'init_cfg.checkpoint=FILE', '--from-scratch'):
        assert way in line
    assert [path.name for path in here.iterdir()] == ['pets']
    status, out, err = command('train', '--data', 'missing', 'pets', *words)
    assert status == 2 and "'missing' does not exist" in err
