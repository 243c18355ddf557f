"""Compose the demo's config from the shipped ones and the command's choices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eca_mmdet.catalog.configs import config_root
from eca_mmdet.catalog.mechanisms import find_mechanism
from eca_mmdet.engine.config import load_config

FILES = {
    'faster': 'faster-rcnn_eca-r18-w16_fpn_shapes.py',
    'mask': 'mask-rcnn_eca-r18-w16_fpn_shapes.py',
    'retinanet': 'retinanet_eca-r18-w16_fpn_shapes.py',
}
TASKS = {'bbox': 'box AP', 'segm': 'mask AP'}
QUICK_ITERATIONS = 12
QUICK_SIZES = {'train': 32, 'val': 12}


def compose(
    detector: str, attention: str, depth: int, data_root: Path, seed: int
) -> Any:
    """Return the config of one demo run on a folder made by ``write_shapes``.

    ``detector`` is a key of ``FILES``; ``attention`` the key of a mechanism
    (:mod:`eca_mmdet.catalog.mechanisms`) or 'none'; ``depth`` 18 or 50; ``seed`` is for
    weights and sampling.
    """
    cfg = load_config(config_root() / 'demo' / FILES[detector])
    _set_backbone(cfg, attention, depth)
    for split, loader in (('train', 'train'), ('val', 'val'), ('val', 'test')):
        cfg[f'{loader}_dataloader'].dataset.data_root = f'{data_root}/'
        if loader != 'train':
            path = str(data_root / 'annotations' / f'{split}.json')
            cfg[f'{loader}_evaluator'].ann_file = path
    cfg.randomness = dict(seed=seed)
    cfg.launcher = 'none'
    return cfg


def _set_backbone(cfg: Any, attention: str, depth: int) -> None:
    """Choose the attention block and the depth; the width stays the config's."""
    backbone = cfg.model.backbone
    backbone.depth = depth
    expansion = 1 if depth == 18 else 4
    width = backbone.base_channels * expansion
    cfg.model.neck.in_channels = [width * 2**stage for stage in range(4)]
    if attention == 'eca':
        from eca_mmdet.catalog.architectures import RELEASED_KERNEL_SIZES

        backbone.kernel_sizes = RELEASED_KERNEL_SIZES[depth]
        return
    backbone.type = 'PluginResNet'
    backbone.pop('kernel_sizes')
    if attention != 'none':
        backbone.plugins = [find_mechanism(attention).plugin(depth, narrow=True)]


def shorten(cfg: Any) -> None:
    """Cut the run to a few iterations (``--quick``)."""
    cfg.train_cfg.max_iters = cfg.train_cfg.val_interval = QUICK_ITERATIONS
    cfg.default_hooks.checkpoint.interval = QUICK_ITERATIONS
    cfg.param_scheduler = []
    for loader in ('train', 'val', 'test'):
        cfg[f'{loader}_dataloader'].num_workers = 0
        cfg[f'{loader}_dataloader'].persistent_workers = False
