"""Small detectors with random weights, as checkpoints."""

from pathlib import Path

import torch

from eca_mmdet.demo import config

CLASSES = ('big cat', 'Käfer', '龍')


def build(detector, data, attention='eca'):
    """Return the demo's config and a detector that finds many objects."""
    from mmdet.registry import MODELS

    cfg = config.compose(detector, attention, 18, Path(data), 0)
    for loader in ('train', 'val', 'test'):
        cfg[f'{loader}_dataloader'].dataset.metainfo.classes = CLASSES
    if detector != 'retinanet':
        cfg.model.test_cfg.rcnn.max_per_img = 30  # masks take their time
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    if detector == 'retinanet':  # its bias makes all scores 0.01
        torch.nn.init.normal_(model.bbox_head.retina_cls.weight, std=0.3)
        torch.nn.init.zeros_(model.bbox_head.retina_cls.bias)
    else:
        torch.nn.init.normal_(model.roi_head.bbox_head.fc_cls.weight, std=0.1)
    return cfg, model


def save(path, detector, data, **meta):
    """Write a checkpoint as mmengine does in training; return its path."""
    cfg, model = build(detector, data)
    meta = {'cfg': cfg.pretty_text, 'dataset_meta': {'classes': CLASSES}} | meta
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, path)
    return path
