"""Deterministic weights / input / fixed RoIs shared by the v1 recorder (py3.7,
torch 1.4, numpy 1.19) and the v3 comparer (py3.11, torch 2.x, numpy 2.x).

Every tensor is a pure function of (seed, key name, shape): no order dependence,
no torch RNG. Only numpy + zlib are needed.
"""

import hashlib
import json
import zlib
from collections import OrderedDict

import numpy as np

SEED = 20200301
IMG_SHAPE = (250, 312, 3)  # content; the rest of the 256x320 tensor is zero padding
PAD_SHAPE = (256, 320, 3)
SCALE_FACTOR = 1.6  # v1: ONE float (exactly representable enough, same in v3)
ORI_SHAPE = (156, 195, 3)
ECA_K = {
    'faster_rcnn': (5, 5, 5, 5),
    'mask_rcnn': (3, 3, 7, 7),
    'retinanet': (3, 3, 7, 7),
}
MEAN = np.array([123.675, 116.28, 103.53], dtype=np.float32)
STD = np.array([58.395, 57.12, 57.375], dtype=np.float32)


def rng_for(*parts):
    return np.random.default_rng(
        [SEED] + [p if isinstance(p, int) else zlib.crc32(p.encode()) for p in parts]
    )


def _fan_in(shape):
    f = 1
    for s in shape[1:]:
        f *= s
    return f


def make_tensor(model, key, shape):
    """numpy array for one v1 state_dict entry."""
    rng = rng_for(model, key)
    shape = tuple(shape)
    leaf = key.rsplit('.', 1)[-1]
    if leaf == 'num_batches_tracked':
        return np.array(90000, dtype=np.int64)
    n = rng.standard_normal(shape).astype(np.float32)
    u = rng.random(shape).astype(np.float32)
    if leaf == 'running_mean':
        return (0.3 * n).astype(np.float32)
    if leaf == 'running_var':
        return (0.6 + 0.8 * u).astype(np.float32)
    is_bn = '.bn' in key or key.endswith(('downsample.1.weight', 'downsample.1.bias'))
    if is_bn:
        # the residual branch (bn3) is damped, the sum of 16 blocks stays O(1)
        gain = 0.35 if '.bn3.' in key else (0.6 if 'downsample.1' in key else 0.9)
        if leaf == 'weight':
            return (gain * (0.6 + 0.8 * u)).astype(np.float32)
        return (0.15 * n).astype(np.float32)
    if '.eca.conv.weight' in key:
        return (3.0 * n).astype(np.float32)
    if leaf == 'bias':
        b = BIAS_STD.get(_head(key), 0.05)
        out = (b * n).astype(np.float32)
        if key.endswith('bbox_head.fc_cls.bias'):
            out[0] += 4.0  # v1 background is index 0
        if key.endswith('bbox_head.retina_cls.bias'):
            out += np.float32(RETINA_PRIOR)
        return out
    std = GAIN.get(_head(key), 1.0) * np.sqrt(2.0 / _fan_in(shape))
    if (
        key == 'mask_head.upsample.weight'
    ):  # ConvTranspose2d weight is (in, out, kh, kw)
        std = np.sqrt(2.0 / shape[0])
    if key == 'backbone.conv1.weight':
        std = np.sqrt(1.0 / _fan_in(shape))
    return np.float32(std) * n


RETINA_PRIOR = -6.0
GAIN = {
    'lateral': 0.7,
    'fpn': 0.7,
    'rpn_conv': 1.0,
    'rpn_cls': 1.5,
    'rpn_reg': 0.25,
    'fc_cls': 1.6,
    'fc_reg': 1.0,
    'shared': 1.0,
    'conv_logits': 1.5,
    'retina_cls': 1.2,
    'retina_reg': 0.4,
    'tower': 1.0,
}
BIAS_STD = {
    'rpn_cls': 0.5,
    'rpn_reg': 0.1,
    'fc_cls': 0.7,
    'fc_reg': 0.5,
    'conv_logits': 0.5,
    'retina_cls': 0.5,
    'retina_reg': 0.1,
}


def _head(key):
    for name, tok in (
        ('lateral', 'neck.lateral'),
        ('fpn', 'neck.fpn'),
        ('rpn_conv', 'rpn_conv'),
        ('rpn_cls', 'rpn_cls'),
        ('rpn_reg', 'rpn_reg'),
        ('fc_cls', 'fc_cls'),
        ('fc_reg', 'fc_reg'),
        ('shared', 'shared_fcs'),
        ('conv_logits', 'conv_logits'),
        ('retina_cls', 'retina_cls'),
        ('retina_reg', 'retina_reg'),
        ('tower', '_convs.'),
    ):
        if tok in key:
            return name
    return 'other'


