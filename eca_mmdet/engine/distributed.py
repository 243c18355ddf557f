"""Distributed launch, rendezvous, teardown, lost peers, and ending of workers."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eca_mmdet import compat
from eca_mmdet.utils.errors import RunError, UserError

TIMEOUT_S = 600  # NCCL's own; gloo would wait half an hour

# What each launcher sets: rank, number of processes, rank on the machine.
VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': (
        'OMPI_COMM_WORLD_RANK',
        'OMPI_COMM_WORLD_SIZE',
        'OMPI_COMM_WORLD_LOCAL_RANK',
    ),
}
_NEEDED = {
    'pytorch': (*VARIABLES['pytorch'], 'MASTER_ADDR', 'MASTER_PORT'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'),
    'mpi': (*VARIABLES['mpi'], 'MASTER_ADDR'),
}
_STARTED_BY = {
    'pytorch': 'torchrun --nproc_per_node N -m eca_mmdet.cli train NAME',
    'slurm': 'srun --ntasks N eca-mmdet train NAME',
    'mpi': 'mpirun -n N -x MASTER_ADDR=HOST eca-mmdet train NAME',
}


def require_launcher(launcher: str) -> None:
    """Check that a launcher started this process."""
    if launcher == 'none':
        return
    if launcher not in _NEEDED:
        raise UserError(
            f'launcher must be none, {", ".join(_NEEDED)}; got {launcher!r}.',
            code='option-invalid',
        )
    missing = [name for name in _NEEDED[launcher] if not os.environ.get(name)]
    wrong = [
        f'{name}={os.environ[name]!r}'
        for name in VARIABLES[launcher]
        if os.environ.get(name) and not os.environ[name].isdecimal()
    ]
    if missing or wrong:
        fault = f'{missing[0]} is not set' if missing else f'{wrong[0]} is not a number'
        raise UserError(
            f'--launcher {launcher}: {fault}. Its processes are started like this: '
            f'{_STARTED_BY[launcher]} --launcher {launcher} (docs/scale.md).',
            code='option-conflict',
        )
    if launcher == 'mpi':
        # mmengine picks the device by Open MPI's variable, and wraps the model by this.
        os.environ['LOCAL_RANK'] = os.environ['OMPI_COMM_WORLD_LOCAL_RANK']


def is_main_process() -> bool:
    """Return whether this is rank 0 or the only process, also before they connect."""
    ranks = (os.environ.get(names[0]) for names in VARIABLES.values())
    return int(next((rank for rank in ranks if rank is not None), 0)) == 0


def count_processes(launcher: str) -> int:
    """Return the number of processes of this job."""
    if launcher == 'none':
        return 1
    return int(os.environ.get(VARIABLES[launcher][1]) or 1)


def unwrapped(model: Any) -> Any:
    """Return the model inside of the wrapper that a distributed job puts around it."""
    from mmengine.model import is_model_wrapper

    return model.module if is_model_wrapper(model) else model


def set_timeout(cfg: Any, seconds: int | None) -> None:
    """Bound how long a process waits for the others, in ``env_cfg.dist_cfg.timeout``.

    ``None`` keeps the config's own, or takes ``TIMEOUT_S``.
    """
    if cfg.launcher == 'none':
        return
    own = (cfg.get('env_cfg') or {}).get('dist_cfg') or dict(backend='nccl')
    limit = seconds or own.get('timeout') or TIMEOUT_S
    cfg.merge_from_dict({'env_cfg.dist_cfg': {**own, 'timeout': limit}})


def start_processes_on_cpu(cfg: Any) -> None:
    """Join torchrun's processes through gloo where there is no accelerator.

    mmengine's own way asks for CUDA devices, also on a machine without any; with Slurm
    or MPI before anything else could be done.
    """
    from mmengine.device import get_device
    from torch import distributed

    if get_device() != 'cpu':
        return
    strategy = (cfg.get('strategy') or {}).get('type')
    if strategy in ('FSDPStrategy', 'DeepSpeedStrategy'):
        raise UserError(
            f'{strategy} needs a GPU, and PyTorch sees none here.', code='no-gpu'
        )
    if cfg.launcher == 'none':
        return
    if cfg.launcher != 'pytorch':
        raise UserError(
            f'--launcher {cfg.launcher} needs a GPU for each process, and PyTorch sees '
            'none here. Processes on CPUs: torchrun with --launcher pytorch.',
            code='no-gpu',
        )
    if not distributed.is_initialized():
        seconds = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout', TIMEOUT_S)
        limit = datetime.timedelta(seconds=seconds)
        distributed.init_process_group('gloo', timeout=limit)
    wrapper = dict(
        type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False
    )
    if strategy == 'DDPStrategy':  # of mmengine's FlexibleRunner
        cfg.strategy.setdefault('model_wrapper', wrapper)
    else:
        cfg.setdefault('model_wrapper_cfg', wrapper)


@contextlib.contextmanager
def job(cfg: Any) -> Iterator[None]:
    """Run this process's part of the job inside, and leave the group afterwards."""
    try:
        yield
    except RuntimeError as error:
        reason = _loss(error) if cfg.launcher != 'none' else None
        if reason is None:
            raise
        kept = ''
        with contextlib.suppress(OSError):
            checkpoint = (Path(cfg.work_dir) / 'last_checkpoint').read_text().strip()
            kept = f' {checkpoint} is kept: go on with --resume.'
        raise RunError(
            f'another process of this job is gone, or cannot be reached: {reason}. '
            f'The first message of the others says why.{kept}',
            code='peer-lost',
        ) from error
    from torch import distributed

    if distributed.is_initialized():  # its threads may abort a process that just ends
        distributed.destroy_process_group()


def wait_for_others() -> None:
    """Wait until all processes of the job are here, or one is gone.

    A launcher kills the whole job some seconds after its first process has ended, and
    rank 0 may still be writing.
    """
    from torch import distributed

    if distributed.is_initialized():
        with contextlib.suppress(RuntimeError):
            distributed.barrier()


def _loss(error: RuntimeError) -> str | None:
    """Return what the communication said, or None where the error is another one."""
    from torch import distributed

    text = str(error)
    if not (isinstance(error, distributed.DistError) or re.search('gloo/|NCCL', text)):
        return None
    line = re.sub(r'^(\[[^]]*\]:? ?)+', '', text.strip().split('\n')[0])
    return line.split('. ')[0].rstrip('. ')


@contextlib.contextmanager
def ending_workers(runner: Any) -> Iterator[None]:
    """End the data loaders' processes after the block.

    mmengine leaves them to the end of the program, where Python kills them, and each
    killed one leaves a socket in the folder of temporary files. In a program that goes
    on they stay until garbage is collected, which then waits five seconds for each. The
    runner can run again, with new processes.
    """
    try:
        yield
    finally:
        for loop in compat.built_loops(runner):
            compat.end_workers(loop)
