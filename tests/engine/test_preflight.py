"""Each fault of data, classes and arguments is named before any long work."""

import copy
import json

import pytest
from mmengine.config import Config

from eca_mmdet.catalog.configs import config_root, shipped_configs
from eca_mmdet.datasets import index
from eca_mmdet.engine import data_checks, preflight
from eca_mmdet.utils.errors import UserError

pytestmark = pytest.mark.openmmlab


@pytest.fixture
def cfg(mmdet_ready, shapes):
    """The demo's Mask R-CNN on the generated shapes: a config without fault."""
    file = config_root() / 'demo' / 'mask-rcnn_eca-r18-w16_fpn_shapes.py'
    cfg = Config.fromfile(file)
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[loader].dataset.data_root = f'{shapes}/'
    for evaluator in ('val_evaluator', 'test_evaluator'):
        cfg[evaluator].ann_file = f'{shapes}/annotations/val.json'
    return cfg


def check(cfg, training=True):
    backbone = preflight.check_backbone(cfg)
    preflight.check_operators(cfg)
    preflight.check_backbone_weights(cfg, backbone)
    data_checks.check_data(cfg, training)


def refuses(cfg, *parts, training=True):
    with pytest.raises(UserError) as caught:
        check(cfg, training)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize('training', [True, False])
def test_a_sound_config_passes(cfg, training):
    check(cfg, training)


@pytest.mark.parametrize(
    ('changes', 'parts'),
    [
        ({'depth': 20}, ['18, 34, 50, 101, 152', '20']),
        ({'kernel_sizes': (3, 4, 5, 7)}, ['odd', '4']),
        ({'kernel_sizes': None}, ['(3, 5, 7, 7)', 'None']),
        ({'kernel_sizes': (3, 5, 7)}, ['4 odd integers', '(3, 5, 7)']),
        ({'kernel_sizes': (3, 5, 5, 7, 7)}, ['4 odd integers']),
        ({'no_such_argument': 1}, ['no_such_argument']),
        ({'type': 'ECAResNeXt'}, ['ECAResNeXt']),
    ],
)
def test_backbone_arguments(cfg, changes, parts):
    cfg.model.backbone.update(changes)
    refuses(cfg, 'model.backbone', *parts)


def test_loaders_of_shipped_configs_pass(mmdet_ready):
    for file in shipped_configs().values():
        cfg = Config.fromfile(file)
        for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            if cfg.get(name):
                before = copy.deepcopy(cfg[name])
                preflight.check_loader(cfg[name], name)
                assert cfg[name] == before or not before.get('num_workers')


LOADER_FAULTS = {
    'batch_size': (0, -1, 1.5, True, '2', 'two', None, [2]),
    'num_workers': (-1, 0.5, True, '4', None, [1]),
    'num_batch_per_epoch': (0, -3, 'all', True),
    'prefetch_factor': (0, -2, 1.5, '2', True),
    'timeout': (-1, float('nan'), '5', None, True),
    'shuffle': (True, 1, 'yes'),
    'multiprocessing_context': ('thread', 3, ['fork']),
    'generator': (0, 'torch'),
    'pin_memory_device': (0, None),
    'persistent_workers': ('yes', 2, None),
    'pin_memory': ('gpu', -1, None),
    'drop_last': ('no', None),
    'in_order': ('no', None),
    'disable_subprocess_warning': ('no', None),
    'dataset': (None, 'coco', {}, {'type': 'NoDataset'}),
    'sampler': (None, 'DefaultSampler', {}, {'type': ''}, {'type': 'Sampler'})
    + ({'type': 'DefaultSampler', 'shufle': True},),
    'batch_sampler': (0, 'AspectRatioBatchSampler', {}, {'type': 'DefaultSampler'}),
    'collate_fn': (None, 'pseudo_collate', {'type': 'stack'}),
    'worker_init_fn': (None, 'seed', {'type': 'seed'}),
    'num_worker': (2,),
}


