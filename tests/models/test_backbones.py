"""Backbones against an independent network written here from the description."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.tolerances import assert_near

pytestmark = pytest.mark.openmmlab

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
RELEASED = {
    18: (3, 5, 7, 7),
    34: (3, 3, 5, 7),
    50: (3, 5, 5, 7),
    101: (3, 3, 5, 7),
    152: (3, 3, 5, 7),
}


def make(name, *args, **kwargs):
    import eca_mmdet

    return getattr(eca_mmdet, name)(*args, **kwargs)


def reference_features(state, x, depth, gate):
    """ResNet with a gate after each block's last norm, from tensors by name alone."""

    def norm(x, name):
        return functional.batch_norm(
            x,
            state[f'{name}.running_mean'],
            state[f'{name}.running_var'],
            state[f'{name}.weight'],
            state[f'{name}.bias'],
        )

    def conv(x, name, stride=1):
        weight = state[f'{name}.weight']
        return functional.conv2d(x, weight, None, stride, weight.shape[-1] // 2)

    convolutions = 2 if depth < 50 else 3
    x = functional.relu(norm(conv(x, 'conv1', 2), 'bn1'))
    x = functional.max_pool2d(x, 3, 2, 1)
    features = []
    for stage, blocks in enumerate(BLOCKS[depth], 1):
        for block in range(blocks):
            name = f'layer{stage}.{block}'
            stride = 2 if stage > 1 and block == 0 else 1
            strided = 1 if depth < 50 else 2  # the 3x3 convolution
            y = x
            for i in range(1, convolutions + 1):
                y = conv(y, f'{name}.conv{i}', stride if i == strided else 1)
                y = norm(y, f'{name}.bn{i}')
                y = functional.relu(y) if i < convolutions else y
            y = gate(state, name, y)
            if f'{name}.downsample.0.weight' in state:
                x = conv(x, f'{name}.downsample.0', stride)
                x = norm(x, f'{name}.downsample.1')
            x = functional.relu(y + x)
        features.append(x)
    return features


def eca_gate(state, name, y):
    weight = state[f'{name}.eca.conv.weight']
    means = y.mean((2, 3))[:, None]
    u = functional.conv1d(means, weight, padding=weight.shape[-1] // 2)
    return y * torch.sigmoid(u)[:, 0, :, None, None]


def se_gate(state, name, y):
    hidden = torch.relu(y.mean((2, 3)) @ state[f'{name}.se.fc.0.weight'].T)
    return (
        y * torch.sigmoid(hidden @ state[f'{name}.se.fc.2.weight'].T)[..., None, None]
    )


def no_gate(state, name, y):
    return y


def randomise(model):
    """Give every tensor values that would show a mistake, norms included."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if tensor.dtype.is_floating_point:
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith('running_var'):
                tensor.copy_(noise.abs() + 0.5)
            elif tensor.dim() == 4:
                tensor.copy_(noise * (2 / tensor[0].numel()) ** 0.5)
            else:
                tensor.copy_(noise)


def assert_features(model, gate, depth, size):
    """In float64, where two ways to the same sum do not differ by rounding."""
    randomise(model)
    model.double().eval()
    x = torch.randn(size, dtype=torch.float64)
    expected = reference_features(model.state_dict(), x, depth, gate)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            for ours, theirs in zip(model(x), expected, strict=True):
                assert_near(ours, theirs, 1e-9)


@pytest.mark.parametrize('memory', ['lean', 'plain'])
@pytest.mark.parametrize('depth', [18, 34, 50])
def test_eca_resnet_equals_reference(mmdet_ready, depth, memory):
    kernel_sizes = RELEASED[depth]
    model = make(
        'ECAResNet',
        depth,
        kernel_sizes=kernel_sizes,
        base_channels=16,
        memory=memory,
    )
    assert_features(model, eca_gate, depth, (2, 3, 64, 96))


@pytest.mark.parametrize('memory', ['lean', 'plain'])
@pytest.mark.parametrize('depth', [18, 50])
def test_se_resnet_equals_reference(mmdet_ready, depth, memory):
    position = 'after_conv2' if depth == 18 else 'after_conv3'
    plugin = dict(cfg=dict(type='SqueezeExcite', ratio=4), position=position)
    model = make(
        'PluginResNet', depth, plugins=[plugin], base_channels=16, memory=memory
    )
    assert 'layer1.0.se.fc.0.weight' in model.state_dict()
    assert_features(model, se_gate, depth, (1, 3, 64, 64))


@pytest.mark.parametrize('depth', sorted(RELEASED))
def test_keys_and_gate_sizes_are_the_authors(mmdet_ready, depth):
    with torch.device('meta'):
        model = make('ECAResNet', depth, kernel_sizes=RELEASED[depth])
    gates = {k: v.shape for k, v in model.state_dict().items() if '.eca.' in k}
    expected = {
        f'layer{stage}.{block}.eca.conv.weight': (1, 1, RELEASED[depth][stage - 1])
        for stage, blocks in enumerate(BLOCKS[depth], 1)
        for block in range(blocks)
    }
    assert gates == expected


def test_parameter_counts(mmdet_ready):
    """80 gate parameters, and ImageNet's total with the classifier."""
    with torch.device('meta'):
        model = make('ECAResNet', 50, kernel_sizes=(3, 5, 5, 7))
        classifier = nn.Linear(2048, 1000)
    gates = sum(p.numel() for n, p in model.named_parameters() if '.eca.' in n)
    total = sum(p.numel() for m in (model, classifier) for p in m.parameters())
    assert (gates, total) == (80, 25_557_112)


@pytest.mark.parametrize(
    ('depth', 'given', 'expected'),
    [
        (50, 3, (3, 3, 3, 3)),
        (50, 'adaptive', (5, 5, 5, 7)),
        (18, 'adaptive', (3, 5, 5, 5)),
        (101, [3, 3, 5, 7], (3, 3, 5, 7)),
    ],
)
def test_ways_to_give_kernel_sizes(mmdet_ready, depth, given, expected):
    with torch.device('meta'):
        model = make('ECAResNet', depth, kernel_sizes=given)
    state = model.state_dict()
    sizes = tuple(state[f'layer{s}.0.eca.conv.weight'].shape[-1] for s in range(1, 5))
    assert sizes == expected


@pytest.mark.parametrize(
    'sizes',
    [None, (3, 5, 5), (3, 5, 5, 7, 7), (3, 4, 5, 7), 4, 'auto', (3, 5, 5, None), 3.0],
)
def test_bad_kernel_sizes_are_refused(mmdet_ready, sizes):
    with pytest.raises(ValueError, match=r'\(3, 5, 5, 7\)|3, 5 and 7'):
        make('ECAResNet', 50, kernel_sizes=sizes)


@pytest.mark.parametrize('depth', [20, '50', None])
def test_unknown_depth_is_refused(mmdet_ready, depth):
    with pytest.raises(ValueError, match='18, 34, 50, 101, 152'):
        make('ECAResNet', depth, kernel_sizes=3)


def test_basic_block_takes_plugins_at_both_positions(mmdet_ready):
    plugins = [
        dict(cfg=dict(type='ECALayer', kernel_size=3), position='after_conv1'),
        dict(
            cfg=dict(type='ECALayer', kernel_size=5, postfix='_end'),
            position='after_conv2',
        ),
    ]
    model = make('PluginResNet', 18, plugins=plugins, base_channels=8)
    block = model.layer1[0]
    block.eval()
    x = torch.randn(2, 8, 6, 6)
    y = block.eca(torch.relu(block.norm1(block.conv1(x))))
    y = block.eca_end(block.norm2(block.conv2(y)))
    assert_near(block(x), torch.relu(y + x), 1e-5)


def test_basic_block_refuses_a_third_position(mmdet_ready):
    plugin = dict(cfg=dict(type='ECALayer'), position='after_conv3')
    with pytest.raises(ValueError, match='after_conv1, after_conv2'):
        make('PluginResNet', 34, plugins=[plugin])


def test_own_plugins_come_beside_the_gate(mmdet_ready):
    plugin = dict(
        cfg=dict(type='SqueezeExcite'),
        stages=(False, False, True, False),
        position='after_conv2',
    )
    model = make('ECAResNet', 50, kernel_sizes=3, plugins=[plugin], base_channels=16)
    assert sum('.se.' in key for key in model.state_dict()) == 2 * 6
    assert sum('.eca.' in key for key in model.state_dict()) == 16


@pytest.mark.parametrize(
    ('backbone', 'arguments'),
    [
        ('ResNet', dict(depth=50, base_channels=8)),
        ('ResNeXt', dict(depth=50, groups=4, base_width=4)),
        ('Res2Net', dict(depth=50, scales=4, base_width=8)),
        ('ResNetV1d', dict(depth=50, base_channels=8)),
    ],
)
def test_layer_is_a_plugin_of_mmdet_backbones(mmdet_ready, backbone, arguments):
    from mmdet.registry import MODELS

    gate = dict(cfg=dict(type='ECALayer', kernel_size=3), position='after_conv3')
    model = MODELS.build(dict(type=backbone, plugins=[gate], **arguments))
    model.eval()
    key = 'layer4.0.eca.conv.weight'
    assert model.state_dict()[key].shape == (1, 1, 3)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(x)[-1]
        model.state_dict()[key].fill_(5.0)
        assert not torch.allclose(before, model(x)[-1])


@pytest.mark.parametrize('depth', [18, 50])
def test_frozen_stages_freeze_the_gates_too(mmdet_ready, depth):
    model = make('ECAResNet', depth, kernel_sizes=3, base_channels=8, frozen_stages=2)
    model.train()
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert {n.split('.')[0] for n in frozen} == {'conv1', 'bn1', 'layer1', 'layer2'}
    assert 'layer2.1.eca.conv.weight' in frozen
    assert not any(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize(('depth', 'last'), [(18, 'bn2'), (50, 'bn3')])
def test_zero_init_residual(mmdet_ready, depth, last):
    model = make('ECAResNet', depth, kernel_sizes=3, base_channels=8)
    model.init_weights()
    state = model.state_dict()
    assert state[f'layer1.0.{last}.weight'].abs().max() == 0
    assert state['layer1.0.bn1.weight'].min() == 1
    assert state['layer4.1.eca.conv.weight'].abs().min() > 0


def test_non_local_block_sits_before_the_last_block_of_res4(mmdet_ready):
    plugin = dict(
        cfg=dict(type='NonLocal2d', reduction=2),
        stages=(False, False, True, False),
        position='before_last_block',
    )
    model = make('PluginResNet', 50, plugins=[plugin], base_channels=8)
    plain = make('PluginResNet', 50, base_channels=8)
    extra = model.state_dict().keys() - plain.state_dict().keys()
    assert extra
    assert all(key.startswith('layer3.nonlocal_block.') for key in extra)
    randomise(plain)
    randomise(model)
    model.load_state_dict(plain.state_dict(), strict=False)
    model.eval()
    plain.eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        body = plain(x)[1]
        for block in list(plain.layer3)[:-1]:
            body = block(body)
        expected = plain.layer3[-1](model.layer3.nonlocal_block(body))
        assert_near(model(x)[2], expected, 1e-5)
        # The block's last convolution at zero makes it the identity.
        model.layer3.nonlocal_block.conv_out.conv.weight.zero_()
        model.layer3.nonlocal_block.conv_out.conv.bias.zero_()
        assert_near(model(x)[-1], plain(x)[-1], 1e-5)
