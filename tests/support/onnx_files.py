"""Tiny ONNX detectors: graphs that are worked out by hand."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

METADATA = {
    'format': 1,
    'eca_mmdet': '0.1.0',
    'part': 'all',
    'detector': 'MaskRCNN',
    'classes': ['big cat', 'Käfer', '龍'],
    'mean': [123.675, 116.28, 103.53],
    'std': [58.395, 57.12, 57.375],
    'to_rgb': True,
    'scale': [64, 48],
    'keep_ratio': True,
    'pad_divisor': 32,
    'pad_value': 0,
    'size': None,
    'mask_threshold': 0.5,
    'score_threshold': 0.05,
    'nms_iou': 0.5,
    'max_per_image': 100,
    'config': 'mask-rcnn_eca-r50',
    'checkpoint': 'epoch_12.pth',
    'checkpoint_sha256': '0' * 64,
}


def save(path, outputs, metadata=None, text=None, nodes=(), shape=(1, 3, 'H', 'W')):
    """Write a detector that gives the same for every image.

    Args:
        path: to write to.
        outputs: arrays by name, or None for one that ``nodes`` give.
        metadata: to put over ``METADATA``.
        text: in place of the whole metadata; '' for none.
        nodes: onnx nodes of ``images`` and ``sizes``.
        shape: of ``images``.
    """
    kinds = {'labels': TensorProto.INT64} | {
        name: helper.np_dtype_to_tensor_dtype(value.dtype)
        for name, value in outputs.items()
        if value is not None
    }
    ranks = {'boxes': 3, 'masks': 4}
    constants = [
        numpy_helper.from_array(value, f'{name}_value')
        for name, value in outputs.items()
        if value is not None
    ]
    same = [
        helper.make_node('Identity', [one.name], [one.name.removesuffix('_value')])
        for one in constants
    ]
    given = [
        helper.make_tensor_value_info('images', TensorProto.FLOAT, shape),
        helper.make_tensor_value_info('sizes', TensorProto.FLOAT, [1, 2]),
    ]
    found = [
        helper.make_tensor_value_info(
            name, kinds.get(name, TensorProto.FLOAT), [None] * ranks.get(name, 2)
        )
        for name in outputs
    ]
    graph = helper.make_graph([*nodes, *same], 'tiny', given, found, constants)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8
    )
    if text is None:
        most = {'max_per_image': max(1, outputs['labels'].shape[1])}
        text = json.dumps({**METADATA, **most, **(metadata or {})})
    if text:
        helper.set_model_props(model, {'eca_mmdet': text})
    onnx.save(model, str(path))
    return path


def objects(boxes, scores, labels, masks=None, places=None):
    """Return the outputs for objects of one image, with empty places after them."""
    count = len(scores)
    empty = (places or count) - count
    found = {
        'boxes': np.pad(np.float32(boxes).reshape(-1, 4), ((0, empty), (0, 0))),
        'scores': np.pad(np.float32(scores), (0, empty)),
        'labels': np.pad(np.int64(labels), (0, empty), constant_values=-1),
    }
    if masks is not None:
        found['masks'] = np.pad(
            np.float32(masks), ((0, empty), (0, 0), (0, 0)), constant_values=1
        )
    return {name: value[None] for name, value in found.items()}
