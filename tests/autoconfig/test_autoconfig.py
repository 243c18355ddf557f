"""From annotation files to a config that trains: eca-mmdet init, train --data."""

import json

import numpy as np
import pytest
import torch

from eca_mmdet.autoconfig.inputs import resolve_model
from eca_mmdet.checkpoints.io import read_checkpoint
from eca_mmdet.utils.io import sha256_of
from tests.support.own_data import (
    KINDS,
    NO_WORKERS,
    ODD_NAMES,
    QUICK,
    SIDE,
    TINY,
    write_data,
)


@pytest.fixture
def data(tmp_path):
    """Two files of two classes in the working folder."""
    return (
        write_data(tmp_path, 'train.json', ('cat', 'dog')),
        write_data(tmp_path, 'val.json', ('cat', 'dog'), first=10),
    )


@pytest.fixture
def init(command, tmp_path, mmdet_ready, monkeypatch):
    """Run init and return (the config read, its text, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(train, val, *words, model=TINY):
        from mmengine.config import Config

        code, out, err = command(
            'init', '--train', train, '--val', val, '--model', model, *words
        )
        assert code == 0, err
        path = tmp_path / 'written.py'
        path.write_text(out, encoding='utf-8')
        return Config.fromfile(str(path)), out, err

    return run


@pytest.fixture
def refused(command, tmp_path, monkeypatch):
    """Run init and return what it says in refusing."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code, out, err = command('init', *words)
        assert (code, out) == (2, '')
        return err

    return run


@pytest.mark.openmmlab
def test_two_classes(init, data):
    cfg, text, err = init(*data)
    assert cfg.model.roi_head.bbox_head.num_classes == 2
    assert cfg.model.roi_head.mask_head.num_classes == 2
    for name, file in (('train', data[0]), ('val', data[1]), ('test', data[1])):
        dataset = cfg[f'{name}_dataloader'].dataset
        assert dataset.metainfo.classes == ('cat', 'dog')
        assert (dataset.ann_file, dataset.data_root) == (str(file), '')
        assert dataset.data_prefix.img == f'{file.parent}/images/'
    assert cfg.test_evaluator.ann_file == cfg.val_evaluator.ann_file == str(data[1])
    assert cfg.train_cfg.type == 'EpochBasedTrainLoop'
    assert cfg.custom_imports.imports == ['eca_mmdet']  # inherited
    assert len(text.splitlines()) < 100
    lines = err.splitlines()
    at = lines.index(f'{data[0]}: 4 images, the median 128 x 96 px')
    assert lines[at + 1].startswith('  12 objects; ')


@pytest.mark.sweep
@pytest.mark.parametrize(
    ('classes', 'model', 'masks'),
    [
        pytest.param(['one'], TINY, True, marks=pytest.mark.openmmlab),
        (['a', 'b'], 'retinanet_eca-r18-w16', False),
        (ODD_NAMES, TINY, True),
        ([f'class {n}' for n in range(81)], TINY, True),
        ([(3 * n + 5, f'c{n}') for n in range(1203)], 'faster-rcnn_eca-r18-w16', False),
    ],
)
def test_trains_and_tests(
    command, tmp_path, monkeypatch, mmdet_ready, classes, model, masks
):
    """Two steps, on images of every kind; class names come out as they went in."""
    monkeypatch.chdir(tmp_path)
    if len(classes) > 1000:  # mmengine's dump of the config takes ten seconds to wrap
        wrap = 'yapf.yapflib.yapf_api.FormatCode'
        monkeypatch.setattr(wrap, lambda text, **style: (text, True))
    options = dict(images=6, kinds=KINDS, masks=masks)
    train = write_data(tmp_path, 'train.json', classes, **options)
    val = write_data(tmp_path, 'val.json', classes, first=20, **options)
    words = ['--model', model, '--epochs', 1, '--work-dir', 'run', *QUICK]
    code, out, err = command('train', '--data', train, val, *words)
    assert code == 0, err
    assert 'Traceback' not in out + err
    saved = read_checkpoint('run/epoch_1.pth').extras
    names = tuple(one[1] if isinstance(one, tuple) else one for one in classes)
    assert saved['meta']['iter'] == 2
    (record,) = (json.loads(p.read_text()) for p in tmp_path.glob('run/*/metrics.json'))
    # save_best writes the file anew after the evaluation.
    assert record['checkpoint']['sha256'] == sha256_of('run/epoch_1.pth')
    assert tuple(saved['meta']['dataset_meta']['classes']) == names
    (config,) = (tmp_path / 'run' / 'init').iterdir()
    code, out, err = command(
        'test',
        config,
        'run/epoch_1.pth',
        '--classwise',
        '--json',
        '--cfg-options',
        *NO_WORKERS,
    )
    assert code == 0, err
    metrics = json.loads(out)
    # 18 objects: of more classes than that the others have no AP.
    assert {f'coco/bbox_{name}_AP' for name in names} <= metrics.keys()


