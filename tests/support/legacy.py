"""MMDetection v1: its names of tensors, and its boxes, whose corners are inclusive."""

import torch


def as_v1(state, classes):
    """The inverse of the conversion, for a detector of this package's demo."""
    old = {}
    for key, value in state.items():
        name = key.removeprefix('roi_head.')
        layer = key.split('.')[-2]
        if layer == 'fc_cls':
            value = torch.cat([value[-1:], value[:-1]])
        elif layer in ('fc_reg', 'conv_logits') and key.startswith('roi_head.'):
            rows = 4 if layer == 'fc_reg' else 1
            value = torch.cat([torch.zeros(rows, *value.shape[1:]), value])
        old[name] = value
    return old


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32)


def inclusive_iou(a, b):
    a, b = a.tolist(), b.tolist()
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    inter = max(width, 0) * max(height, 0)
    areas = sum((c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b))
    return inter / (areas - inter)
