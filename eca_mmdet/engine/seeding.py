"""The same weights twice: what ``--seed`` and ``--deterministic`` switch on.

mmengine seeds the weights and the order of the images, and writes the seed into the log
and each checkpoint, also one it drew itself. The rest of what is drawn follows from it,
in :mod:`eca_mmdet.engine.random_state`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from eca_mmdet.utils.errors import UserError

_NO_VERSION = 'does not have a deterministic implementation'


def set_randomness(cfg: Any, seed: int | None, deterministic: bool) -> None:
    """Write the command line's choices over the config's ``randomness``.

    Args:
        cfg: changed in place.
        seed: None keeps the config's; without any mmengine draws one.
        deterministic: use PyTorch's deterministic algorithms alone. An operator that
            has none then ends the run: a difference in the weights is never silent.

    Raises:
        UserError: the config's is no dict.
    """
    own = cfg.get('randomness') or {}
    if not isinstance(own, dict):
        raise UserError(f'randomness of {cfg.filename} must be a dict; got {own!r}.')
    randomness = dict(own)
    if seed is not None:
        randomness['seed'] = seed
    if deterministic:
        randomness['deterministic'] = True
        # cuBLAS reads it when the first CUDA context is made; PyTorch asks for it.
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    if randomness:
        randomness.setdefault('seed', None)  # mmengine's argument has no default
        cfg.randomness = randomness


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Say in one line which operator cannot be had deterministic.

    Raises:
        UserError: PyTorch refused one inside.
    """
    try:
        yield
    except RuntimeError as error:
        if _NO_VERSION not in str(error):
            raise
        operator = str(error).split(' ')[0]
        raise UserError(
            f'--deterministic: PyTorch has no deterministic {operator} for this '
            'device, so that two runs could differ. Train without it, or on the CPU.'
        ) from error
