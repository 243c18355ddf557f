"""Checks before work: the config, the model, its weights and the data."""

from __future__ import annotations

from typing import Any

from eca_mmdet.checkpoints.download import is_address
from eca_mmdet.checkpoints.io import read_checkpoint
from eca_mmdet.engine.config import require_sections
from eca_mmdet.engine.distributed import is_main_process
from eca_mmdet.engine.preflight.data import check_data
from eca_mmdet.engine.preflight.model import (
    check_backbone,
    check_backbone_weights,
    check_operators,
)


def check(cfg: Any, training: bool) -> None:
    """Run every check that reads no image; rank 0 does it for all.

    A detector that is loaded whole brings its backbone: ``init_cfg`` is then dropped,
    since mmengine would still read the backbone's own file first.

    Raises:
        UserError: the first fault.
    """
    require_sections(cfg, training)
    start = cfg.get('load_from')
    if start and cfg.model.get('backbone'):
        cfg.model.backbone.init_cfg = None
    if not is_main_process():
        return
    backbone = check_backbone(cfg)
    check_operators(cfg)
    if training and not start:
        check_backbone_weights(cfg, backbone)
    elif training and not is_address(str(start)):
        read_checkpoint(start)
    check_data(cfg, training)
