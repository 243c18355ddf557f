"""Costs: the published columns to 0.01; exact counts by hand and by torchvision."""

import gc
import json
import weakref

import pytest
import torch
from torch import nn

import eca_mmdet
from eca_mmdet.analysis.complexity import count_operations, paper_cost
from eca_mmdet.analysis.exact_cost import Meter, SavedBytes, exact_cost, run_parts
from eca_mmdet.catalog import configs as paths
from eca_mmdet.catalog.published import published_rows
from eca_mmdet.engine.config import build_model
from eca_mmdet.models.attention import ECALayer, SqueezeExcite
from eca_mmdet.utils.errors import UserError

pytestmark = pytest.mark.openmmlab

ROWS = published_rows()
OTHER = ('mask:r50:nl', 'mask:r50:gc')  # confirmed nowhere, counted in another way


@pytest.fixture(scope='module')
def counting(mmdet_ready):
    from mmengine.config import Config

    def load(name, **options):
        cfg = Config.fromfile(str(paths.resolve_config(name)))
        cfg.merge_from_dict(options)
        return build_model(cfg, 'meta'), cfg

    return load


@pytest.mark.parametrize('row', [one for one in ROWS if one.row not in OTHER], ids=str)
def test_published_rows_come_out_to_a_hundredth(counting, row):
    cost = paper_cost(counting(row.config)[0])
    assert cost['params_m'] == pytest.approx(row.params_m.value, abs=0.0051)
    assert cost['gflops'] == pytest.approx(row.gflops.value, abs=0.0051)


def test_rows_in_python(mmdet_ready):
    name = 'faster-rcnn_eca-r50_fpn_4xb2-1x_coco'
    (row,) = eca_mmdet.complexity(name, convention='paper')
    assert row.config == name
    assert row.params_m == pytest.approx(row.published['params_m'], abs=0.0051)
    assert row.gflops == pytest.approx(row.published['gflops'], abs=0.0051)
    (changed,) = eca_mmdet.complexity(
        name, convention='paper', options=['model.backbone.depth=101']
    )
    assert changed.published is None and changed.params_m > row.params_m + 10
    (exact,) = eca_mmdet.complexity([name, name], (320, 256))
    assert exact.cost.gates.params >= exact.cost.gates.trained > 0


def test_the_two_other_rows_are_not_ours(counting):
    """Nothing says how they were counted; the difference is part of the documents."""
    assert len(ROWS) == 20
    for name, params, gflops in zip(
        OTHER, (46.28, 46.70), (283.97, 275.64), strict=True
    ):
        [row] = published_rows([name])
        cost = paper_cost(counting(row.config)[0])
        assert (round(cost['params_m'], 2), round(cost['gflops'], 2)) == (
            params,
            gflops,
        )
        assert not row.gflops.confirmed_by


CLASSIC = [
    # layer, input, operations by hand
    (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 8, 10), 2 * 20 * 6 * (36 + 1)),
    (nn.Conv2d(4, 6, (1, 3), bias=False, groups=2), (1, 4, 5, 9), 35 * 6 * 2 * 3),
    (nn.Conv1d(1, 1, 5, padding=2, bias=False), (2, 1, 64), 2 * 64 * 5),
    (
        nn.ConvTranspose2d(4, 6, 2, stride=2),
        (3, 4, 7, 7),
        3 * 14 * 14 * (4 * 6 * 4 + 6),
    ),
    (nn.Linear(10, 7), (3, 10), 3 * 10 * 7 + 7),
    (nn.BatchNorm2d(4), (2, 4, 5, 5), 2 * 200),
    (nn.BatchNorm2d(4, affine=False), (2, 4, 5, 5), 200),
    (nn.GroupNorm(2, 4), (2, 4, 5, 5), 2 * 200),
    (nn.LayerNorm(5), (2, 4, 5), 2 * 40),
    (nn.ReLU(), (2, 4, 5, 5), 200),
    (nn.MaxPool2d(3, 2), (2, 4, 9, 9), 2 * 4 * 81),
    (nn.AdaptiveAvgPool2d(1), (2, 4, 9, 9), 2 * 4 * 81),
    (nn.Sigmoid(), (2, 4), 0),
    (nn.Dropout(), (2, 4), 0),
]


