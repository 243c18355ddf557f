"""Several processes on one machine without an accelerator."""

from __future__ import annotations

from typing import Any


def start_processes_on_cpu(cfg: Any) -> None:
    """Join torchrun's processes through gloo where there is no accelerator.

    mmengine's own way asks for CUDA devices, also on a machine without any.
    """
    from mmengine.device import get_device
    from torch import distributed

    if cfg.launcher != 'pytorch' or get_device() != 'cpu':
        return
    if not distributed.is_initialized():
        distributed.init_process_group('gloo')
    wrapper = dict(
        type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False
    )
    cfg.setdefault('model_wrapper_cfg', wrapper)
