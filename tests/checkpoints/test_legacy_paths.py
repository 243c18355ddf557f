"""Whole test paths of MMDetection v1, written once more in plain numpy and PyTorch.

The heads' maps come from random weights; everything after them is computed twice.
"""

import math

import cv2
import numpy as np
import pytest
import torch

from eca_mmdet.catalog.configs import shipped_configs

pytestmark = pytest.mark.openmmlab

IMAGE, ORIGINAL, SCALE = (250, 312), (156, 195), 1.6


def anchors_of(stride, scales, shape):
    """Anchors of a level, cell by cell: centre 0.5 * (stride - 1), rounded corners."""
    base = []
    for ratio in (0.5, 1.0, 2.0):
        for scale in scales:
            w, h = stride * scale / math.sqrt(ratio), stride * scale * math.sqrt(ratio)
            c = 0.5 * (stride - 1)
            corners = (
                c - (w - 1) / 2,
                c - (h - 1) / 2,
                c + (w - 1) / 2,
                c + (h - 1) / 2,
            )
            base.append([float(np.round(np.float32(value))) for value in corners])
    cells = [(x, y) for y in range(shape[0]) for x in range(shape[1])]
    shifts = np.array([(x, y, x, y) for x, y in cells]) * stride
    return torch.tensor(
        (shifts[:, None] + np.array(base)[None]).reshape(-1, 4), dtype=torch.float32
    )


def decoded(boxes, offsets, stds=(1, 1, 1, 1)):
    offsets = offsets * torch.tensor(stds, dtype=torch.float32)
    limit = abs(math.log(16 / 1000))
    width = boxes[:, 2] - boxes[:, 0] + 1
    height = boxes[:, 3] - boxes[:, 1] + 1
    x = (boxes[:, 0] + boxes[:, 2]) / 2 + width * offsets[:, 0]
    y = (boxes[:, 1] + boxes[:, 3]) / 2 + height * offsets[:, 1]
    w = width * offsets[:, 2].clamp(-limit, limit).exp()
    h = height * offsets[:, 3].clamp(-limit, limit).exp()
    corners = (x - w / 2 + 0.5, y - h / 2 + 0.5, x + w / 2 - 0.5, y + h / 2 - 0.5)
    ends = (IMAGE[1] - 1, IMAGE[0] - 1) * 2
    return torch.stack(
        [c.clamp(0, end) for c, end in zip(corners, ends, strict=True)], dim=1
    )


def suppressed(boxes, scores, threshold):
    """Indices that stay, ascending; areas of inclusive corners."""
    boxes, order = boxes.numpy(), np.argsort(-scores.numpy(), kind='stable')
    areas = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    gone = np.zeros(len(boxes), bool)
    for place, i in enumerate(order):
        if gone[i]:
            continue
        rest = order[place + 1 :]
        low = np.maximum(boxes[i, :2], boxes[rest, :2])
        high = np.minimum(boxes[i, 2:], boxes[rest, 2:])
        inter = np.maximum(high - low + 1, 0).prod(axis=1)
        gone[rest[inter / (areas[i] + areas[rest] - inter) > threshold]] = True
    return np.nonzero(~gone)[0]


def by_class(boxes, scores, score_thr, most=100):
    """Rows (label, score, box) as v1 lists them; boxes: (N, 4) or (N, classes, 4)."""
    rows = []
    for label in range(scores.shape[1]):
        chosen = (scores[:, label] > score_thr).nonzero()[:, 0]
        own = (boxes if boxes.dim() == 2 else boxes[:, label])[chosen]
        for i in suppressed(own, scores[chosen, label], 0.5):
            rows.append((label, scores[chosen[i], label].item(), own[i]))
    if len(rows) > most:
        rows = sorted(rows, key=lambda row: -row[1])[:most]
    return rows


def check(found, rows):
    assert found.labels.tolist() == [row[0] for row in rows]
    scores = torch.tensor([row[1] for row in rows])
    torch.testing.assert_close(found.scores, scores, rtol=0, atol=1e-6)
    boxes = torch.stack([row[2] for row in rows])
    torch.testing.assert_close(found.bboxes, boxes, rtol=0, atol=2e-4)


@pytest.fixture
def sample(mmdet_ready):
    from mmdet.structures import DetDataSample

    return DetDataSample(
        metainfo=dict(
            img_shape=IMAGE,
            ori_shape=ORIGINAL,
            pad_shape=(256, 320),
            batch_input_shape=(256, 320),
            scale_factor=(SCALE, SCALE),
        )
    )


def model_of(name):
    from mmengine.config import Config

    return Config.fromfile(shipped_configs()[name]).model


def pyramid(channels, strides, mean, spread):
    return [
        torch.randn(1, channels, math.ceil(256 / s), math.ceil(320 / s)) * spread + mean
        for s in strides
    ]


