"""`eca-mmdet paper reproduce` end to end, on generated shapes in COCO's place."""

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from eca_mmdet.utils import io
from tests.conftest import PYTHON, REPOSITORY, listen_to_interrupts
from tests.references.networks import AuthorsResNet, randomise, save_as_the_authors
from tests.support.in_process import Here

pytestmark = pytest.mark.slow

CONFIG = """
_base_ = '{base}'
model = dict(backbone=dict(
    frozen_stages=1,
    init_cfg=dict(_delete_=True, type='ECAPretrained', checkpoint='nothing.pth')))
train_cfg = dict(max_iters=2, val_interval=2)
param_scheduler = []
default_hooks = dict(checkpoint=dict(interval=1))
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = dict(num_workers=0, persistent_workers=False)
"""


@pytest.fixture
def place(shapes, tmp_path, monkeypatch, mmdet_ready):
    """COCO, weights and published numbers of small detectors, in the current folder."""
    from mmengine.config import Config

    from eca_mmdet.catalog import configs as paths

    monkeypatch.chdir(tmp_path)
    (tmp_path / 'coco' / 'annotations').mkdir(parents=True)
    for split, name in (('train', 'train2017'), ('val', 'val2017')):
        annotations = shapes / 'annotations' / f'{split}.json'
        shutil.copy(annotations, f'coco/annotations/instances_{name}.json')
        shutil.copytree(shapes / split, tmp_path / 'coco' / name)
    (tmp_path / 'w').mkdir()
    rows = []
    for name, title in (('faster-rcnn', 'Faster R-CNN'), ('mask-rcnn', 'Mask R-CNN')):
        base = paths.resolve_config(f'{name}_eca-r18-w16_fpn_shapes')
        (tmp_path / f'{name}.py').write_text(CONFIG.format(base=base))
        rows.append(published_row(name.split('-')[0], title, tmp_path / f'{name}.py'))
    rows += [published_row('retinanet', 'RetinaNet', tmp_path / 'mask-rcnn.py')]
    write_published(rows)
    cfg = Config.fromfile(str(tmp_path / 'faster-rcnn.py'))
    save_detector(cfg, 'w/one.pth')
    return tmp_path


@pytest.fixture
def in_process(monkeypatch):
    """Run the commands of the rows in this process."""
    stand_in = SimpleNamespace(Popen=Here, STDOUT=subprocess.STDOUT)
    monkeypatch.setattr(io, 'subprocess', stand_in)


def published_row(family, title, config, ap=0.0):
    def number(value):
        return {'value': value, 'confirmed_by': []}

    tasks = ['box', 'mask'] if family == 'mask' else ['box']
    return {
        'row': f'{family}:r18:eca',
        'detector': title,
        'depth': 18,
        'attention': 'ECA',
        'config': str(config),
        'cost': {'params_m': number(1.0), 'gflops': number(1.0)},
        **{task: {'AP': number(ap), 'APL': number(1.0)} for task in tasks},
    }


def write_published(rows):
    content = {'detectors': rows, 'sources': {}}
    with open('published.json', 'w') as file:
        json.dump(content, file)


def save_detector(cfg, path, **heads):
    """Random weights, as MMDetection 3.x saves them."""
    from mmdet.registry import MODELS

    torch.manual_seed(0)
    cfg = copy.deepcopy(cfg)
    cfg.model.backbone.init_cfg = None
    for key, value in heads.items():
        cfg.model.roi_head[key].num_classes = value
    model = MODELS.build(cfg.model)
    model.init_weights()
    meta = {'mmengine_version': '0.10.7'}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, path)


WORDS = (
    'reproduce',
    '--coco',
    'coco',
    '--weights',
    'w',
    '--published',
    'published.json',
)


def verdicts(out='out'):
    with open(f'{out}/tables.json') as file:
        rows = json.load(file)['rows']
    return {row['row'].split(':')[0]: row['verdict'] for row in rows}


def record_of(out, family):
    return json.loads(Path(out, 'rows', f'{family}_r18_eca.json').read_text())


