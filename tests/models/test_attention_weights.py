"""Attention layers and files of weights: what starts how, and what is refused."""

import copy

import pytest
import torch

from eca_mmdet.catalog.mechanisms import KEYS, LAYER_NAMES, MECHANISMS, find_mechanism
from eca_mmdet.checkpoints.inspection import inspect
from eca_mmdet.utils.errors import UserError, WeightsError
from tests.tolerances import assert_near

TINY = dict(base_channels=16, stem_channels=16)
WITHOUT_WEIGHTS = [row.key for row in MECHANISMS if row.published == '0']
ADDING = [row.key for row in MECHANISMS if row.adds]
RANDOM = [k for k in KEYS if k not in (*WITHOUT_WEIGHTS, *ADDING)]


@pytest.fixture
def backbone(mmdet_ready):
    import eca_mmdet

    def build(key=None, depth=50, seed=0, **kwargs):
        torch.manual_seed(seed)
        if key:
            plugin = find_mechanism(key).plugin(depth, narrow=True)
            kwargs = {'plugins': [plugin], **kwargs}
        return eca_mmdet.PluginResNet(depth, **TINY, **kwargs)

    return build


@pytest.fixture
def file_of(backbone, tmp_path):
    def save(key=None, depth=50):
        path = tmp_path / f'{key}-{depth}.pth'
        torch.save(backbone(key, depth, seed=1).state_dict(), path)
        return path

    return save


def fit(path, model, **arguments):
    from eca_mmdet import ECAPretrained

    return ECAPretrained(str(path), **arguments).fit(model)


@pytest.mark.sweep(fast=4)
@pytest.mark.parametrize('key', RANDOM)
def test_random_gates_are_asked_for(backbone, file_of, key):
    plain = file_of()
    model = backbone(key, frozen_stages=0)
    with pytest.raises(WeightsError, match='would stay random'):
        fit(plain, model)
    found = fit(plain, model, random_gates=True)
    assert not found.missing and not any(found.gates.values())
    with pytest.raises(WeightsError, match='random gates are in frozen stages'):
        fit(plain, backbone(key, frozen_stages=1), random_gates=True)
    assert all(fit(file_of(key), model).gates.values())


@pytest.mark.parametrize('key', WITHOUT_WEIGHTS)
def test_gates_without_weights_are_not_counted_as_loaded(backbone, file_of, key):
    line = fit(file_of(), backbone(key)).line
    assert line.startswith('318/318 tensors from None-50')
    assert '16 gates have no weights' in line


@pytest.mark.sweep(fast=4)
@pytest.mark.parametrize('key', [k for k in KEYS if k not in WITHOUT_WEIGHTS])
def test_layers_of_a_file_are_not_left_out(backbone, file_of, key):
    """Into a network without them: the features would differ."""
    path = file_of(key)
    with pytest.raises(WeightsError, match='the features would differ'):
        fit(path, backbone())
    with pytest.raises(WeightsError):
        other = 'cbam' if key == 'se-var2' else 'se-var2'
        fit(path, backbone(other, frozen_stages=0), random_gates=True)


@pytest.mark.sweep(fast=4)
@pytest.mark.parametrize('key', KEYS)
def test_another_depth_is_refused(backbone, file_of, key):
    """Also where a mechanism has more tensors than the network."""
    model = backbone(key, frozen_stages=0)
    with pytest.raises(WeightsError, match=r'depth: file 101 .*, backbone 50'):
        fit(file_of(depth=101), model, random_gates=True)


@pytest.mark.parametrize('one', MECHANISMS, ids=lambda one: one.key)
def test_inspection_names_the_mechanism(file_of, one):
    found = inspect(file_of(one.key))
    if one.key in WITHOUT_WEIGHTS:
        assert found.network == 'ResNet-50'
        return
    name = one.family or one.name
    assert found.network == f'{name}-ResNet-50' and found.gates
    stages = one.stages or (True,) * 4
    blocks = (3, 4, 6, 3) if one.position == 'block' else (1, 1, 1, 1)
    assert found.gates == sum(n for n, on in zip(blocks, stages, strict=True) if on)
    if one.abbr in LAYER_NAMES:
        assert found.backbone == found.command == ''


@pytest.mark.parametrize('key', ADDING)
@pytest.mark.parametrize('depth', [18, 50])
def test_layers_that_add_start_as_the_identity(backbone, file_of, key, depth):
    """From random weights too, where every convolution is initialised again."""
    x = torch.randn(2, 3, 64, 64)
    for init in (
        None,
        dict(type='ECAPretrained', checkpoint=str(file_of(depth=depth))),
    ):
        model = backbone(key, depth, init_cfg=init, frozen_stages=-1)
        model.init_weights()
        names = ('.a2', '.context_block', '.nonlocal_block')
        layers = [one for name, one in model.named_modules() if name.endswith(names)]
        model.eval()
        for layer in layers:  # the norms before them start at zero and would hide it
            channels = layer.in_channels if key != 'a2' else layer.bn.num_features
            y = torch.randn(1, channels, 9, 9)
            assert torch.equal(layer(y), y)
        assert layers
        plain = backbone(depth=depth)
        plain.load_state_dict(model.state_dict(), strict=False)
        plain.eval()
        model.eval()
        for ours, wanted in zip(model(x), plain(x), strict=True):
            assert_near(ours, wanted, 1e-5)