@pytest.mark.parametrize('use', ['train', 'val', 'test'])
@pytest.mark.parametrize('name', LOADER_FAULTS)
def test_arguments_of_loaders(name, use, cfg):
    """Named before the annotation files are read, which do not exist here."""
    path = f'{use}_dataloader'
    cfg[path].dataset.ann_file = 'missing.json'
    for value in LOADER_FAULTS[name]:
        loader = {**cfg[path], name: value}
        with pytest.raises(UserError) as caught:
            preflight.check(Config({**cfg, path: loader}), use != 'test')
        assert caught.value.code == 'config-invalid'
        text = str(caught.value)
        assert text.startswith(path) and name in text and '\n' not in text


@pytest.mark.parametrize('name', ['dataset', 'sampler', 'batch_size'])
def test_arguments_that_loaders_need(name, cfg):
    del cfg.train_dataloader[name]
    with pytest.raises(UserError, match=f'train_dataloader: needs {name}'):
        preflight.check(cfg, training=True)


def test_drop_last_beside_a_batch_sampler(cfg):
    cfg.train_dataloader.update(
        drop_last=True, batch_sampler=dict(type='AspectRatioBatchSampler')
    )
    with pytest.raises(UserError, match=r'train_dataloader\.drop_last'):
        preflight.check(cfg, training=True)


@pytest.mark.parametrize(
    ('path', 'values'),
    [
        ('train_cfg.max_iters', (0, -1, 'all', None)),
        ('train_cfg.val_interval', (0, 2.5)),
        ('optim_wrapper.accumulative_counts', (0, '2')),
        ('default_hooks.logger.interval', (0, '5')),
        ('val_dataloader', (4, 'none', None)),
    ],
)
def test_values_beside_the_loaders(path, values, cfg):
    for value in values:
        changed = copy.deepcopy(cfg)
        changed.merge_from_dict({path: value})
        with pytest.raises(UserError) as caught:
            preflight.check(changed, training=True)
        assert str(caught.value).startswith(path)


@pytest.mark.parametrize('use', ['train', 'val', 'test'])
def test_loading_without_workers_drops_what_needs_them(use, cfg):
    from mmengine.runner import Runner

    loader = cfg[f'{use}_dataloader']
    of_workers = dict(persistent_workers=True, prefetch_factor=4, timeout=9)
    loader.update(num_workers=0, multiprocessing_context='fork', **of_workers)
    preflight.check(cfg, training=use != 'test')
    assert loader.keys().isdisjoint((*of_workers, 'multiprocessing_context'))
    assert next(iter(Runner.build_dataloader(loader)))['inputs']
    loader.update(num_workers=1, **of_workers)
    preflight.check_loader(loader, f'{use}_dataloader')
    assert {key: loader[key] for key in of_workers} == of_workers


def test_backbone_weights_of_other_kernel_sizes(cfg, tmp_path):
    import torch
    from mmdet.registry import MODELS

    backbone = MODELS.build(dict(cfg.model.backbone, kernel_sizes=9))
    torch.save(backbone.state_dict(), tmp_path / 'k9.pth')
    cfg.model.backbone.init_cfg = dict(
        type='ECAPretrained', checkpoint=str(tmp_path / 'k9.pth')
    )
    refuses(cfg, 'set kernel_sizes=(9, 9, 9, 9)')
    cfg.model.backbone.kernel_sizes = 9
    check(cfg)


def test_mmengines_silent_initializer_is_refused_for_gates(cfg):
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='torchvision://x')
    refuses(cfg, 'model.backbone: ECAResNet', "type='ECAPretrained'", 'random_gates')
    cfg.model.backbone.type = 'PluginResNet'  # mmengine's own business
    del cfg.model.backbone['kernel_sizes']
    check(cfg)


def test_arguments_of_the_initializer(cfg):
    arguments = dict(checkpoint='x.pth', strictly=True)
    cfg.model.backbone.init_cfg = dict(type='ECAPretrained', **arguments)
    refuses(cfg, 'model.backbone.init_cfg', 'strictly')


