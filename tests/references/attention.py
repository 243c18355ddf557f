"""Every attention layer as its paper writes it, in float64 numpy.

A reference takes the map (N, C, H, W) and the layer's state dict as arrays, and returns
the output. ``training`` uses the batch's statistics. No torch, and none of the layers'
code; convolutions and pools are loops.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

FCA_FREQUENCIES = ((0, 0), (0, 1), (6, 0), (0, 5), (0, 2), (1, 0), (1, 2), (4, 0)) + (
    (5, 0),
    (1, 6),
    (3, 0),
    (0, 4),
    (0, 6),
    (0, 3),
    (3, 5),
    (2, 2),
)  # cfzd/FcaNet, get_freq_indices('top16'): (row, column)


def sigmoid(u):
    return 1 / (1 + np.exp(-u))


def relu(u):
    return np.where(u > 0, u, 0)


def softmax(u, axis):
    shifted = np.exp(u - u.max(axis, keepdims=True))
    return shifted / shifted.sum(axis, keepdims=True)


def linear(y, p, name):
    """(N, C) by the rows of a weight; a bias if the layer has one."""
    return y @ p[f'{name}.weight'].T + p.get(f'{name}.bias', 0)


def pointwise(x, p, name):
    """A 1x1 convolution."""
    weight = p[f'{name}.weight'][:, :, 0, 0]
    bias = p.get(f'{name}.bias', np.zeros(len(weight)))
    return np.einsum('oc,nchw->nohw', weight, x) + bias[:, None, None]


def conv2d(x, p, name, stride=1, padding=0, dilation=1, groups=1):
    """Sum over the kernel's taps of the zero-padded map, shifted by the tap."""
    weight = p[f'{name}.weight']
    outputs, inputs, kh, kw = weight.shape
    n, c, h, w = x.shape
    assert inputs * groups == c
    padded = np.zeros((n, c, h + 2 * padding, w + 2 * padding))
    padded[:, :, padding : padding + h, padding : padding + w] = x
    rows = (h + 2 * padding - dilation * (kh - 1) - 1) // stride + 1
    columns = (w + 2 * padding - dilation * (kw - 1) - 1) // stride + 1
    out = np.zeros((n, outputs, rows, columns))
    for o in range(outputs):
        group = o // (outputs // groups)
        for i in range(inputs):
            source = padded[:, group * inputs + i]
            for s in range(kh):
                for t in range(kw):
                    top, left = s * dilation, t * dilation
                    out[:, o] += (
                        weight[o, i, s, t]
                        * source[
                            :,
                            top : top + stride * rows : stride,
                            left : left + stride * columns : stride,
                        ][:, :rows, :columns]
                    )
    if f'{name}.bias' in p:
        out += p[f'{name}.bias'][:, None, None]
    return out


def batch_norm(x, p, name, training, eps=1e-5):
    """Normalise axis 1, by the running statistics or by the batch's."""
    shape = (1, -1) + (1,) * (x.ndim - 2)
    if training:
        axes = (0, *range(2, x.ndim))
        mean, variance = x.mean(axes), x.var(axes)
    else:
        mean, variance = p[f'{name}.running_mean'], p[f'{name}.running_var']
    scale = p[f'{name}.weight'] / np.sqrt(variance + eps)
    return (x - mean.reshape(shape)) * scale.reshape(shape) + p[f'{name}.bias'].reshape(
        shape
    )


def channels(factors):
    """(N, C) to (N, C, 1, 1)."""
    return factors[:, :, None, None]


def means(x):
    return x.sum((2, 3)) / (x.shape[2] * x.shape[3])


# ECA-Net, arXiv:1910.03151: the gate is sigma(W y).


def se_var1(x, p, training=False):
    return x * channels(sigmoid(means(x)))


def se_var2(x, p, training=False):
    return x * channels(sigmoid(p['weight'] * means(x)))


def se_var3(x, p, training=False):
    return x * channels(sigmoid(means(x) @ p['fc.weight'].T))


def se_gc(groups):
    """W is block-diagonal with this many blocks."""

    def reference(x, p, training=False):
        c = x.shape[1]
        size = c // groups
        full = np.zeros((c, c))
        for group in range(groups):
            block = slice(group * size, (group + 1) * size)
            full[block, block] = p['conv.weight'][block, :, 0]
        return x * channels(sigmoid(means(x) @ full.T))

    return reference