@pytest.mark.parametrize('layer', ['DoubleAttention', 'ContextBlock', 'NonLocal2d'])
def test_layers_that_add_are_not_frozen_new(backbone, file_of, layer):
    cfg = (
        dict(type=layer, ratio=1 / 16) if layer == 'ContextBlock' else dict(type=layer)
    )
    plain = file_of()
    with pytest.raises(WeightsError, match='3 new attention layers are in frozen'):
        fit(plain, backbone(attention=cfg, frozen_stages=1))
    fit(plain, backbone(attention=cfg, frozen_stages=0))
    fit(plain, backbone(attention=cfg, frozen_stages=1), random_frozen_gates=True)


def test_loaded_layers_that_add_stay_as_loaded(backbone, tmp_path):
    source = backbone('a2', seed=1)
    torch.nn.init.ones_(source.layer2.a2.bn.weight)
    torch.save(source.state_dict(), tmp_path / 'a2.pth')
    init = dict(type='ECAPretrained', checkpoint=str(tmp_path / 'a2.pth'))
    model = backbone('a2', init_cfg=init)
    model.init_weights()
    assert torch.equal(model.layer2.a2.bn.weight, source.layer2.a2.bn.weight)


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(type='ContextBlock', ratio=16), 'ratio of ContextBlock .* got 16'),
        (dict(type='ContextBlock', ratio=1 / 4096), 'at least 1/64'),
        (dict(type='NonLocal2d', reduction=5000), 'between 1 and the 64 channels'),
        (dict(type='NonLocal2d', reduction=0), 'between 1 and the 64 channels'),
        (dict(type='CBAM', ration=4), "unexpected keyword argument 'ration'"),
        (dict(type='ContextBlock'), "missing 1 required positional argument: 'ratio'"),
        (dict(type='SqueezeExcite', ratio=10), 'ratio must divide the 64 channels'),
    ],
)
def test_arguments_of_layers(backbone, cfg, message):
    with pytest.raises(ValueError, match=message):
        backbone(attention=cfg)


@pytest.mark.sweep(fast=4)
@pytest.mark.parametrize('key', KEYS)
def test_fast_inference(mmdet_ready, key):
    """``test --fast`` fuses the norms of every mechanism and keeps the features."""
    from mmdet.registry import MODELS

    from eca_mmdet.demo.comparison import Run
    from eca_mmdet.inference.fast import make_fast

    torch.manual_seed(0)
    detector = MODELS.build(Run(key, 0, 'retinanet', True).config.model)
    detector.eval()
    image = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        wanted = detector.extract_feat(image)
        for ours, exact in zip(
            make_fast(detector).extract_feat(image), wanted, strict=True
        ):
            error = (ours - exact).abs().max() / exact.abs().max()
            assert error < 0.05


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'backbone.plugins.0.cfg.type': 'CBMA'}, 'backbone: no layer .CBMA. .* CBAM'),
        ({'backbone.plugins.0.position': 'after_conv9'}, 'position must be one of'),
        ({'backbone.plugins.0.position': 'after_stage'}, 'position must be one of'),
        ({'backbone.plugins.0.stages': (True,)}, 'stages must be 4 of True or False'),
        ({'neck.1.attention.type': 'ECALayerr'}, 'model.neck: .*mean ECALayer'),
        ({'neck.1.num_levels': 0}, 'model.neck: .*num_levels must be 1'),
    ],
    ids=str,
)
def test_preflight_of_plugins_and_necks(mmdet_ready, change, message):
    from mmengine.config import Config

    from eca_mmdet.catalog import configs as paths
    from eca_mmdet.engine.preflight import check_backbone

    cfg = Config.fromfile(paths.shipped_configs()['faster-rcnn_r50_fpn_4xb2-1x_coco'])
    cfg.model.backbone.type = 'ResNet'
    cfg.model.backbone.plugins = [
        dict(cfg=dict(type='CBAM'), position='after_conv3', stages=(True,) * 4)
    ]
    cfg.model.neck = [
        cfg.model.neck,
        dict(
            type='AttentionNeck',
            in_channels=256,
            num_levels=5,
            attention=dict(type='ECALayer'),
        ),
    ]
    assert check_backbone(copy.deepcopy(cfg)) is not None
    node = cfg.model
    *path, last = next(iter(change)).split('.')
    for step in path:
        node = node[int(step)] if step.isdigit() else node[step]
    node[last] = next(iter(change.values()))
    with pytest.raises(UserError, match=message):
        check_backbone(cfg)


def test_complexity_of_an_image_that_is_too_small(command, mmdet_ready):
    name = 'mask-rcnn_ge-theta-r50_fpn_4xb2-1x_coco'
    for convention in ('exact', 'paper'):
        words = ('--shape', 96, 96, '--convention', convention)
        code, out, err = command('cost', name, *words)
        assert (code, out) == (2, '') and 'GETheta needs a map of 5 pixels' in err
