"""Every shipped config: found by glob, parsed, built, run; held against the tables."""

import json

import pytest
import torch
import yaml

from eca_mmdet.catalog import configs as paths
from eca_mmdet.catalog.mechanisms import MECHANISMS
from eca_mmdet.checkpoints.download import SOURCES
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.openmmlab

DOCS = (REPOSITORY / 'docs' / 'weights.md').read_text()
CONFIGS = paths.shipped_configs()
MODELS = {
    model['Name']: model
    for file in sorted(paths.config_root().glob('*/metafile.yml'))
    for model in yaml.safe_load(file.read_text())['Models']
}
TRAINED = sorted(
    name for name in CONFIGS if name.endswith('_coco') and not name.endswith('_v1_coco')
)
SHAPE = (96, 160)
"""Of the image; the last map is 3 x 5, which every attention layer still takes."""
TABLE = [name for name in CONFIGS if name in MODELS]


def load(name):
    from mmengine.config import Config

    return Config.fromfile(CONFIGS[name])


def build(cfg):
    from mmdet.registry import MODELS as REGISTRY

    return REGISTRY.build(cfg.model)


def test_all_twenty_rows_have_a_config():
    families = {
        'faster-rcnn': 'Faster R-CNN',
        'mask-rcnn': 'Mask R-CNN',
        'retinanet': 'RetinaNet',
    }
    expected = {
        f'{family}_{attention}r{depth}_fpn_4xb2-1x_coco'
        for family in families
        for attention in ('', 'se-', 'eca-')
        for depth in (50, 101)
    }
    expected |= {f'mask-rcnn_{a}-r50_fpn_4xb2-1x_coco' for a in ('nl', 'gc')}
    assert len(expected) == 20
    assert set(TABLE) == expected


def test_table_of_configs_agrees_with_the_configs():
    """The table reads names and text; here the configs are loaded."""
    rows = {row['config']: row for row in paths.describe_configs(CONFIGS)}
    assert [*rows] == [*CONFIGS]
    for name, row in rows.items():
        backbone = load(name).model.backbone
        start = (backbone.get('init_cfg') or {}).get('checkpoint', '')
        weights = 'automatic' if '://' in start else 'manual' if start else 'random'
        assert row['weights'] == weights, name
        layers = [plugin.cfg for plugin in backbone.get('plugins') or ()]
        layer = backbone.get('attention') or (layers[0] if layers else None)
        if layer:
            mechanism = next(m for m in MECHANISMS if m.name == row['attention'])
            assert layer.type in (mechanism.type, 'SEGC'), name
        else:
            known = {'ECAResNet', 'ECAResNetD', 'ECAMobileNetV2', 'TimmBackbone'}
            assert row['attention'] == '-' or backbone.type in known, name
    for words in (
        'mask-rcnn_ge-theta-plus-r50_fpn_4xb2-1x_coco mask-rcnn r50 GE-theta-plus '
        '4xb2-1x - - manual',
        'mask-rcnn_eca-r50_fpn_amp-ms-3x_coco mask-rcnn r50 ECA amp-ms-3x - - manual',
        'mask-rcnn_seresnet50_fpn_4xb2-1x_coco mask-rcnn resnet50 SE 4xb2-1x - - '
        'automatic',
    ):
        assert [*rows[words.split()[0]].values()] == words.split()
    for name, model in MODELS.items():
        metrics = {k: v for r in model['Results'] for k, v in r['Metrics'].items()}
        assert float(rows[name]['reported box AP'].rstrip(' †')) == metrics['box AP']
        assert rows[name]['reported mask AP'].rstrip(' †') == str(
            metrics.get('mask AP', '-')
        )


def test_old_configs_are_listed_on_request(command):
    code, out, _ = command('configs')
    names = [line.split()[0] for line in out.splitlines() if '_fpn_' in line]
    old = {name for name in CONFIGS if '_v1_' in name}
    assert code == 0 and names == [name for name in CONFIGS if name not in old]
    assert f'{len(old)} configs of MMDetection v1' in out
    for words in (('--all',), ('v1',)):
        out = command('configs', *words)[1]
        assert old <= set(out.split()) and 'not listed' not in out
    assert json.loads(command('configs', '--json')[1]).keys() == CONFIGS.keys()