@pytest.mark.parametrize(
    ('layer', 'shape', 'expected'), CLASSIC, ids=[str(row[0]) for row in CLASSIC]
)
def test_rules_of_the_classic_counter(mmdet_ready, layer, shape, expected):
    layer.eval()
    assert count_operations(layer, lambda: layer(torch.zeros(shape))) == expected


def test_gates_are_counted_as_pooling_and_their_layers(mmdet_ready):
    image = torch.zeros(1, 64, 5, 7)
    eca, se = ECALayer(64, kernel_size=5), SqueezeExcite(64, ratio=16)
    assert count_operations(eca, lambda: eca(image)) == 64 * 35 + 64 * 5
    assert count_operations(se, lambda: se(image)) == 64 * 35 + 2 * 64 * 4 + 4


def test_hooks_are_removed(mmdet_ready):
    layer = nn.ReLU()
    with pytest.raises(ZeroDivisionError):
        count_operations(layer, lambda: 1 / 0)
    assert not layer._forward_hooks


@pytest.mark.parametrize('depth', [18, 50, 101])
def test_exact_counts_are_torchvisions(counting, depth):
    """torchvision publishes parameters and multiply-adds of its classifiers."""
    from torchvision import models

    weights = getattr(models, f'ResNet{depth}_Weights').IMAGENET1K_V1.meta
    channels = [64, 128, 256, 512] if depth == 18 else [256, 512, 1024, 2048]
    model, cfg = counting(
        'retinanet_r50_fpn_4xb2-1x_coco',
        **{'model.backbone.depth': depth, 'model.neck.in_channels': channels},
    )
    cost = exact_cost(model, cfg, (224, 224))
    backbone = [part for name, part in cost.parts.items() if name in BACKBONE]
    last = channels[-1] * 1000
    macs = sum(part.macs for part in backbone) + last
    assert macs / 1e9 == pytest.approx(weights['_ops'], abs=0.0006)
    params = sum(part.params for part in backbone) + last + 1000
    assert params == weights['num_params']


BACKBONE = ('stem', 'layer1', 'layer2', 'layer3', 'layer4')


def test_exact_parts_add_up_to_the_model(counting):
    model, cfg = counting('mask-rcnn_eca-r50_fpn_4xb2-1x_coco')
    cost = exact_cost(model, cfg, (64, 96))
    heads = ('rpn_head', 'roi_head.bbox_head', 'roi_head.mask_head')
    assert set(cost.parts) == {*BACKBONE, 'neck', *heads}
    assert cost.total.params == sum(one.numel() for one in model.parameters())
    assert cost.gates.params == 80 and cost.gates.trained == 71  # k: 3 3 3 frozen
    # Linear layers of 12544 x 1024, 1024 x 1024, 1024 x (81 + 320) on 1000 boxes.
    box = cost.parts['roi_head.bbox_head']
    assert box.macs == 1000 * 1024 * (12544 + 1024 + 81 + 320)
    # Four 3 x 3 convolutions, the true cost of the upsample, 80 masks; 100 regions.
    mask = cost.parts['roi_head.mask_head']
    assert mask.macs == 100 * (
        4 * 196 * 9 * 256 * 256 + 196 * 4 * 256 * 256 + 784 * 256 * 80
    )
    assert cost.parts['stem'].saved_bytes == cost.parts['layer1'].saved_bytes == 0
    assert cost.images == 2
    assert cost.box_regions == (1000, 1024) and cost.mask_regions == (100, 256)


