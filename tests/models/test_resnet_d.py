"""ECAResNetD gives timm's features from timm's weights; ECAMobileNetV2 beside it."""

import pytest
import torch
from torch import nn

from eca_mmdet.catalog.architectures import D_LAYOUTS
from eca_mmdet.checkpoints import convert
from tests.references.networks import randomise
from tests.tolerances import assert_near, assert_near_gradients

SMALL = dict(stem=(6, 8, 16), depths=(1, 2, 1, 1), base_channels=4)


@pytest.fixture
def make(mmdet_ready):
    import eca_mmdet

    def build(name='ECAResNetD', **arguments):
        return getattr(eca_mmdet, name)(**arguments)

    return build


def tame(model):
    """Values that show a mistake and stay finite through 300 layers."""
    randomise(model)
    for name, tensor in model.state_dict().items():
        if name.endswith(('bn3.weight', 'downsample.2.weight')):
            tensor.mul_(0.2)
    return model


def largest_difference(ours, theirs):
    """Greatest difference over all maps, relative to the greatest value of each."""
    return max(
        ((a - b).abs().max() / b.abs().max()).item()
        for a, b in zip(ours, theirs, strict=True)
    )


SLOW = [
    pytest.param(
        name, marks=pytest.mark.openmmlab if name == '26t' else pytest.mark.slow
    )
    for name in D_LAYOUTS
]


@pytest.mark.parametrize('arch', SLOW)
def test_features_are_timms(make, tmp_path, arch):
    """All eight architectures behind timm's eleven files, at two sizes, in fp32."""
    timm = pytest.importorskip('timm')
    name = f'ecaresnet{arch}'
    reference = tame(
        timm.create_model(name, features_only=True, out_indices=(1, 2, 3, 4))
    )
    whole = tame(timm.create_model(name))
    torch.save(whole.state_dict(), tmp_path / 'x.pth')
    init_cfg = dict(type='ECAPretrained', checkpoint=f'{tmp_path}/x.pth', strict='all')
    model = make(arch=arch, init_cfg=init_cfg)
    model.init_weights()
    model.eval()
    # features_only renames the stem's tensors; equal order makes them equal values.
    reference.load_state_dict(
        dict(
            zip(
                reference.state_dict(),
                list(whole.state_dict().values())[: len(reference.state_dict())],
                strict=True,
            )
        )
    )
    for size in ((64, 96), (97, 65)):
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            ours, theirs = model(x), reference(x)
        assert [m.shape for m in ours] == [m.shape for m in theirs]
        assert all(m.isfinite().all() and m.std() > 0.01 for m in theirs)
        assert largest_difference(ours, theirs) < 1e-5
        # The comparison can fail: one gate changed is seen.
        gate = model.layer3[0].eca.conv.weight
        with torch.no_grad():
            gate.add_(1)
            assert largest_difference(model(x), theirs) > 1e-3
            gate.sub_(1)


@pytest.mark.parametrize('arch', list(D_LAYOUTS))
def test_names_and_shapes_are_timms(make, arch):
    timm = pytest.importorskip('timm')
    with torch.device('meta'):
        state = timm.create_model(f'ecaresnet{arch}').state_dict()
        model = make(arch=arch)
    converted, report = convert(state)
    own = model.state_dict()
    assert list(report.dropped) == ['fc.weight', 'fc.bias']
    assert converted.keys() == own.keys()
    assert all(converted[key].shape == own[key].shape for key in own)
    assert model.out_channels == tuple(
        own[f'layer{stage}.0.conv3.weight'].shape[0] for stage in range(1, 5)
    )


@pytest.mark.openmmlab
def test_names_of_mmdets_resnet_v1d(make):
    """A 50d file fits mmdet's own backbone with ECA plugins too, and gives the same."""
    from mmdet.registry import MODELS

    gates = [
        dict(
            cfg=dict(type='ECALayer', kernel_size=k),
            stages=tuple(s == stage for s in range(4)),
            position='after_conv3',
        )
        for stage, k in enumerate((5, 5, 5, 7))
    ]
    model = randomise(make(arch='50d'))
    v1d = MODELS.build(dict(type='ResNetV1d', depth=50, plugins=gates))
    v1d.load_state_dict(model.state_dict())
    v1d.double().eval()
    model.double()
    x = torch.randn(1, 3, 65, 64, dtype=torch.float64)
    with torch.no_grad():
        for ours, theirs in zip(model(x), v1d(x), strict=True):
            assert_near(ours, theirs, 1e-9)