@pytest.mark.parametrize(
    ('typed', 'first'),
    [
        ('faster', 'faster-rcnn_eca-r50'),
        ('faster-rcnn_eca-r18', 'faster-rcnn_eca-r50'),
        ('faster-rcnn_r18', 'faster-rcnn_r50'),
        ('fastr-rcnn_eca-r50', 'faster-rcnn_eca-r50'),
        ('mask_rcnn_eca_r50', 'mask-rcnn_eca-r50'),
        ('Retina', 'retinanet_eca-r50'),
        ('mask-rcnn_gsp-r50', 'mask-rcnn_gsop-r50'),
        ('yolox', None),
    ],
)
def test_suggested_configs_begin_alike_then_have_eca(typed, first):
    for known in ({name.partition('_fpn')[0] for name in CONFIGS}, CONFIGS):
        text = paths.suggest_config(typed, known)
        names = text.removeprefix(' Did you mean ').removesuffix('?').split(' or ')
        assert names[0].partition('_fpn')[0] == (first or '')


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted(CONFIGS))
def test_config_builds_and_detects(mmdet_ready, name):
    from mmdet.structures import DetDataSample

    cfg = load(name)
    model = build(cfg)
    model.eval()
    sample = DetDataSample(
        metainfo=dict(
            img_shape=SHAPE,
            ori_shape=SHAPE,
            batch_input_shape=SHAPE,
            pad_shape=SHAPE,
            scale_factor=(1.0, 1.0),
        )
    )
    with torch.no_grad():
        result = model(torch.randn(1, 3, *SHAPE), [sample], mode='predict')[0]
    found = result.pred_instances
    assert found.bboxes.shape == (len(found), 4)
    assert found.bboxes.isfinite().all()
    assert ('masks' in found) == ('mask-rcnn' in name)

    if name in MODELS:
        reported = MODELS[name]['Metadata']['Trainable Parameters (M)']
        assert round(table_parameters(model, name) / 1e6, 2) == pytest.approx(reported)


def table_parameters(model, name):
    """Count as the tables do: trainable ones, background as a class of the heads.

    The two rows quoted from GCNet, whose table has one decimal, count frozen ones too.
    """
    quoted = '_nl-' in name or '_gc-' in name
    total = sum(p.numel() for p in model.parameters() if p.requires_grad or quoted)
    if hasattr(model, 'roi_head'):
        total += 4 * (1024 + 1)  # box deltas of the background class
        if model.with_mask:
            total += 256 + 1  # its mask channel
    return round(total, -5) if quoted else total


@pytest.mark.parametrize('name', sorted(TABLE))
def test_table_rows_use_the_papers_recipe(name):
    cfg = load(name)
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.auto_scale_lr == dict(enable=True, base_batch_size=8)
    optimizer = dict(cfg.optim_wrapper.optimizer)
    assert optimizer == dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4)
    assert cfg.train_cfg.max_epochs == 12
    assert cfg.param_scheduler[-1].milestones == [8, 11]
    resize = [t for t in cfg.train_pipeline if t.type == 'Resize']
    assert resize[0].scale == (1333, 800)


@pytest.mark.parametrize('name', TRAINED)
def test_backbone_file_is_documented(name):
    backbone = load(name).model.backbone
    if backbone.type == 'TimmBackbone' and 'init_cfg' not in backbone:
        return  # the next test
    checkpoint = backbone.init_cfg.checkpoint
    if checkpoint.startswith('hf://'):
        assert checkpoint in DOCS
    else:
        folder, file = checkpoint.split('/')
        assert folder == 'checkpoints'
        assert file in SOURCES and f'`{file}`' in DOCS


@pytest.mark.parametrize('name', TRAINED)
def test_timm_backbones_start_from_timms_file_or_from_nothing(name):
    backbone = load(name).model.backbone
    if backbone.type != 'TimmBackbone':
        return
    timm = pytest.importorskip('timm')
    tags = timm.list_pretrained(f'{backbone.model_name}.*')
    if 'init_cfg' not in backbone:  # nothing is frozen that was never trained
        assert not tags or 'model_args' in backbone
        assert (backbone.frozen_stages, backbone.norm_eval) == (-1, False)
        return
    assert backbone.init_cfg.type == 'ECAPretrained' and backbone.norm_eval
    assert backbone.init_cfg.checkpoint.removeprefix('hf://timm/') in tags
    gated = 'attention' in backbone  # none of these files has gates
    assert backbone.init_cfg.get('random_gates', False) == gated
    assert backbone.frozen_stages == (0 if gated else 1)