def test_files_of_other_parts_are_read_too(cfg, tmp_path):
    (tmp_path / 'bad.pth').write_text('<html>')
    bad = dict(type='Pretrained', checkpoint=str(tmp_path / 'bad.pth'))
    cfg.model.roi_head.bbox_head.init_cfg = [dict(type='Normal', std=1), bad]
    refuses(cfg, 'bad.pth is a web page')


def test_backbones_that_compute_in_their_constructor_are_not_refused(cfg):
    cfg.model.backbone = dict(type='SwinTransformer', embed_dims=24, depths=(1, 1))
    assert preflight.check_backbone(cfg) is None


def test_a_model_without_a_backbone_of_its_own(cfg):
    cfg.model = dict(type='SoftTeacher', detector=cfg.model)
    check(cfg)


@pytest.mark.parametrize(
    ('part', 'operator'),
    [
        (dict(upsample_cfg=dict(type='carafe')), 'carafe_forward'),
        (dict(roi_layer=dict(type='DeformRoIPoolPack')), 'deform_roi_pool_forward'),
    ],
)
def test_parts_that_need_an_unsupplied_operator(cfg, part, operator):
    cfg.model.roi_head.mask_head.update(part)
    refuses(cfg, operator, 'model.roi_head.mask_head', 'MMCV_WITH_OPS=1')


def test_missing_annotation_file(cfg):
    cfg.train_dataloader.dataset.ann_file = 'annotations/nothing.json'
    refuses(cfg, 'nothing.json', 'train_dataloader.dataset', 'does not exist')


def test_validation_data_are_checked_before_training(cfg):
    cfg.val_dataloader.dataset.ann_file = 'annotations/nothing.json'
    refuses(cfg, 'val_dataloader.dataset', 'does not exist')


@pytest.mark.parametrize(('text', 'part'), [('', 'is not JSON'), ('[]', 'images')])
def test_bad_annotation_file(cfg, tmp_path, text, part):
    file = tmp_path / 'bad.json'
    file.write_text(text)
    cfg.train_dataloader.dataset.ann_file = str(file)
    refuses(cfg, str(file), part)


def test_missing_image_folder(cfg):
    cfg.train_dataloader.dataset.data_prefix.img = 'photos/'
    refuses(cfg, 'image folder', 'photos', 'data_prefix.img')


def test_classes_that_the_file_does_not_have(cfg):
    cfg.train_dataloader.dataset.metainfo.classes = ('circle', 'Square', 'triangle')
    refuses(cfg, '1 of 3 classes', "'Square'", "'square'")


def test_classes_given_as_a_string(cfg):
    cfg.train_dataloader.dataset.metainfo.classes = 'circle'
    refuses(cfg, "got 'circle'", "('NAME',)")


def test_default_classes_are_cocos(cfg):
    cfg.train_dataloader.dataset.metainfo = {}
    refuses(cfg, '80 of 80 classes', "'person'", "'circle'")


def test_num_classes_of_the_heads(cfg):
    cfg.model.roi_head.bbox_head.num_classes = 80
    refuses(
        cfg,
        'has 3 classes',
        'model.roi_head.bbox_head.num_classes is 80',
        '--cfg-options model.roi_head.bbox_head.num_classes=3',
    )


def test_num_classes_of_cascade_heads_in_a_list(cfg):
    head = cfg.model.roi_head.bbox_head
    cfg.model.roi_head.bbox_head = [head, dict(head, num_classes=4)]
    refuses(cfg, 'model.roi_head.bbox_head.1.num_classes is 4')


def test_wrapped_data_sets_are_found(cfg):
    inner = cfg.train_dataloader.dataset
    inner.ann_file = 'annotations/nothing.json'
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset',
        times=3,
        dataset=dict(type='ConcatDataset', datasets=[inner]),
    )
    refuses(cfg, 'nothing.json')


def test_classes_of_a_file_with_one_name_a_line(cfg, tmp_path):
    (tmp_path / 'classes.txt').write_text('circle\nsquare\ntriangle')
    cfg.train_dataloader.dataset.metainfo.classes = str(tmp_path / 'classes.txt')
    check(cfg)
    (tmp_path / 'classes.txt').write_text('circle\nround')
    refuses(cfg, "'round'")