@pytest.mark.parametrize('kind', KINDS)
def test_images_of_every_kind(tmp_path, kind):
    """mmdet reads the same picture from each kind of file."""
    from mmcv.transforms import LoadImageFromFile

    path = write_data(tmp_path, 'a.json', ('x',), images=2, kinds=(kind,))
    plain = write_data(tmp_path / 'plain', 'a.json', ('x',), images=2)
    entries = [json.loads(p.read_text())['images'] for p in (path, plain)]
    for one, other in zip(*entries, strict=True):
        read = [
            LoadImageFromFile()({'img_path': str(p.parent / 'images' / e['file_name'])})
            for p, e in ((path, one), (plain, other))
        ]
        images = [each['img'].astype(int) for each in read]
        if kind == 'grey':
            images[1] = np.repeat(images[1][..., :1], 3, axis=2)
        # The EXIF kind is a JPEG.
        assert np.abs(images[0] - images[1]).mean() < (3 if kind == 'exif' else 0.01)


def test_ap_is_by_name(init, tmp_path, data):
    """Perfect detections have AP 1 by name, though the files' ids and orders differ."""
    from mmdet.structures import DetDataSample
    from mmengine.evaluator import Evaluator
    from mmengine.structures import InstanceData

    train = write_data(tmp_path, 't.json', [(7, 'dog'), (2, 'cat'), (9, 'cow')])
    val = write_data(tmp_path, 'v.json', [(1, 'cat'), (4, 'dog')], first=10)
    cfg, _, err = init(train, val)
    mended = tmp_path / 'v_as_t.json'
    assert f'{mended} is the same file with them in order' in err
    assert cfg.val_evaluator.ann_file == str(mended)
    truth = json.loads(mended.read_text())
    assert truth['annotations'] == json.loads(val.read_text())['annotations']
    names = [one['name'] for one in truth['categories']]
    assert (
        names
        == ['dog', 'cat', 'cow']
        == list(cfg.train_dataloader.dataset.metainfo.classes)
    )
    by_id = {one['id']: one['name'] for one in truth['categories']}
    assert by_id[1] == 'cat' and by_id[4] == 'dog' and len(by_id) == 3
    cfg.val_evaluator.metric, cfg.val_evaluator.classwise = 'bbox', True
    evaluator = Evaluator(cfg.val_evaluator)
    evaluator.dataset_meta = {'classes': cfg.train_dataloader.dataset.metainfo.classes}
    labels = {'dog': 0, 'cat': 1, 'cow': 2}
    for image in truth['images']:
        objects = [a for a in truth['annotations'] if a['image_id'] == image['id']]
        boxes = torch.tensor([a['bbox'] for a in objects], dtype=torch.float)
        boxes[:, 2:] += boxes[:, :2]
        # Half of the dogs are called cows.
        found = [labels[by_id[a['category_id']]] for a in objects]
        found = [2 if f == 0 and image['id'] % 2 else f for f in found]
        sample = DetDataSample(
            metainfo=dict(img_id=image['id'], ori_shape=(SIDE, SIDE + 32)),
            pred_instances=InstanceData(
                bboxes=boxes, labels=torch.tensor(found), scores=torch.ones(len(found))
            ),
        )
        evaluator.process([sample.to_dict()])
    metrics = evaluator.evaluate(len(truth['images']))
    assert metrics['coco/bbox_cat_AP'] == 1
    assert 0 < metrics['coco/bbox_dog_AP'] < 0.8
    assert metrics['coco/bbox_cow_AP'] == -1  # none is there to be found