def make_state(model, spec, calib=None):
    """spec: iterable of (key, shape, dtype) in v1 order -> OrderedDict of numpy arrays.

    calib: {'gain:<weight key>': 0-d fp32, 'bias:<bias key>': fp32 vector} stored in the
    golden npz; it centres the heads' pre-activations so that scores differ between boxes.
    """
    calib = calib or {}
    out = OrderedDict()
    for key, shape, dtype in spec:
        a = make_tensor(model, key, shape)
        if 'gain:' + key in calib:
            a = a * np.float32(calib['gain:' + key])
        if 'bias:' + key in calib:
            a = np.asarray(calib['bias:' + key], dtype=np.float32)
        assert a.shape == tuple(shape), (key, a.shape, shape)
        out[key] = a
    return out


def state_hash(state):
    h = hashlib.sha256()
    for k, a in state.items():
        h.update(k.encode())
        h.update(np.ascontiguousarray(a).tobytes())
    return h.hexdigest()


def make_image_u8():
    """Image-like uint8 HxWx3, integer arithmetic only (exact everywhere)."""
    H, W = IMG_SHAPE[:2]
    rng = rng_for('image')
    acc = np.zeros((H, W, 3), dtype=np.int64)
    wsum = 0
    for cell, wt in ((64, 6), (32, 4), (16, 3), (8, 2), (2, 1)):
        gh, gw = H // cell + 2, W // cell + 2
        g = rng.integers(0, 256, size=(gh, gw, 3)).astype(np.int64)
        ys, xs = np.arange(H), np.arange(W)
        y0, x0 = ys // cell, xs // cell
        fy, fx = (ys % cell)[:, None, None], (xs % cell)[None, :, None]
        v = (
            g[y0][:, x0] * (cell - fy) * (cell - fx)
            + g[y0][:, x0 + 1] * (cell - fy) * fx
            + g[y0 + 1][:, x0] * fy * (cell - fx)
            + g[y0 + 1][:, x0 + 1] * fy * fx
        ) // (cell * cell)
        acc += wt * v
        wsum += wt
    img = acc // wsum
    # a few hard-edged rectangles
    for _ in range(12):
        y, x = int(rng.integers(0, H - 8)), int(rng.integers(0, W - 8))
        h, w = int(rng.integers(6, 120)), int(rng.integers(6, 120))
        img[y : y + h, x : x + w] = (
            img[y : y + h, x : x + w] + 3 * rng.integers(0, 256, size=3)
        ) // 4
    return img.astype(np.uint8)


def make_input():
    """1x3x256x320 fp32, normalised, zero padded at right/bottom (v1: Normalize then Pad)."""
    img = (make_image_u8().astype(np.float32) - MEAN) / STD
    out = np.zeros((1, 3) + PAD_SHAPE[:2], dtype=np.float32)
    out[0, :, : IMG_SHAPE[0], : IMG_SHAPE[1]] = img.transpose(2, 0, 1)
    return out


def make_rois():
    """Fixed RoIs (n,5) in v1's inclusive coordinates, covering FPN-level edges and tiny boxes."""
    rng = rng_for('rois')
    H, W = IMG_SHAPE[:2]
    r = []
    for _ in range(40):
        w = float(np.exp(rng.uniform(np.log(4), np.log(W))))
        h = float(np.exp(rng.uniform(np.log(4), np.log(H))))
        x = float(rng.uniform(0, max(W - w, 1)))
        y = float(rng.uniform(0, max(H - h, 1)))
        r.append([x, y, min(x + w, W - 1), min(y + h, H - 1)])
    # level boundary of SingleRoIExtractor: sqrt((w+1)(h+1)) = 112 and 224, and just off it
    for s in (110.5, 111.0, 111.5, 112.0, 222.5, 223.0, 223.5, 224.0):
        r.append([10.25, 5.5, 10.25 + s, 5.5 + s])
    r += [
        [0, 0, W - 1, H - 1],
        [0, 0, 0, 0],
        [100.5, 80.25, 100.5, 80.25],
        [50, 60, 50.5, 60.25],
        [W - 1, H - 1, W - 1, H - 1],
        [W - 3.5, 20, W - 1, 22.75],
        [200, 100, 199.5, 99.5],
        [20, 30, 27, 37],
        [0, 100, 15, 103],
        [150.125, 0, 153.5, 200],
        # level 3 needs sqrt((w+1)(h+1)) >= 448: RoIs larger than the feature map
        [0, 0, 446.5, 446.5],
        [0, 0, 447, 447],
        [4.5, 2.25, 560.75, 480.5],
        [-6.5, -3.25, 60, 40],
    ]
    r = np.array(r, dtype=np.float32)
    return np.concatenate([np.zeros((len(r), 1), np.float32), r], axis=1)


def load_spec(path):
    with open(path) as f:
        d = json.load(f)
    return [(k, tuple(s), t) for k, s, t in d['state_dict']], d


def stats(a):
    a = np.asarray(a, dtype=np.float64)
    return np.array([a.mean(), a.std(), a.min(), a.max(), np.abs(a).sum()])