def test_category_without_a_name(cfg, tmp_path):
    file = tmp_path / 'a.json'
    file.write_text('{"images": [{"id": 1}], "categories": [{"id": 1}]}')
    cfg.train_dataloader.dataset.ann_file = str(file)
    refuses(cfg, str(file), "needs a 'name'")


def test_annotations_of_the_evaluator(cfg):
    cfg.val_evaluator.ann_file = 'nowhere/val.json'
    refuses(cfg, 'nowhere/val.json', 'val_evaluator')


def test_annotations_of_another_kind_are_left_to_their_evaluator(cfg, tmp_path):
    file = tmp_path / 'refs.p'
    cfg.val_evaluator = [dict(type='RefSegMetric', ann_file=str(file))]
    refuses(cfg, 'does not exist')
    file.write_bytes(b'')
    check(cfg)


def test_heads_that_count_something_else_are_left_alone(cfg):
    cfg.model.roi_head.semantic_head = dict(type='FusedSemanticHead', num_classes=183)
    check(cfg)
    cfg.model.language_model = dict(type='BertModel')
    cfg.model.roi_head.bbox_head.num_classes = 256  # text tokens
    check(cfg)


def test_each_file_is_read_once(cfg, shapes, monkeypatch):
    reads = []
    real = index._build
    monkeypatch.setattr(
        index, '_build', lambda p, *a: (reads.append(p), real(p, *a))[1]
    )
    index._indexes.clear()
    cfg.val_dataloader.dataset.ann_file = 'annotations/train.json'
    cfg.val_dataloader.dataset.data_prefix.img = 'train/'
    cfg.val_evaluator.ann_file = f'{shapes}/annotations/train.json'
    data_checks.check_data(cfg, training=True)
    assert reads == [shapes / 'annotations' / 'train.json']
    assert json.loads(reads[0].read_text())['images']


@pytest.fixture
def broken(cfg, shapes, tmp_path):
    """Write a changed copy of a split, and let the config use it."""

    def to(split, change):
        content = json.loads((shapes / 'annotations' / f'{split}.json').read_text())
        change(content)
        file = tmp_path / f'{split}.json'
        file.write_text(json.dumps(content))
        cfg[f'{split}_dataloader'].dataset.ann_file = str(file)
        if split == 'val':
            cfg.val_evaluator.ann_file = str(file)
        return file

    return to


def set_all(key, value):
    def change(content):
        for one in content['annotations']:
            one[key] = value

    return change


def drop_all(key):
    def change(content):
        for one in content['annotations']:
            del one[key]

    return change


def first(key, value):
    return lambda content: content['annotations'][0].update({key: value})


def data_warnings(cfg, caplog):
    caplog.clear()
    data_checks.check_data(cfg, training=True)
    return [line for line in caplog.messages if line.startswith('warning: ')]


def test_sound_data_print_nothing(cfg, caplog):
    data_checks.check_data(cfg, training=True)
    data_checks.check_data(cfg, training=False)
    assert caplog.messages == []


def test_errors_of_all_files_are_listed_a_line_each(cfg, broken):
    train = broken('train', lambda c: [drop_all('area')(c), first('id', 2)(c)])
    val = broken('val', drop_all('bbox'))
    with pytest.raises(UserError) as caught:
        data_checks.check_data(cfg, training=True)
    lines = str(caught.value).split('\n')
    assert lines[0] == '3 kinds of errors in the annotations:'
    assert [line.split(': ')[:2] for line in lines[1:4]] == [
        [f'  {train}', '1 x duplicate-annotation-id'],
        [f'  {train}', f'{lines[2].split()[1]} x missing-area'],
        [f'  {val}', f'{lines[3].split()[1]} x missing-bbox'],
    ]
    assert lines[4:] == [
        f'eca-mmdet data check {file} --fix OUT.json writes a repaired copy'
        for file in (train, val)
    ]