def _band(c, row, circular=False):
    """W of a band: ``row(channel)`` are the k weights around the diagonal."""
    full = np.zeros((c, c))
    for channel in range(c):
        weights = row(channel)
        for tap, weight in enumerate(weights):
            source = channel + tap - (len(weights) - 1) // 2
            if circular:
                full[channel, source % c] += weight
            elif 0 <= source < c:
                full[channel, source] += weight
    return full


def eca(circular=False):
    def reference(x, p, training=False):
        weight = p['conv.weight'].ravel()
        full = _band(x.shape[1], lambda _: weight, circular)
        return x * channels(sigmoid(means(x) @ full.T))

    return reference


def eca_ns(x, p, training=False):
    full = _band(x.shape[1], lambda channel: p['weight'][channel])
    return x * channels(sigmoid(means(x) @ full.T))


# Squeeze-and-Excitation, arXiv:1709.01507.


def se(x, p, training=False):
    hidden = relu(linear(means(x), p, 'fc.0'))
    return x * channels(sigmoid(linear(hidden, p, 'fc.2')))


# CBAM, arXiv:1807.06521, equations 1 to 3, and the norm of the authors' code.


def cbam(x, p, training=False):
    def mlp(y):
        return linear(relu(linear(y, p, 'fc.0')), p, 'fc.2')

    flat = x.reshape(*x.shape[:2], -1)
    refined = x * channels(sigmoid(mlp(flat.mean(2)) + mlp(flat.max(2))))
    maps = np.stack([refined.mean(1), refined.max(1)], 1)
    map_ = conv2d(maps, p, 'conv', padding=p['conv.weight'].shape[-1] // 2)
    return refined * sigmoid(batch_norm(map_, p, 'bn', training))


# BAM, arXiv:1807.06514, equations 1 to 4: F + F * sigma(Mc + Ms).


def bam(dilation=4):
    def reference(x, p, training=False):
        one = linear(relu(linear(means(x), p, 'channels.0')), p, 'channels.2')
        one = batch_norm(one, p, 'channels.3', training)
        two = relu(pointwise(x, p, 'positions.0'))
        for name in ('positions.2', 'positions.4'):
            two = relu(conv2d(two, p, name, padding=dilation, dilation=dilation))
        two = batch_norm(pointwise(two, p, 'positions.6'), p, 'positions.7', training)
        return x + x * sigmoid(channels(one) + two)

    return reference


# Gather-Excite, arXiv:1810.12348.


def _nearest(y, height, width):
    out = np.empty((*y.shape[:2], height, width))
    for i in range(height):
        for j in range(width):
            out[:, :, i, j] = y[:, :, i * y.shape[2] // height, j * y.shape[3] // width]
    return out


def ge_theta_minus(extent):
    """Means of (2e - 1)^2 neighbours, e apart; those outside the map do not count."""

    def reference(x, p, training=False):
        if extent == 0:
            return x * channels(sigmoid(means(x)))
        n, c, h, w = x.shape
        gathered = np.empty((n, c, -(-h // extent), -(-w // extent)))
        for i in range(gathered.shape[2]):
            for j in range(gathered.shape[3]):
                top, left = extent * i, extent * j
                gathered[:, :, i, j] = x[
                    :,
                    :,
                    max(0, top - extent + 1) : top + extent,
                    max(0, left - extent + 1) : left + extent,
                ].mean((2, 3))
        return x * sigmoid(_nearest(gathered, h, w))

    return reference


def _gather(x, p, prefix, extent, training):
    steps = round(math.log2(extent))
    for step in range(steps):
        name = f'{prefix}{3 * step}'
        x = conv2d(x, p, name, stride=2, padding=1, groups=x.shape[1])
        x = batch_norm(x, p, f'{prefix}{3 * step + 1}', training)
        if step < steps - 1:
            x = relu(x)
    return x


def ge_theta(extent):
    def reference(x, p, training=False):
        gathered = _gather(x, p, 'gather.', extent, training)
        return x * sigmoid(_nearest(gathered, *x.shape[2:]))

    return reference


def ge_theta_plus(extent):
    def reference(x, p, training=False):
        gathered = _gather(x, p, 'gather.', extent, training)
        last = 3 * round(math.log2(extent)) - 1
        hidden = relu(pointwise(relu(gathered), p, f'gather.{last}.1'))
        gate = sigmoid(pointwise(hidden, p, f'gather.{last}.3'))
        return x * _nearest(gate, *x.shape[2:])

    return reference


# A2-Nets, arXiv:1810.11579, equation 6: positions are gathered, then handed out.


def double_attention(x, p, training=False):
    n, _, h, w = x.shape
    a, b, v = (
        pointwise(x, p, name).reshape(n, -1, h * w)
        for name in ('features', 'gather', 'distribute')
    )
    weights, shares = softmax(b, 2), softmax(v, 1)
    z = np.zeros_like(a)
    for i in range(n):
        descriptors = a[i] @ weights[i].T  # m x n
        for position in range(h * w):
            z[i, :, position] = descriptors @ shares[i, :, position]
    out = pointwise(z.reshape(n, -1, h, w), p, 'out')
    return x + batch_norm(out, p, 'bn', training)


# GSoP, arXiv:1811.12006, with the order and the biases of the authors' ``chan_att``.


def gsop(x, p, training=False):
    y = relu(batch_norm(pointwise(relu(x), p, 'reduce.1'), p, 'reduce.2', training))
    n, d = y.shape[:2]
    covariance = np.stack([np.cov(one.reshape(d, -1), bias=True) for one in y])
    covariance = covariance.reshape(n, d, d)
    rows = batch_norm(covariance, p, 'row_bn', training)
    weight, bias = p['row_conv.weight'][:, 0, :, 0], p['row_conv.bias']
    values = np.empty((n, 4 * d))
    for row in range(d):
        for k in range(4 * row, 4 * row + 4):
            values[:, k] = rows[:, row] @ weight[k] + bias[k]
    gate = values @ p['fc.weight'][:, :, 0, 0].T + p['fc.bias']
    return x * channels(sigmoid(gate))


# FcaNet, arXiv:2012.11879, equations 2 and 7, frequencies on a 7 x 7 grid.


def _adaptive_mean(x, size):
    h, w = x.shape[2:]
    out = np.empty((*x.shape[:2], size, size))
    for i in range(size):
        rows = slice(i * h // size, -(-(i + 1) * h // size))
        for j in range(size):
            columns = slice(j * w // size, -(-(j + 1) * w // size))
            out[:, :, i, j] = x[:, :, rows, columns].mean((2, 3))
    return out


def fca_filters(c, size, frequencies):
    """(C, size, size); each factor is kept in single precision, as buffers are."""

    def wave(u):
        frequency = u * size // 7
        scale = math.sqrt((1 if frequency == 0 else 2) / size)
        values = [
            scale * math.cos(math.pi * frequency * (position + 0.5) / size)
            for position in range(size)
        ]
        return np.float32(values).astype(np.float64)

    filters = np.empty((c, size, size))
    for channel in range(c):
        u, v = FCA_FREQUENCIES[channel * frequencies // c]
        filters[channel] = np.outer(wave(u), wave(v))
    return filters


def fca(size, frequencies=16):
    def reference(x, p, training=False):
        filters = fca_filters(x.shape[1], size, frequencies)
        y = (_adaptive_mean(x, size) * filters).sum((2, 3))
        hidden = relu(linear(y, p, 'fc.0'))
        return x * channels(sigmoid(linear(hidden, p, 'fc.2')))

    return reference


# GCNet, arXiv:1904.11492, equation 4 and figure 4d.


def global_context(x, p, training=False):
    n, c, h, w = x.shape
    attention = softmax(pointwise(x, p, 'conv_mask').reshape(n, h * w), 1)
    context = np.einsum('ncp,np->nc', x.reshape(n, c, h * w), attention)
    y = context @ p['channel_add_conv.0.weight'][:, :, 0, 0].T
    y = y + p['channel_add_conv.0.bias']
    y = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 1e-5)
    y = y * p['channel_add_conv.1.weight'].ravel()
    y = relu(y + p['channel_add_conv.1.bias'].ravel())
    y = y @ p['channel_add_conv.3.weight'][:, :, 0, 0].T + p['channel_add_conv.3.bias']
    return x + channels(y)


# Non-local, arXiv:1711.07971, equations 1, 4 and 6; mmcv scales as in a transformer.


def non_local(x, p, training=False):
    n, _, h, w = x.shape
    g, theta, phi = (
        pointwise(x, p, f'{name}.conv').reshape(n, -1, h * w)
        for name in ('g', 'theta', 'phi')
    )
    y = np.empty_like(g)
    for i in range(n):
        for position in range(h * w):
            similar = theta[i, :, position] @ phi[i] / math.sqrt(len(theta[i]))
            y[i, :, position] = g[i] @ softmax(similar, 0)
    return x + pointwise(y.reshape(n, -1, h, w), p, 'conv_out.conv')


class Layer(NamedTuple):
    """What the papers say of a layer.

    Attributes:
        output: of the channels and the arguments that differ from the defaults: a
            function of a map and the layer's arrays.
        weights: number of weights of C channels, biases and norms not counted, with
            the default arguments.
        ratio: r, where the layer reduces the channels to C / r inside; None if not.
        interacts: a factor depends on other channels than its own.
    """

    output: Callable
    weights: Callable
    ratio: int | None = None
    interacts: bool = True


def _kernel_size(c):
    """The odd number that psi gives: 3, 5, 5, 5, 5, 7 for 64 to 2048."""
    return {6: 3, 7: 5, 8: 5, 9: 5, 10: 5, 11: 7}[round(math.log2(c))]


def _gsop_weights(c):
    d = 128 if c >= 256 else c // 2
    return (c + 4 * d + 4 * c) * d


LAYERS = {
    'SqueezeExcite': Layer(lambda c, **_: se, lambda c: 2 * c**2 // 16, 16),
    'SEVar1': Layer(lambda c: se_var1, lambda c: 0, interacts=False),
    'SEVar2': Layer(lambda c: se_var2, lambda c: c, interacts=False),
    'SEVar3': Layer(lambda c: se_var3, lambda c: c**2),
    'SEGC1': Layer(lambda c, groups=16: se_gc(groups), lambda c: c**2 // 16),
    'SEGC2': Layer(lambda c, group_size=16: se_gc(c // group_size), lambda c: 16 * c),
    'SEGC3': Layer(lambda c, group_size=8: se_gc(c // group_size), lambda c: 8 * c),
    'ECANS': Layer(lambda c, **_: eca_ns, lambda c: _kernel_size(c) * c),
    'ECALayer': Layer(lambda c, circular=False, **_: eca(circular), _kernel_size),
    'CBAM': Layer(lambda c, **_: cbam, lambda c: 2 * c**2 // 16 + 2 * 7**2, 16),
    'BAM': Layer(
        lambda c, dilation=4, **_: bam(dilation),
        lambda c: c // 16 * (3 * c + 2 * 9 * c // 16 + 1),
        16,
    ),
    'ContextBlock': Layer(
        lambda c, **_: global_context, lambda c: 2 * c**2 // 16 + c, 16
    ),
    'GEThetaMinus': Layer(
        lambda c, extent=0: ge_theta_minus(extent), lambda c: 0, interacts=False
    ),
    'GETheta': Layer(
        lambda c, extent=8: ge_theta(extent), lambda c: 9 * c * 3, interacts=False
    ),
    'GEThetaPlus': Layer(
        lambda c, extent=8, **_: ge_theta_plus(extent),
        lambda c: 9 * c * 3 + 2 * c**2 // 16,
        16,
    ),
    'DoubleAttention': Layer(lambda c, **_: double_attention, lambda c: c**2, 4),
    'GSoP': Layer(lambda c, **_: gsop, _gsop_weights, 2),
    'NonLocal2d': Layer(lambda c, **_: non_local, lambda c: 2 * c**2, 2),
    'FcaNet': Layer(
        lambda c, size=7, frequencies=16, **_: fca(size, frequencies),
        lambda c: 2 * c**2 // 16,
        16,
    ),
}
"""By the ``type`` of the layer."""