@pytest.mark.openmmlab
def test_every_verdict_and_going_on(place, command, in_process):
    """Within, outside, a test that fails, no weights. A second call repeats nothing."""
    from mmengine.config import Config

    cfg = Config.fromfile('mask-rcnn.py')
    save_detector(cfg, 'w/two.pth', bbox_head=5)
    code, out, err = command(*WORDS, '--out', 'out')
    assert code == 1, err
    assert verdicts() == {
        **{'faster': 'within', 'mask': 'failed', 'retinanet': 'no weights'}
    }
    assert "measured on not COCO's val2017: 4 images" in out
    assert 'within 0.4 (retrained) (subset)' in out
    assert 'no weights: no weights of this detector' in out
    assert 'failed: exit code 2: eca-mmdet test: ' in out
    assert '| faster:r18:eca reported' in (place / 'out' / 'tables.md').read_text()
    assert '\\par NOT COMPARABLE' in (place / 'out' / 'tables.tex').read_text()
    record = record_of('out', 'faster')
    assert (
        record['metrics']['checkpoint']['sha256']
        == (record['inputs']['weights_sha256'])
    )
    table = json.loads((place / 'out' / 'tables.json').read_text())
    assert 5.1 < table['rows'][0]['cost']['params_m'] < 5.2

    save_detector(cfg, 'w/two.pth')  # the right one now
    write_published(
        [
            published_row('faster', 'Faster R-CNN', place / 'faster-rcnn.py', ap=50.0),
            published_row('mask', 'Mask R-CNN', place / 'mask-rcnn.py'),
        ]
    )
    code, out, err = command(*WORDS, '--out', 'out')
    assert code == 1 and 'faster:r18:eca: measured before' in err
    assert 'mask:r18:eca: testing w/two.pth' in err
    assert verdicts() == {'faster': 'outside', 'mask': 'within'}
    assert len(list((place / 'out' / 'runs').glob('faster_r18_eca-*/test/2*'))) == 1
    code, out, err = command(*WORDS, '--out', 'out', '--tolerance-retrained', '60')
    assert code == 0 and err.count('measured before') == 2
    assert 'within 60 (retrained)' in out

    save_detector(cfg, 'w/one.pth')  # now both are Mask R-CNNs
    code, out, err = command(*WORDS, '--out', 'out')
    assert verdicts() == {'faster': 'no weights', 'mask': 'no weights'}
    assert 'several files are of this row: w/one.pth, w/two.pth' in out


def test_interrupted_and_continued(place, command):
    """Ctrl-C while the second row is tested: the first is not tested again."""
    from mmengine.config import Config

    save_detector(Config.fromfile('mask-rcnn.py'), 'w/two.pth')
    environment = {**os.environ, 'PYTHONPATH': str(REPOSITORY)}
    process = subprocess.Popen(
        [PYTHON, '-m', 'eca_mmdet.cli', *WORDS, '--out', 'out'],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
        preexec_fn=listen_to_interrupts,
    )
    seen = []
    for line in process.stderr:
        seen.append(line)
        if 'mask:r18:eca: testing' in line:
            break
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert 'stopped in mask:r18:eca; the same command goes on from there' in err
    assert 'Traceback' not in ''.join(seen) + err + out
    [file] = (place / 'out' / 'rows').iterdir()
    assert file.name == 'faster_r18_eca.json'
    assert verdicts() == {'faster': 'within'}
    code, _, err = command(*WORDS, '--out', 'out')
    assert code == 0 and 'faster:r18:eca: measured before' in err
    assert verdicts() == {
        **{'faster': 'within', 'mask': 'within', 'retinanet': 'no weights'}
    }


@pytest.mark.openmmlab
def test_two_processes_measure_the_same(place, command):
    """gloo, through mmengine's pytorch launcher."""
    code, _, err = command(*WORDS, '--rows', 'faster:*', '--out', 'one')
    assert code == 0, err
    words = ('--rows', 'faster:*', '--out', 'two', '--devices', '2')
    code, _, err = command(*WORDS, *words)
    assert code == 0, err
    first, second = (record_of(name, 'faster') for name in ('one', 'two'))
    assert first['metrics']['results'] == second['metrics']['results']
    assert second['devices'] == 2
    [log] = (place / 'two' / 'runs').glob('faster_r18_eca-*/test.log')
    assert '--nproc_per_node 2' in log.read_text()


