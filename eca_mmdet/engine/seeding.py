"""Seeds: what ``--seed`` and ``--deterministic`` set, and one seed for every step.

mmengine seeds the weights and the order of the images, and writes the seed into the log
and each checkpoint, also one it drew itself. All other random numbers are a function of
that seed and of the position in training, not of what was drawn before: a resumed run
draws what the uninterrupted one would have, with any number of data loader workers, and
no generator's state has to be saved.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from eca_mmdet.utils.errors import UserError

_NO_VERSION = 'does not have a deterministic implementation'
_STEP, _SAMPLE = 1, 2
_Words = npt.NDArray[np.uint32]


def set_randomness(cfg: Any, seed: int | None, deterministic: bool) -> None:
    """Write the caller's choices over the config's ``randomness``.

    Without any seed mmengine draws one. ``deterministic`` uses only PyTorch's
    deterministic algorithms: an operator without one ends the run, so that a difference
    in the weights is never silent.
    """
    randomness = cfg.get('randomness') or {}
    if not isinstance(randomness, dict):
        raise UserError(
            f'randomness of {cfg.filename} must be a dict; got {randomness!r}.',
            code='config-invalid',
        )
    randomness = dict(randomness)
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
def named_operators() -> Iterator[None]:
    """Report in one line which operator has no deterministic version."""
    try:
        yield
    except RuntimeError as error:
        if _NO_VERSION not in str(error):
            raise
        operator = str(error).split(' ')[0]
        raise UserError(
            f'--deterministic: PyTorch has no deterministic {operator} for this '
            'device, so that two runs could differ. Train without it, or on the CPU.',
            code='unsupported-model',
        ) from error


def seed_step(seed: int, rank: int, step: int) -> None:
    """Seed every generator of this process (``rank``), for one training step."""
    import torch

    words = _words(seed, _STEP, rank, step)
    _seed_python_and_numpy(words)
    torch.manual_seed(_as_int(words))  # of all devices


def seed_sample(seed: int, epoch: int, number: int) -> None:
    """Seed the generators that a data pipeline uses, for one image.

    ``number`` counts the draws of an epoch over all processes.
    """
    import torch

    words = _words(seed, _SAMPLE, epoch, number)
    _seed_python_and_numpy(words)
    torch.default_generator.manual_seed(_as_int(words))  # pipelines run on the CPU


def _words(*entropy: int) -> _Words:
    """Return 4 well-mixed 32-bit words; neighbouring arguments give unlike words."""
    # SeedSequence takes no negative numbers, and mmengine's seed may be any int.
    sequence = np.random.SeedSequence([value % 2**64 for value in entropy])
    return sequence.generate_state(4).astype(np.uint32)


def _as_int(words: _Words) -> int:
    return int(words[0]) << 32 | int(words[1])


def _seed_python_and_numpy(words: _Words) -> None:
    random.seed(_as_int(words[2:]))
    np.random.seed(words)
