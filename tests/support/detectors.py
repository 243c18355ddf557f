"""Small detectors with random weights, as checkpoints."""

from pathlib import Path

import torch

from eca_mmdet.demo import run as demo

CLASSES = ('big cat', 'Käfer', '龍')


def build(detector, data, attention='eca'):
    """Return the demo's config and a detector that finds many objects."""
    from mmdet.registry import MODELS

    cfg = demo.compose(detector, attention, 18, Path(data), 0)
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


def pure_python(cfg):
    """Return a config as text in mmengine's pure-Python form: types are classes."""
    import mmcv.ops
    import mmdet.registry
    import mmengine.registry
    import torch

    others = {'BN': torch.nn.BatchNorm2d, 'SGD': torch.optim.SGD}
    lines, found = [], {}

    def find(name):
        for package in (mmdet.registry, mmengine.registry):
            for label, registry in vars(package).items():
                own = isinstance(registry, mmengine.registry.Registry)
                if own and not label.startswith('MMENGINE_'):  # mmdet's come first
                    registry.import_from_location()
                    if name in registry.module_dict:
                        return registry.module_dict[name]
        return getattr(mmcv.ops, name)

    def write(value):
        if isinstance(value, dict):
            pairs = ((key, write(item)) for key, item in value.items() if key != 'type')
            words = [f'{key!r}: {text}' for key, text in pairs]
            if isinstance(value.get('type'), str):
                kind = others.get(value['type']) or find(value['type'])
                found[kind.__name__] = f'from {kind.__module__} import {kind.__name__}'
                words.insert(0, f"'type': {kind.__name__}")
            return f'{{{", ".join(words)}}}'
        if isinstance(value, (list, tuple)):
            items = ''.join(f'{write(item)}, ' for item in value)
            return f'[{items}]' if isinstance(value, list) else f'({items})'
        return repr(value)

    values = cfg.to_dict() | {'default_scope': None}
    for key in ('custom_imports', 'launcher'):
        values.pop(key, None)
    lines = [f'{key} = {write(value)}' for key, value in values.items()]
    return '\n'.join((*found.values(), *lines))