@pytest.mark.openmmlab
def test_training_a_row_then_testing_it(place, command, in_process):
    """From ImageNet weights in the authors' format; the second call goes on."""
    os.remove('w/one.pth')
    network = AuthorsResNet(18, (3, 5, 7, 7), width=16)
    save_as_the_authors(randomise(network), 'w/imagenet.pth.tar')
    words = (*WORDS, '--rows', 'faster:*', '--train', '--out', 'out')
    code, out, err = command(*words)
    assert code == 0, err
    assert 'training' in err and 'train/iter_2.pth' in err
    assert verdicts() == {'faster': 'within'} and '(retrained)' in out
    [log] = (place / 'out' / 'runs').glob('faster_r18_eca-*/train.log')
    assert re.search(r'8/8 gates from imagenet\S* \(authors', log.read_text())
    [record] = (place / 'out' / 'rows').iterdir()
    record.unlink()
    code, _, err = command(*words)
    assert code == 0 and 'training goes on' in err
    # Other ImageNet weights under the same name are another training.
    save_as_the_authors(randomise(network, seed=2), 'w/imagenet.pth.tar')
    code, _, err = command(*words)
    assert code == 0 and 'goes on' not in err and 'measured before' not in err
    assert len(list((place / 'out' / 'runs').iterdir())) == 2
    # The training is not resumed with other options than it was begun with.
    code, out, err = command(*words, '--cfg-options', 'train_cfg.max_iters=3')
    assert code == 1 and 'was begun with other options or annotations' in err


@pytest.mark.openmmlab
def test_a_released_detector_of_v1(place, command, in_process):
    """Converted, tested with v1's behaviour, judged by the smaller tolerance."""
    from mmdet.datasets import CocoDataset
    from mmdet.registry import MODELS
    from mmengine.config import Config

    from eca_mmdet.catalog import configs as paths

    os.remove('w/one.pth')
    name = 'retinanet_eca-r50-k3377_fpn_v1_coco'
    cfg = Config.fromfile(str(paths.resolve_config(name)))
    cfg.model.backbone.init_cfg = None
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, 'w/old.pth')
    file = Path('coco/annotations/instances_val2017.json')
    content = json.loads(file.read_text())
    content['images'] = content['images'][:1]
    first = content['images'][0]['id']
    content['annotations'] = [
        a for a in content['annotations'] if a['image_id'] == first
    ]
    names = CocoDataset.METAINFO['classes']
    content['categories'] = [{'id': i, 'name': n} for i, n in enumerate(names, 1)]
    file.write_text(json.dumps(content))
    words = ('paper', 'reproduce', '--coco', 'coco', '--weights', 'w', '--out', 'out')
    code, out, err = command(*words, '--rows', 'retinanet:r50:eca')
    assert code == 1
    assert 'retinanet:r50:eca: converting from MMDetection v1' in err
    assert 'taken for MMDetection v1, which its names cannot tell' in err + out
    assert 'outside 0.1 (released)' in out
    [record] = (place / 'out' / 'rows').iterdir()
    found = json.loads(record.read_text())
    assert found['released'] and found['inputs']['config'] == name
    assert found['metrics']['config'] == name
    converted = torch.load(found['metrics']['checkpoint']['file'])['state_dict']
    assert converted['bbox_head.retina_reg.weight'].shape == (36, 256, 3, 3)


def test_dry_run_says_what_would_happen(place, command):
    code, out, err = command(*WORDS, '--dry-run', '--out', 'out')
    assert code == 0, err
    assert 'faster:r18:eca: test ' in out and 'w/one.pth\n' in out
    assert 'mask:r18:eca: no weights of this detector in the folder' in out
    assert not (place / 'out').exists()