def test_gates_multiply_adds_are_their_convolutions(counting):
    model, cfg = counting('retinanet_eca-r50_fpn_4xb2-1x_coco')
    blocks, widths, kernels = (3, 4, 6, 3), (256, 512, 1024, 2048), (3, 5, 5, 7)
    expected = sum(n * c * k for n, c, k in zip(blocks, widths, kernels, strict=True))
    assert exact_cost(model, cfg, (64, 64)).gates.macs == expected


SMALL = {
    'model.backbone.type': 'PluginResNet',
    'model.backbone.depth': 18,
    'model.backbone.base_channels': 8,
    'model.backbone.init_cfg': None,
    'model.backbone.plugins': [
        {'cfg': {'type': 'SqueezeExcite', 'ratio': 4}, 'position': 'after_conv2'}
    ],
    'model.neck.in_channels': [8, 16, 32, 64],
}


@pytest.mark.parametrize('memory', ['lean', 'plain'])
def test_no_memory_costs_what_memory_costs(counting, memory):
    """The counts of the meta device are those of a run with values.

    But for the two statistics a channel of a frozen batch norm (8 bytes) that is called
    as a layer, which the meta device keeps and the CPU does not.
    """
    options = {**SMALL, 'model.backbone.memory': memory}
    meta, cfg = counting('retinanet_se-r50_fpn_4xb2-1x_coco', **options)
    first = exact_cost(meta, cfg, (64, 96))
    second = exact_cost(build_model(cfg), cfg, (64, 96))
    assert first.gates.saved_bytes > 0 and first.peak_bytes > 0
    for name in ('layer2', 'layer3', 'layer4'):
        layers = getattr(meta.backbone, name).modules()
        channels = sum(m.num_features for m in layers if isinstance(m, nn.BatchNorm2d))
        assert channels > 0
        if memory == 'plain':
            second.parts[name].saved_bytes += 8 * channels
    assert first == second