def test_the_command_line_prints_the_errors_as_lines(cfg, broken):
    from eca_mmdet.utils.errors import shown

    def odd(content):
        content['annotations'][0].update(id='\x1b[2J', image_id='a\nb')

    broken('train', odd)
    with pytest.raises(UserError) as caught:
        data_checks.check_data(cfg, training=True)
    assert len(shown(caught.value).split('\n')) == 3
    assert '\x1b' not in shown(caught.value)


@pytest.mark.parametrize(
    ('change', 'code'),
    [(first('id', 0), 'zero-annotation-id'), (drop_all('iscrowd'), 'missing-iscrowd')],
)
def test_what_pycocotools_alone_cannot_take(cfg, broken, caplog, change, code):
    broken('train', change)
    (line,) = data_warnings(cfg, caplog)  # nobody evaluates the training file
    assert code in line
    cfg.train_dataloader.dataset.ann_file = 'annotations/train.json'
    broken('val', change)
    cfg.val_evaluator.type = 'mmdet.CocoTableMetric'
    (line,) = data_warnings(cfg, caplog)
    assert code in line
    cfg.val_evaluator.type = 'CocoMetric'
    with pytest.raises(UserError, match=code):
        data_checks.check_data(cfg, training=True)


def test_faults_of_masks_matter_where_masks_are_used(cfg, broken, caplog):
    rle = {'size': [3, 3], 'counts': [9]}
    broken('train', first('segmentation', rle))
    refuses(cfg, '1 x rle-size')
    broken('train', first('segmentation', []))
    refuses(cfg, '1 x missing-segmentation')
    broken('train', first('segmentation', [[1, 2, 3, 4]]))
    (line,) = data_warnings(cfg, caplog)  # mmdet passes it over in training
    assert 'short-polygon' in line
    broken('train', set_all('segmentation', [[1, 2, 3, 4], [5]]))
    refuses(cfg, 'short-polygon')  # with it every object
    cfg.train_dataloader.dataset.pipeline = []
    (line,) = data_warnings(cfg, caplog)
    assert 'short-polygon' in line
    cfg.val_evaluator.metric = 'bbox'
    broken('train', first('segmentation', rle))
    (line,) = data_warnings(cfg, caplog)
    assert '1 x rle-size' in line
    broken('val', set_all('segmentation', []))
    broken('train', set_all('segmentation', []))
    assert data_warnings(cfg, caplog) == []
    cfg.val_evaluator.metric = ['bbox', 'segm']
    refuses(cfg, 'missing-segmentation')


@pytest.mark.parametrize(
    ('key', 'value'),
    [('iscrowd', True), ('ignore', '0'), ('bbox', [0.2, 0.2, 0.5, 0.5]), ('area', -1)],
)
def test_nothing_to_train_on(cfg, broken, caplog, key, value):
    broken('train', set_all(key, value))
    refuses(cfg, 'nothing-to-train-on')
    cfg.train_dataloader.dataset.ann_file = 'annotations/train.json'
    broken('val', set_all(key, value))
    if key == 'bbox':
        refuses(cfg, 'normalised-bbox')
    else:
        assert 'nothing-to-train-on' in data_warnings(cfg, caplog)[-1]


def test_nothing_to_train_on_after_the_filter_of_the_dataset(cfg, broken, caplog):
    broken('train', lambda c: c['images'][0].update(height=95))
    assert data_warnings(cfg, caplog) == []
    cfg.train_dataloader.dataset.filter_cfg = dict(min_size=96)
    (line,) = data_warnings(cfg, caplog)
    assert '1 x small-image' in line
    cfg.train_dataloader.dataset.filter_cfg.min_size = 200
    refuses(cfg, 'nothing-to-train-on', 'x small-image)')


def test_nothing_to_train_on_of_the_classes(cfg, broken):
    def circles_are_crowds(content):
        for one in content['annotations']:
            one['iscrowd'] = int(one['category_id'] == content['categories'][0]['id'])

    broken('train', circles_are_crowds)
    for loader in ('train_dataloader', 'val_dataloader'):
        cfg[loader].dataset.metainfo.classes = ('circle',)
    for head in (cfg.model.roi_head.bbox_head, cfg.model.roi_head.mask_head):
        head.num_classes = 1
    refuses(cfg, 'nothing-to-train-on', 'x other-class', 'x crowd-region')