@pytest.mark.parametrize('rescale', [False, True])
@pytest.mark.parametrize('score_thr', [0.05, 0.6])
def test_retinanet(sample, rescale, score_thr):
    """At 0.05 the best 100 by score; at 0.6 fewer, class by class."""
    from mmdet.registry import MODELS

    cfg = model_of('retinanet_r50_fpn_v1_coco')
    cfg.test_cfg.score_thr = score_thr
    head = MODELS.build(dict(cfg.bbox_head, num_classes=5, test_cfg=cfg.test_cfg))
    strides = (8, 16, 32, 64, 128)
    logits = pyramid(9 * 5, strides, -5, 1.5)
    offsets = pyramid(9 * 4, strides, 0, 0.3)
    (found,) = head.predict_by_feat(
        logits, offsets, None, [sample.metainfo], cfg.test_cfg, rescale=rescale
    )
    boxes, scores = [], []
    octaves = [4 * 2 ** (i / 3) for i in range(3)]
    for stride, level, moves in zip(strides, logits, offsets, strict=True):
        own = level[0].permute(1, 2, 0).reshape(-1, 5).sigmoid()
        moves = moves[0].permute(1, 2, 0).reshape(-1, 4)
        anchors = anchors_of(stride, octaves, level.shape[2:])
        if len(own) > 1000:
            best = own.max(dim=1)[0].topk(1000)[1]
            own, moves, anchors = own[best], moves[best], anchors[best]
        boxes.append(decoded(anchors, moves))
        scores.append(own)
    boxes = torch.cat(boxes) / (SCALE if rescale else 1)
    rows = by_class(boxes, torch.cat(scores), score_thr)
    assert len(rows) == 100 if score_thr == 0.05 else 0 < len(rows) < 100
    check(found, rows)


def test_proposals(sample):
    from mmdet.registry import MODELS

    cfg = model_of('mask-rcnn_r50_fpn_v1_coco')
    head = MODELS.build(dict(cfg.rpn_head, test_cfg=cfg.test_cfg.rpn))
    strides = (4, 8, 16, 32, 64)
    logits, offsets = pyramid(3, strides, 0, 2), pyramid(12, strides, 0, 0.3)
    (found,) = head.predict_by_feat(
        logits, offsets, None, [sample.metainfo], cfg.test_cfg.rpn
    )
    boxes, scores = [], []
    for stride, level, moves in zip(strides, logits, offsets, strict=True):
        own = level[0].permute(1, 2, 0).reshape(-1).sigmoid()
        moves = moves[0].permute(1, 2, 0).reshape(-1, 4)
        anchors = anchors_of(stride, [8], level.shape[2:])
        if len(own) > 1000:
            own, best = own.topk(1000)
            moves, anchors = moves[best], anchors[best]
        corners = decoded(anchors, moves)
        kept = suppressed(corners, own, 0.7)
        boxes.append(corners[kept])
        scores.append(own[kept])
    scores, best = torch.cat(scores).topk(1000)
    torch.testing.assert_close(found.scores, scores, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.bboxes, torch.cat(boxes)[best], rtol=0, atol=2e-4)


def pasted(probabilities, box, shape):
    mask = np.zeros(shape, bool)
    x1, y1, x2, y2 = (int(value) for value in box)
    width, height = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
    resized = cv2.resize(probabilities, (width, height))
    mask[y1 : y1 + height, x1 : x1 + width] = resized > 0.5
    return mask


@pytest.mark.parametrize('rescale', [False, True])
@pytest.mark.parametrize('score_thr', [0.05, 0.3])
def test_mask_rcnn(sample, rescale, score_thr):
    from mmdet.registry import MODELS
    from mmengine.structures import InstanceData

    cfg = model_of('mask-rcnn_r50_fpn_v1_coco')
    cfg.test_cfg.rcnn.score_thr = score_thr
    for part in (cfg.roi_head.bbox_head, cfg.roi_head.mask_head):
        part.num_classes = 4
    head = MODELS.build(dict(cfg.roi_head, train_cfg=None, test_cfg=cfg.test_cfg.rcnn))
    head.eval()
    features = tuple(pyramid(256, (4, 8, 16, 32), 0, 1))
    corners = torch.rand(60, 4) * 120
    corners[:, 2:] += corners[:, :2]
    with torch.no_grad():
        head.bbox_head.fc_cls.weight.mul_(15)
        head.bbox_head.fc_reg.weight.mul_(150)
        head.mask_head.conv_logits.weight.mul_(40)
        proposals = [InstanceData(bboxes=corners)]
        (found,) = head.predict(features, proposals, [sample], rescale=rescale)
        rois = torch.cat([torch.zeros(60, 1), corners], dim=1)
        logits, offsets = head.bbox_head(head.bbox_roi_extractor(features, rois))
        boxes = torch.stack(
            [
                decoded(corners, offsets[:, 4 * c : 4 * c + 4], (0.1, 0.1, 0.2, 0.2))
                for c in range(4)
            ],
            dim=1,
        )
        if rescale:
            boxes = boxes / SCALE
        rows = by_class(boxes, logits.softmax(dim=1)[:, :-1], score_thr)
        check(found, rows)
        large = found.bboxes * (SCALE if rescale else 1)
        rois = torch.cat([torch.zeros(len(large), 1), large], dim=1)
        maps = head.mask_head(head.mask_roi_extractor(features, rois)).sigmoid()
    shape = ORIGINAL if rescale else (round(156 * SCALE), round(195 * SCALE))
    wrong, foreground = 0, 0
    for i, label in enumerate(found.labels.tolist()):
        box = large[i].numpy() / np.float32(SCALE if rescale else 1)
        expected = pasted(maps[i, label].numpy(), box.astype(np.int32), shape)
        wrong += (found.masks[i].numpy() != expected).sum()
        foreground += expected.sum()
    assert foreground > 1000 and wrong <= 5 * found.masks.numel() / 100_000
    assert rows and len(rows) <= 100