def test_counting_saved_bytes_keeps_nothing(mmdet_ready):
    """A result that its own node saves is no circle that holds the whole graph."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid())
    with SavedBytes(model) as saved:
        out = model(torch.randn(1, 3, 4, 4))
    out.sum().backward()
    assert model[0].weight.grad is not None
    with SavedBytes(model) as saved:
        out = model(torch.randn(1, 3, 4, 4))
    counter = weakref.ref(saved)
    del saved, out
    gc.collect()
    assert counter() is None


def test_saved_bytes_by_hand(mmdet_ready):
    """A convolution keeps its input, ReLU its output, once if they are the same."""
    for device in ('meta', 'cpu'):
        model = nn.Sequential(
            nn.Conv2d(3, 8, 1, bias=False), nn.ReLU(), nn.Conv2d(8, 2, 1, bias=False)
        ).to(device)
        image = torch.zeros(1, 3, 10, 10, device=device)
        with SavedBytes(model) as saved:
            model(image)
        assert saved.total == 4 * 100 * (3 + 8), device
        with SavedBytes(model) as saved, torch.no_grad():
            model(image)
        assert saved.total == 0


@pytest.mark.parametrize('device', ['meta', 'cpu'])
def test_peak_by_hand(mmdet_ready, device):
    """Of a, b = a + 1, c = b + 1 two are alive at once; in place none is added."""

    def chain():
        x = torch.zeros(1000, device=device)
        for _ in range(5):
            x = x + 1
        return x

    def in_place():
        x = torch.zeros(1000, device=device)
        for _ in range(5):
            x.add_(1)
        return x.view(10, 100)

    def all_kept():
        return [torch.zeros(1000, device=device) for _ in range(5)]

    for run, tensors in ((chain, 2), (in_place, 1), (all_kept, 5)):
        with Meter() as meter:
            run()
        assert meter.peak_bytes == tensors * 4000


def test_parts_that_do_not_run_are_named(counting):
    model, cfg = counting('mask-rcnn_eca-r50_fpn_4xb2-1x_coco')
    assert exact_cost(model, cfg, (64, 64)).not_run == ()
    model.roi_head.mask_iou_head = nn.Linear(8, 8, device='meta')
    assert exact_cost(model, cfg, (64, 64)).not_run == ('roi_head.mask_iou_head',)


@pytest.mark.parametrize('name', ['cascade-rcnn_r50', 'cascade-mask-rcnn_r50'])
def test_cascades_are_counted(counting, name):
    model, cfg = counting(f'{name}_fpn_v1_coco')
    box = exact_cost(model, cfg, (64, 64)).parts['roi_head.bbox_head']
    assert box.macs == 3 * 1000 * 1024 * (12544 + 1024 + 81 + 4)


def test_changed_models_have_no_published_cost(command, mmdet_ready):
    words = ('cost', 'mask-rcnn_r50_fpn_4xb2-1x_coco', '--convention', 'paper')
    options = ('--cfg-options', 'model.roi_head.bbox_head.num_classes=5', '--json')
    _, out, _ = command(*words, *options)
    assert 'published' not in json.loads(out)['paper'][0]
    _, out, _ = command(*words, '--json')
    assert json.loads(out)['paper'][0]['published']['gflops'] == 275.58


def test_other_detectors_are_refused(mmdet_ready):
    model = nn.Module()
    model.backbone = nn.Conv2d(3, 3, 1)
    with pytest.raises(UserError, match='neither a dense head nor RoI heads'):
        run_parts(model, (32, 32), 1, 1, 1)


def test_command_prints_paper_beside_published(command, mmdet_ready):
    name = 'retinanet_eca-r50_fpn_4xb2-1x_coco'
    code, out, err = command('cost', name, '--convention', 'paper')
    assert (code, err) == (0, '')
    assert out.splitlines()[-1].split() == [name, '37.74', '239.43', '37.74', '239.43']
    code, out, _ = command(
        'cost', name, '--convention', 'paper', '--shape', '640', '400', '--json'
    )
    found = json.loads(out)
    assert found['shape'] == [3, 400, 640] and 'published' not in found['paper'][0]
    assert 50 < found['paper'][0]['gflops'] < 70


def test_command_prints_exact_counts(command, mmdet_ready):
    name = 'mask-rcnn_eca-r50_fpn_4xb2-1x_coco'
    code, out, _ = command('cost', name, '--shape', '96', '64')
    assert code == 0
    rows = {line.split('  ')[0]: line.split() for line in out.splitlines()}
    assert rows['of it the gates'][4:6] == ['80', '71']
    assert rows['total'][1:3] == ['44,396,416', '44,171,063']
    assert 'a step of 2 images, 1024 boxes and 256 masks' in out


@pytest.mark.slow
def test_latency_names_its_setting(command, mmdet_ready, shapes):
    names = [
        f'{family}_eca-r18-w16_fpn_shapes' for family in ('retinanet', 'mask-rcnn')
    ]
    code, out, err = command(
        *('cost', *names, '--latency', '--rounds', '2', '--shape', '96', '64'),
        '--json',
    )
    assert (code, err) == (0, '')
    found = json.loads(out)['latency']
    assert found['setting']['threads'] == torch.get_num_threads()
    assert found['setting']['dtype'] == 'float32' and found['rounds'] == 2
    assert found['models'][names[0]]['backbone_ratio'] == 1
    for one in found['models'].values():
        assert 0 < one['backbone_ms'] < one['detector_ms']


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (('no-such',), 'no-such'),
        (('tables', '--shape', '8', '8'), '--shape must be at least 32 32'),
        (
            (
                'faster-rcnn_r50_fpn_4xb2-1x_coco',
                *('--cfg-options', 'model.backbone.depth=7'),
            ),
            'depth must be one of',
        ),
    ],
)
def test_bad_usage(command, mmdet_ready, words, message):
    code, out, err = command('cost', *words)
    assert code == 2 and out == '' and message in err
