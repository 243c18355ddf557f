"""Attention layers in other dtypes and layouts, their gradients, compiled, exported."""

import contextlib
import io
import logging
import warnings

import pytest
import torch
from torch.func import functional_call

from tests.support.attention_cases import LAYERS, build, image
from tests.tolerances import assert_near, assert_near_gradients

# A softmax does not see what is added to all its inputs: the bias of these has no
# gradient by the formula.
WITHOUT_GRADIENT = {
    'ContextBlock': ['conv_mask.bias'],
    'NonLocal2d': ['phi.conv.bias'],
}
CHANNELS = 64  # of fewer, GC's LayerNorm of C / 16 values is a constant
OTHERS = [
    ('ECALayer', dict(circular=True)),
    ('SqueezeExcite', dict(bias=True)),
    ('GEThetaMinus', dict(extent=2)),
    ('GETheta', dict(extent=2)),
    ('CBAM', dict(bias=True, kernel_size=3)),
    ('FcaNet', dict(size=14)),
]
CASES = [
    pytest.param(name, kwargs, id='-'.join([name, *kwargs]))
    for name, kwargs in [*((name, {}) for name in LAYERS), *OTHERS]
]


@pytest.mark.parametrize(('name', 'kwargs'), CASES)
def test_gradients(name, kwargs):
    """Of the input and every parameter, against finite differences in float64."""
    layer = build(name, CHANNELS, **kwargs).double()
    x = image(CHANNELS, (6, 5), 1, dtype=torch.float64).requires_grad_()
    names = [key for key, _ in layer.named_parameters()]

    def run(x, *parameters):
        return functional_call(layer, dict(zip(names, parameters, strict=True)), x)

    assert torch.autograd.gradcheck(run, (x, *layer.parameters()), fast_mode=True)


@pytest.mark.parametrize(('name', 'kwargs'), CASES)
def test_fused_norms(name, kwargs):
    """mmcv fuses norms into the convolution before them, by order of the children."""
    from mmcv.cnn import fuse_conv_bn

    layer = build(name, CHANNELS, **kwargs).double()
    x = image(CHANNELS, (9, 6), dtype=torch.float64)
    with torch.no_grad():
        wanted = layer(x)
        fused = fuse_conv_bn(torch.nn.Sequential(layer))
        assert_near(fused(x), wanted, 1e-10)


@pytest.mark.parametrize(('name', 'kwargs'), CASES)
def test_every_parameter_learns(name, kwargs):
    layer = build(name, CHANNELS, **kwargs).double()
    x = image(CHANNELS, (6, 5), 2, dtype=torch.float64).requires_grad_()
    out = layer(x)
    (out * image(CHANNELS, (6, 5), 2, seed=9, dtype=torch.float64)).sum().backward()
    assert x.grad.abs().min() > 0
    still = [
        key for key, one in layer.named_parameters() if one.grad.abs().max() < 1e-12
    ]
    assert still == WITHOUT_GRADIENT.get(name, [])


@pytest.mark.parametrize(('name', 'kwargs'), CASES)
def test_leaves_its_input_alone(name, kwargs):
    """ReLUs in place must not reach the features that a shortcut also reads."""
    x = image(CHANNELS)
    before = x.clone()
    build(name, CHANNELS, **kwargs)(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(('name', 'kwargs'), CASES)
def test_channels_last(name, kwargs):
    layer = build(name, CHANNELS, **kwargs)
    x = image(CHANNELS, (6, 9))
    wanted = layer(x)
    layer.to(memory_format=torch.channels_last)
    assert_near(layer(x.to(memory_format=torch.channels_last)), wanted, 1e-5)


# mmcv's ContextBlock asks for a view of its input, which a slice has not.
@pytest.mark.parametrize('name', sorted({*LAYERS} - {'ContextBlock'}))
def test_slices_of_a_larger_map(name):
    """An input that is not contiguous gives what its copy gives."""
    layer = build(name, CHANNELS)
    x = image(2 * CHANNELS, (9, 12))[:, ::2, 1:8, 3:10]
    assert_near(layer(x), layer(x.contiguous()), 1e-5)


@pytest.mark.sweep(fast=2)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('name', LAYERS)
def test_autocast(name, dtype):
    """The output has the input's dtype; values differ as bfloat16 rounds."""
    layer = build(name, CHANNELS)
    x = image(CHANNELS, (6, 7)).to(dtype)
    wanted = layer(x.float())
    with torch.autocast('cpu', torch.bfloat16):
        got = layer(x)
    assert got.dtype == dtype
    assert_near(got, wanted, 0.03)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(('name', 'kwargs'), CASES)
def test_half_precision(name, kwargs, dtype):
    layer = build(name, CHANNELS, **kwargs)
    x = image(CHANNELS, (6, 7)).to(dtype)
    wanted = layer(x.float())
    got = layer.to(dtype)(x)
    assert got.dtype == dtype
    share = 0.01 if dtype == torch.float16 else 0.05
    assert_near(got, wanted, share)


@pytest.mark.sweep(fast=3)
@pytest.mark.parametrize(('name', 'kwargs'), CASES)
def test_compiles(name, kwargs):
    """In one graph, forward and backward."""
    layer = build(name, CHANNELS, **kwargs)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend='aot_eager', fullgraph=True)
    x = image(CHANNELS, (6, 7)).requires_grad_()
    wanted, got = layer(x), compiled(x)
    assert_near(got, wanted, 1e-5)
    weights = image(CHANNELS, (6, 7), seed=9)
    leaves = [x, *layer.parameters()]
    gradients = [
        torch.autograd.grad((out * weights).sum(), leaves) for out in (wanted, got)
    ]
    expected, found = (dict(enumerate(one)) for one in gradients)
    assert_near_gradients(found, expected, 1e-4)


@contextlib.contextmanager
def quiet():
    """Without what the exporter prints, logs and warns."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(before)


@pytest.mark.sweep(fast=5)
@pytest.mark.parametrize(('name', 'kwargs'), CASES)
def test_onnx(name, kwargs):
    """onnxruntime gives the same for an input that the exporter did not see."""
    pytest.importorskip('onnx')
    pytest.importorskip('onnxscript')
    runtime = pytest.importorskip('onnxruntime')
    layer = build(name, CHANNELS, **kwargs)
    file = io.BytesIO()
    with quiet():
        torch.onnx.export(
            layer,
            (image(CHANNELS, (6, 9)),),
            file,
            dynamo=True,
            opset_version=18,
            verbose=False,
        )
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(file.getvalue(), options)
    x = image(CHANNELS, (6, 9), seed=5)
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert_near(torch.from_numpy(got), layer(x), 1e-4)
