"""The processes of a run: those that torchrun joins, and those that load data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
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


@contextlib.contextmanager
def ending_workers(runner: Any) -> Iterator[None]:
    """Let the data loaders' processes end by themselves after the block.

    mmengine leaves them to the end of the program, where Python kills them, and each
    killed one leaves a socket in the folder of temporary files. In a program that goes
    on they stay until garbage is collected, which then waits five seconds for each.

    Args:
        runner: mmengine's; it can run again, with new processes.
    """
    try:
        yield
    finally:
        for name in ('_train_loop', '_val_loop', '_test_loop'):
            loop = getattr(runner, name, None)
            loader: Any = getattr(loop, 'dataloader', None)
            for holder in (loader, getattr(loop, 'dataloader_iterator', None)):
                _end_workers(getattr(holder, '_iterator', None))
            if hasattr(loader, '_iterator'):
                loader._iterator = None  # else the next loop would wait for them


def _end_workers(iterator: Any) -> None:
    """Shut down PyTorch's iterator over a loader, if it has processes."""
    if hasattr(iterator, '_shutdown_workers'):
        iterator._shutdown_workers()