def test_masks_are_required(refused, command, tmp_path, mmdet_ready):
    train = write_data(tmp_path, 'train.json', ('cat',))
    val = write_data(tmp_path, 'val.json', ('cat',), first=10, masks=False)
    told = refused('--train', train, '--val', val, '--model', TINY)
    assert f'12 of 12 objects of {val} have none' in told
    assert '--model faster-rcnn_eca-r50d' in told
    code, out, err = command('init', '--train', train, '--val', val)
    assert code == 0, err
    assert 'faster-rcnn_eca-r50d_fpn_4xb2-1x_coco.py' in out
    checkpoint = 'hf://timm/ecaresnet50d.miil_in1k'
    assert f'weights: {checkpoint}, unless you train --from-scratch' in err
    code, out, err = command('init', '--train', train, '--val', train)
    assert 'mask-rcnn_eca-r50d_fpn_4xb2-1x_coco.py' in out


def change(path, **entries):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | entries))


def test_refusals(refused, data, tmp_path, mmdet_ready):
    train, val = data
    both = ('--train', train, '--val', val)
    assert '[no-validation-data]' in refused('--train', train)
    assert 'does not exist' in refused('--train', 'no.json', '--val', val)
    assert 'Did you mean' in refused(*both, '--model', 'mask-rcnn_eca-r51')
    assert '[config-not-found]' in refused(*both, '--model', 'mmdet::fcos/nothing')
    name = 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco'
    assert resolve_model(f'mmdet::{name}').as_posix().endswith(f'{name}.py')
    assert 'Several begin so' in refused(*both, '--model', 'mask-rcnn')
    assert 'is only for testing' in refused(
        *both, '--model', 'retinanet_r50_fpn_v1_coco'
    )
    assert '[option-conflict]' in refused(*both, '--keep-classes')
    assert '[file-not-found]' in refused(*both, '--images', tmp_path / 'no')
    (tmp_path / 'empty').mkdir()
    assert '[no-images]' in refused(*both, '--images', tmp_path / 'empty')
    (tmp_path / 'empty.json').write_text('')
    assert 'empty.json' in refused('--train', 'empty.json', '--val', val)
    content = json.loads(train.read_text())
    for image in content['images']:
        del image['width'], image['height']
    (tmp_path / 'sizeless.json').write_text(json.dumps(content))
    assert '[faulty-data]' in refused('--train', 'sizeless.json', '--val', val)
    renamed = json.loads(val.read_text())['categories']
    renamed[0]['name'] = 'Cat'
    change(val, categories=renamed)
    assert "'cat' and 'Cat'" in refused(*both, '--model', TINY)


def test_images_that_are_damaged(refused, data, tmp_path, mmdet_ready):
    (tmp_path / 'images' / 'bild 0.png').write_bytes(b'no image')
    (tmp_path / 'images' / 'bild 10.png').unlink()
    told = refused('--train', data[0], '--val', data[1], '--model', TINY)
    assert "'bild 0.png': OpenCV reads no image" in told
    assert "'bild 10.png'" in told
    assert f'data check {data[0]} --images' in told


def test_images_are_found_around_the_file(init, refused, tmp_path):
    """annotations/instances_train.json and images/train, as in many exports."""
    for name in ('train', 'val'):
        write_data(
            tmp_path / name, 'a.json', ('cat',), first=0 if name == 'train' else 9
        )
        (tmp_path / 'images').mkdir(exist_ok=True)
        (tmp_path / name / 'images').rename(tmp_path / 'images' / name)
        (tmp_path / 'annotations').mkdir(exist_ok=True)
        file = tmp_path / 'annotations' / f'instances_{name}.json'
        (tmp_path / name / 'a.json').rename(file)
        (tmp_path / name).rmdir()
    files = [f'annotations/instances_{name}.json' for name in ('train', 'val')]
    cfg, _, err = init(*files)
    assert cfg.train_dataloader.dataset.data_prefix.img == 'images/train/'
    assert cfg.val_dataloader.dataset.data_prefix.img == 'images/val/'
    assert cfg.val_dataloader.dataset.ann_file == files[1]  # as it was given
    assert 'images found in images/val' in err
    (tmp_path / 'images').rename(tmp_path / 'elsewhere')
    told = refused('--train', files[0], '--val', files[1])
    assert '[no-images]' in told and "'bild 0.png'" in told and '--fix' not in told
    text = (tmp_path / files[0]).read_text(encoding='utf-8')
    windows = text.replace('"bild ', r'"images\\bild ')
    (tmp_path / files[0]).write_text(windows, encoding='utf-8')
    told = refused('--train', files[0], '--val', files[1])
    assert f'data check {files[0]} --images DIR --fix OUT.json' in told


