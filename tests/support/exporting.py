"""Detectors of random weights, and ONNX files run on any input."""

from pathlib import Path

import numpy as np
import torch

from tests.support import detectors
from tests.tolerances import matching_order


def save(folder, cfg, model, classes=('circle', 'square', 'triangle')):
    """Write config and checkpoint; return both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    cfg.dump(str(folder / 'mine.py'))
    meta = {'dataset_meta': {'classes': classes}}
    path = folder / 'mine.pth'
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, path)
    return folder / 'mine.py', path


def random_detector(kind, data):
    """Return a config and a detector of random weights whose scores differ."""
    cfg, model = detectors.build(kind, data)
    if kind == 'retinanet':
        torch.nn.init.normal_(model.bbox_head.retina_cls.weight, std=0.02)
    model.train(False)
    return cfg, model


def run(path, **arrays):
    """Return the outputs of a file by name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    source = path if isinstance(path, bytes) else str(path)
    session = onnxruntime.InferenceSession(
        source, options, providers=['CPUExecutionProvider']
    )
    inputs = {name: np.asarray(value) for name, value in arrays.items()}
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def batch(model, data, sizes, split='val', first=0):
    """Return inputs as the command's user makes them: (images, sizes), and samples."""
    import cv2
    from mmdet.structures import DetDataSample

    images, samples = [], []
    names = sorted(Path(data, split).iterdir())[first:]
    for name, (height, width) in zip(names, sizes, strict=False):
        image = cv2.resize(cv2.imread(str(name)), (width, height))
        images.append(torch.from_numpy(image).permute(2, 0, 1))
        size = (height, width)
        meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
        samples.append(DetDataSample(metainfo=meta))
    made = model.data_preprocessor({'inputs': images, 'data_samples': samples})
    shapes = torch.tensor(sizes, dtype=torch.float32)
    return made['inputs'], shapes, made['data_samples']


def assert_same_objects(found, model, images, samples, least=1):
    """Compare arrays of a file to mmdet's objects, one by one."""
    with torch.no_grad():
        wanted = model.predict(images, samples, rescale=True)
    total = 0
    for index, sample in enumerate(wanted):
        objects = sample.pred_instances
        count = len(objects)
        total += count
        rest = {name: values[index, count:] for name, values in found.items()}
        assert not rest['scores'].any() and not rest['boxes'].any()
        assert (rest['labels'] == -1).all()
        places = [found[name][index, :count] for name in ('boxes', 'labels')]
        order = matching_order(*places, objects.bboxes, objects.labels)
        own = {name: values[index, order] for name, values in found.items()}
        np.testing.assert_array_equal(own['labels'], objects.labels)
        np.testing.assert_allclose(own['scores'], objects.scores, atol=1e-4)
        np.testing.assert_allclose(own['boxes'], objects.bboxes, atol=2e-3)
        assert (np.diff(found['scores'][index]) <= 0).all()
        if 'masks' in found:
            logits = _mask_logits(model, images, index, objects)
            np.testing.assert_allclose(own['masks'], logits.sigmoid(), atol=1e-3)
            assert not rest['masks'].any()
    assert total >= least


def _mask_logits(model, images, index, objects):
    """Return mmdet's own masks before they are pasted, of each object's class."""
    with torch.no_grad():
        maps = model.extract_feat(images)
        regions = torch.cat(
            (torch.full((len(objects), 1), float(index)), objects.bboxes), 1
        )
        masks = model.roi_head._mask_forward(maps, regions)['mask_preds']
    return masks[torch.arange(len(objects)), objects.labels]