@pytest.mark.openmmlab
@pytest.mark.parametrize(
    ('name', 'arguments'),
    [
        ('ECAResNetD', dict(arch=SMALL)),
        ('ECAResNetD', dict(arch=dict(SMALL, stem=(16,)))),
        ('ECAMobileNetV2', dict(widen_factor=0.25, norm_eval=True)),
    ],
    ids=['deep stem', 'plain stem', 'MobileNetV2'],
)
class TestTraining:
    def test_every_parameter_gets_a_gradient(self, make, name, arguments):
        model = randomise(make(name, **arguments))
        model.train()
        sum(
            level.square().mean() for level in model(torch.randn(2, 3, 64, 64))
        ).backward()
        assert all(p.grad is not None for p in model.parameters())
        gates = [p.grad.abs().max() for n, p in model.named_parameters() if 'eca' in n]
        assert gates and min(gates) > 0

    def test_checkpointing_gives_the_same_gradients(self, make, name, arguments):
        gradients = []
        for with_cp in (False, True):
            model = randomise(make(name, with_cp=with_cp, **arguments)).double()
            model.train()
            x = torch.randn(
                1,
                3,
                64,
                64,
                dtype=torch.float64,
                requires_grad=True,
                generator=torch.Generator().manual_seed(0),
            )
            sum(level.square().mean() for level in model(x)).backward()
            gradients.append({n: p.grad for n, p in model.named_parameters()})
        assert_near_gradients(gradients[1], gradients[0], 1e-9)

    def test_recomputes_blocks_only_with_checkpointing(self, make, name, arguments):
        counts = []
        for with_cp in (False, True):
            model = make(name, with_cp=with_cp, **arguments)
            model.train()
            calls = []
            model.layer3[0].eca.register_forward_pre_hook(
                lambda *_, c=calls: c.append(1)
            )
            x = torch.randn(1, 3, 64, 64, requires_grad=True)
            sum(level.mean() for level in model(x)).backward()
            counts.append(len(calls))
        assert counts == [1, 2]

    @pytest.mark.parametrize('frozen', [-1, 0, 1, 2])
    def test_frozen_stages(self, make, name, arguments, frozen):
        model = make(name, frozen_stages=frozen, **arguments)
        model.train()
        found = {
            n.split('.')[0] for n, p in model.named_parameters() if not p.requires_grad
        }
        stem = {'stem', 'conv1', 'bn1'} & {n.split('.')[0] for n in model.state_dict()}
        expected = set() if frozen < 0 else stem
        expected |= {f'layer{i}' for i in range(1, frozen + 1)}
        assert found == expected

    def test_norm_eval(self, make, name, arguments):
        for norm_eval in (True, False):
            model = make(
                name, **{**arguments, 'norm_eval': norm_eval, 'frozen_stages': 1}
            )
            model.train()
            norms = {
                n: m.training
                for n, m in model.named_modules()
                if isinstance(m, nn.BatchNorm2d)
            }
            frozen = {
                n for n in norms if n.startswith(('stem', 'conv1', 'bn1', 'layer1'))
            }
            for key, training in norms.items():
                if key not in frozen:
                    assert training != norm_eval, key
                elif name == 'ECAResNetD':
                    assert not training, key


def test_train_and_eval_can_be_chained(make):
    model = make(arch=SMALL)
    assert model.train() is model and model.eval() is model


def test_out_indices(make):
    model = randomise(make(arch=SMALL))
    x = torch.randn(1, 3, 64, 64)
    two = make(arch=SMALL, out_indices=(1, 3))
    two.load_state_dict(model.state_dict())
    two.eval()
    assert two.out_channels == (32, 128)
    with torch.no_grad():
        maps = model(x)
        for ours, theirs in zip(two(x), (maps[1], maps[3]), strict=True):
            assert torch.equal(ours, theirs)
    assert [m.shape[-1] for m in maps] == [16, 8, 4, 2]


def test_a_new_block_is_the_identity(make):
    model = make(arch=SMALL)
    model.init_weights()
    state = model.state_dict()
    assert state['layer2.1.bn3.weight'].abs().max() == 0
    assert state['layer2.1.bn1.weight'].min() == 1
    assert state['layer2.1.eca.conv.weight'].abs().min() > 0


@pytest.mark.parametrize(
    ('arguments', 'part'),
    [
        (dict(arch='50'), 'one of 26t, 50t, 50d'),
        (dict(arch={}), 'takes stem, and either widths or depths'),
        (dict(arch=dict(SMALL, depth=50)), 'takes stem'),
        (dict(arch=dict(SMALL, stem=(8, 16))), 'stem must have 1 or 3 widths'),
        (dict(arch=dict(widths=(((4, 4, 8), (4, 4, 9)),))), 'stage 1: every block'),
        (dict(arch=dict(widths=(((4, 8),),))), 'needs three widths'),
        (dict(arch=dict(widths=((),))), 'stage 1'),
        (dict(arch=SMALL, kernel_sizes=(3, 5)), r'4 odd integers.*\(5, 5, 5, 7\)'),
        (dict(arch=SMALL, kernel_sizes=4), 'positive odd integer'),
        (dict(arch=SMALL, out_indices=(4,)), r'within 0\.\.3'),
        (dict(arch=SMALL, out_indices=()), r'within 0\.\.3'),
        (dict(arch=SMALL, frozen_stages=5), r'within -1\.\.4'),
    ],
)
def test_bad_arguments(make, arguments, part):
    with pytest.raises(ValueError, match=part):
        make(**arguments)


def test_bad_kernel_sizes_of_mobilenet(make):
    with pytest.raises(ValueError, match=r'7 odd integers.*\(1, 1, 1, 1, 3, 3, 3\)'):
        make('ECAMobileNetV2', kernel_sizes=(1, 3))
    with pytest.raises(ValueError, match='positive odd integer'):
        make('ECAMobileNetV2', kernel_sizes=2)


def test_kernel_sizes_of_mobilenet(make):
    sizes = (1, 3, 5, 7, 9, 11, 13)
    state = make('ECAMobileNetV2', kernel_sizes=sizes, widen_factor=0.25).state_dict()
    assert sizes == tuple(
        state[f'layer{stage}.0.eca.conv.weight'].shape[-1] for stage in range(1, 8)
    )