def test_folders_of_images_that_are_named(init, tmp_path):
    """--images is for both files, unless the second has its own."""
    train = write_data(tmp_path / 'a', 'train.json', ('cat', 'dog'))
    val = write_data(tmp_path / 'a', 'val.json', ('cat', 'dog'), first=10)
    (tmp_path / 'a' / 'images').rename(tmp_path / 'photos')
    cfg, _, _ = init(train, val, '--images', 'photos')
    for name in ('train', 'val', 'test'):
        dataset = cfg[f'{name}_dataloader'].dataset
        assert dataset.data_prefix.img == 'photos/'
    (tmp_path / 'others').symlink_to('photos')
    cfg, _, _ = init(train, val, '--images', 'photos', '--val-images', 'others')
    assert cfg.train_dataloader.dataset.data_prefix.img == 'photos/'
    assert cfg.val_dataloader.dataset.data_prefix.img == 'others/'


def test_keep_defaults(init, data, tmp_path):
    """Objects of 32 px in images of 128 x 96: the demo's 160 px are not needed."""
    data = [
        write_data(tmp_path, one.name, ('cat', 'dog'), first=n, least=34)
        for n, one in zip((0, 10), data, strict=True)
    ]
    cfg, text, err = init(*data)
    assert 'image size: 128 x 128 in place of 160 x 160' in err
    sizes = [
        step.scale
        for name in ('train', 'val')
        for step in cfg[f'{name}_dataloader'].dataset.pipeline
        if step.type == 'Resize'
    ]
    assert sizes == [(128, 128), (128, 128)]
    names = [step.type for step in cfg.train_dataloader.dataset.pipeline]
    assert names.index('Resize') == 2  # after the annotations are loaded
    kept, text, err = init(*data, '--keep-defaults')
    assert 'Resize' not in text and 'anchor_generator' not in text
    assert [s.type for s in kept.train_dataloader.dataset.pipeline] == [
        'LoadImageFromFile',
        'LoadAnnotations',
        'RandomFlip',
        'PackDetInputs',
    ]


def test_a_config_of_the_users(init, data, tmp_path):
    """Repeated data sets, lists of heads and several image sizes."""
    data = [
        write_data(tmp_path, one.name, ('cat', 'dog'), first=n, least=34)
        for n, one in zip((0, 10), data, strict=True)
    ]
    own = tmp_path / 'own.py'
    own.write_text(
        """_base_ = 'mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py'
train_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=3,
    dataset=dict(type='CocoDataset', data_root='x/', ann_file='a.json',
        data_prefix=dict(img='b/'), filter_cfg=dict(min_size=100),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='RandomChoiceResize', scales=[(1333, 640), (1333, 800)],
                 keep_ratio=True),
            dict(type='PackDetInputs'),
        ])))
"""
    )
    cfg, _, err = init(*data, model=str(own))
    heads = cfg.model.roi_head.bbox_head
    assert [one.num_classes for one in heads] == [2, 2, 2]
    assert [one.bbox_coder.target_stds[0] for one in heads] == [0.1, 0.05, 0.033]
    assert cfg.model.roi_head.mask_head.num_classes == 2
    repeated = cfg.train_dataloader.dataset
    assert (repeated.type, repeated.times) == ('RepeatDataset', 3)
    assert repeated.dataset.ann_file == str(data[0])
    assert repeated.dataset.filter_cfg.min_size == 1  # the images are 96 px high
    (resize,) = [s for s in repeated.dataset.pipeline if 'Resize' in s.type]
    # 1333 x 800 became 160 x 96 by the proposal, and the other size went along.
    assert [tuple(one) for one in resize.scales] == [(160, 77), (160, 96)]
    assert cfg.val_evaluator.type == 'CocoMetric'  # as in the base
    # Four images three times an epoch, on and on: 100 epochs at most.
    assert 'there are 12' in err