def test_masks_without_a_pixel_matter_where_masks_are_used(cfg, broken, caplog):
    outside = [[900, 900, 910, 900, 910, 910]]
    broken('train', first('segmentation', outside))
    (line,) = data_warnings(cfg, caplog)
    assert '1 x mask-without-pixel' in line
    broken('train', set_all('segmentation', outside))
    refuses(cfg, 'mask-without-pixel')
    cfg.train_dataloader.dataset.pipeline = []
    assert data_warnings(cfg, caplog) == []


def test_missing_image_files(cfg, broken, shapes):
    broken('train', lambda c: c['images'][0].update(file_name='gone.png'))
    refuses(
        cfg,
        "1 x missing-image: image file that is not there ('gone.png')",
        f'--images {shapes / "train"} --fix OUT.json writes a repaired copy',
    )
    cfg.train_dataloader.dataset.backend_args = dict(backend='petrel')
    check(cfg)


def test_class_order(cfg):
    for loader in ('train_dataloader', 'val_dataloader'):
        cfg[loader].dataset.metainfo.classes = ('square', 'circle', 'triangle')
    refuses(cfg, 'class-order', 'circle, square, triangle', 'says more')


def test_categories_in_another_order_for_validation(cfg, broken):
    broken('val', lambda c: c['categories'].reverse())
    cfg.val_dataloader.dataset.metainfo.classes = ('triangle', 'square', 'circle')
    refuses(cfg, 'split-category-order')


def test_the_same_images_for_training_and_validation(cfg, caplog):
    cfg.val_dataloader.dataset = dict(
        cfg.train_dataloader.dataset, filter_cfg=None, test_mode=True
    )
    (line,) = data_warnings(cfg, caplog)
    assert '6 x split-leak' in line


def test_image_information_alone_is_for_testing(cfg, shapes, tmp_path, caplog):
    content = json.loads((shapes / 'annotations' / 'val.json').read_text())
    del content['annotations']
    file = tmp_path / 'test-dev.json'
    file.write_text(json.dumps(content))
    cfg.test_dataloader.dataset.ann_file = str(file)
    cfg.test_evaluator.ann_file = str(file)
    with pytest.raises(UserError, match='can only be tested with --format-only'):
        data_checks.check_data(cfg, training=False)
    cfg.test_evaluator.format_only = True
    data_checks.check_data(cfg, training=False)
    assert caplog.messages == []
    cfg.train_dataloader.dataset.ann_file = str(file)
    cfg.train_dataloader.dataset.data_prefix.img = 'val/'
    refuses(cfg, 'no-annotations')


def test_data_sets_with_rules_of_their_own_are_not_held_to_cocos(cfg, broken):
    from mmdet.datasets import CocoDataset
    from mmdet.registry import DATASETS

    @DATASETS.register_module(force=True)
    class OwnRules(CocoDataset):
        def load_data_list(self):
            return []

    broken('train', drop_all('area'))
    cfg.train_dataloader.dataset.type = 'OwnRules'
    check(cfg)


def test_panoptic_annotations_for_instances(cfg, broken):
    broken('train', lambda c: c.update(annotations=[{'segments_info': []}]))
    refuses(cfg, 'panoptic')


@pytest.mark.parametrize(
    ('evaluator', 'lacks'),
    [
        (dict(type='CocoMetric', metric='bbox'), True),
        (dict(type='mmdet.CocoMetric'), True),
        ([dict(type='VOCMetric'), dict(type='CocoMetric')], True),
        (dict(type='CocoTableMetric'), False),
        ([dict(type='CocoTableMetric'), dict(type='CocoMetric')], False),
        (dict(type='LVISMetric'), False),
        (None, False),
    ],
)
def test_what_mmdets_metric_leaves_out_is_named(evaluator, lacks):
    for use in ('val', 'test'):
        line = preflight.missing_numbers({f'{use}_evaluator': evaluator}, use)
        assert bool(line) == lacks
        assert not lacks or line.startswith(f"{use}_evaluator is mmdet's CocoMetric")