@pytest.mark.parametrize(
    'name', sorted(n for n in CONFIGS if '_eca-' in n and '_eca-ns' not in n)
)
def test_kernel_sizes_are_those_of_the_backbone_file(name):
    backbone = load(name).model.backbone
    if backbone.type == 'ECAResNetD':  # the default is timm's
        assert 'kernel_sizes' not in backbone
        address = f'hf://timm/ecaresnet{backbone.arch}.miil_in1k'
        assert backbone.init_cfg.checkpoint == address
    elif backbone.type == 'ECAMobileNetV2':  # the default is the authors'
        assert 'kernel_sizes' not in backbone
        assert 'eca_mobilenetv2_k13' in backbone.init_cfg.checkpoint
    elif backbone.type == 'TimmBackbone':  # no file has gates: the formula's
        assert backbone.attention == dict(type='ECALayer')
    elif backbone.init_cfg:
        assert backbone.type == 'ECAResNet'
        digits = ''.join(map(str, backbone.kernel_sizes))
        assert f'resnet{backbone.depth}_k{digits}' in backbone.init_cfg.checkpoint


@pytest.mark.parametrize(
    'file', sorted(paths.config_root().glob('_base_/*.py')), ids=lambda file: file.stem
)
def test_former_base_files_give_what_replaced_them(file):
    """Configs elsewhere inherit them."""
    from mmengine.config import Config

    found = Config.fromfile(file).to_dict()
    parts = [Config.fromfile(new) for new in file.parent.glob(f'*/{file.name}')]
    assert parts and found == {k: v for part in parts for k, v in part.items()}


def test_modern_variants():
    cfg = load('mask-rcnn_eca-r50_fpn_amp-ms-3x_coco')
    assert cfg.optim_wrapper.type == 'MixedPrecisionOptimWrapper'
    assert cfg.train_cfg.max_epochs == 36
    pipeline = cfg.train_dataloader.dataset.pipeline
    assert pipeline[2].scale == [(1333, 640), (1333, 800)]
    assert cfg.optim_wrapper.optimizer.lr / cfg.auto_scale_lr.base_batch_size == (
        pytest.approx(0.01 / 8)
    )


def test_images_are_copied_while_a_gpu_computes():
    for name in CONFIGS:
        cfg = load(name)
        loaders = ('train_dataloader', 'val_dataloader', 'test_dataloader')
        for loader in filter(None, map(cfg.get, loaders)):
            assert loader.pin_memory, name
        if 'test_time_only' not in cfg:
            assert cfg.model.data_preprocessor.non_blocking, name


def test_evaluation_uses_cocos_detection_limits():
    for name in CONFIGS:
        evaluator = load(name).test_evaluator
        legacy = '_v1_' in name
        assert evaluator.type == ('V1CocoMetric' if legacy else 'CocoTableMetric'), name
        assert 'max_dets' not in evaluator and 'proposal_nums' not in evaluator


def test_model_index_and_metafiles_name_files_that_exist():
    index = yaml.safe_load((REPOSITORY / 'model-index.yml').read_text())
    for file in index['Import']:
        assert (REPOSITORY / file).is_file()
    for model in MODELS.values():
        assert (REPOSITORY / model['Config']).is_file()
        assert model['Metadata']['Evidence'].startswith('reported')


def test_metafiles_repeat_the_published_numbers():
    source = REPOSITORY.parent / 'shared' / 'reference' / 'published_tables.json'
    if not source.is_file():
        pytest.skip(f'the published tables are not here: {source}')
    tables = json.loads(source.read_text())
    prefix = {'none': '', 'SE': 'se-', 'ECA': 'eca-', '1 NL': 'nl-', 'GC': 'gc-'}
    checked = 0
    for table, task in (('detection', 'box'), ('instance_segmentation', 'mask')):
        for row in tables[table]:
            family = row['detector'].lower().replace(' r-cnn', '-rcnn')
            depth = row['backbone'].split('-')[1]
            name = f'{family}_{prefix[row["attention"]]}r{depth}_fpn_4xb2-1x_coco'
            metrics = {
                key: value
                for result in MODELS[name]['Results']
                for key, value in result['Metrics'].items()
            }
            for column in ('AP', 'AP50', 'AP75', 'APS', 'APM', 'APL'):
                assert metrics.get(f'{task} {column}') == row[column], (name, column)
                checked += 1
    assert checked == 6 * (20 + 8)