@pytest.mark.slow
def test_train_data_goes_on_with_its_config(command, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ['--data', *data, '--model', TINY, '--epochs', 1]
    code, out, err = command('train', *words, *QUICK)
    assert code == 0, err
    run = tmp_path / 'work_dirs' / f'{TINY}_{tmp_path.name}_train'
    (config,) = (run / 'init').iterdir()
    assert config.name == f'{run.name}.py'
    before = config.read_text()
    code, out, err = command('train', *words, '--resume', *QUICK)
    assert code == 0, err
    assert f'{config.name}, written when this training began' in out
    assert 'nothing is left to train: the checkpoint is of epoch 1' in out + err
    # Refused, and no config of it stays for the next --resume to find.
    other = write_data(tmp_path, 'other.json', ('cat', 'dog'), first=30)
    again = ['--data', other, *words[2:], '--work-dir', run]
    code, out, err = command('train', *again, *QUICK)
    assert code == 2 and 'checkpoints of an earlier training' in err
    for changed in (again, [*words[:-1], 2, '--work-dir', run]):
        code, out, err = command('train', *changed, '--resume', *QUICK)
        assert code == 2 and '[checkpoint-mismatch]' in err
    assert [one.read_text() for one in (run / 'init').iterdir()] == [before]


def test_images_of_the_same_name_in_two_folders(command, tmp_path, monkeypatch):
    """'val_as_train.json' is of val; two folders that have the names: a question."""
    monkeypatch.chdir(tmp_path)
    for name in ('train', 'val'):
        write_data(tmp_path / name, 'a.json', ('cat',), first=0)
        (tmp_path / name / 'a.json').rename(tmp_path / f'{name}.json')
        for image in (tmp_path / name / 'images').iterdir():
            image.rename(tmp_path / name / image.name)
        (tmp_path / name / 'images').rmdir()
    (tmp_path / 'val.json').rename(tmp_path / 'val_as_train.json')
    files = ['--train', 'train.json', '--val', 'val_as_train.json', '--model', TINY]
    code, out, err = command('init', *files)
    assert code == 0, err
    assert "img='train/'" in out and "img='val/'" in out
    (tmp_path / 'images').symlink_to('val')
    code, out, err = command('init', *files)
    assert code == 2 and 'may be those in images and train' in err
    (tmp_path / 'images').unlink()
    (tmp_path / 'images').symlink_to('train')  # the same folder twice is one
    assert command('init', *files[:2], '--val', 'train.json', *files[4:])[0] == 0


def test_colours_and_rates_of_the_config(init, tmp_path, data):
    """A palette of other classes is too short to draw with; steps are accumulated."""
    own = tmp_path / 'own.py'
    base = f"_base_ = '{resolve_model(TINY)}'\n"
    own.write_text(
        f'{base}info = dict(palette=[(1, 2, 3)])\n'
        'train_dataloader = dict(dataset=dict(metainfo=info))\n'
        'optim_wrapper = dict(accumulative_counts=4)\n'
    )
    cfg, text, _ = init(*data, model=str(own))
    assert cfg.train_dataloader.dataset.metainfo.palette is None
    assert 'palette' not in cfg.val_dataloader.dataset.metainfo
    assert 'one process trains with 0.008' in ' '.join(text.replace('#', '').split())
    assert 'configs --path' not in text  # the config is none of ours
    many = [f'c{n}' for n in range(81)]
    files = [write_data(tmp_path, f'{n}81.json', many, first=n) for n in (0, 10)]
    cfg, _, _ = init(*files)
    assert cfg.val_dataloader.dataset.metainfo.palette is None


def test_images_without_objects_are_told(init, command, data):
    """The demo's config trains on them; those of COCO leave them out."""
    content = json.loads(data[0].read_text())
    kept = [one for one in content['annotations'] if one['image_id'] == 1]
    change(data[0], annotations=kept)
    _, _, err = init(*data)
    assert '3 without an object' in err and 'there are 4' in err
    words = ['--train', data[0], '--val', data[1], '--model', 'faster-rcnn_eca-r50']
    code, _, err = command('init', *words)
    assert code == 0 and 'there are 1' in err
    assert '3 images without an object are left out: filter_empty_gt' in err


@pytest.mark.parametrize(
    ('words', 'told'),
    [
        ([], '[option-missing]'),
        (['NAME', '--model', 'x'], '--model goes with --data'),
        (['NAME', '--data', 'a', 'b'], '--data writes its own config'),
        (['--data', 'a', 'b', '--launcher', 'pytorch'], 'one process'),
        (['--data', 'a', 'b', 'c'], '[option-invalid]'),
        (['--data', 'a', 'b', '--device', 'cuda:99'], '[no-gpu]'),
        (['--data', 'a', 'b', '--device', '0'], 'takes cpu, cuda or cuda:N'),
        (['--data', 'a'], '[file-not-found]'),
    ],
)
def test_train_data_is_refused(command, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    code, _, err = command('train', *words)
    assert code == 2 and told in err
    assert not list(tmp_path.iterdir())
